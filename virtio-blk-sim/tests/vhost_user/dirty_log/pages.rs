//! Compares the log with the memory, before and after each kind of request.

use std::collections::BTreeSet;
use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, Delay, FileImage, Null, OpenError};
use virtio_blk_sim::memory::GuestAddress;
use vm_memory::Bytes;

use super::rig::{ALL, DATA, FAR, Guest, Log, PAGE, STATUS, Vmm};
use crate::server::{Setup, TempPath, TestServer};
use crate::session::snapshot;
use crate::{SECTORS, Watchdog};

/// Posts one request.
type Post = fn(&mut Guest);

/// Requests, and the pages besides the status and the used ring that the device may write.
const REQUESTS: [(&str, Post, &[u64]); 14] = [
    ("a read", |guest| guest.read(8, DATA, 4096), &[DATA]),
    ("a read over pages", |guest| guest.read(0, DATA + 512, 8192), &[DATA, DATA + PAGE, DATA + 2 * PAGE]),
    ("a read to the end of a page", |guest| guest.read(0, DATA + 3584, 512), &[DATA]),
    ("a read to the far region", |guest| guest.read(8, FAR + PAGE, 4096), &[FAR + PAGE]),
    ("a read in pieces", in_pieces, &[DATA, DATA + 5 * PAGE, FAR + 2 * PAGE]),
    ("a read past the end", |guest| guest.read(SECTORS, DATA, 512), &[DATA]),
    ("a read through an indirect table", indirect, &[DATA + 7 * PAGE]),
    ("a write", |guest| data_out(guest, 1, 512), &[]),
    ("a flush", |guest| data_out(guest, 4, 0), &[]),
    ("a discard", |guest| ranges(guest, 11), &[]),
    ("a write of zeroes", |guest| ranges(guest, 13), &[]),
    ("an id", |guest| data_in(guest, 8, 20), &[DATA]),
    ("an unknown request", |guest| data_in(guest, 99, 64), &[DATA]),
    ("a buffer outside memory", outside, &[]),
];

fn in_pieces(guest: &mut Guest) {
    let (header, status) = guest.header(0, 0);
    let pieces = [(DATA + 4095, 1), (DATA + 5 * PAGE, 1023), (FAR + 2 * PAGE + 8, 512)];
    let mut writable = pieces.map(|(addr, len)| (GuestAddress(addr), len)).to_vec();
    writable.push((status, 1));
    guest.add(&[(header, 16)], &writable);
}

fn data_in(guest: &mut Guest, kind: u32, len: u32) {
    let (header, status) = guest.header(kind, 0);
    guest.add(&[(header, 16)], &[(GuestAddress(DATA), len), (status, 1)]);
}

fn data_out(guest: &mut Guest, kind: u32, len: u32) {
    let (header, status) = guest.header(kind, 0);
    guest.add(&[(header, 16), (GuestAddress(DATA), len)], &[(status, 1)]);
}

fn ranges(guest: &mut Guest, kind: u32) {
    let (header, status) = guest.header(kind, 0);
    let range = GuestAddress(header.0 + 16);
    guest.memory.write_obj(64_u64, range).unwrap();
    guest.memory.write_obj(8_u64, GuestAddress(range.0 + 8)).unwrap();
    guest.add(&[(header, 16), (range, 16)], &[(status, 1)]);
}

fn outside(guest: &mut Guest) {
    let (header, status) = guest.header(0, 0);
    guest.add(&[(header, 16)], &[(GuestAddress(FAR / 2), 512), (status, 1)]);
}

/// The driver makes a table for chains of more descriptors than it has left, or when it likes to.
fn indirect(guest: &mut Guest) {
    let (header, status) = guest.header(0, 8);
    let table = GuestAddress(header.0 + 16);
    let data = GuestAddress(DATA + 7 * PAGE);
    guest.driver.add_indirect(table, &[(header, 16)], &[(data, 512), (status, 1)]).unwrap().unwrap();
}

/// Where the used ring is logged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum UsedRing {
    AtItsAddress,
    Elsewhere,
    NotAtAll,
}

/// A place outside guest memory that the log covers.
const ELSEWHERE: u64 = 1 << 28;

/// Every request once. Returns what the guest was answered.
fn each_request(server: &TestServer, used: UsedRing, event_idx: bool, before_start: bool) -> Vec<u8> {
    let what = format!("{used:?}, event_idx {event_idx}, {before_start}");
    let mut vmm = Vmm::new(server.socket(), 1, event_idx);
    let log = Log::new(ALL);
    let ring = vmm.config(0).used_ring.0;
    let place = match used {
        UsedRing::AtItsAddress => Some(ring),
        UsedRing::Elsewhere => Some(ELSEWHERE),
        UsedRing::NotAtAll => None,
    };
    let mut guest = None;
    if !before_start {
        guest = Some(vmm.start(0));
    }
    log.share(&mut vmm.frontend).unwrap();
    vmm.set_features(true).unwrap();
    let mut guest = guest.unwrap_or_else(|| vmm.start(0));
    // The start sets the addresses without the flag.
    vmm.set_addr(0, place).unwrap();
    while server.ask(|server, _| server.stats().iter().any(|(_, stats)| stats.drains == 0)) {}
    let mut answers = Vec::new();
    for (name, post, pages) in REQUESTS {
        // So that everything that is written changes something: no request writes this byte.
        for start in [DATA, STATUS, FAR] {
            vmm.ram.memory().write_slice(&[0xa5; 16 * PAGE as usize], GuestAddress(start)).unwrap();
        }
        let _ = guest.driver.enable_interrupts();
        post(&mut guest);
        let _ = guest.driver.publish();
        log.take();
        let before = snapshot(&vmm.ram);
        assert_eq!(guest.driver.used_idx(), answers.len() as u16, "{name}, {what}: not yet");
        guest.kick();
        guest.wait(1);
        // Wait until the device has done the rest, and sleeps.
        server.answered();
        let changed = changed_pages(&before, &snapshot(&vmm.ram));
        let marked = log.take();
        let ring_page = ring / PAGE;
        let allowed: BTreeSet<u64> = pages.iter().map(|addr| addr / PAGE).chain([STATUS / PAGE]).collect();
        assert!(changed.contains(&ring_page), "{name}, {what}: the request was answered");
        for page in &changed {
            let expected = match used {
                UsedRing::AtItsAddress => Some(*page),
                UsedRing::Elsewhere if *page == ring_page => Some(ELSEWHERE / PAGE),
                UsedRing::NotAtAll if *page == ring_page => None,
                _ => Some(*page),
            };
            let is_marked = expected.is_none_or(|page| marked.contains(&page));
            assert!(is_marked, "{name}, {what}: page {page:#x} was written and is not in {marked:x?}");
        }
        let extra: Vec<_> = marked
            .iter()
            .filter(|page| !allowed.contains(page) && place.is_none_or(|place| **page != place / PAGE))
            .collect();
        assert!(extra.is_empty(), "{name}, {what}: no device writes the pages {extra:x?}");
        let status = STATUS + answers.len() as u64;
        answers.push(vmm.ram.memory().read_obj(GuestAddress(status)).unwrap());
    }
    let base = vmm.frontend.get_vring_base(0).unwrap();
    assert_eq!(base, REQUESTS.len() as u32);
    answers
}

fn changed_pages(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) -> BTreeSet<u64> {
    let mut changed = BTreeSet::new();
    for ((start, old), (_, new)) in before.iter().zip(after) {
        let pages = old.chunks(PAGE as usize).zip(new.chunks(PAGE as usize)).enumerate();
        let differ = pages.filter(|(_, (old, new))| old != new);
        changed.extend(differ.map(|(number, _)| start / PAGE + number as u64));
    }
    changed
}

#[test]
fn every_page_that_changes_has_its_bit() {
    let _watchdog = Watchdog::new("every_page_that_changes_has_its_bit");
    let image = TempPath::new("img");
    let content: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 % 251 + 1) as u8).collect();
    std::fs::write(&image, &content).unwrap();
    let file = |direct| FileImage::open(&image, false, direct).map(Arc::new);
    let direct = match file(true) {
        Ok(image) => Some(image),
        Err(OpenError::NoDirect(_)) => None,
        Err(error) => panic!("{error}"),
    };
    let delay = Delay { latency: std::time::Duration::from_micros(50), spin: false };
    let backends = [
        ("null", Some(Backend::Null(Null::default()))),
        ("memory", Some(Backend::memory(SECTORS).unwrap())),
        ("delay", Some(Backend::Delay(delay))),
        ("file", Some(Backend::File(file(false).unwrap()))),
        ("direct", direct.clone().map(Backend::File)),
        ("linux_aio", direct.map(Backend::LinuxAio)),
    ];
    for (name, backend) in backends {
        let Some(backend) = backend else {
            println!("skipped: {name}: no direct I/O in the temporary directory");
            continue;
        };
        // io_uring: a file is read by the kernel; epoll: by other threads.
        for monitor in [MonitorKind::Epoll, MonitorKind::IoUring] {
            let builder = AioContext::builder().monitor(monitor);
            if builder.clone().build().is_err() {
                println!("skipped: no {monitor}");
                continue;
            }
            for threads in [0, 1] {
                println!("{name}, {monitor}, {threads} threads"); // printed when the test fails
                let (builder, backend) = (builder.clone(), backend.clone());
                let server = TestServer::new(Setup { builder, backend, threads, ..Setup::default() });
                for used in [UsedRing::AtItsAddress, UsedRing::Elsewhere, UsedRing::NotAtAll] {
                    for (event_idx, before_start) in [(true, false), (false, true)] {
                        let answers = each_request(&server, used, event_idx, before_start);
                        assert_eq!(&answers[..5], [0; 5], "reads succeed");
                        assert_eq!(&answers[11..], [0, 2, 1], "the last requests");
                        server.wait_disconnected();
                    }
                }
            }
        }
    }
}
