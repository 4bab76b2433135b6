//! A backend attached to an event loop, working for one queue.
//!
//! ```text
//! BlkQueue ─ submit ─► Engine ─► Some(finished): answered at once
//!    ▲                    └────► None: later, in a turn of the loop
//!    └──── done(batch) ◄────────────┘
//! ```
//!
//! Requests that finish in one turn of the loop arrive as one batch, so the queue publishes once
//! and signals its irqfd at most once.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use aio::AioContext;

use super::delay::{Delay, DelayEngine};
use super::done::Done;
use super::file_image::FileImage;
#[cfg(feature = "imago")]
use super::formatted::{FormattedEngine, FormattedImage};
use super::inline::{Behind, InlineEngine, Stall};
use super::linux_aio::LinuxAioEngine;
use super::memory::Memory;
use super::null::Null;
use super::pool::PoolEngine;
use super::ring::RingEngine;
use crate::blk::device::{FinishedRequest, PendingRequest};

/// The backend of a disk. Clones refer to the same disk; each queue has its own clone.
#[derive(Debug, Clone)]
pub enum Backend {
    /// No storage: everything succeeds at once.
    Null(Null),
    /// A RAM disk. Its queues take turns using it.
    Memory(Arc<Mutex<Memory>>),
    /// No storage: everything succeeds after a delay.
    Delay(Delay),
    /// A file or block device in the way that suits it. One that bypasses the page cache: the
    /// loop's io_uring, or a few threads if the loop has none. One in the page cache: calls in the
    /// loop's thread as long as they are short, and the same for the rest.
    File(Arc<FileImage>),
    /// A file or block device, through the loop's io_uring only.
    IoUring(Arc<FileImage>),
    /// A file or block device, through a few threads only.
    Threads(Arc<FileImage>),
    /// A file through Linux AIO, like QEMU's `aio=native`. The file must bypass the page cache.
    LinuxAio(Arc<FileImage>),
    /// An image with metadata, such as qcow2: each request is a task of the loop, whose operations
    /// use the loop's io_uring, or its worker threads if it has none.
    #[cfg(feature = "imago")]
    Formatted(Arc<FormattedImage>),
}

impl Backend {
    /// Creates a RAM disk of `capacity_sectors` sectors, filled with zeros.
    ///
    /// # Errors
    /// `OutOfMemory` if the memory cannot be allocated.
    pub fn memory(capacity_sectors: u64) -> io::Result<Self> {
        let memory = Memory::new(capacity_sectors).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self::Memory(Arc::new(Mutex::new(memory))))
    }

    /// Returns the image, if there is one.
    pub fn image(&self) -> Option<&Arc<FileImage>> {
        match self {
            Self::File(image) | Self::IoUring(image) | Self::Threads(image) | Self::LinuxAio(image) => {
                Some(image)
            }
            Self::Null(_) | Self::Memory(_) | Self::Delay(_) => None,
            // Locked from its start to its end.
            #[cfg(feature = "imago")]
            Self::Formatted(_) => None,
        }
    }

    /// Returns how many files it has open.
    pub fn files(&self) -> usize {
        match self {
            Self::File(_) | Self::IoUring(_) | Self::Threads(_) | Self::LinuxAio(_) => 1,
            Self::Null(_) | Self::Memory(_) | Self::Delay(_) => 0,
            #[cfg(feature = "imago")]
            Self::Formatted(image) => image.files(),
        }
    }

    /// Starts the backend on the loop of `context`. Must be called on the loop's home thread.
    /// `done` receives the requests that `submit` does not complete at once.
    ///
    /// # Errors
    /// Errors from registering the file's operations with the loop; for io_uring, `Unsupported` if
    /// the loop has none. For Linux AIO: `InvalidInput` if the file does not bypass the page cache,
    /// and errors of io_setup(2).
    pub fn attach(self, context: &AioContext, done: Rc<Done>) -> io::Result<Engine> {
        let has_ring = context.monitor().ring.is_some();
        let kind = match self {
            Self::Null(null) => Kind::Null(null),
            Self::Memory(memory) => Kind::Memory(memory),
            Self::Delay(delay) => Kind::Delay(DelayEngine::new(delay, context, done)),
            Self::File(image) if image.direct().is_none() => {
                let behind = if has_ring {
                    Behind::Ring(RingEngine::new(Arc::clone(&image), context, done)?)
                } else {
                    Behind::Pool(PoolEngine::new(Arc::clone(&image), context, done))
                };
                Kind::Collecting(Box::new(Collecting::Inline(InlineEngine::new(image, behind))))
            }
            Self::File(image) if has_ring => Kind::Ring(RingEngine::new(image, context, done)?),
            Self::IoUring(image) => Kind::Ring(RingEngine::new(image, context, done)?),
            Self::File(image) | Self::Threads(image) => Kind::Pool(PoolEngine::new(image, context, done)),
            Self::LinuxAio(image) => {
                Kind::Collecting(Box::new(Collecting::LinuxAio(LinuxAioEngine::new(image, context, done)?)))
            }
            #[cfg(feature = "imago")]
            Self::Formatted(image) => Kind::Formatted(Box::new(FormattedEngine::new(image, context, done))),
        };
        let batch = if kind.has_small_batches() { SMALL_BATCH } else { LARGE_BATCH };
        Ok(Engine { kind, batch })
    }
}

/// The number of requests to take off the virtqueue before they go to the ring. A larger batch
/// would save a small part of a system call, but the first request would wait for the last:
/// io_uring reads from the page cache during submission.
const SMALL_BATCH: u16 = 8;

/// The same where nothing is gained by a small one: so many that other handlers of the loop do not
/// wait for long.
const LARGE_BATCH: u16 = 1024;

/// A backend attached to a loop. Belongs to that loop's home thread.
///
/// Dropping it does not drop requests that the kernel or a thread is working on. They keep their
/// buffers until they finish; their results are then discarded.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    batch: u16,
}

#[derive(Debug)]
enum Kind {
    Null(Null),
    Memory(Arc<Mutex<Memory>>),
    Delay(Rc<DelayEngine>),
    Ring(RingEngine),
    Pool(PoolEngine),
    /// In a box, so that the others are laid out as without it.
    Collecting(Box<Collecting>),
    /// In a box, so that the others are laid out as without it.
    #[cfg(feature = "imago")]
    Formatted(Box<FormattedEngine>),
}

/// Engines that have something to do at the end of a batch.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "always in a box, one for each queue")]
enum Collecting {
    LinuxAio(LinuxAioEngine),
    Inline(InlineEngine),
}

impl Kind {
    fn has_small_batches(&self) -> bool {
        match self {
            Self::Ring(_) => true,
            Self::Collecting(collecting) => match &**collecting {
                // The first request would wait for the last here, too.
                Collecting::Inline(_) => true,
                Collecting::LinuxAio(_) => false,
            },
            _ => false,
        }
    }
}

impl Engine {
    /// The number of requests to take off the virtqueue before [`commit`](Self::commit).
    #[inline]
    pub fn batch(&self) -> u16 {
        self.batch
    }

    /// Carries a request out, at once or later. `None` if it is answered later, by
    /// [`commit`](Self::commit) or `done`.
    ///
    /// Does not wait for a disk, with two exceptions: [`Delay::spin`](super::Delay::spin) blocks on
    /// purpose, and [`Backend::File`] finds out that a call blocks by making it. Then it makes none
    /// for a while ([`Stall`]).
    #[inline]
    pub fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match &self.kind {
            Kind::Null(null) => Some(null.execute(request)),
            Kind::Memory(memory) => {
                Some(memory.lock().unwrap_or_else(PoisonError::into_inner).execute(request))
            }
            Kind::Delay(delay) => delay.submit(request),
            Kind::Ring(ring) => ring.submit(request),
            Kind::Pool(pool) => {
                pool.submit(request);
                None
            }
            Kind::Collecting(collecting) => collecting.submit(request),
            #[cfg(feature = "imago")]
            Kind::Formatted(image) => {
                image.submit(request);
                None
            }
        }
    }

    /// Marks the end of a batch: carries out, or submits to the kernel, what was collected. Each
    /// request that is answered by that is passed to `answer`. Returns a [`Stall`] if there was one
    /// in this batch.
    pub fn commit(&self, answer: impl FnMut(FinishedRequest)) -> Option<Stall> {
        if let Kind::Collecting(collecting) = &self.kind { collecting.commit(answer) } else { None }
    }

    /// Whether [`commit`](Self::commit) can have anything to do: false for an engine that carries
    /// out each request at once, or hands it over at once.
    #[inline]
    pub fn collects(&self) -> bool {
        matches!(self.kind, Kind::Collecting(_))
    }

    /// Returns the number of system calls for requests in the loop's thread, such as io_submit(2)
    /// and pwritev2(2). 0 for engines that make none besides those of the loop.
    pub fn submit_calls(&self) -> u64 {
        match &self.kind {
            Kind::Collecting(collecting) => match &**collecting {
                Collecting::Inline(inline) => inline.stats().calls,
                Collecting::LinuxAio(aio) => aio.submit_calls(),
            },
            _ => 0,
        }
    }

    /// Returns how often there was a [`Stall`].
    pub fn stalls(&self) -> u64 {
        match &self.kind {
            Kind::Collecting(collecting) => match &**collecting {
                Collecting::Inline(inline) => inline.stats().stalls,
                Collecting::LinuxAio(_) => 0,
            },
            _ => 0,
        }
    }
}

impl Collecting {
    fn commit(&self, answer: impl FnMut(FinishedRequest)) -> Option<Stall> {
        match self {
            Self::Inline(inline) => inline.commit(answer),
            Self::LinuxAio(aio) => {
                aio.commit();
                None
            }
        }
    }

    fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match self {
            Self::Inline(inline) => inline.submit(request),
            Self::LinuxAio(aio) => {
                aio.submit(request);
                None
            }
        }
    }
}
