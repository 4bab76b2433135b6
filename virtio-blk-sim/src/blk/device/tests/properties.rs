//! Properties of all chains: no panic, no write outside the writable buffers, an exact used length,
//! and a result that does not depend on the framing.

use proptest::prelude::*;

use super::super::test_rig::{Answer, Posted, Rig, disk_content, header, range};
use super::super::*;
use crate::blk::backend::Memory;

const CAPACITY: u64 = 16;

/// Where to split a list of bytes into buffers.
fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..7)
}

/// Returns the lengths of the buffers; none is empty.
fn pieces(len: usize, cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut ends: Vec<usize> =
        cuts.iter().map(|cut| cut.index(len + 1)).chain([len]).filter(|&end| end > 0).collect();
    ends.sort_unstable();
    ends.dedup();
    let starts = [0].into_iter().chain(ends.iter().copied());
    ends.iter().zip(starts).map(|(end, start)| end - start).collect()
}

/// What a guest posts, without the framing.
#[derive(Debug, Clone)]
struct Content {
    readable: Vec<u8>,
    writable: usize,
}

impl Content {
    fn framed(&self, readable: &[prop::sample::Index], writable: &[prop::sample::Index]) -> Posted {
        let mut rest = &self.readable[..];
        let mut posted = Posted::new();
        for len in pieces(self.readable.len(), readable) {
            let (piece, after) = rest.split_at(len);
            posted = posted.readable(piece);
            rest = after;
        }
        pieces(self.writable, writable).into_iter().fold(posted, |posted, len| posted.writable(len))
    }
}

fn kind() -> impl Strategy<Value = u32> {
    prop_oneof![8 => prop::sample::select(vec![0, 1, 4, 8, 11, 13]), 1 => 0..32_u32, 1 => any::<u32>()]
}

fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..CAPACITY,
        2 => CAPACITY - 2..CAPACITY + 3,
        1 => any::<u64>(),
        1 => (1_u64 << 55) - 2..(1 << 55) + 20,
        1 => u64::MAX - 3..=u64::MAX,
    ]
}

/// Mostly sizes that are valid.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => (0..5_usize).prop_map(|sectors| sectors * 512), 2 => 0..64_usize, 1 => 0..3000_usize]
}

fn range_list() -> impl Strategy<Value = Vec<u8>> {
    let sectors = prop_oneof![8 => 0..5_u32, 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0..2_u32, 1 => any::<u32>()];
    let one = (sector(), sectors, flags).prop_map(|(sector, sectors, flags)| range(sector, sectors, flags));
    prop::collection::vec(one, 0..10).prop_map(|list| list.concat())
}

fn content() -> impl Strategy<Value = Content> {
    let payload = prop_oneof![
        2 => Just(Vec::new()),
        2 => size().prop_flat_map(|len| prop::collection::vec(any::<u8>(), len)),
        2 => range_list(),
    ];
    let header_len = prop_oneof![12 => Just(16_usize), 1 => 0..16_usize];
    let writable = prop_oneof![1 => Just(0), 6 => Just(1), 6 => size().prop_map(|len| len + 1), 2 => size()];
    (kind(), sector(), header_len, payload, writable)
        .prop_map(|(kind, sector, header_len, payload, writable)| {
            let mut readable = header(kind, sector);
            readable.truncate(header_len);
            if header_len == 16 {
                readable.extend(payload);
            }
            Content { readable, writable }
        })
        // A chain without buffers is tested with the ring.
        .prop_filter("no buffers", |content| !content.readable.is_empty() || content.writable > 0)
}

/// Returns the answer, and the disk after it.
fn carry_out(posted: &Posted, change: fn(&mut DeviceConfig)) -> (Answer, Vec<u8>) {
    let mut config = DeviceConfig::new(CAPACITY);
    change(&mut config);
    let mut rig = Rig::new(config);
    let mut backend = Memory::new(CAPACITY).unwrap();
    backend.content_mut().copy_from_slice(&disk_content(CAPACITY));
    let answer = rig.run(posted, |request| backend.execute(request));
    let disk = backend.content().to_vec();
    (answer, disk)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// [`Rig::run`] also checks that no byte outside the writable buffers changed.
    #[test]
    fn any_chain_is_answered(content in content(), readable in cuts(), writable in cuts()) {
        let (answer, disk) = carry_out(&content.framed(&readable, &writable), |_| ());
        prop_assert!(answer.written as usize <= content.writable);
        prop_assert_eq!(answer.status().is_some(), content.writable > 0);
        prop_assert_eq!(answer.written > 0, content.writable > 0);
        match answer.status() {
            Some(0) => prop_assert_eq!(answer.error, None),
            status => {
                let error = answer.error.expect("a refused request must have a reason");
                prop_assert_eq!(error.status().map(|status| status as u8), status);
                prop_assert_eq!(answer.written, u32::from(status.is_some()));
                prop_assert!(answer.data().iter().all(|&byte| byte == super::super::test_rig::BACKGROUND));
                prop_assert!(disk == disk_content(CAPACITY), "a refused request changed the disk");
            }
        }
    }

    #[test]
    fn framing_makes_no_difference(content in content(), first in (cuts(), cuts()), second in (cuts(), cuts())) {
        let one = carry_out(&content.framed(&first.0, &first.1), |_| ());
        let other = carry_out(&content.framed(&second.0, &second.1), |_| ());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_read_only_disk_never_changes(content in content(), cuts in cuts()) {
        let (_, disk) = carry_out(&content.framed(&cuts, &cuts), |config| config.read_only = true);
        prop_assert!(disk == disk_content(CAPACITY));
    }

    #[test]
    fn accepted_requests_lie_inside_the_disk(content in content(), cuts in cuts()) {
        let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
        rig.run(&content.framed(&cuts, &cuts), |request| {
            let inside = |offset: u64, len| {
                offset.checked_add(len).is_some_and(|end| end <= CAPACITY * SECTOR_SIZE)
            };
            match request.operation() {
                Operation::In { .. } | Operation::Out { .. } => {
                    assert!(inside(request.offset(), request.remaining()));
                }
                Operation::Flush => {}
                Operation::Discard(ranges) | Operation::WriteZeroes { ranges, .. } => {
                    assert!(!ranges.is_empty());
                    assert!(ranges.iter().all(|range| inside(range.offset(), range.len_bytes())));
                }
            }
            request.finish_without_data()
        });
    }
}
