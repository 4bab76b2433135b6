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
    /// A file or block device: through the loop's io_uring, or through a few threads if the loop
    /// has none.
    File(Arc<FileImage>),
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
            Self::File(image) | Self::LinuxAio(image) => Some(image),
            Self::Null(_) | Self::Memory(_) | Self::Delay(_) => None,
            // Locked from its start to its end.
            #[cfg(feature = "imago")]
            Self::Formatted(_) => None,
        }
    }

    /// Returns how many files it has open.
    pub fn files(&self) -> usize {
        match self {
            Self::File(_) | Self::LinuxAio(_) => 1,
            Self::Null(_) | Self::Memory(_) | Self::Delay(_) => 0,
            #[cfg(feature = "imago")]
            Self::Formatted(image) => image.files(),
        }
    }

    /// Starts the backend on the loop of `context`. Must be called on the loop's home thread.
    /// `done` receives the requests that `submit` does not complete at once.
    ///
    /// # Errors
    /// Errors from registering the file's operations with the loop. For Linux AIO: `InvalidInput`
    /// if the file does not bypass the page cache, and errors of io_setup(2).
    pub fn attach(self, context: &AioContext, done: Rc<Done>) -> io::Result<Engine> {
        Ok(Engine(match self {
            Self::Null(null) => Kind::Null(null),
            Self::Memory(memory) => Kind::Memory(memory),
            Self::Delay(delay) => Kind::Delay(DelayEngine::new(delay, context, done)),
            Self::File(image) if context.monitor().ring.is_some() => {
                Kind::Ring(RingEngine::new(image, context, done)?)
            }
            Self::File(image) => Kind::Pool(PoolEngine::new(image, context, done)),
            Self::LinuxAio(image) => Kind::LinuxAio(LinuxAioEngine::new(image, context, done)?),
            #[cfg(feature = "imago")]
            Self::Formatted(image) => Kind::Formatted(Box::new(FormattedEngine::new(image, context, done))),
        }))
    }
}

/// A backend attached to a loop. Belongs to that loop's home thread.
///
/// Dropping it does not drop requests that the kernel or a thread is working on. They keep their
/// buffers until they finish; their results are then discarded.
#[derive(Debug)]
pub struct Engine(Kind);

#[derive(Debug)]
enum Kind {
    Null(Null),
    Memory(Arc<Mutex<Memory>>),
    Delay(Rc<DelayEngine>),
    Ring(RingEngine),
    Pool(PoolEngine),
    LinuxAio(LinuxAioEngine),
    /// In a box, so that the others are laid out as without it.
    #[cfg(feature = "imago")]
    Formatted(Box<FormattedEngine>),
}

impl Engine {
    /// The number of requests to take off the ring before they are carried out. A larger batch
    /// would save a small part of a system call, but the first request would wait for the last:
    /// io_uring reads from the page cache during submission.
    pub fn batch(&self) -> u16 {
        if matches!(self.0, Kind::Ring(_)) { 8 } else { 1024 }
    }

    /// Carries a request out, at once or later. Never blocks on a disk
    /// ([`Delay::spin`](super::Delay::spin) blocks on purpose). Returns `None` if the request will
    /// be passed to `done` later.
    #[inline]
    pub fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match &self.0 {
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
            Kind::LinuxAio(aio) => {
                aio.submit(request);
                None
            }
            #[cfg(feature = "imago")]
            Kind::Formatted(image) => {
                image.submit(request);
                None
            }
        }
    }

    /// Marks the end of a batch: submits to the kernel what was collected.
    #[inline]
    pub fn commit(&self) {
        if let Kind::LinuxAio(aio) = &self.0 {
            aio.commit();
        }
    }

    /// Returns the number of io_submit(2) calls. Other engines submit without extra system calls in
    /// the loop's thread, and return 0.
    pub fn submit_calls(&self) -> u64 {
        if let Kind::LinuxAio(aio) = &self.0 { aio.submit_calls() } else { 0 }
    }
}
