//! The kernel interface of Linux AIO: io_setup(2), io_submit(2), io_getevents(2) and io_destroy(2),
//! which glibc does not wrap, and the completion ring that a context maps into the process.
#![expect(unsafe_code, reason = "system calls with pointers, and a ring that the kernel writes")]

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// `IOCB_CMD_PREADV`, `IOCB_CMD_PWRITEV` and `IOCB_FLAG_RESFD` from include/uapi/linux/aio_abi.h.
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
const FLAG_RESFD: u32 = 1;
/// Magic number of a ring that user space may read (`AIO_RING_MAGIC` in fs/aio.c).
const RING_MAGIC: u32 = 0xa10a_10a1;

/// `struct iocb`. The order of the two halves of `key_and_flags` depends on the byte order.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Iocb {
    data: u64,
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    count: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Event {
    /// The `data` of the iocb.
    pub(super) data: u64,
    object: u64,
    /// Bytes, or a negative errno.
    pub(super) result: i64,
    result2: i64,
}

/// The head of the ring (`struct aio_ring` in fs/aio.c). The events follow it. The kernel writes
/// `tail`, the reader writes `head`.
#[repr(C)]
struct RingHead {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header_bytes: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64 && size_of::<Event>() == 32 && size_of::<RingHead>() == 32);

impl Iocb {
    /// Makes a vectored transfer at `offset`. `eventfd` is signalled on completion. With `durable`,
    /// a write is on the disk by then.
    pub(super) fn transfer(
        write: bool,
        fd: RawFd,
        iovecs: &[libc::iovec],
        offset: u64,
        durable: bool,
        (data, eventfd): (u64, RawFd),
    ) -> Self {
        let flags = if durable { libc::RWF_DSYNC as u32 } else { 0 };
        Self {
            data,
            key_and_flags: if cfg!(target_endian = "little") { [0, flags] } else { [flags, 0] },
            opcode: if write { PWRITEV } else { PREADV },
            fd: fd as u32,
            buffer: iovecs.as_ptr().expose_provenance() as u64,
            count: iovecs.len() as u64,
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            flags: FLAG_RESFD,
            resfd: eventfd as u32,
            ..Self::default()
        }
    }
}

/// An `aio_context_t`. Belongs to one thread at a time.
#[derive(Debug)]
pub(super) struct Context {
    id: libc::c_ulong,
    /// The context's ring, if it has the known format.
    ring: Option<NonNull<RingHead>>,
}

fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Context {
    /// Makes a context for `operations` operations in flight.
    ///
    /// # Errors
    /// Errors of io_setup(2): `EAGAIN` above the limit of /proc/sys/fs/aio-max-nr, `ENOSYS` on a
    /// kernel without Linux AIO.
    pub(super) fn new(operations: u32) -> io::Result<Self> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: `id` is a valid place to write to, and is zero as io_setup(2) requires.
        check(unsafe { libc::syscall(libc::SYS_io_setup, operations, &raw mut id) })?;
        let ring = NonNull::new(std::ptr::with_exposed_provenance_mut::<RingHead>(id as usize));
        // SAFETY: the id of a context is the address of its ring. The kernel maps it readable for
        // at least one page (io_setup(2); ioctx_alloc() in fs/aio.c) until io_destroy(2), which our
        // Drop calls. An emulation that has io_submit(2) but no ring (gVisor) maps a zeroed page
        // there, which the magic number rules out.
        let known = ring.filter(|ring| unsafe {
            let ring = ring.as_ref();
            ring.magic == RING_MAGIC && ring.incompatible == 0 && ring.entries > 0
        });
        Ok(Self { id, ring: known })
    }

    /// Submits the operations. Returns how many were accepted, which is at least one.
    ///
    /// # Errors
    /// The reason why the first operation was not accepted: `EAGAIN` if there is no room.
    ///
    /// # Safety
    /// The iovec arrays must stay valid until the call returns. The memory that they point to, and
    /// the file, must stay valid until the operations have completed or this context is dropped.
    pub(super) unsafe fn submit(&self, operations: &[Iocb]) -> io::Result<usize> {
        let mut pointers = [std::ptr::null::<Iocb>(); BATCH];
        for (pointer, operation) in pointers.iter_mut().zip(operations) {
            *pointer = operation;
        }
        let count = operations.len().min(BATCH) as libc::c_long;
        // SAFETY: `count` pointers to live iocbs, which the kernel copies before it returns. The
        // caller guarantees what they point to.
        check(unsafe { libc::syscall(libc::SYS_io_submit, self.id, count, pointers.as_ptr()) })
    }

    /// Returns true if a completion is waiting. Only reads memory; always false if there is no
    /// readable ring.
    pub(super) fn has_events(&self) -> bool {
        // SAFETY: the ring is mapped until we are dropped.
        self.ring.is_some_and(|ring| unsafe {
            let ring = ring.as_ref();
            ring.head.load(Ordering::Relaxed) != ring.tail.load(Ordering::Acquire)
        })
    }

    /// Takes the next completion, without a system call if the ring is readable.
    pub(super) fn next_event(&self) -> Option<Event> {
        let Some(ring) = self.ring else { return self.next_event_by_call() };
        // SAFETY: the ring is mapped until we are dropped.
        let head = unsafe { ring.as_ref() };
        let at = head.head.load(Ordering::Relaxed) % head.entries;
        // aio_complete() in fs/aio.c writes the event first and the tail afterwards.
        if at == head.tail.load(Ordering::Acquire) % head.entries {
            return None;
        }
        // SAFETY: `at` is less than the number of events that follow the head (`entries`, by which
        // the kernel sized the mapping). The kernel wrote this event before the tail, and does not
        // overwrite it until the head has moved on.
        let event = unsafe { ring.add(1).cast::<Event>().add(at as usize).read() };
        head.head.store((at + 1) % head.entries, Ordering::Release);
        Some(event)
    }

    fn next_event_by_call(&self) -> Option<Event> {
        let mut event = Event::default();
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `event` has room for one event, and `now` is only read.
        let taken = check(unsafe {
            libc::syscall(libc::SYS_io_getevents, self.id, 0, 1, &raw mut event, &raw const now)
        });
        taken.is_ok_and(|taken| taken == 1).then_some(event)
    }
}

/// Maximum number of operations per io_submit(2) call.
pub(super) const BATCH: usize = 32;

impl Drop for Context {
    /// Cancels the operations that can be cancelled and waits for the others (io_destroy(2)).
    /// Afterwards the kernel does not access any buffer.
    fn drop(&mut self) {
        // SAFETY: the context is owned by `self`, and nothing can use it afterwards.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
    }
}
