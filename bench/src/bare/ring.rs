//! A minimal io_uring with the cheapest setup that this kernel supports: single issuer, deferred
//! task work, and a registered ring fd.
#![expect(
    unsafe_code,
    reason = "io_uring_enter(2) and io_uring_register(2) by number, and SQEs with pointers"
)]

use super::syscall::{Calls, check};
use super::waiter::Patience;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::{io, ptr};

/// io_uring_register(2): opcodes, and the offset that lets the kernel choose a slot.
const IORING_REGISTER_RING_FDS: libc::c_uint = 20;
const IORING_UNREGISTER_RING_FDS: libc::c_uint = 21;
const ANY_OFFSET: u32 = u32::MAX;

/// `struct io_uring_rsrc_update` of linux/io_uring.h.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

const ENTRIES: u32 = 8;
/// User data of the one request that a waiter keeps in flight, and of the request that cancels it.
pub(super) const ARMED: u64 = 1;
const CANCEL: u64 = 2;

/// A ring for one waiter. It stays on the thread that created it: SINGLE_ISSUER requires that, and
/// the table of registered ring fds belongs to the task.
pub(crate) struct Ring {
    ring: IoUring,
    /// What io_uring_enter is called with: the index of the registered ring fd, or the fd itself.
    enter_fd: libc::c_int,
    registered: Option<u32>,
    flags: EnterFlags,
    /// SQEs that the next enter submits.
    queued: u32,
    _home_thread: PhantomData<*const ()>,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Self::sized(ENTRIES)
    }

    /// Creates a ring with room for `entries` requests between two calls of io_uring_enter(2).
    pub(crate) fn sized(entries: u32) -> io::Result<Self> {
        // Linux 6.1 has both flags; an older kernel refuses them with EINVAL.
        let deferred = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
        let ring = match deferred {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            deferred => deferred?,
        };
        let mut flags = EnterFlags::GETEVENTS;
        if ring.params().is_feature_no_iowait() {
            // A loop that sleeps for events is idle, not in I/O wait.
            flags |= EnterFlags::NO_IOWAIT;
        }
        let registered = register(&ring).ok();
        if registered.is_some() {
            flags |= EnterFlags::REGISTERED_RING;
        }
        let enter_fd = registered.map_or(ring.as_raw_fd(), |index| index as libc::c_int);
        Ok(Self { ring, enter_fd, registered, flags, queued: 0, _home_thread: PhantomData })
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues an SQE for the next [`Ring::enter`].
    ///
    /// # Safety
    /// The memory that the SQE points to stays valid until its completion was reaped.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller keeps the entry's memory valid.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))?;
        self.queued += 1;
        Ok(())
    }

    /// One io_uring_enter(2): submits what is queued, runs task work, and for [`Patience::Forever`]
    /// waits for a completion. A signal ends the wait early.
    #[inline]
    pub(crate) fn enter(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<()> {
        let wanted: u32 = if patience == Patience::Forever { 1 } else { 0 };
        calls.enters += 1;
        // By number, because a dropped `Submitter` forgets the registered ring fd.
        // SAFETY: the ring outlives the call; without EXT_ARG the last two arguments are a signal
        // mask and its size, and null changes no signals.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                self.queued,
                wanted,
                self.flags.bits(),
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        });
        match result {
            Ok(submitted) => {
                self.queued = self.queued.saturating_sub(submitted as u32);
                Ok(())
            }
            // Nothing was submitted in this case: otherwise the kernel would report the number of
            // submissions.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next completion, if there is one. No system call.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Cancels the request [`ARMED`] and waits until the kernel no longer uses it and its buffers.
    /// Returns false on failure; then the buffers must not be freed.
    pub(super) fn disarm(&mut self) -> bool {
        let cancel = opcode::AsyncCancel::new(ARMED).build().user_data(CANCEL);
        // SAFETY: a cancel request points to no memory.
        if unsafe { self.push(&cancel) }.is_err() {
            return false;
        }
        let mut calls = Calls::default();
        let (mut ended, mut cancelled) = (false, false);
        // Two completions are expected. The bound is for a kernel that loses one.
        for _ in 0..64 {
            if self.enter(Patience::Forever, &mut calls).is_err() {
                return false;
            }
            while let Some(entry) = self.pop() {
                match entry.user_data() {
                    ARMED => ended |= !cqueue::more(entry.flags()),
                    _ => cancelled = true,
                }
            }
            if ended && cancelled {
                return true;
            }
        }
        false
    }
}

/// Puts the ring's fd into the task's table of registered rings (Linux 5.18) and returns its index.
fn register(ring: &IoUring) -> io::Result<u32> {
    let mut update = RsrcUpdate { offset: ANY_OFFSET, resv: 0, data: ring.as_raw_fd() as u64 };
    // SAFETY: one update, ours to be read and to have its offset written.
    let registered = check(unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            IORING_REGISTER_RING_FDS,
            &raw mut update,
            1,
        )
    })?;
    if registered == 1 { Ok(update.offset) } else { Err(io::Error::other("the ring fd was not registered")) }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(index) = self.registered {
            // The table holds a reference: without this the ring would stay until the thread ends.
            let mut update = RsrcUpdate { offset: index, resv: 0, data: 0 };
            // SAFETY: one update, only read. A failure leaves things as they are, and they end with
            // the thread.
            unsafe {
                libc::syscall(
                    libc::SYS_io_uring_register,
                    self.ring.as_raw_fd(),
                    IORING_UNREGISTER_RING_FDS,
                    &raw mut update,
                    1,
                )
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_come_and_go_without_filling_the_table() {
        // The table has 16 slots (IO_RINGFD_REG_MAX): a leak would show as an unregistered ring.
        let Ok(first) = Ring::new() else {
            eprintln!("no io_uring here");
            return;
        };
        let registered = first.registered.is_some();
        drop(first);
        for _ in 0..40 {
            assert_eq!(Ring::new().unwrap().registered.is_some(), registered);
        }
    }

    #[test]
    fn a_request_goes_in_and_its_completion_comes_out() {
        let Ok(mut ring) = Ring::new() else {
            eprintln!("no io_uring here");
            return;
        };
        let mut calls = Calls::default();
        assert!(ring.pop().is_none());
        // SAFETY: a NOP points to no memory.
        unsafe { ring.push(&opcode::Nop::new().build().user_data(7)) }.unwrap();
        ring.enter(Patience::Forever, &mut calls).unwrap();
        assert_eq!(ring.pop().map(|entry| (entry.user_data(), entry.result())), Some((7, 0)));
        assert_eq!((calls.enters, calls.total(), ring.queued), (1, 1, 0));
        // The submission queue takes as many entries as it has, and no more.
        for _ in 0..ENTRIES {
            // SAFETY: as above.
            unsafe { ring.push(&opcode::Nop::new().build()) }.unwrap();
        }
        // SAFETY: as above.
        assert!(unsafe { ring.push(&opcode::Nop::new().build()) }.is_err());
    }
}
