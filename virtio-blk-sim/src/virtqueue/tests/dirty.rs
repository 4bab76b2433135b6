//! When and where a queue marks what it writes.
#![expect(unsafe_code, reason = "a log without memory")]

use super::support::*;
use crate::memory::log_bits::LogBits;
use crate::memory::{DirtyLog, LogOwner};
use crate::virtqueue::DirtyPages;

const PAGE: u64 = 4096;
/// The used ring has three pages: used.idx is in the first, entry 600 in the second, and the
/// request for kicks in the third.
const SIZE: u16 = 1024;
const USED: u64 = 16 * PAGE;
const START: u16 = 600;
const DATA: u64 = 64 * PAGE;
/// A region that is adjacent in guest memory and not in this process.
const SECOND: u64 = 128 * PAGE;

struct Rig {
    bits: Arc<LogBits>,
    driver: DriverQueue,
    device: DeviceQueue,
    chain: Chain,
}

fn rig(pages: impl FnOnce(&Arc<LogBits>) -> DirtyPages, event_idx: bool) -> Rig {
    let ram = GuestRam::with_regions(&[
        (GuestAddress(0), SECOND as usize),
        (GuestAddress(SECOND), 128 * PAGE as usize),
    ])
    .unwrap();
    let at = GuestAddress;
    let config = QueueConfig {
        size: SIZE,
        desc_table: at(0),
        avail_ring: at(8 * PAGE),
        used_ring: at(USED),
        event_idx,
        indirect: true,
    };
    let driver = DriverQueue::starting_at(ram.map().unwrap(), config, START).unwrap();
    let mut device = DeviceQueue::resume(ram.memory().clone(), config, START, START).unwrap();
    let bits = Arc::<LogBits>::default();
    device.set_dirty_log(Some(pages(&bits)));
    let chain = device.new_chain();
    Rig { bits, driver, device, chain }
}

fn everything(bits: &Arc<LogBits>) -> DirtyPages {
    DirtyPages { log: bits.log(32), buffers: true, used_ring: Some(GuestAddress(USED)) }
}

impl Rig {
    /// Posts a chain, in the ring's own terms, at the index where the queue stands.
    fn post(&mut self, writable: &[(GuestAddress, u32)]) {
        self.driver.add(&[(GuestAddress(DATA - PAGE), 16)], writable).unwrap().unwrap();
        let _ = self.driver.publish();
    }
}

const IDX: u64 = USED / PAGE;
const ENTRY: u64 = IDX + 1;
const EVENT: u64 = IDX + 2;

#[test]
fn each_write_is_marked_when_it_is_done_and_not_before() {
    for event_idx in [true, false] {
        let mut rig = rig(everything, event_idx);
        let kick_request = if event_idx { EVENT } else { IDX };
        assert!(!rig.device.enable_kicks());
        assert_eq!(rig.bits.take(), [kick_request]);
        assert!(!rig.device.enable_kicks(), "nothing is written again");
        assert_eq!(rig.bits.take(), [0; 0]);
        // A buffer in both regions, and one of a byte.
        rig.post(&[(GuestAddress(SECOND - PAGE), 2 * PAGE as u32), (GuestAddress(DATA), 1)]);
        rig.device.disable_kicks();
        // An event that was passed need not be taken back.
        assert_eq!(rig.bits.take(), if event_idx { vec![] } else { vec![IDX] });
        assert!(rig.device.pop(&mut rig.chain).unwrap());
        assert_eq!(rig.bits.take(), [0; 0], "the device has written nothing yet");
        rig.device.push_chain(&rig.chain, 1).unwrap();
        // The data is marked before used.idx shows it.
        assert_eq!(rig.driver.used_idx(), START);
        assert_eq!(rig.bits.take(), [ENTRY, DATA / PAGE, SECOND / PAGE - 1, SECOND / PAGE]);
        let _ = rig.device.publish();
        assert_eq!(rig.bits.take(), [IDX]);
        assert!(!rig.device.publish(), "nothing is new");
        assert_eq!(rig.bits.take(), [0; 0]);
        assert_eq!(rig.device.dirty_log_failure(), None);
    }
}

#[test]
fn buffers_and_the_used_ring_are_logged_separately() {
    for (buffers, used_ring, expected) in [
        (true, None, vec![DATA / PAGE]),
        (false, Some(USED), vec![IDX, ENTRY]),
        // The frontend says where the used ring is logged.
        (false, Some(200 * PAGE), vec![200, 201]),
        (false, None, vec![]),
    ] {
        let pages = |bits: &Arc<LogBits>| DirtyPages {
            log: bits.log(32),
            buffers,
            used_ring: used_ring.map(GuestAddress),
        };
        let mut rig = rig(pages, true);
        rig.post(&[(GuestAddress(DATA), 512)]);
        assert!(rig.device.pop(&mut rig.chain).unwrap());
        rig.device.push_chain(&rig.chain, 512).unwrap();
        let _ = rig.device.publish();
        assert_eq!(rig.bits.take(), expected);
    }
}

#[test]
fn a_log_may_be_switched_while_chains_are_in_flight() {
    let mut rig = rig(everything, true);
    rig.device.set_dirty_log(None);
    assert!(!rig.device.has_dirty_log());
    rig.post(&[(GuestAddress(DATA), 512)]);
    rig.post(&[(GuestAddress(DATA + PAGE), 512)]);
    let mut second = rig.device.new_chain();
    assert!(rig.device.pop(&mut rig.chain).unwrap());
    assert!(rig.device.pop(&mut second).unwrap());
    rig.device.push_chain(&rig.chain, 512).unwrap();
    let _ = rig.device.publish();
    assert_eq!(rig.bits.take(), [0; 0]);
    let old = Arc::<LogBits>::default();
    rig.device.set_dirty_log(Some(everything(&old)));
    rig.device.set_dirty_log(Some(everything(&rig.bits)));
    rig.device.push_chain(&second, 512).unwrap();
    let _ = rig.device.publish();
    assert_eq!(rig.bits.take(), [IDX, ENTRY, DATA / PAGE + 1]);
    assert_eq!(old.take(), [0; 0]);
}

#[test]
fn a_broken_queue_marks_buffers_and_writes_no_ring() {
    let mut rig = rig(everything, true);
    rig.post(&[(GuestAddress(DATA), 512)]);
    assert!(rig.device.pop(&mut rig.chain).unwrap());
    rig.device.mark_broken();
    rig.device.disable_kicks();
    assert!(!rig.device.enable_kicks());
    rig.device.push_chain(&rig.chain, 512).unwrap();
    assert!(!rig.device.publish());
    assert_eq!(rig.bits.take(), [DATA / PAGE]);
    assert_eq!(rig.driver.used_idx(), START);
}

#[test]
fn a_lost_chain_is_marked_too() {
    let mut rig = rig(everything, true);
    rig.post(&[(GuestAddress(DATA), 512), (GuestAddress(SECOND), 1)]);
    assert!(rig.device.pop(&mut rig.chain).unwrap());
    let head = rig.chain.head();
    rig.device.push_lost(head).unwrap();
    assert_eq!(rig.bits.take(), [ENTRY, DATA / PAGE, SECOND / PAGE]);
    // One that was refused: only its status may have been written.
    rig.post(&[(GuestAddress(1 << 40), 512), (GuestAddress(SECOND), 1)]);
    assert!(rig.device.pop(&mut rig.chain).unwrap_err().is_of_one_chain());
    let head = rig.chain.head();
    rig.device.push_lost(head).unwrap();
    assert_eq!(rig.bits.take(), [ENTRY, SECOND / PAGE]);
    assert_eq!(rig.device.push_lost(head), Err(QueueError::NotInFlight { head }));
}

#[test]
fn a_write_that_the_log_does_not_cover_is_reported() {
    let small = |bits: &Arc<LogBits>| DirtyPages { log: bits.log(8), ..everything(bits) };
    let mut rig = rig(small, true);
    rig.post(&[(GuestAddress(DATA - PAGE), 512)]);
    assert!(rig.device.pop(&mut rig.chain).unwrap());
    rig.device.push_chain(&rig.chain, 512).unwrap();
    assert_eq!(rig.device.dirty_log_failure(), None);
    rig.post(&[(GuestAddress(DATA), 512)]);
    assert!(rig.device.pop(&mut rig.chain).unwrap());
    rig.bits.take();
    rig.device.push_chain(&rig.chain, 512).unwrap();
    let failure = QueueError::BeyondDirtyLog { addr: DATA, log_bytes: 8 };
    assert_eq!(rig.device.dirty_log_failure(), Some(failure));
    assert_eq!(rig.bits.take(), [ENTRY], "nothing is marked outside the log");
}

/// The log is gone.
#[test]
fn a_lost_log_is_reported() {
    struct Lost;
    impl LogOwner for Lost {
        fn is_lost(&self) -> bool {
            true
        }
    }
    let mut rig = rig(everything, true);
    // SAFETY: no bytes are accessed.
    let log = unsafe { DirtyLog::from_raw(std::ptr::null_mut(), 0, Arc::new(Lost)) }.unwrap();
    let pages = DirtyPages { log: Arc::new(log), buffers: true, used_ring: None };
    rig.device.set_dirty_log(Some(pages));
    assert_eq!(rig.device.dirty_log_failure(), Some(QueueError::MemoryLost));
}

#[test]
fn the_memory_of_vm_memory_is_logged_as_well() {
    let ram = three_regions();
    let memory = vm_memory_view(&ram, &CANARIES);
    let config = QueueConfig::at(GuestAddress(RINGS), 8);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let mut device = DeviceQueue::new(memory, config).unwrap();
    let bits = Arc::<LogBits>::default();
    let pages = DirtyPages { log: bits.log(32), buffers: true, used_ring: None };
    device.set_dirty_log(Some(pages));
    let mut chain = device.new_chain();
    let mut written = Vec::new();
    for addr in [LOW_END - 1, LOW_END - 4096, MIDDLE_END - 1] {
        driver.add(&[], &[(GuestAddress(addr), 1)]).unwrap().unwrap();
        let _ = driver.publish();
        assert!(device.pop(&mut chain).unwrap());
        device.push_chain(&chain, 1).unwrap();
        written.push(addr / PAGE);
    }
    written.sort_unstable();
    written.dedup();
    assert_eq!(bits.take(), written);
}
