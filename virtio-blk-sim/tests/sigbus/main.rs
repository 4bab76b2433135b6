//! A frontend that truncates its shared memory: this process survives, notices it, and no other
//! frontend is affected.
#![expect(unsafe_code, reason = "memfds, mappings that are truncated and signal dispositions are libc calls")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::queue::InFlightLog;
use virtio_blk_sim::vhost_user::sigbus::{Guard, GuardError, faults};
use virtio_blk_sim::vhost_user::{
    Inflight, InflightRegion, MappingError, MemoryError, MemoryRegion, MemoryTable,
};
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use vm_memory::Bytes;

mod kernel;
mod signals;

const PAGE: usize = 4096;

/// The handler, its table and its counter are global, so only one test runs at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a memfd without seals, filled with 0xaa.
fn memfd(pages: usize) -> File {
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"sigbus-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: memfd_create has just returned this descriptor.
    let file = unsafe { File::from_raw_fd(fd) };
    file.write_all_at(&vec![0xaa; pages * PAGE], 0).unwrap();
    file
}

fn share(file: &File) -> OwnedFd {
    file.try_clone().unwrap().into()
}

fn region(size: usize) -> MemoryRegion {
    MemoryRegion { guest_addr: 0, size: size as u64, user_addr: 0, mmap_offset: 0 }
}

/// A memory table with the whole file, from guest address 0.
fn table(file: &File) -> MemoryTable {
    let size = file.metadata().unwrap().len() as usize;
    MemoryTable::new(vec![(region(size), share(file))]).unwrap()
}

fn byte(table: &MemoryTable, at: usize) -> u8 {
    table.memory().read_obj(GuestAddress(at as u64)).unwrap()
}

#[test]
fn a_missing_page_reads_as_zeroes_and_the_table_is_broken() {
    let _turn = turn();
    let (file, other) = (memfd(4), memfd(4));
    let (table, bystander) = (table(&file), table_of_two(&other));
    file.set_len(2 * PAGE as u64).unwrap();
    assert_eq!((byte(&table, 0), byte(&table, 2 * PAGE - 1)), (0xaa, 0xaa));
    assert!(!table.is_broken(), "the missing pages were not accessed yet");

    assert_eq!(byte(&table, 2 * PAGE + 5), 0);
    assert!(table.is_broken() && !bystander.is_broken());
    // The pages that are present are still shared with the frontend.
    table.memory().write_obj(7_u8, GuestAddress(1)).unwrap();
    let mut seen = [0];
    file.read_exact_at(&mut seen, 1).unwrap();
    assert_eq!(seen, [7]);
    assert_eq!(byte(&bystander, 3 * PAGE), 0xaa);
    // A new table of the same frontend is not broken.
    drop(table);
    assert!(!self::table(&file).is_broken());
}

fn table_of_two(file: &File) -> MemoryTable {
    let second = MemoryRegion { guest_addr: 1 << 32, user_addr: 1 << 32, ..region(PAGE) };
    table(file).with(second, share(file)).unwrap()
}

#[test]
fn any_region_of_a_table_breaks_it() {
    let _turn = turn();
    let file = memfd(4);
    let table = table_of_two(&file);
    file.set_len(0).unwrap();
    table.memory().write_obj(1_u8, GuestAddress(1 << 32)).unwrap();
    assert!(table.is_broken());
    let first =
        table.without(&MemoryRegion { guest_addr: 1 << 32, user_addr: 1 << 32, ..region(PAGE) }).unwrap();
    assert!(!first.is_broken(), "the broken region was removed, the other one was not accessed");
}

#[test]
fn data_written_to_a_missing_page_is_discarded() {
    let _turn = turn();
    let file = memfd(2);
    let table = table(&file);
    file.set_len(PAGE as u64).unwrap();
    // From the last present page into the missing one.
    let bytes: Vec<u8> = (0..PAGE).map(|at| at as u8).collect();
    let at = GuestAddress(PAGE as u64 / 2);
    table.memory().write_slice(&bytes, at).unwrap();
    let mut back = vec![0; PAGE];
    table.memory().read_slice(&mut back, at).unwrap();
    assert!(back == bytes && table.is_broken());
    let mut seen = vec![0; PAGE / 2];
    file.read_exact_at(&mut seen, PAGE as u64 / 2).unwrap();
    assert!(seen == bytes[..PAGE / 2], "the first half must be in the file");
    file.set_len(2 * PAGE as u64).unwrap();
    file.read_exact_at(&mut seen, PAGE as u64).unwrap();
    assert!(
        seen.iter().all(|&byte| byte == 0),
        "the second half must not be, even after the file grows again"
    );
}

#[test]
fn pages_restored_before_any_access_cause_no_fault() {
    let _turn = turn();
    let file = memfd(2);
    let table = table(&file);
    file.set_len(0).unwrap();
    file.set_len(2 * PAGE as u64).unwrap();
    assert_eq!(byte(&table, PAGE), 0);
    // The rest of the last page of a file can be accessed like all of it (mmap(2), NOTES).
    file.set_len(PAGE as u64 + 1).unwrap();
    table.memory().write_obj(1_u8, GuestAddress(2 * PAGE as u64 - 1)).unwrap();
    assert!(!table.is_broken());
}

/// A memory table whose pages were all taken away before the first access.
fn missing(pages: usize) -> MemoryTable {
    let file = memfd(0);
    file.set_len((pages * PAGE) as u64).unwrap();
    let table = table(&file);
    file.set_len(0).unwrap();
    table
}

#[test]
fn a_copy_over_many_missing_pages_costs_at_most_three_signals() {
    let _turn = turn();
    let pages = 16384;
    let table = missing(pages);
    let before = faults();
    let mut all = vec![1; pages * PAGE];
    table.memory().read_slice(&mut all, GuestAddress(0)).unwrap();
    assert!(all.iter().all(|&byte| byte == 0));
    // Two or three: memcpy of the C library chooses its direction by the CPU.
    assert!((2..=3).contains(&(faults() - before)), "{}", faults() - before);
}

#[test]
fn the_signals_do_not_grow_with_the_pages_in_either_direction() {
    let _turn = turn();
    let pages = 1024;
    let forward: Vec<usize> = (0..pages).collect();
    let backward: Vec<usize> = (0..pages).rev().collect();
    for (order, signals) in [(forward, 2), (backward, 3)] {
        let table = missing(pages);
        let before = faults();
        for page in order {
            assert_eq!(byte(&table, page * PAGE), 0);
        }
        assert_eq!(faults() - before, signals);
    }
}

#[test]
fn threads_may_fault_on_one_mapping_at_once() {
    let _turn = turn();
    const THREADS: usize = 4;
    for round in 0..200 {
        let file = memfd(8);
        let table = table(&file);
        file.set_len(0).unwrap();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, start) = (&table, &start);
                scope.spawn(move || {
                    start.wait();
                    for page in 0..8 {
                        // In opposite directions, so that the threads meet.
                        let page = if thread % 2 == 0 { page } else { 7 - page };
                        let at = GuestAddress((page * PAGE) as u64);
                        table.memory().write_obj(thread as u8, at).unwrap();
                        assert!(table.memory().read_obj::<u8>(at).unwrap() < THREADS as u8);
                        assert!(table.is_broken(), "round {round}");
                    }
                });
            }
        });
    }
}

#[test]
fn short_lived_mappings_are_not_mistaken_for_the_faulting_one() {
    let _turn = turn();
    let done = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let file = memfd(4);
                // A minimum number of rounds, even if this thread starts late.
                let mut left = 100;
                while left > 0 || !done.load(Ordering::Relaxed) {
                    left = usize::saturating_sub(left, 1);
                    let whole = table(&file);
                    let small = MemoryTable::new(vec![(region(PAGE), share(&file))]).unwrap();
                    assert_eq!((byte(&whole, 3 * PAGE), byte(&small, 0)), (0xaa, 0xaa));
                    drop(whole);
                    assert!(!small.is_broken());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..1000 {
            let file = memfd(4);
            let table = table(&file);
            file.set_len(PAGE as u64).unwrap();
            assert_eq!(byte(&table, 3 * PAGE), 0);
            assert!(table.is_broken());
            assert_eq!((byte(&table, PAGE), byte(&table, 0)), (0, 0xaa));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(rounds.load(Ordering::Relaxed) >= 200);
}

#[test]
fn a_queue_with_missing_rings_only_breaks() {
    let _turn = turn();
    let file = memfd(4);
    file.write_all_at(&[0; 4 * PAGE], 0).unwrap();
    let table = table(&file);
    let config = QueueConfig::at(GuestAddress(PAGE as u64), 8);
    let mut driver = DriverQueue::new(Arc::clone(table.memory()), config).unwrap();
    let mut device = DeviceQueue::new(Arc::clone(table.memory()), config).unwrap();
    driver.add(&[(GuestAddress(0), 16)], &[(GuestAddress(64), 1)]).unwrap();
    let _ = driver.publish();
    let mut chain = device.new_chain();
    assert!(device.pop(&mut chain).unwrap());

    file.set_len(0).unwrap();
    let mut header = [1; 16];
    assert_eq!(chain.readable().copy_to(0, &mut header), 16);
    assert_eq!((header, table.is_broken()), ([0; 16], true));
    device.push(chain.head(), 1).unwrap();
    let _ = device.publish();
    // avail.idx went back from 1 to 0, which is a jump modulo 2^16.
    assert!(device.pop(&mut chain).is_err());
    assert!(device.is_broken());
}

#[test]
fn a_missing_in_flight_region_is_reported() {
    let _turn = turn();
    let file = memfd(1);
    file.write_all_at(&[0; PAGE], 0).unwrap();
    let description = Inflight { mmap_size: PAGE as u64, mmap_offset: 0, num_queues: 1, queue_size: 8 };
    let region = InflightRegion::adopt(&description, share(&file), 1).unwrap();
    let mut queue = region.open(0, 8, 0).unwrap().queue;
    queue.popped(3);
    assert!(!region.is_broken());
    file.set_len(0).unwrap();
    queue.pushed(3);
    queue.published();
    assert!(region.is_broken());
}

#[test]
fn many_mappings_are_guarded_and_not_more() {
    const MOST: usize = 1 << 15;
    let _turn = turn();
    let file = memfd(1);
    let one = || MemoryTable::new(vec![(region(PAGE), share(&file))]);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut tables = Vec::new();
    let error = loop {
        match one() {
            Ok(table) => tables.push(table),
            Err(error) => break error,
        }
        assert!(tables.len() <= MOST);
    };
    let MemoryError::Mapping { error: MappingError::Guard(GuardError::Full), .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(tables.len(), MOST);
    let descriptors = open();
    one().unwrap_err();
    assert_eq!(open(), descriptors, "a refused mapping must not keep a descriptor");

    // The last mapping is guarded like the first, and a released slot can be used again.
    file.set_len(0).unwrap();
    assert_eq!(byte(&tables[MOST - 1], 0), 0);
    assert!(tables[MOST - 1].is_broken() && !tables[MOST - 2].is_broken());
    tables.pop();
    file.set_len(PAGE as u64).unwrap();
    let again = one().unwrap();
    assert!(!again.is_broken());
    file.set_len(0).unwrap();
    assert_eq!(byte(&again, 0), 0);
    assert!(again.is_broken());
}

#[test]
fn a_missing_huge_page_is_replaced_as_a_whole() {
    let _turn = turn();
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"sigbus-huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
    if fd < 0 {
        eprintln!("skipped: no huge pages: {}", std::io::Error::last_os_error());
        return;
    }
    // SAFETY: memfd_create has just returned this descriptor.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` has room for the result.
    assert_eq!(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) }, 0);
    // SAFETY: fstatfs has succeeded.
    let page = unsafe { stat.assume_init() }.f_bsize as usize;
    assert!(page > PAGE);
    let len = 2 * page;
    file.set_len(len as u64).unwrap();
    // Not reserved, so that this works on a machine without free huge pages. Then each access
    // causes SIGBUS even without truncation.
    // SAFETY: a new mapping at an address chosen by the kernel.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        eprintln!("skipped: huge pages cannot be mapped: {}", std::io::Error::last_os_error());
        return;
    }
    let base = base.cast::<u8>();
    // SAFETY: the mapping is new, and is unmapped below, after the guard is dropped.
    let guard = unsafe { Guard::new(base, len, page) }.unwrap();
    file.set_len(page as u64).unwrap();
    for at in [len - 1, len - page / 2, len - page] {
        let byte = base.wrapping_add(at);
        // SAFETY: inside the mapping, which is guarded.
        assert_eq!(unsafe { byte.read_volatile() }, 0);
        // SAFETY: likewise.
        unsafe { byte.write_volatile(1) };
        // SAFETY: likewise.
        assert_eq!(unsafe { byte.read_volatile() }, 1);
    }
    assert!(guard.is_broken());
    drop(guard);
    // SAFETY: this test owns the mapping, and nothing uses it any more.
    assert_eq!(unsafe { libc::munmap(base.cast(), len) }, 0);
}
