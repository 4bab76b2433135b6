//! A ring without a context.
#![expect(unsafe_code, reason = "operations are submitted as in `context::operation`")]

use super::UringMonitor;
use super::backlog::Backlog;
use super::shutdown::NoContext;
use crate::completion::Completes;
use crate::stats::Counters;
use crate::sys::uring::{Ring, RingSetup};
use io_uring::{opcode, types};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// Whatever drops it, the kernel is done first.
#[test]
fn a_ring_that_is_dropped_without_a_shutdown_leaves_nothing_to_the_kernel() {
    for setup in [RingSetup::DeferTaskrun, RingSetup::CoopTaskrun, RingSetup::Plain] {
        let Ok(ring) = Ring::new(4, setup, false) else {
            return eprintln!("skipped: no io_uring on this machine");
        };
        let monitor = UringMonitor::new(ring, &Rc::default());
        let (from, mut to) = io::pipe().unwrap();
        let mut byte = Box::new(0_u8);
        let entry = opcode::Read::new(types::Fd(from.as_raw_fd()), &raw mut *byte, 1);
        // SAFETY: the entry points into a box, which the ring holds.
        unsafe { monitor.submit(entry.build(), (byte, from), Completes::Once, &Counters::default()) };
        monitor.wait(Some(0), &NoContext::default()).unwrap();
        assert_eq!(monitor.completions().in_flight().len(), 1);
        drop(monitor);
        // A read that is still in flight would hold the last reference to this end of the pipe.
        let error = to.write_all(&[1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{setup:?}");
    }
}

/// The kernel must get linked entries with one enter, also if the queue has room for a part.
#[test]
fn a_unit_waits_until_the_queue_has_room_for_all_of_it() {
    let Ok(mut ring) = Ring::new(4, RingSetup::Plain, false) else { return println!("skipped: no io_uring") };
    let nops = || vec![opcode::Nop::new().build(); 3];
    let mut backlog = Backlog::default();
    // SAFETY: they point to nothing.
    unsafe {
        backlog.add(&nops()[..2]);
        backlog.add(&nops());
        backlog.add(&nops()[..1]);
    }
    backlog.flush(&mut ring);
    assert_eq!((ring.room(), backlog.is_empty()), (2, false), "the first unit, and nothing of the second");
    ring.enter(Some(0)).unwrap();
    backlog.flush(&mut ring);
    assert_eq!((ring.room(), backlog.is_empty()), (0, true), "the second and the third");
}
