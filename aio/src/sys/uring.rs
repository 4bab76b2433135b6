//! One io_uring instance, owned by one thread: set-up with fallbacks, submission, waiting, reaping.
//!
//! The `io-uring` crate maps the rings and builds the entries. Entering is done here, because
//! `IoUring::submit()` makes a fresh `Submitter` each time and so forgets a registered ring descriptor.
#![expect(
    unsafe_code,
    reason = "io_uring_enter(2) and io_uring_register(2), and SQEs whose buffers the caller owns"
)]

use super::{TimeoutNs, check, timespec};
use io_uring::types::BufRingEntry;
use io_uring::{IoUring, squeue};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// How completions reach the ring's memory, newest first. Each kernel takes the first that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RingSetup {
    /// SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG (Linux 6.1): completions are worked off inside the loop's own
    /// wait, never by interrupting it.
    DeferTaskrun,
    /// COOP_TASKRUN | TASKRUN_FLAG (Linux 5.19): no interruption; worked off at any kernel entry.
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

/// What lies in the ring's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// SQEs that the kernel has not seen.
    pub(crate) unsubmitted: u32,
    /// Completions lie in memory and none wait in the kernel, so that reaping needs no enter.
    pub(crate) reapable: bool,
    /// Completions may be had: some are in memory, or the kernel says that an enter would bring some (task work with
    /// TASKRUN_FLAG, or an overflowed CQ).
    pub(crate) completions: bool,
}

/// The submission queue has no room until the next enter.
#[derive(Debug)]
pub(crate) struct Full;

pub(crate) struct Ring {
    ring: IoUring,
    setup: RingSetup,
    /// What io_uring_enter takes: the registered index, or the descriptor itself.
    enter_fd: RawFd,
    enter_flags: u32,
    /// Pushed and not yet taken by an enter: the tail less the head of the SQ, without a look at shared memory.
    unsubmitted: u32,
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
    /// Sets a ring up with `entries` SQEs and eight times as many CQEs, with the newest flags that the kernel
    /// takes, `newest` at the most. The calling thread becomes the only one that may use it.
    ///
    /// # Errors
    /// EPERM or ENOSYS where io_uring is switched off or absent, ENOMEM where RLIMIT_MEMLOCK is too small (before
    /// Linux 5.12), `Unsupported` on kernels before 5.15.
    pub(crate) fn new(entries: u32, newest: RingSetup) -> io::Result<Self> {
        // The kernel refuses a queue without entries.
        let entries = entries.max(1);
        let mut refused = None;
        for setup in RingSetup::ALL.into_iter().filter(|s| *s >= newest) {
            match Self::build(entries, setup) {
                Ok(ring) => return Self::finish(ring, setup),
                // An unknown flag. Anything else will not get better with fewer flags.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
    }

    fn build(entries: u32, setup: RingSetup) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(entries.saturating_mul(8)).setup_clamp();
        match setup {
            RingSetup::DeferTaskrun => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()
            }
            RingSetup::CoopTaskrun => builder.setup_coop_taskrun().setup_taskrun_flag(),
            RingSetup::Plain => &mut builder,
        };
        builder.build(entries)
    }

    fn finish(ring: IoUring, setup: RingSetup) -> io::Result<Self> {
        let params = ring.params();
        // NODROP (5.5) keeps completions that overflow, EXT_ARG (5.11) carries the timeout, and resource tagging
        // (5.13) marks a kernel that has multishot POLL_ADD.
        if !(params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_resource_tagging())
        {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring of this kernel is older than Linux 5.15",
            ));
        }
        // An idle loop must not count as waiting for I/O (6.15): without it PSI reports io pressure near 100 %.
        let mut enter_flags = if params.is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 };
        let mut enter_fd = ring.as_raw_fd();
        let mut update = RingFdUpdate { offset: u32::MAX, resv: 0, data: enter_fd as u64 };
        // Linux 5.18, at most 16 for a thread; without it each enter looks the descriptor up.
        if register(enter_fd, REGISTER_RING_FDS, &mut update).is_ok() {
            enter_fd = update.offset as RawFd;
            enter_flags |= ENTER_REGISTERED_RING;
        }
        Ok(Self { ring, setup, enter_fd, enter_flags, unsubmitted: 0 })
    }

    pub(crate) fn setup(&self) -> RingSetup {
        self.setup
    }

    pub(crate) fn has_registered_fd(&self) -> bool {
        self.enter_flags & ENTER_REGISTERED_RING != 0
    }

    pub(crate) fn has_no_iowait(&self) -> bool {
        self.enter_flags & ENTER_NO_IOWAIT != 0
    }

    /// Queues an SQE; the kernel sees it at the next [`enter`](Self::enter).
    ///
    /// # Safety
    /// What the entry points to must stay valid until its (last) completion has been reaped.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), Full> {
        // SAFETY: the caller keeps what the entry points to alive.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| Full)?;
        self.unsubmitted += 1;
        Ok(())
    }

    /// True if [`push`](Self::push) would fail.
    pub(crate) fn is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    /// True if completions lie in memory: two loads.
    #[inline]
    pub(crate) fn any_in_memory(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// What is to be done, by a look at memory: a few loads, no system call.
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

    /// Submits everything queued and brings completions to memory; sleeps for the first one until `timeout`.
    /// Gives the number of SQEs that the kernel has not taken. Errors: EINTR, ETIME (nothing came), EBUSY or EAGAIN (reap,
    /// then again); the kernel has taken none then.
    #[inline]
    pub(crate) fn enter(&mut self, timeout: TimeoutNs) -> io::Result<u32> {
        let min_complete = u32::from(timeout != Some(0));
        let ts = timeout.filter(|ns| *ns != 0).map(timespec);
        let arg = GeteventsArg {
            sigmask: 0,
            sigmask_sz: 0,
            min_wait_usec: 0,
            ts: ts.as_ref().map_or(0, |ts| ptr::from_ref(ts) as u64),
        };
        // Only a deadline needs the argument; the kernel would copy it in for nothing.
        let (flags, arg, arg_size) = match ts {
            Some(_) => (self.enter_flags | ENTER_EXT_ARG, &raw const arg, size_of::<GeteventsArg>()),
            None => (self.enter_flags, ptr::null(), 0),
        };
        // SAFETY: `arg` (or null, for no signal mask) and the timespec it points to live across the call; what the
        // submitted SQEs point to is kept alive by who pushed them.
        let r = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                self.unsubmitted,
                min_complete,
                flags | ENTER_GETEVENTS,
                arg,
                arg_size,
            )
        };
        self.unsubmitted = self.unsubmitted.saturating_sub(check(r)?);
        Ok(self.unsubmitted)
    }

    /// Takes one completion out of the ring.
    pub(crate) fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.ring.completion().next()?;
        Some(Cqe { user_data: cqe.user_data(), result: cqe.result(), flags: cqe.flags() })
    }

    /// Takes all completions that are in memory now and gives each to `take`, which must not use the ring.
    #[inline]
    pub(crate) fn reap_all(&mut self, mut take: impl FnMut(Cqe)) {
        for cqe in self.ring.completion() {
            take(Cqe { user_data: cqe.user_data(), result: cqe.result(), flags: cqe.flags() });
        }
    }

    /// Gives the ring a group of eight-byte buffers, for READ_MULTISHOT of eventfds (Linux 5.19; 6.7 for the read).
    pub(crate) fn provide_counters(&mut self, group: u16) -> io::Result<CounterBuffers> {
        let buffers = CounterBuffers::new(group);
        // SAFETY: the ring memory stays mapped until `CounterBuffers` is dropped, and its owner (the monitor) drops it
        // after the ring has been drained and `withdraw_counters` was called.
        unsafe {
            self.ring.submitter().register_buf_ring_with_flags(
                buffers.ring.as_ptr() as u64,
                CounterBuffers::ENTRIES,
                group,
                0,
            )?;
        }
        Ok(buffers)
    }

    /// Ends the kernel's use of `buffers`.
    pub(crate) fn withdraw_counters(&mut self, buffers: &CounterBuffers) -> io::Result<()> {
        self.ring.submitter().unregister_buf_ring(buffers.group)
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

/// A provided-buffer ring of eight-byte buffers. The kernel fills one for each completion of READ_MULTISHOT;
/// its content (the count) is not looked at, and the buffer goes straight back.
#[derive(Debug)]
pub(crate) struct CounterBuffers {
    group: u16,
    ring: NonNull<BufRingEntry>,
    counters: Box<[u64]>,
    tail: u16,
}

impl CounterBuffers {
    const ENTRIES: u16 = 256;

    fn layout() -> Layout {
        // Page-aligned, as io_uring_register(2) demands. Both numbers are constants: this cannot fail.
        Layout::array::<BufRingEntry>(Self::ENTRIES.into())
            .and_then(|l| l.align_to(4096))
            .unwrap_or(Layout::new::<u8>())
    }

    fn new(group: u16) -> Self {
        let layout = Self::layout();
        // SAFETY: the layout has a size of 4096 bytes, not zero.
        let ring = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>());
        let ring = ring.unwrap_or_else(|| handle_alloc_error(layout));
        let mut buffers =
            Self { group, ring, counters: vec![0; Self::ENTRIES.into()].into_boxed_slice(), tail: 0 };
        (0..Self::ENTRIES).for_each(|id| buffers.give_back(id));
        buffers
    }

    /// Makes buffer `id` available to the kernel again.
    pub(crate) fn give_back(&mut self, id: u16) {
        let id = id % Self::ENTRIES;
        let address = &raw mut self.counters[usize::from(id)] as u64;
        // SAFETY: the index is below ENTRIES, so the entry is inside the allocation; between tail and head it is ours.
        let entry = unsafe { &mut *self.ring.as_ptr().add(usize::from(self.tail % Self::ENTRIES)) };
        entry.set_addr(address);
        entry.set_len(8);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail overlays a reserved field of entry 0, inside the allocation, and is aligned for a u16.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        // Pairs with the kernel's acquire load of the tail in io_ring_buffer_select().
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for CounterBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout; the monitor has withdrawn it from the kernel.
        unsafe { std::alloc::dealloc(self.ring.as_ptr().cast(), Self::layout()) };
    }
}
