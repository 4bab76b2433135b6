//! One io_uring instance, owned by one thread: set-up with fallbacks, submission, waiting, reaping.
//!
//! The `io-uring` crate maps the rings and builds the entries. io_uring_enter is called here,
//! because `IoUring::submit()` creates a new `Submitter` each time and so does not use the
//! registered ring descriptor.
#![expect(
    unsafe_code,
    reason = "io_uring_enter(2) and io_uring_register(2), and SQEs whose buffers the caller owns"
)]

use super::buffer_ring::BufferRing;
use super::{TimeoutNs, check, timespec};
use io_uring::{IoUring, squeue};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// How completions reach the ring's memory, newest first. The first one that the kernel supports is
/// used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RingSetup {
    /// SINGLE_ISSUER | DEFER_TASKRUN (Linux 6.1): completions are processed inside the loop's own
    /// wait; they never interrupt it.
    DeferTaskrun,
    /// COOP_TASKRUN (Linux 5.19): completions are processed at any kernel entry, without an
    /// interruption.
    CoopTaskrun,
    /// No flags (Linux 5.15): the kernel interrupts the thread for each completion.
    Plain,
}

impl RingSetup {
    const ALL: [Self; 3] = [Self::DeferTaskrun, Self::CoopTaskrun, Self::Plain];
}

/// `struct io_uring_getevents_arg` of io_uring_enter(2) with IORING_ENTER_EXT_ARG.
#[repr(C)]
struct GeteventsArg {
    sigmask: u64,
    sigmask_sz: u32,
    min_wait_usec: u32,
    ts: u64,
}

/// `struct io_uring_rsrc_update` of IORING_REGISTER_RING_FDS.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

/// One completion: `user_data`, `result`, `flags`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// What the ring's memory shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Whether there are SQEs that the kernel has not seen.
    pub(crate) unsubmitted: u32,
    /// Completions are in memory and none wait in the kernel, so reaping needs no enter.
    pub(crate) reapable: bool,
    /// Completions are available: some are in memory, or the kernel reports that an enter would
    /// bring some (task work, if the ring tells, or an overflowed CQ).
    pub(crate) completions: bool,
}

#[cfg(feature = "raw-sqe")]
/// The flags of an SQE, which its type does not return: its second byte (`struct io_uring_sqe`).
#[inline]
pub(crate) fn flags_of(entry: &squeue::Entry) -> squeue::Flags {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is an SQE of 64 bytes, all of them initialised.
    squeue::Flags::from_bits_retain(unsafe { *ptr::from_ref(entry).cast::<u8>().add(1) })
}

/// The submission queue has no room until the next enter.
#[derive(Debug)]
pub(crate) struct Full;

pub(crate) struct Ring {
    ring: IoUring,
    setup: RingSetup,
    /// The first argument of io_uring_enter: the registered index, or the descriptor itself.
    enter_fd: RawFd,
    enter_flags: u32,
    /// Whether the ring's memory shows every completion. If not, some may wait in the kernel until
    /// an enter.
    tells: bool,
    /// Number of entries of the submission queue.
    entries: u32,
    /// The entries that `push` may use: all of them, or none while the queue is closed.
    usable: u32,
    /// Pushed and not yet taken by an enter: the tail minus the head of the SQ, kept here to avoid
    /// reading shared memory.
    unsubmitted: u32,
    /// SQEs that the kernel has taken so far.
    taken: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("setup", &self.setup)
            .field("enter_flags", &self.enter_flags)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Sets up a ring with `entries` SQEs and eight times as many CQEs, with the newest flags that
    /// the kernel supports, but none newer than `newest`. Only the calling thread may use the ring.
    ///
    /// With `tells`, completions that wait in the kernel are shown in memory
    /// (IORING_SETUP_TASKRUN_FLAG), at the cost of two locked operations in the kernel for each
    /// batch.
    ///
    /// # Errors
    /// EPERM or ENOSYS if io_uring is disabled or absent, ENOMEM if RLIMIT_MEMLOCK is too small
    /// (before Linux 5.12), `Unsupported` on kernels before 5.15.
    pub(crate) fn new(entries: u32, newest: RingSetup, tells: bool) -> io::Result<Self> {
        // The kernel rejects a queue without entries.
        let entries = entries.max(1);
        let mut refused = None;
        for setup in RingSetup::ALL.into_iter().filter(|s| *s >= newest) {
            match Self::build(entries, setup, tells) {
                // Without any flag a completion interrupts the thread, and is in memory
                // immediately.
                Ok(ring) => return Self::finish(ring, setup, tells || setup == RingSetup::Plain),
                // The kernel does not know a flag. With any other error, fewer flags would not
                // help.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
    }

    fn build(entries: u32, setup: RingSetup, tells: bool) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(entries.saturating_mul(8)).setup_clamp();
        match setup {
            RingSetup::DeferTaskrun => builder.setup_single_issuer().setup_defer_taskrun(),
            RingSetup::CoopTaskrun => builder.setup_coop_taskrun(),
            RingSetup::Plain => &mut builder,
        };
        if tells && setup != RingSetup::Plain {
            builder.setup_taskrun_flag();
        }
        builder.build(entries)
    }

    fn finish(ring: IoUring, setup: RingSetup, tells: bool) -> io::Result<Self> {
        let params = ring.params();
        // NODROP (5.5) keeps completions that overflow, EXT_ARG (5.11) carries the timeout, and
        // resource tagging (5.13) indicates a kernel with multishot POLL_ADD.
        if !(params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_resource_tagging())
        {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring of this kernel is older than Linux 5.15",
            ));
        }
        // An idle loop must not count as waiting for I/O (flag of Linux 6.15); without this, PSI
        // reports io pressure near 100 %.
        let mut enter_flags = if params.is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 };
        let mut enter_fd = ring.as_raw_fd();
        let mut update = RingFdUpdate { offset: u32::MAX, resv: 0, data: enter_fd as u64 };
        // Linux 5.18, at most 16 per thread. Without it each enter looks up the descriptor.
        if register(enter_fd, REGISTER_RING_FDS, &mut update).is_ok() {
            enter_fd = update.offset as RawFd;
            enter_flags |= ENTER_REGISTERED_RING;
        }
        let entries = ring.params().sq_entries();
        Ok(Self {
            ring,
            setup,
            enter_fd,
            enter_flags,
            tells,
            entries,
            usable: entries,
            unsubmitted: 0,
            taken: 0,
        })
    }

    /// For a forked child: dropping this only gives up the child's copy of the ring.
    pub(crate) fn abandon(&mut self) {
        self.enter_flags &= !ENTER_REGISTERED_RING;
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(crate) fn setup(&self) -> RingSetup {
        self.setup
    }

    pub(crate) fn has_registered_fd(&self) -> bool {
        self.enter_flags & ENTER_REGISTERED_RING != 0
    }

    /// Returns true if [`look`](Self::look) sees every completion that an enter would bring.
    pub(crate) fn tells(&self) -> bool {
        self.tells
    }

    /// Returns true if an SQE can ask for no completion of a success (Linux 5.17).
    pub(crate) fn skips_completions(&self) -> bool {
        self.ring.params().is_feature_skip_cqe_on_success()
    }

    pub(crate) fn has_no_iowait(&self) -> bool {
        self.enter_flags & ENTER_NO_IOWAIT != 0
    }

    /// Queues an SQE; the kernel sees it at the next [`enter`](Self::enter).
    ///
    /// # Safety
    /// What the entry points to must stay valid until its (last) completion has been reaped.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), Full> {
        // SAFETY: the caller keeps what the entry points to alive.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| Full)?;
        self.unsubmitted += 1;
        Ok(())
    }

    #[cfg(feature = "raw-sqe")]
    /// Returns the number of entries of the submission queue.
    pub(crate) fn entries(&self) -> usize {
        self.entries as usize
    }

    /// How many SQEs the kernel has taken so far, and how many were pushed.
    pub(crate) fn places(&self) -> (u64, u64) {
        (self.taken, self.taken + u64::from(self.unsubmitted))
    }

    /// Returns how many times [`push`](Self::push) will succeed before the next enter.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.usable.saturating_sub(self.unsubmitted) as usize
    }

    /// Closes or opens the submission queue. While it is closed it has no room, so whoever wants to
    /// push takes the way of a full queue.
    pub(crate) fn set_closed(&mut self, closed: bool) {
        self.usable = if closed { 0 } else { self.entries };
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.usable == 0
    }

    /// Returns true if there are completions in memory that arrived without an enter; never with
    /// DEFER_TASKRUN.
    #[inline]
    pub(crate) fn any_came_unasked(&mut self) -> bool {
        self.setup != RingSetup::DeferTaskrun && !self.ring.completion().is_empty()
    }

    /// Returns what there is to do, by reading the ring's memory: a few loads, no system call.
    #[inline]
    pub(crate) fn look(&mut self) -> Look {
        let sq = self.ring.submission();
        let (overflowed, in_kernel) = (sq.cq_overflow(), sq.taskrun());
        drop(sq);
        let in_memory = !self.ring.completion().is_empty();
        Look {
            unsubmitted: self.unsubmitted,
            reapable: in_memory && !overflowed,
            completions: in_memory || overflowed || in_kernel,
        }
    }

    /// Submits everything queued and brings completions to memory; sleeps until the first one or
    /// `timeout`. Returns the number of SQEs that the kernel has not taken. Errors: EINTR, ETIME
    /// (timeout without a completion), EBUSY or EAGAIN (reap, then try again). On an error the
    /// kernel has taken no SQE.
    #[inline]
    pub(crate) fn enter(&mut self, timeout: TimeoutNs) -> io::Result<u32> {
        match timeout {
            None => self.enter_with(1, 0, None),
            Some(0) => self.enter_with(0, 0, None),
            Some(ns) => self.enter_for(ns),
        }
    }

    /// Enter with a timeout. Only this needs the extended argument, which the kernel has to copy
    /// in.
    #[inline(never)]
    fn enter_for(&mut self, ns: u64) -> io::Result<u32> {
        let ts = timespec(ns);
        let arg = GeteventsArg { sigmask: 0, sigmask_sz: 0, min_wait_usec: 0, ts: &raw const ts as u64 };
        self.enter_with(1, ENTER_EXT_ARG, Some(&arg))
    }

    #[inline(always)]
    fn enter_with(&mut self, wanted: u32, flags: u32, arg: Option<&GeteventsArg>) -> io::Result<u32> {
        let size = if arg.is_some() { size_of::<GeteventsArg>() } else { 0 };
        // SAFETY: `arg` (or null, for no signal mask) and the timespec it points to live across the
        // call; what the submitted SQEs point to is kept alive by the code that pushed them.
        let r = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                self.unsubmitted,
                wanted,
                self.enter_flags | ENTER_GETEVENTS | flags,
                arg.map_or(ptr::null(), ptr::from_ref),
                size,
            )
        };
        let taken = check(r)?;
        self.taken += u64::from(taken);
        self.unsubmitted = self.unsubmitted.saturating_sub(taken);
        Ok(self.unsubmitted)
    }

    /// Takes one completion out of the ring.
    pub(crate) fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.ring.completion().next()?;
        Some(Cqe { user_data: cqe.user_data(), result: cqe.result(), flags: cqe.flags() })
    }

    /// Takes all completions out of the ring that are in memory now.
    #[inline]
    pub(crate) fn reap_all(&mut self) -> impl Iterator<Item = Cqe> {
        self.ring.completion().map(|cqe| Cqe {
            user_data: cqe.user_data(),
            result: cqe.result(),
            flags: cqe.flags(),
        })
    }

    /// Lets the kernel choose from a group of buffers (Linux 5.19).
    ///
    /// # Safety
    /// `buffers` must live until they were withdrawn, or until the kernel has completed every
    /// operation that selects from their group and the ring takes no more.
    pub(crate) unsafe fn provide(&self, buffers: &BufferRing) -> io::Result<()> {
        let (address, entries, group) = (buffers.address(), buffers.entries(), buffers.group());
        // SAFETY: the caller's promise.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }
    }

    /// Ends the kernel's use of a group of buffers. No operation that selects from it may be in
    /// flight.
    pub(crate) fn withdraw(&self, group: u16) -> io::Result<()> {
        self.ring.submitter().unregister_buf_ring(group)
    }

    /// Makes an empty table of files (Linux 5.19).
    pub(crate) fn make_file_table(&self, slots: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(slots)
    }

    /// Puts a descriptor into a slot of the table of files; -1 empties it.
    pub(crate) fn set_file(&self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(slot, &[fd]).map(drop)
    }

    /// Makes an empty table of buffers (Linux 5.19).
    pub(crate) fn make_buffer_table(&self, slots: u32) -> io::Result<()> {
        self.ring.submitter().register_buffers_sparse(slots)
    }

    /// Puts a buffer into a slot of the table of buffers; one without bytes empties it. The kernel
    /// pins the pages.
    ///
    /// # Safety
    /// The memory must stay valid, for reads and writes by operations that name the slot, until the
    /// slot was emptied and those operations have completed.
    pub(crate) unsafe fn set_buffer(&self, slot: u32, start: *const u8, len: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
        // SAFETY: the caller's promise.
        unsafe { self.ring.submitter().register_buffers_update(slot, &[buffer], None) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A registered descriptor holds the ring open beyond its close(2), until the thread ends.
        if self.has_registered_fd() {
            let mut update = RingFdUpdate { offset: self.enter_fd as u32, resv: 0, data: 0 };
            let _ = register(self.ring.as_raw_fd(), UNREGISTER_RING_FDS, &mut update);
        }
    }
}

fn register(fd: RawFd, opcode: u32, update: &mut RingFdUpdate) -> io::Result<u32> {
    // SAFETY: both opcodes take one `io_uring_rsrc_update`, which lives across the call.
    check(unsafe { libc::syscall(libc::SYS_io_uring_register, fd, opcode, ptr::from_mut(update), 1u32) })
}
