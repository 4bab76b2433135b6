//! Tests of the region's layout, and of regions that no honest frontend sends. `kill.rs` tests what
//! a kill leaves behind.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

mod kill;

pub(super) use kill::kill_point;

fn inflight(num_queues: u16, queue_size: u16) -> Inflight {
    Inflight { mmap_size: 0, mmap_offset: 0, num_queues, queue_size }
}

fn bytes(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn the_layout_is_the_specifications() {
    // Two queues of 5 entries: 16 + 5 x 16 = 96 bytes, so the second one starts at 128. Behind them
    // is room for 1024 entries each: 16 + 1024 x 16 = 16,400, rounded up to 16,448.
    let (description, fd) = InflightRegion::create(&inflight(2, 5), 2).unwrap();
    assert_eq!(description, Inflight { mmap_size: 256 + 2 * 16_448, ..inflight(2, 5) });
    let file = File::from(fd);
    assert_eq!(file.metadata().unwrap().len(), 256 + 2 * 16_448);
    let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 2).unwrap();
    let Recovered { mut queue, heads, next_avail } = region.open(1, 4, 0x0102).unwrap();
    assert_eq!((heads, next_avail), (vec![], 0x0102));
    let header = |last: u16, used: u16| {
        [vec![0; 8], [VERSION, 5, last, used].into_iter().flat_map(u16::to_ne_bytes).collect()].concat()
    };
    assert_eq!(bytes(&file, 128, 16), header(0, 0x0102));
    assert_eq!(bytes(&file, 0, 128), [0; 128], "the other queue was not opened and must be unchanged");

    for head in [3, 0, 2] {
        queue.popped(head);
    }
    let entry = |inflight: u8, next: u16, counter: u64| {
        [&[inflight, 0, 0, 0, 0, 0], &next.to_ne_bytes()[..], &counter.to_ne_bytes()].concat()
    };
    assert_eq!(
        bytes(&file, 144, 80),
        [entry(1, 0, 1), entry(0, 0, 0), entry(1, 0, 2), entry(1, 0, 0), entry(0, 0, 0)].concat()
    );
    queue.pushed(2);
    queue.pushed(3);
    assert_eq!(bytes(&file, 128, 16), header(3, 0x0102), "the list must be written before used_idx changes");
    queue.published();
    assert_eq!(bytes(&file, 128, 16), header(3, 0x0104));
    assert_eq!(
        bytes(&file, 144, 80),
        [entry(1, 0, 1), entry(0, 0, 0), entry(0, 0, 2), entry(0, 2, 0), entry(0, 0, 0)].concat()
    );
}

#[test]
fn heads_are_recovered_in_the_order_of_their_counters_and_counting_continues() {
    let (description, fd) = InflightRegion::create(&inflight(1, 8), 1).unwrap();
    let file = File::from(fd);
    let open = || {
        let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 1).unwrap();
        region.open(0, 8, 0).unwrap()
    };
    let mut first = open();
    for head in [6, 1, 7, 0] {
        first.queue.popped(head);
    }
    let mut second = open();
    assert_eq!((&second.heads[..], second.next_avail), (&[6, 1, 7, 0][..], 4));
    for head in [3, 2] {
        second.queue.popped(head);
    }
    assert_eq!(open().heads, [6, 1, 7, 0, 3, 2]);
}

#[test]
fn a_batch_that_was_published_is_not_in_flight() {
    // Like the specification's reconnect procedure: used_idx is 10 and used.idx is 12, so the first
    // two heads of the list are done.
    let (description, fd) = InflightRegion::create(&inflight(1, 8), 1).unwrap();
    let file = File::from(fd);
    let entries: Vec<u8> = (0..8_u16)
        .flat_map(|head| {
            [&[1, 0, 0, 0, 0, 0], &((head + 3) % 8).to_ne_bytes()[..], &u64::from(head).to_ne_bytes()]
                .concat()
        })
        .collect();
    let header: Vec<u8> = [VERSION, 8, 2, 10].into_iter().flat_map(u16::to_ne_bytes).collect();
    file.write_all_at(&[&[0; 8], &header[..], &entries[..]].concat(), 0).unwrap();
    let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 1).unwrap();
    let Recovered { heads, next_avail, .. } = region.open(0, 8, 12).unwrap();
    assert_eq!((&heads[..], next_avail), (&[0, 1, 3, 4, 6, 7][..], 18));
    assert_eq!(bytes(&file, 14, 2), 12_u16.to_ne_bytes());
}

#[test]
fn invalid_descriptions_are_refused() {
    type Expected = fn(&InflightError) -> bool;
    let rows: [(&str, Inflight, Expected); 6] = [
        ("no queue", inflight(0, 8), |e| matches!(e, InflightError::Queues { asked: 0, max: 4 })),
        ("too many queues", inflight(5, 8), |e| matches!(e, InflightError::Queues { asked: 5, max: 4 })),
        ("all queues", inflight(u16::MAX, 8), |e| matches!(e, InflightError::Queues { .. })),
        ("no entries", inflight(1, 0), |e| matches!(e, InflightError::QueueSize { size: 0 })),
        ("too many entries", inflight(1, 32769), |e| matches!(e, InflightError::QueueSize { .. })),
        ("all entries", inflight(4, u16::MAX), |e| matches!(e, InflightError::QueueSize { .. })),
    ];
    for (name, request, expected) in rows {
        let error = InflightRegion::create(&request, 4).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        let sized = Inflight { mmap_size: 1 << 30, ..request };
        let fd = sealed_memfd(c"inflight-refused", 1 << 30).unwrap().into();
        let error = InflightRegion::adopt(&sized, fd, 4).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }

    // Two queues of 8 need 2 x 192 bytes.
    let at = |mmap_offset, mmap_size| Inflight { mmap_size, mmap_offset, ..inflight(2, 8) };
    let rows: [(&str, Inflight, Expected); 8] = [
        ("no bytes", at(0, 0), |e| matches!(e, InflightError::TooSmall { have: 0, need: 384 })),
        ("one byte too few", at(0, 383), |e| matches!(e, InflightError::TooSmall { have: 383, .. })),
        ("more bytes than the file has", at(0, 4097), |e| {
            matches!(e, InflightError::Mapping(MappingError::BeyondEnd { .. }))
        }),
        ("the end beyond the end of the file", at(3720, 384), |e| {
            matches!(e, InflightError::Mapping(MappingError::BeyondEnd { .. }))
        }),
        ("an offset that wraps", at(u64::MAX - 7, 384), |e| {
            matches!(e, InflightError::Mapping(MappingError::Overflow { .. }))
        }),
        ("a size that wraps", at(8, u64::MAX), |e| {
            matches!(e, InflightError::Mapping(MappingError::Overflow { .. }))
        }),
        ("an unaligned offset", at(4, 384), |e| matches!(e, InflightError::Misaligned { offset: 4 })),
        ("the largest offset, unaligned", at(u64::MAX, 384), |e| {
            matches!(e, InflightError::Misaligned { .. })
        }),
    ];
    for (name, description, expected) in rows {
        let fd = sealed_memfd(c"inflight-refused", 4096).unwrap().into();
        let error = InflightRegion::adopt(&description, fd, 4).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }
    let error = InflightRegion::adopt(&at(0, 384), std::io::pipe().unwrap().0.into(), 4).unwrap_err();
    assert!(matches!(error, InflightError::Mapping(MappingError::NotAFile)), "{error:?}");
    // The last offset at which the region fits must be accepted.
    let fd = sealed_memfd(c"inflight-fits", 4096).unwrap();
    let region = InflightRegion::adopt(&at(3712, 384), fd.try_clone().unwrap().into(), 4).unwrap();
    region.open(1, 8, 0).unwrap().queue.popped(7);
    assert_eq!(bytes(&fd, 3712 + 192 + 16 + 7 * 16, 1), [1]);
}

#[test]
fn queues_that_do_not_match_the_region_are_refused() {
    let (description, fd) = InflightRegion::create(&inflight(2, 8), 2).unwrap();
    let file = File::from(fd);
    let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 2).unwrap();
    for (index, size) in [(2, 8), (u16::MAX, 8), (2, 9), (0, 1025), (0, u16::MAX)] {
        let error = region.open(index, size, 0).unwrap_err();
        assert!(matches!(error, InflightError::NoPlace { .. }), "{index} {size}: {error:?}");
    }
    region.open(0, 8, 0).unwrap();
    // Version, desc_num, features.
    for (version, desc_num, features) in
        [(2, 8, 0), (1, 7, 0), (1, 9, 0), (1, 0, 0), (1, 8, 1), (u16::MAX, 8, 0)]
    {
        let header = [
            u64::to_ne_bytes(features).to_vec(),
            [u16::to_ne_bytes(version), u16::to_ne_bytes(desc_num)].concat(),
        ];
        file.write_all_at(&header.concat(), 0).unwrap();
        let error = region.open(0, 8, 0).unwrap_err();
        assert!(matches!(error, InflightError::Layout { .. }), "{version} {desc_num} {features}: {error:?}");
    }
    // More completions than the queue has entries, an index that went backwards, and lists that
    // lead out of bounds.
    for (used_idx, in_ring, last) in [(0, 9, 0), (1, 0, 0), (0, 1, 8), (0, 2, u16::MAX)] {
        let header: Vec<u8> = [VERSION, 8, last, used_idx].into_iter().flat_map(u16::to_ne_bytes).collect();
        // If head 5 is in flight, this is a contradiction. If nothing is in flight, it is a ring
        // that was set up again.
        for (in_flight, refused) in [(1, true), (0, false)] {
            file.write_all_at(&[&[0; 8], &header[..]].concat(), 0).unwrap();
            file.write_all_at(&[in_flight], 16 + 5 * 16).unwrap();
            match region.open(0, 8, in_ring) {
                Err(InflightError::Batch { .. }) if refused => {}
                Ok(Recovered { heads, next_avail, .. }) if !refused => {
                    assert_eq!((heads.len(), next_avail), (0, in_ring));
                    assert_eq!(bytes(&file, 14, 2), in_ring.to_ne_bytes());
                }
                other => panic!("{used_idx} {in_ring} {last} {in_flight}: {other:?}"),
            }
        }
    }
}

/// QEMU 10.0 asks for a region for 128 entries, and starts a ring of 1024.
#[test]
fn a_ring_that_is_larger_than_was_asked_for_has_its_place() {
    let (description, fd) = InflightRegion::create(&inflight(2, 8), 2).unwrap();
    let file = File::from(fd);
    let adopt =
        |description| InflightRegion::adopt(description, file.try_clone().unwrap().into(), 2).unwrap();
    for (head, in_flight) in [(1023, vec![]), (500, vec![1023]), (0, vec![1023, 500])] {
        let Recovered { mut queue, heads, next_avail } = adopt(&description).open(1, 1024, 7).unwrap();
        assert_eq!((next_avail, &heads), (7 + in_flight.len() as u16, &in_flight));
        queue.popped(head);
    }
    assert_eq!(bytes(&file, 0, 384), [0; 384], "the regions that were asked for");
    let mut small = adopt(&description).open(0, 8, 0).unwrap();
    small.queue.popped(7);
    // A backend that knows nothing of the room.
    let known = Inflight { mmap_size: 384, ..description };
    assert_eq!(adopt(&known).open(0, 8, 0).unwrap().heads, [7]);
    let error = adopt(&known).open(1, 9, 0).unwrap_err();
    assert!(matches!(error, InflightError::NoPlace { queue: 1, size: 9, .. }), "{error:?}");
    // What was asked for is already as large.
    let (description, _) = InflightRegion::create(&inflight(1, 1024), 2).unwrap();
    assert_eq!(description.mmap_size, 16_448);
}

#[test]
fn a_region_is_unmapped_with_its_last_user_and_cannot_be_resized() {
    let (description, fd) = InflightRegion::create(&inflight(1, 8), 1).unwrap();
    let file = File::from(fd);
    for size in [0, 1 << 20] {
        assert_eq!(file.set_len(size).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
    let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 1).unwrap();
    let mapping = Arc::downgrade(&region.mapping);
    let queue = region.open(0, 8, 0).unwrap().queue;
    drop(region);
    assert!(mapping.upgrade().is_some(), "a queue must keep its region mapped");
    drop(queue);
    assert!(mapping.upgrade().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A frontend that writes arbitrary data into the region, before the queue is opened and while
    /// it runs.
    #[test]
    fn a_region_of_garbage_is_refused_or_used_within_its_bounds(
        mut garbage in prop::collection::vec(any::<u8>(), 192),
        small in any::<bool>(),
        used_idx in any::<u16>(),
        later in prop::collection::vec((0..192_u64, any::<u8>()), 0..20),
    ) {
        // A well-formed header; in half of the cases also a batch that the ring allows, and links
        // within bounds.
        garbage[..8].fill(0);
        garbage[8..12].copy_from_slice(&[VERSION.to_ne_bytes(), 10_u16.to_ne_bytes()].concat());
        if small {
            garbage[12..14].copy_from_slice(&3_u16.to_ne_bytes());
            let batch = u16::from(garbage[14]) % 12;
            garbage[14..16].copy_from_slice(&used_idx.wrapping_sub(batch).to_ne_bytes());
            for entry in garbage[16..].chunks_exact_mut(16) {
                let next = u16::from(entry[6]) % 11;
                entry[6..8].copy_from_slice(&next.to_ne_bytes());
            }
        }
        let (description, fd) = InflightRegion::create(&inflight(1, 10), 1).unwrap();
        let file = File::from(fd);
        file.write_all_at(&garbage, 0).unwrap();
        let region = InflightRegion::adopt(&description, file.try_clone().unwrap().into(), 1).unwrap();
        match region.open(0, 8, used_idx) {
            Err(error) => prop_assert!(matches!(error, InflightError::Batch { queue: 0, .. }), "{error:?}"),
            Ok(Recovered { mut queue, heads, next_avail }) => {
                prop_assert!(heads.len() <= 10);
                prop_assert!(heads.iter().all(|&head| head < 10));
                prop_assert_eq!(next_avail, used_idx.wrapping_add(heads.len() as u16));
                let mut sorted = heads.clone();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), heads.len(), "each head must be recovered only once");
                for (head, (at, byte)) in later.into_iter().enumerate() {
                    let head = head as u16 % 8;
                    queue.popped(head);
                    queue.pushed(head);
                    file.write_all_at(&[byte], at).unwrap();
                    if byte % 3 == 0 {
                        queue.published();
                    }
                }
                queue.published();
            }
        }
        prop_assert!(!region.is_broken());
    }
}
