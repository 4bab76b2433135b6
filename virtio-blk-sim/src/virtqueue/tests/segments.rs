//! Access to a chain by byte offset, for any framing, and the lifetime of its memory.

use proptest::prelude::*;

use super::support::*;
use crate::virtqueue::segment::Segment;

const RAM: usize = 64 << 10;

fn ram() -> GuestRam {
    GuestRam::new(RAM).unwrap()
}

/// Makes a chain of writable buffers of these lengths. Also returns the guest address of each byte.
fn scattered(ram: &GuestRam, lens: &[u32]) -> (Chain, Vec<u64>) {
    let mut buffers = Vec::new();
    let mut addresses = Vec::new();
    // Odd gaps, so that buffers start at every alignment and no two touch.
    let mut at = 3_u64;
    for &len in lens {
        buffers.push((GuestAddress(at), len));
        addresses.extend(at..at + u64::from(len));
        at += u64::from(len) + 5;
    }
    (Chain::from_buffers(ram.memory().clone(), 0, &[], &buffers).unwrap(), addresses)
}

proptest! {
    #[test]
    fn copies_agree_with_a_flat_model(
        lens in prop::collection::vec(1_u32..300, 1..8),
        offset in 0_u64..1500,
        len in 0_usize..1500,
    ) {
        let ram = ram();
        let (chain, addresses) = scattered(&ram, &lens);
        let mut image = vec![0; RAM];
        for (at, byte) in image.iter_mut().enumerate() {
            *byte = (at * 7 + at / 256) as u8;
        }
        ram.memory().write_slice(&image, GuestAddress(0)).unwrap();
        let list = chain.writable();
        prop_assert_eq!(list.len_bytes(), addresses.len() as u64);
        let covered: Vec<u64> = addresses.iter().copied().skip(offset as usize).take(len).collect();

        // Guest to host.
        let mut got = vec![0xee; len];
        prop_assert_eq!(list.copy_to(offset, &mut got), covered.len());
        let want: Vec<u8> = covered.iter().map(|&at| image[at as usize]).collect();
        prop_assert_eq!(&got[..covered.len()], &want[..]);
        prop_assert!(got[covered.len()..].iter().all(|&byte| byte == 0xee));

        // Host to guest: these bytes and no others change.
        let src: Vec<u8> = (0..len).map(|at| (at * 13 + 1) as u8).collect();
        prop_assert_eq!(list.copy_from(offset, &src), covered.len());
        for (at, byte) in covered.iter().zip(&src) {
            image[*at as usize] = *byte;
        }
        let mut now = vec![0; RAM];
        ram.memory().read_slice(&mut now, GuestAddress(0)).unwrap();
        prop_assert!(now == image, "bytes outside the range were written");

        // The same range as segments.
        let mut cut = Vec::new();
        list.slice_into(offset, len as u64, &mut cut);
        let base = ram.memory().get_host_address(GuestAddress(0)).unwrap().addr();
        let cut: Vec<u64> = cut
            .iter()
            .map(|segment| (segment.ptr().addr() - base, segment.len()))
            .flat_map(|(start, len)| start as u64..(start + len) as u64)
            .collect();
        prop_assert_eq!(cut, covered);
    }
}

#[test]
fn a_range_at_or_past_the_end_is_empty() {
    let ram = ram();
    let (chain, _) = scattered(&ram, &[10, 20]);
    let mut bytes = [0; 4];
    for offset in [30, 31, u64::MAX] {
        assert_eq!(chain.writable().copy_to(offset, &mut bytes), 0);
        assert_eq!(chain.writable().copy_from(offset, &bytes), 0);
        let mut out = Vec::new();
        chain.writable().slice_into(offset, u64::MAX, &mut out);
        assert!(out.is_empty());
    }
    assert_eq!(chain.writable().copy_to(28, &mut bytes), 2);
    assert_eq!(chain.readable().copy_to(0, &mut bytes), 0, "an empty list has no bytes");
}

#[test]
fn iovecs_are_the_segments() {
    let ram = ram();
    let (chain, _) = scattered(&ram, &[10, 20, 30]);
    let iovecs = chain.writable().as_iovecs();
    assert_eq!(iovecs.len(), 3);
    for (iovec, segment) in iovecs.iter().zip(chain.writable().iter()) {
        assert_eq!((iovec.iov_base.cast(), iovec.iov_len), (segment.ptr(), segment.len()));
    }
}

#[test]
fn a_chain_keeps_its_memory_mapped() {
    let ram = ram();
    ram.memory().write_obj(0xabcd_u16, GuestAddress(100)).unwrap();
    let chain = Chain::from_buffers(ram.memory().clone(), 0, &[(GuestAddress(100), 2)], &[]).unwrap();
    drop(ram);
    let mut bytes = [0; 2];
    assert_eq!(chain.readable().copy_to(0, &mut bytes), 2);
    assert_eq!(u16::from_ne_bytes(bytes), 0xabcd);
}

#[test]
fn buffers_outside_memory_are_refused() {
    let ram = ram();
    let end = RAM as u64;
    for (addr, len) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4), (0, u32::MAX)] {
        let made = Chain::from_buffers(ram.memory().clone(), 0, &[(GuestAddress(addr), len)], &[]);
        assert_eq!(made.unwrap_err(), QueueError::Unmapped { addr, len });
    }
    let made = Chain::from_buffers(ram.memory().clone(), 0, &[(GuestAddress(u64::MAX), 0)], &[]);
    assert!(made.unwrap().readable().is_empty(), "no byte is outside");
}

#[test]
fn chains_and_segments_can_be_handed_to_another_thread() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Chain>();
    send::<Segment>();
    sync::<Segments>();
    send::<DeviceQueue>();
    send::<DriverQueue>();
}
