//! The only system calls of the crate, one file per kernel object.
//!
//! Everything here is a thin safe wrapper: it takes and returns Rust types, turns `-1` into
//! [`io::Error`], and contains no policy. The only exception is EINTR. A *wait* returns it to the
//! caller, who treats it as a wake-up without events. A read or write of an eventfd is repeated (it
//! cannot have completed partially).
#![expect(
    unsafe_code,
    reason = "the crate's boundary to libc: each call passes memory that the wrapper owns or borrows"
)]

pub(crate) mod buffer_ring;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod fd;
#[cfg(not(loom))]
pub(crate) mod futex;
pub(crate) mod ppoll;
pub(crate) mod process;
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod uring;

use std::io;
use std::time::Duration;

/// How long a wait may sleep: in nanoseconds. `None` means forever; `Some(0)` means check without
/// sleeping.
pub(crate) type TimeoutNs = Option<u64>;

/// Turns the `-1` of a system call into the error in `errno`.
#[inline]
pub(crate) fn check(result: libc::c_long) -> io::Result<u32> {
    #[cold]
    fn failed() -> io::Error {
        io::Error::last_os_error()
    }
    u32::try_from(result).map_err(|_| failed())
}

/// Converts a relative timeout to a timespec. Seconds saturate at the maximum of `time_t` (292
/// billion years).
pub(crate) fn timespec(ns: u64) -> libc::timespec {
    let d = Duration::from_nanos(ns);
    libc::timespec {
        tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: d.subsec_nanos().into(),
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the time base of every deadline (clock_gettime(2), served by the
/// vDSO).
pub(crate) fn monotonic_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a live timespec that the call fills; CLOCK_MONOTONIC cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// Sets the calling thread's timer slack (PR_SET_TIMERSLACK, prctl(2)), in nanoseconds; 0 restores
/// the default.
pub(crate) fn set_timer_slack(ns: u64) -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory of ours.
    let r = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ns as libc::c_ulong, 0, 0, 0) };
    check(r.into()).map(drop)
}
