//! Self-tests. Emulated kernels accept calls and then behave otherwise, so each method is tried
//! once per process, on eventfds of its own, and used only if it is seen to work.
#![expect(
    unsafe_code,
    reason = "pushes SQEs that point to nothing but a descriptor, and one provided buffer group"
)]

use crate::sys::buffer_ring::BufferRing;
use crate::sys::eventfd::EventFd;
use crate::sys::uring::{Ring, RingSetup};
use io_uring::{cqueue, squeue, types};
use std::borrow::Cow;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// Why a method cannot be used.
pub(crate) type Obstacle = Cow<'static, str>;

/// Makes a probe, unless it was made before. `None` if it has shown that the method works; the
/// observation, `does_not`, if it does not.
///
/// A probe that could not be made (no descriptor or memory left) has shown nothing: its error is
/// the obstacle for this time, and the next call tries again.
pub(super) fn probed(
    seen: &OnceLock<bool>,
    probe: impl FnOnce() -> io::Result<bool>,
    does_not: &'static str,
) -> Option<Obstacle> {
    let works = match seen.get() {
        Some(works) => *works,
        None => match probe() {
            Ok(works) => *seen.get_or_init(|| works),
            Err(error) => {
                return Some(format!("the probe of this method failed, so it is not used: {error}").into());
            }
        },
    };
    (!works).then_some(does_not.into())
}

/// Returns true if the operation that `arm` makes for an eventfd completes once for each of two
/// writes, and stays armed.
pub(super) fn ring_sees_each_write(
    arm: impl Fn(types::Fd) -> squeue::Entry,
    with_buffers: bool,
) -> io::Result<bool> {
    let (mut ring, fd) = (Ring::new(4, RingSetup::Plain, false)?, EventFd::new()?);
    let buffers = if with_buffers { Some(BufferRing::new(0, 16, 8)?) } else { None };
    if let Some(buffers) = &buffers {
        // SAFETY: the buffers live until they are withdrawn below.
        unsafe { ring.provide(buffers)? };
    }
    // SAFETY: a poll points to nothing; a multishot read fills the group, which outlives the ring's
    // use of it below.
    let pushed = unsafe { ring.push(&arm(types::Fd(fd.as_raw_fd()))) };
    pushed.map_err(|_| io::ErrorKind::StorageFull)?;
    ring.enter(Some(0)).or_else(ignore_timeout)?;
    let mut good = ring.reap().is_none();
    for _ in 0..2 {
        fd.write(1)?;
        ring.enter(Some(0)).or_else(ignore_timeout)?;
        good &= ring.reap().is_some_and(|cqe| cqe.result > 0 && cqueue::more(cqe.flags));
    }
    if let Some(buffers) = &buffers {
        ring.withdraw(buffers.group())?;
    }
    Ok(good)
}

fn ignore_timeout(e: io::Error) -> io::Result<u32> {
    if e.raw_os_error() == Some(libc::ETIME) { Ok(0) } else { Err(e) }
}
