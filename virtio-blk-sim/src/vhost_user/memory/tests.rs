use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestMemoryBackend};

use super::*;
use crate::memory::sealed_memfd;
use crate::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};

mod model;

const K: u64 = 1 << 10;
const G: u64 = 1 << 30;
/// The address of the memory in the tests' frontend.
const USER: u64 = 0x7f00_0000_0000;

/// A frontend's memory: a file whose name is distinct from those of tests that run at the same
/// time.
struct Peer {
    file: File,
    name: String,
}

impl Peer {
    fn new(test: &str, size: u64) -> Self {
        let name = format!("memory-{test}");
        let file = sealed_memfd(&CString::new(name.clone()).unwrap(), size).unwrap();
        Self { file, name }
    }

    /// Returns a descriptor as it would arrive with a message.
    fn fd(&self) -> OwnedFd {
        self.file.try_clone().unwrap().into()
    }

    /// Returns how many descriptors of this process refer to the file, in addition to the
    /// frontend's own.
    fn held(&self) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let ours = links.filter(|link| {
            // Other tests may close their descriptors at any time.
            let target = std::fs::read_link(link.as_ref().unwrap().path()).unwrap_or_default();
            target.to_string_lossy().contains(&format!("memfd:{} ", self.name))
        });
        ours.count() - 1
    }

    /// Returns how many bytes of the file this process has mapped. (Bytes and not mappings, because
    /// the kernel merges adjacent mappings.)
    fn mapped(&self) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines()
            .filter(|line| line.contains(&format!("memfd:{} ", self.name)))
            .map(|line| {
                let (start, rest) = line.split_once('-').unwrap();
                let (end, _) = rest.split_once(' ').unwrap();
                u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(start, 16).unwrap()
            })
            .sum()
    }
}

/// Creates a region whose user address is derived from its guest address.
fn region(guest_addr: u64, size: u64, mmap_offset: u64) -> MemoryRegion {
    MemoryRegion { guest_addr, size, user_addr: guest_addr.wrapping_add(USER), mmap_offset }
}

/// The regions of a QEMU guest of type q35 with 4 GiB: one file in three pieces, without the legacy
/// hole.
fn like_qemu() -> [MemoryRegion; 3] {
    [region(0, 640 * K, 0), region(768 * K, 2 * G - 768 * K, 768 * K), region(4 * G, 2 * G, 2 * G)]
}

fn host(table: &MemoryTable, addr: u64) -> *mut u8 {
    table.memory().get_host_address(GuestAddress(addr)).unwrap()
}

#[test]
fn each_region_shows_its_part_of_the_file() {
    let peer = Peer::new("parts", 4 * G);
    let regions = like_qemu();
    let table = MemoryTable::new(regions.iter().map(|region| (*region, peer.fd())).collect()).unwrap();
    assert_eq!((table.len(), peer.held()), (3, 0), "descriptors must not be kept");
    assert_eq!(peer.mapped(), 4 * G - 128 * K);
    for (id, region) in (1_u8..).zip(&regions) {
        let last = region.size - 1;
        for offset in [0, last] {
            let addr = GuestAddress(region.guest_addr + offset);
            peer.file.write_all_at(&[id], region.mmap_offset + offset).unwrap();
            assert_eq!(table.memory().read_obj::<u8>(addr).unwrap(), id);
            table.memory().write_obj(id + 100, addr).unwrap();
            let mut byte = [0];
            peer.file.read_exact_at(&mut byte, region.mmap_offset + offset).unwrap();
            assert_eq!(byte, [id + 100]);
        }
        let end = region.guest_addr + region.size;
        if regions.iter().all(|other| other.guest_addr != end) {
            assert!(table.memory().read_obj::<u8>(GuestAddress(end)).is_err(), "{end:#x}");
        }
    }
    assert!(!table.is_broken());
    drop(table);
    assert_eq!(peer.mapped(), 0);
}

#[test]
fn an_offset_need_not_be_a_multiple_of_a_page() {
    for offset in [1, 0x123, 4095, 4097, 0x2fff] {
        let peer = Peer::new(&format!("offset-{offset}"), 0x5000);
        for at in 0..0x5000 {
            peer.file.write_all_at(&[(at % 251) as u8], at).unwrap();
        }
        let size = 0x5000 - offset;
        let table = MemoryTable::new(vec![(region(0x10_0000, size, offset), peer.fd())]).unwrap();
        let mut seen = vec![0; size as usize];
        table.memory().read_slice(&mut seen, GuestAddress(0x10_0000)).unwrap();
        assert!(seen.iter().zip(offset..).all(|(&byte, at)| byte == (at % 251) as u8));
        for outside in [0xf_ffff, 0x10_0000 + size] {
            assert!(table.memory().read_obj::<u8>(GuestAddress(outside)).is_err());
        }
        drop(table);
        assert_eq!(peer.mapped(), 0, "offset {offset:#x}: the whole mapping must be unmapped");
    }
}

#[test]
fn regions_may_touch() {
    let peer = Peer::new("touch", 0x4000);
    let regions = [region(0x4000, 0x1000, 0), region(0x3000, 0x1000, 0x1000), region(0x5000, 1, 0x2000)];
    let table = MemoryTable::new(regions.iter().map(|region| (*region, peer.fd())).collect()).unwrap();
    // A guest buffer that covers all three regions.
    let bytes: Vec<u8> = (0..0x2001).map(|at| (at % 251) as u8).collect();
    table.memory().write_slice(&bytes, GuestAddress(0x3000)).unwrap();
    let mut back = vec![0; 0x2001];
    table.memory().read_slice(&mut back, GuestAddress(0x3000)).unwrap();
    assert!(bytes == back);
}

#[test]
#[rustfmt::skip]
fn invalid_tables_are_refused_and_leave_nothing_behind() {
    let top = u64::MAX - 0xfff;
    let user = |user_addr, region: MemoryRegion| MemoryRegion { user_addr, ..region };
    let spread = |count: u64| (0..count).map(|n| region(n * 0x2000, 0x1000, 0)).collect();
    // Each row: what is wrong, the regions, the error message.
    let rows: Vec<(&str, Vec<MemoryRegion>, &str)> = vec![
        ("no region", vec![], "has 0 regions: send 1 to 8"),
        ("nine regions", spread(9), "has 9 regions: send 1 to 8"),
        ("no bytes", vec![region(0x1000, 0, 0)], "the region at guest address 0x1000 has size 0"),
        ("no bytes, after a good one", vec![region(0, 0x1000, 0), region(0x1000, 0, 0)], "has size 0"),
        ("guest addresses wrap", vec![user(USER, region(top, 0x1001, 0))],
            "the region of 0x1001 bytes at guest address 0xfffffffffffff000 goes past the end"),
        ("guest addresses end at 2^64", vec![user(USER, region(top, 0x1000, 0))], "guest address"),
        ("user addresses wrap", vec![user(top, region(0, 0x2000, 0))],
            "the region of 0x2000 bytes at user address 0xfffffffffffff000 goes past the end"),
        ("all of the address space", vec![user(0, region(0, u64::MAX, 0))], "more than a file can have"),
        ("one region twice", vec![region(0, 0x1000, 0), user(1, region(0, 0x1000, 0))],
            "the regions at guest addresses 0x0 and 0x0 overlap"),
        ("the second's first byte in the first", vec![region(0, 0x1001, 0), user(1, region(0x1000, 0x1000, 0))],
            "guest addresses 0x0 and 0x1000 overlap"),
        ("the second's last byte in the first", vec![region(0x1000, 0x1000, 0), user(1, region(0, 0x1001, 0))],
            "guest addresses 0x1000 and 0x0 overlap"),
        ("the second in the first", vec![region(0, 0x3000, 0), user(1, region(0x1000, 0x1000, 0))],
            "guest addresses 0x0 and 0x1000 overlap"),
        ("the first in the last", vec![region(0x1000, 1, 0), region(0x8000, 1, 0), user(1, region(0, 0x3000, 0))],
            "guest addresses 0x1000 and 0x0 overlap"),
        ("user addresses overlap by a byte",
            vec![user(0x1000, region(0, 0x1000, 0)), user(0x1fff, region(0x8000, 0x1000, 0))],
            "the regions at user addresses 0x1000 and 0x1fff overlap"),
        ("offset and size wrap", vec![region(0, 0x1000, top + 1)],
            "region of 0x1000 bytes at guest address 0x0: offset 0xfffffffffffff001 and size 0x1000 together are more"),
        ("more than an off_t", vec![region(0, 0x1000, i64::MAX as u64 - 0xffe)], "more than a file can have"),
        ("the last off_t", vec![region(0, 0x1000, i64::MAX as u64 - 0x1000)], "the file has 0x4000 bytes"),
        ("a byte beyond the file", vec![region(0, 0x4001, 0)],
            "the file has 0x4000 bytes, but offset 0x0 and size 0x4001 need more"),
        ("an offset at the end of the file", vec![region(0, 1, 0x4000)], "the file has 0x4000 bytes"),
        ("seven good ones and one beyond the file",
            (0..8).map(|n| region(n * 0x2000, 0x1000, n / 7 * 0x4000)).collect(),
            "cannot map the region of 0x1000 bytes at guest address 0xe000: the file has"),
    ];
    let peer = Peer::new("hostile", 0x4000);
    for (name, regions, says) in rows {
        let regions = regions.iter().map(|region| (*region, peer.fd())).collect();
        let error = MemoryTable::new(regions).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
        assert_eq!((peer.held(), peer.mapped()), (0, 0), "{name}");
    }
}

#[test]
fn descriptors_that_are_not_memory_are_refused() {
    let vast = Peer::new("vast", 1 << 62);
    let binary = File::open(std::env::current_exe().unwrap()).unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let rows: [(&str, OwnedFd, u64, &str); 6] = [
        ("a pipe", io::pipe().unwrap().0.into(), 1, "not a regular file"),
        ("a socket", socket.into(), 1, "not a regular file"),
        ("a device", File::open("/dev/zero").unwrap().into(), 1, "not a regular file"),
        ("a directory", File::open("/proc/self").unwrap().into(), 1, "not a regular file"),
        (
            "a file that is not open for writing",
            binary.into(),
            1,
            "mmap failed on the file descriptor: Permission denied",
        ),
        (
            "more than there are addresses",
            vast.fd(),
            1 << 62,
            "mmap failed on the file descriptor: Cannot allocate memory",
        ),
    ];
    for (name, fd, size, says) in rows {
        let error = MemoryTable::new(vec![(region(0, size, 0), fd)]).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    assert_eq!(vast.held(), 0);
}

#[test]
fn adding_and_removing_leaves_the_other_mappings_where_they_are() {
    let peer = Peer::new("slots", 0x10000);
    let empty = MemoryTable::default();
    assert!(empty.is_empty() && empty.memory().num_regions() == 0);
    let one = empty.with(region(0x4000, 0x1000, 0), peer.fd()).unwrap();
    let two = one.with(region(0x1000, 0x1000, 0x1000), peer.fd()).unwrap();
    assert_eq!((one.len(), two.len(), peer.mapped(), peer.held()), (1, 2, 0x2000, 0));
    assert_eq!(host(&one, 0x4000), host(&two, 0x4000));
    assert!(one.memory().read_obj::<u8>(GuestAddress(0x1000)).is_err(), "the old table must not change");

    // All fields except the offset identify a region.
    let three = two.without(&region(0x4000, 0x1000, 0x7777)).unwrap();
    assert_eq!(host(&three, 0x1000), host(&two, 0x1000));
    assert!(three.memory().read_obj::<u8>(GuestAddress(0x4000)).is_err());
    let right = region(0x1000, 0x1000, 0);
    for wrong in [
        region(0x4000, 0x1000, 0),
        region(0x1001, 0x1000, 0),
        region(0x1000, 0x0fff, 0),
        region(0x1000, 0x1001, 0),
        MemoryRegion { user_addr: right.user_addr + 1, ..right },
    ] {
        let error = three.without(&wrong).unwrap_err();
        assert!(matches!(error, MemoryError::NoSuchRegion { .. }), "{wrong:?}: {error:?}");
    }

    // A mapping is unmapped when its last holder is dropped: a table, or memory that came from one.
    let memory = Arc::clone(two.memory());
    memory.write_obj(7_u8, GuestAddress(0x4000)).unwrap();
    drop((one, two));
    assert_eq!(peer.mapped(), 0x2000);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x4000)).unwrap(), 7);
    drop(memory);
    assert_eq!(peer.mapped(), 0x1000);
    let four = three.without(&right).unwrap();
    assert!(four.is_empty());
    drop(three);
    assert_eq!(peer.mapped(), 0);
}

#[test]
fn a_refused_change_leaves_the_table_unchanged() {
    let peer = Peer::new("refused", 0x10000);
    let table = MemoryTable::new(vec![(region(0x4000, 0x1000, 0), peer.fd())]).unwrap();
    for bad in [region(0x4fff, 0x1000, 0), region(0x8000, 0x1000, 0xf001), region(0x8000, 0, 0)] {
        table.with(bad, peer.fd()).unwrap_err();
        assert_eq!((table.len(), peer.mapped(), peer.held()), (1, 0x1000, 0), "{bad:?}");
    }
}

#[test]
fn a_table_has_a_maximum_number_of_slots() {
    let peer = Peer::new("full", 0x1000);
    let mut table = MemoryTable::default();
    let at = |slot: usize| region(slot as u64 * 0x1000, 0x1000, 0);
    for slot in 0..MAX_MEM_SLOTS {
        table = table.with(at(slot), peer.fd()).unwrap();
    }
    let error = table.with(at(MAX_MEM_SLOTS), peer.fd()).unwrap_err();
    assert!(matches!(error, MemoryError::Full), "{error:?}");
    table = table.without(&at(7)).unwrap();
    table = table.with(at(MAX_MEM_SLOTS), peer.fd()).unwrap();
    assert_eq!((table.len(), peer.held()), (MAX_MEM_SLOTS, 0));
    assert_eq!(peer.mapped(), MAX_MEM_SLOTS as u64 * 0x1000);
}

#[test]
fn user_addresses_are_translated_within_one_region() {
    let peer = Peer::new("user", 0x4000);
    let at = |guest_addr, user_addr, size| MemoryRegion { guest_addr, size, user_addr, mmap_offset: 0 };
    let regions =
        [at(0x10_0000, 0x5000, 0x1000), at(0, 0x6000, 0x2000), at(0x8000, u64::MAX - 0x1000, 0x1000)];
    let table = MemoryTable::new(regions.iter().map(|region| (*region, peer.fd())).collect()).unwrap();
    let rows = [
        (0x5000, 1, Some(0x10_0000)),
        (0x5000, 0x1000, Some(0x10_0000)),
        (0x5000, 0x1001, None), // Continues in the next region in user space, but not in the guest.
        (0x5fff, 1, Some(0x10_0fff)),
        (0x5fff, 2, None),
        (0x6000, 0x2000, Some(0)),
        (0x7fff, 1, Some(0x1fff)),
        (0x7fff, u64::MAX, None),
        (0x8000, 1, None),
        (0x8000, 0, None),
        (0x7fff, 0, Some(0x1fff)),
        (0x4fff, 1, None),
        (0, 0, None),
        (u64::MAX - 0x1000, 0x1000, Some(0x8000)),
        (u64::MAX - 1, 1, Some(0x8fff)),
        (u64::MAX, 1, None),
        (u64::MAX, u64::MAX, None),
    ];
    for (addr, len, expected) in rows {
        match (table.user_to_guest(addr, len), expected) {
            (Ok(got), Some(expected)) => assert_eq!(got.0, expected, "{len:#x} at {addr:#x}"),
            (Err(MemoryError::NotMapped { .. }), None) => {}
            (got, _) => panic!("{len:#x} at {addr:#x}: {got:?}"),
        }
    }
}

#[test]
fn a_request_in_flight_keeps_the_memory_that_it_started_with() {
    let peer = Peer::new("in-flight", 0x20000);
    let table = MemoryTable::new(vec![(region(0, 0x20000, 0), peer.fd())]).unwrap();
    let config = QueueConfig::at(GuestAddress(0), 8);
    let mut driver = DriverQueue::new(Arc::clone(table.memory()), config).unwrap();
    let mut device = DeviceQueue::new(Arc::clone(table.memory()), config).unwrap();
    driver.add(&[], &[(GuestAddress(0x10000), 512)]).unwrap();
    let _ = driver.publish();
    let mut chain = device.new_chain();
    assert!(device.pop(&mut chain).unwrap());

    drop((table, driver, device));
    assert_eq!(peer.mapped(), 0x20000);
    assert_eq!(chain.writable().copy_from(0, &[9; 512]), 512);
    let mut seen = [0; 512];
    peer.file.read_exact_at(&mut seen, 0x10000).unwrap();
    assert_eq!(seen, [9; 512], "the frontend must see what the late request wrote");
    drop(chain);
    assert_eq!(peer.mapped(), 0);
}
