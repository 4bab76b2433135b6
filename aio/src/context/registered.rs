//! Files, buffers and groups of buffers that are registered with the ring of a context.
#![expect(unsafe_code, reason = "registers memory, which its owner keeps until it is unregistered")]

use super::operation::ring_with_room;
use super::parts::Parts;
use super::turn::AioContext;
use crate::monitor::UringMonitor;
use crate::op::{
    Again, BufferGroup, GroupHome, RegisteredBuffer, RingFile, RingId, Sealed, StableBuffer, StableBufferMut,
    Target,
};
use crate::refused::Refused;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::{Rc, Weak};

/// The way back to the ring from something that was registered with it.
struct Home(Weak<Parts<AioContext>>);

impl Home {
    /// Calls `f` with the ring, unless the context was dropped or belongs to the parent process.
    fn with<R>(&self, f: impl FnOnce(&UringMonitor<super::parts::Held<AioContext>>) -> R) -> Option<R> {
        let parts = self.0.upgrade()?;
        parts.is_current().then(|| parts.monitor.ring().map(f)).flatten()
    }
}

/// A file that is registered with the ring of a context (IORING_REGISTER_FILES): operations on it
/// need not look up a descriptor.
///
/// Made by [`AioContext::register_file`]. It is a handle; clones are the same registration, which
/// ends when the last of them was dropped. The descriptor may be closed meanwhile: the registration
/// holds the file open. On the ring of another context, an operation on it ends with EBADF. Home
/// thread.
///
/// ```
/// use aio::op::ReadAt;
/// # use std::fs::File;
/// # fn main() -> std::io::Result<()> {
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// # if ctx.register_buffer(vec![0; 1]).is_err() { return Ok(()); } // an old kernel
/// let file = File::open("/dev/zero")?;
/// let disk = ctx.register_file(&file)?;
/// drop(file); // the registration is enough
/// let buffer = ctx.register_buffer(vec![1; 4096])?;
///
/// let read = ReadAt::new(disk.clone(), buffer, 0);
/// let (result, _disk, buffer) = ctx.block_on(ctx.perform(read))?;
/// assert_eq!(result?, 4096);
/// assert_eq!(buffer.into_inner(), vec![0; 4096]); // unregisters it
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FixedFile(Rc<FileSlot>);

#[cfg(feature = "raw-sqe")]
impl FixedFile {
    /// The slot of the file in the table of its ring, for an SQE with the flag IOSQE_FIXED_FILE:
    /// what [`types::Fixed`](io_uring::types::Fixed) takes. It belongs to this file as long as the
    /// registration lives, and an SQE that was submitted keeps the file. Feature `raw-sqe`.
    pub fn slot(&self) -> u32 {
        self.0.slot
    }
}

struct FileSlot {
    slot: u32,
    ring: RingId,
    home: Home,
}

impl RingFile for FixedFile {
    fn target(&self, ring: RingId, _: Sealed) -> Target {
        Target::fixed((self.0.ring == ring).then_some(self.0.slot))
    }
}

impl Drop for FileSlot {
    fn drop(&mut self) {
        self.home.with(|ring| ring.remove_file(self.slot));
    }
}

impl fmt::Debug for FileSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSlot").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// A buffer whose pages are pinned and registered with the ring of a context
/// (IORING_REGISTER_BUFFERS): reads and writes need not map them again.
///
/// Made by [`AioContext::register_buffer`]; for an example, see [`FixedFile`]. Dropping it
/// unregisters the buffer and drops it. It is itself a buffer for operations:
/// [`ReadAt`](crate::op::ReadAt) and [`WriteAt`](crate::op::WriteAt) use the registration, all
/// others, and those on another context, use it as ordinary memory. Home thread.
///
/// To use one registered buffer in many operations at once, such as all of a guest's memory, put it
/// into an [`Rc`], and implement [`StableBuffer`] for a type with that and a range, which passes on
/// [`registered`](StableBuffer::registered):
///
/// ```
/// use aio::FixedBuffer;
/// use aio::op::{RegisteredBuffer, StableBuffer};
/// use std::rc::Rc;
///
/// /// A range of the memory, which nothing writes to meanwhile.
/// struct Slice {
///     memory: Rc<FixedBuffer<Vec<u8>>>,
///     start: usize,
///     len: usize,
/// }
///
/// impl Slice {
///     fn new(memory: &Rc<FixedBuffer<Vec<u8>>>, start: usize, len: usize) -> Option<Self> {
///         let end = start.checked_add(len)?;
///         (end <= memory.byte_len()).then(|| Self { memory: Rc::clone(memory), start, len })
///     }
/// }
///
/// // SAFETY: a range of a stable buffer is stable; `new` has checked that it is inside. The memory
/// // is shared, so nobody can borrow it mutably.
/// unsafe impl StableBuffer for Slice {
///     fn stable_ptr(&self) -> *const u8 {
///         self.memory.stable_ptr().wrapping_add(self.start)
///     }
///     fn byte_len(&self) -> usize {
///         self.len
///     }
///     fn registered(&self) -> Option<RegisteredBuffer> {
///         self.memory.registered()
///     }
/// }
/// # fn main() -> std::io::Result<()> {
/// # use aio::op::WriteAt;
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// # let Ok(memory) = ctx.register_buffer(vec![7; 8192]) else { return Ok(()) };
/// # let memory = Rc::new(memory);
/// # assert!(Slice::new(&memory, 4096, 4097).is_none());
/// # let slice = Slice::new(&memory, 4096, 4096).unwrap();
/// # let null = std::fs::File::options().write(true).open("/dev/null")?;
/// # let (written, ..) = ctx.block_on(ctx.perform(WriteAt::new(null, slice, 0)))?;
/// # assert_eq!(written?, 4096);
/// # Ok(())
/// # }
/// ```
pub struct FixedBuffer<B> {
    slot: BufferSlot,
    /// Freed after it was unregistered: fields are dropped in order.
    buffer: B,
}

struct BufferSlot {
    at: RegisteredBuffer,
    home: Home,
}

impl Drop for BufferSlot {
    fn drop(&mut self) {
        self.home.with(|ring| ring.remove_buffer(self.at.slot));
    }
}

impl<B: StableBuffer> FixedBuffer<B> {
    /// The buffer.
    pub fn get_ref(&self) -> &B {
        &self.buffer
    }

    /// Unregisters the buffer, with one system call, and returns it.
    pub fn into_inner(self) -> B {
        self.buffer
    }
}

impl<B: StableBufferMut + AsMut<[u8]>> FixedBuffer<B> {
    /// The bytes of the buffer, to fill them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.buffer.as_mut()
    }
}

// SAFETY: the buffer inside is stable, and nobody can replace it.
unsafe impl<B: StableBuffer> StableBuffer for FixedBuffer<B> {
    fn stable_ptr(&self) -> *const u8 {
        self.buffer.stable_ptr()
    }

    fn byte_len(&self) -> usize {
        self.buffer.byte_len()
    }

    fn registered(&self) -> Option<RegisteredBuffer> {
        Some(self.slot.at)
    }
}

// SAFETY: as above.
unsafe impl<B: StableBufferMut> StableBufferMut for FixedBuffer<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.stable_mut_ptr()
    }
}

impl<B> fmt::Debug for FixedBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedBuffer").field("at", &self.slot.at).finish_non_exhaustive()
    }
}

impl GroupHome for Home {
    fn withdraw(&self, group: u16) -> bool {
        // Without a ring the kernel is done with the buffers: the end of a context waits for its
        // operations. A child that was forked frees its own copy.
        self.with(|ring| ring.remove_group(group)).unwrap_or(true)
    }

    fn submit_again(&self, Again { token, entry }: Again) -> bool {
        let Some(parts) = self.0.upgrade().filter(|parts| parts.is_current()) else { return false };
        let Some(ring) = parts.monitor.ring() else { return false };
        // SAFETY: the entry of this operation, which the ring still holds.
        unsafe { ring.submit_again(token, entry, &parts.sources.stats) }
    }

    fn defer(&self, closure: Box<dyn FnOnce()>) {
        if let Some(parts) = self.0.upgrade().filter(|parts| parts.is_current()) {
            parts.bottom_halves.defer(Box::new(move |_| closure()));
        }
    }
}

impl AioContext {
    fn home(&self) -> Home {
        Home(Rc::downgrade(&self.parts))
    }

    /// Registers a file with the ring. One system call (two for the first file, which makes the
    /// table), and one when it is unregistered. Linux 5.19. Home thread.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring, or for an older kernel; `StorageFull` if 1024
    /// files are registered (or as many as the limit of descriptors allows); EBADF for a descriptor
    /// that is closed.
    pub fn register_file(&self, file: &impl AsFd) -> io::Result<FixedFile> {
        let slot = ring_with_room(&self.parts, 0)?.add_file(file.as_fd().as_raw_fd())?;
        Ok(FixedFile(Rc::new(FileSlot { slot, ring: self.parts.ring_id, home: self.home() })))
    }

    /// Registers a buffer with the ring, which pins its pages; for large ones that takes a while.
    /// One system call (two for the first buffer, which makes the table), and one when it is
    /// unregistered. Linux 5.19. Home thread.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring, or for an older kernel; `StorageFull` if 1024
    /// buffers are registered; `InvalidInput` for a buffer without bytes; ENOMEM if the pages
    /// exceed RLIMIT_MEMLOCK; EFAULT for memory that cannot be written to, or of a file system. The
    /// buffer comes back.
    pub fn register_buffer<B: StableBuffer>(&self, buffer: B) -> Result<FixedBuffer<B>, Refused<B>> {
        let (start, len) = (buffer.stable_ptr(), buffer.byte_len());
        // SAFETY: the buffer is owned by the registration, and a stable buffer stays valid until it
        // is dropped, after the registration. Operations that name the slot own it.
        let added = ring_with_room(&self.parts, 0).and_then(|ring| unsafe { ring.add_buffer(start, len) });
        match added {
            Ok(slot) => {
                let at = RegisteredBuffer { ring: self.parts.ring_id, slot };
                Ok(FixedBuffer { slot: BufferSlot { at, home: self.home() }, buffer })
            }
            Err(error) => Err(Refused { error, value: buffer }),
        }
    }

    /// Makes a group of buffers for operations that let the kernel choose one, such as
    /// [`RecvMultishot`](crate::op::RecvMultishot): `buffers` of them, rounded up to a power of
    /// two, with `size` bytes each. One system call, and one when it is dropped. Linux 5.19. Home
    /// thread.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring, or for an older kernel; `InvalidInput` for no
    /// buffers, more than 32768, or buffers without bytes; `OutOfMemory`.
    pub fn buffer_group(&self, buffers: u16, size: u32) -> io::Result<BufferGroup> {
        let ring = ring_with_room(&self.parts, 0)?;
        // SAFETY: the group withdraws them before it frees them, and operations that select from it
        // own a handle of it.
        let buffers = unsafe { ring.add_group(buffers, size)? };
        Ok(BufferGroup::new(buffers, self.parts.ring_id, Box::new(self.home())))
    }
}
