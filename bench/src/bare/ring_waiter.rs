//! Waiting through an io_uring: POLL_ADD with and without a read(2), and reads by the ring itself.
#![expect(unsafe_code, reason = "SQEs with pointers, and the shared memory of a provided-buffer ring")]

use super::ring::{ARMED, Ring};
use super::syscall::{Calls, EventFd};
use super::waiter::{Patience, Waiter};
use io_uring::{cqueue, opcode, types};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{io, mem};

/// A completion's error, if it is one.
#[inline]
fn succeeded(entry: &cqueue::Entry) -> io::Result<()> {
    if entry.result() < 0 { Err(io::Error::from_raw_os_error(-entry.result())) } else { Ok(()) }
}

/// POLL_ADD, one-shot or multishot, with a read(2) or without.
pub(super) struct PollAdd {
    ring: Ring,
    kick: Arc<EventFd>,
    multishot: bool,
    read: bool,
    armed: bool,
}

impl PollAdd {
    /// A one-shot poll that is armed again for each event is level-triggered: without the read(2)
    /// it would complete at once, again and again.
    pub(super) fn oneshot(kick: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self { ring: Ring::new()?, kick, multishot: false, read: true, armed: false })
    }

    /// A multishot poll completes for each wake-up, however full the counter is (io_uring_enter(2):
    /// "further completions beyond the first one are edge triggered").
    pub(super) fn multishot(kick: Arc<EventFd>, read: bool) -> io::Result<Self> {
        Ok(Self { ring: Ring::new()?, kick, multishot: true, read, armed: false })
    }

    /// Consumes all completions. Returns true if there was one.
    #[inline]
    fn reap(&mut self) -> io::Result<bool> {
        let mut signalled = false;
        while let Some(entry) = self.ring.pop() {
            // Without F_MORE the request has ended: always for one-shot, on an error for multishot.
            self.armed &= cqueue::more(entry.flags());
            succeeded(&entry)?;
            signalled = true;
        }
        Ok(signalled)
    }
}

impl Waiter for PollAdd {
    #[inline]
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        if !self.armed {
            let fd = types::Fd(self.kick.as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(self.multishot).build();
            // SAFETY: a poll request points to no memory.
            unsafe { self.ring.push(&poll.user_data(ARMED)) }?;
            self.armed = true;
        }
        loop {
            self.ring.enter(patience, calls)?;
            if self.reap()? {
                break;
            }
            if patience == Patience::Now {
                return Ok(false);
            }
        }
        if self.read {
            self.kick.read(calls)?;
        }
        Ok(true)
    }
}

/// IORING_OP_READ of the counter, armed again with the next enter. On an empty eventfd the kernel
/// arms its own poll and no worker thread, whether the eventfd blocks or not.
pub(super) struct RingRead {
    ring: Ring,
    kick: Arc<EventFd>,
    /// The kernel writes here while `armed`. A raw pointer and not a `Box`, because the kernel
    /// writes through it.
    counter: NonNull<u64>,
    armed: bool,
}

impl RingRead {
    pub(super) fn new(kick: Arc<EventFd>) -> io::Result<Self> {
        let ring = Ring::new()?;
        let counter = NonNull::from(Box::leak(Box::new(0u64)));
        Ok(Self { ring, kick, counter, armed: false })
    }
}

impl Waiter for RingRead {
    #[inline]
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        if !self.armed {
            let fd = types::Fd(self.kick.as_raw_fd());
            let read =
                opcode::Read::new(fd, self.counter.as_ptr().cast(), mem::size_of::<u64>() as u32).build();
            // SAFETY: `counter` is freed by our `drop` only, after the request's completion was
            // reaped.
            unsafe { self.ring.push(&read.user_data(ARMED)) }?;
            self.armed = true;
        }
        loop {
            self.ring.enter(patience, calls)?;
            if let Some(entry) = self.ring.pop() {
                self.armed = false;
                succeeded(&entry)?;
                return Ok(true);
            }
            if patience == Patience::Now {
                return Ok(false);
            }
        }
    }
}

impl Drop for RingRead {
    fn drop(&mut self) {
        if !self.armed || self.ring.disarm() {
            // SAFETY: made by `Box` in `new`, freed once, and the kernel has no request that points
            // to it any more.
            drop(unsafe { Box::from_raw(self.counter.as_ptr()) });
        }
    }
}

/// IORING_OP_READ_MULTISHOT (Linux 6.7) into provided buffers of eight bytes.
pub(super) struct RingReadMultishot {
    /// `None` only while being dropped.
    buffers: Option<Buffers>,
    ring: Ring,
    kick: Arc<EventFd>,
    armed: bool,
}

const GROUP: u16 = 0;

impl RingReadMultishot {
    pub(super) fn new(kick: Arc<EventFd>) -> io::Result<Self> {
        let ring = Ring::new()?;
        let buffers = Buffers::new();
        // SAFETY: the buffers live as long as the ring: `drop` frees them after the ring let go, or
        // never.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(buffers.address(), Buffers::COUNT, GROUP, 0)?;
        }
        Ok(Self { buffers: Some(buffers), ring, kick, armed: false })
    }

    /// Consumes all completions and gives their buffers back to the kernel. Returns true if one
    /// carried a count.
    #[inline]
    fn reap(&mut self) -> io::Result<bool> {
        let mut signalled = false;
        while let Some(entry) = self.ring.pop() {
            self.armed &= cqueue::more(entry.flags());
            if let (Some(id), Some(buffers)) = (cqueue::buffer_select(entry.flags()), &mut self.buffers) {
                buffers.give(id);
            }
            // Out of buffers for a moment. The count is still in the eventfd; arming again finds
            // it.
            if entry.result() == -libc::ENOBUFS {
                continue;
            }
            succeeded(&entry)?;
            signalled = true;
        }
        Ok(signalled)
    }
}

impl Waiter for RingReadMultishot {
    #[inline]
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        loop {
            if !self.armed {
                // A length other than zero is EINVAL: the buffers determine how much is read.
                let read = opcode::ReadMulti::new(types::Fd(self.kick.as_raw_fd()), 0, GROUP).build();
                // SAFETY: the request reads into the registered buffers, which `drop` frees after
                // its completion.
                unsafe { self.ring.push(&read.user_data(ARMED)) }?;
                self.armed = true;
            }
            self.ring.enter(patience, calls)?;
            if self.reap()? {
                return Ok(true);
            }
            if patience == Patience::Now {
                return Ok(false);
            }
        }
    }
}

impl Drop for RingReadMultishot {
    fn drop(&mut self) {
        let let_go = !self.armed || self.ring.disarm();
        let unregistered = self.ring.submitter().unregister_buf_ring(GROUP).is_ok();
        if let Some(buffers) = self.buffers.take()
            && !(let_go && unregistered)
        {
            // The kernel may still write there: leak one page rather than free it.
            mem::forget(buffers);
        }
    }
}

/// A provided-buffer ring (io_uring_register_buf_ring(3)) and its buffers, in one page-aligned
/// allocation: first the ring's entries, then as many buffers of eight bytes.
struct Buffers {
    memory: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    /// A power of two, because the ring uses a mask.
    const COUNT: u16 = 8;
    const ENTRY: usize = mem::size_of::<types::BufRingEntry>();
    /// The ring must start at a page boundary; 64 KiB is the largest page size of Linux.
    const LAYOUT: Layout = match Layout::from_size_align(1 << 16, 1 << 16) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two is a valid alignment"),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(Self::LAYOUT) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT));
        let mut buffers = Self { memory, tail: 0 };
        (0..Self::COUNT).for_each(|id| buffers.give(id));
        buffers
    }

    fn address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// Returns buffer `id` to the kernel. Ids come from the kernel; an invalid one is ignored.
    #[inline]
    fn give(&mut self, id: u16) {
        if id >= Self::COUNT {
            return;
        }
        let slot = usize::from(self.tail % Self::COUNT);
        let entry = self.memory.as_ptr().cast::<types::BufRingEntry>().wrapping_add(slot);
        let buffer = self.address() + (usize::from(Self::COUNT) * Self::ENTRY + usize::from(id) * 8) as u64;
        // SAFETY: `slot` is below COUNT, so the entry is inside our allocation; the kernel reads
        // entries below the tail only, and this one is not published before the store below.
        unsafe {
            (*entry).set_addr(buffer);
            (*entry).set_len(8);
            (*entry).set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the first entry is inside our allocation and initialised (zeroed or set).
        let tail = unsafe { types::BufRingEntry::tail(self.memory.as_ptr().cast()) };
        // SAFETY: the tail is a u16 in our allocation that both sides access as an atomic; Release
        // publishes the entry to the kernel's acquire load (io_ring_buffer_select).
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout. Whoever drops the buffers knows that the
        // kernel let go.
        unsafe { dealloc(self.memory.as_ptr(), Self::LAYOUT) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_given_in_order_and_wrap_around() {
        let mut buffers = Buffers::new();
        assert_eq!((buffers.tail, buffers.address() % 65_536), (8, 0));
        buffers.give(3);
        buffers.give(99);
        assert_eq!(buffers.tail, 9);
        let first = buffers.memory.as_ptr().cast::<types::BufRingEntry>();
        // SAFETY: the first entry is inside the allocation and initialised.
        let (id, len) = unsafe { ((*first).bid(), (*first).len()) };
        assert_eq!((id, len), (3, 8));
        // SAFETY: as above; nobody else accesses the tail here.
        assert_eq!(unsafe { *types::BufRingEntry::tail(first) }, 9);
    }

    #[test]
    fn more_events_than_buffers_lose_none() {
        let kick = Arc::new(EventFd::new(0, libc::EFD_NONBLOCK).unwrap());
        let Ok(mut waiter) = RingReadMultishot::new(Arc::clone(&kick)) else {
            eprintln!("no io_uring here");
            return;
        };
        let mut calls = Calls::default();
        for _ in 0..10 * u64::from(Buffers::COUNT) {
            kick.signal(&mut calls).unwrap();
            match waiter.wait(Patience::Forever, &mut calls) {
                Ok(signalled) => assert!(signalled),
                Err(error) => return eprintln!("no READ_MULTISHOT here: {error}"),
            }
        }
        assert_eq!(calls.reads, 0);
    }
}
