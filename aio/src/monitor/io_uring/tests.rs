//! A ring without a context: whatever drops it, the kernel is done first.
#![expect(unsafe_code, reason = "operations are submitted as in `context::operation`")]

use super::UringMonitor;
use super::ring_monitor::NoContext;
use crate::stats::Counters;
use crate::sys::uring::{Ring, RingSetup};
use io_uring::{opcode, types};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

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
        unsafe { monitor.submit(entry.build(), (byte, from), false, &Counters::default()) };
        monitor.wait(Some(0), &NoContext::default()).unwrap();
        assert_eq!(monitor.completions().in_flight().len(), 1);
        drop(monitor);
        // A read that is still in flight would hold the last reference to this end of the pipe.
        let error = to.write_all(&[1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{setup:?}");
    }
}
