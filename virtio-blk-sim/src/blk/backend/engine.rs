//! A backend at work for one queue, on that queue's event loop.
//!
//! ```text
//! BlkQueue ─ submit ─► Engine ─► Some(finished): answered at once
//!    ▲                    └────► None: later, in a turn of the loop
//!    └──── done(batch) ◄────────────┘
//! ```
//!
//! What finishes in one turn arrives as one batch, so the queue publishes once and signals its irqfd at most once.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use aio::AioContext;

use super::delay::{Delay, DelayEngine};
use super::done::Done;
use super::file_image::FileImage;
use super::linux_aio::LinuxAioEngine;
use super::memory::Memory;
use super::null::Null;
use super::pool::PoolEngine;
use super::ring::RingEngine;
use crate::blk::device::{FinishedRequest, PendingRequest};

/// What the requests of a queue are carried out on. Clones are the same disk: one for each queue.
#[derive(Debug, Clone)]
pub enum Backend {
    /// Nothing: everything succeeds.
    Null(Null),
    /// A RAM disk, which its queues use one at a time.
    Memory(Arc<Mutex<Memory>>),
    /// Nothing, after a while.
    Delay(Delay),
    /// A file or block device: through the loop's own io_uring, or through a few threads where the loop has none.
    File(Arc<FileImage>),
    /// The same through Linux AIO, as QEMU's `aio=native`; needs a file that bypasses the page cache.
    LinuxAio(Arc<FileImage>),
}

impl Backend {
    /// A RAM disk of that many sectors, of zeros.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn memory(capacity_sectors: u64) -> io::Result<Self> {
        let memory = Memory::new(capacity_sectors).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self::Memory(Arc::new(Mutex::new(memory))))
    }

    /// Starts it on the loop of `context`, whose home thread must be the calling one. `done` gets what `submit` did not
    /// answer at once.
    ///
    /// # Errors
    /// What the loop says when the file's operations are registered; for Linux AIO `InvalidInput` for a file that does not
    /// bypass the page cache, and what io_setup(2) says.
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
        }))
    }
}

/// A backend that runs on a loop. Belongs to that loop's home thread.
///
/// Dropping it drops no request that the kernel or a thread works on: those keep their buffers until they are done, and
/// then nobody is told.
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
}

impl Engine {
    /// How many requests make a batch: so many are taken off the ring before they are carried out. More would save a
    /// little of a system call, and let the first wait for the last: an io_uring reads from the page cache while it
    /// is given the requests.
    pub fn batch(&self) -> u16 {
        if matches!(self.0, Kind::Ring(_)) { 8 } else { u16::MAX }
    }

    /// Carries a request out, at once or later. Never blocks on a disk ([`Delay::spin`](super::Delay::spin) takes its
    /// time on purpose). `None`: the request comes back through `done`.
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
        }
    }

    /// Says that no more requests come for now: what goes to the kernel in batches goes.
    #[inline]
    pub fn commit(&self) {
        if let Kind::LinuxAio(aio) = &self.0 {
            aio.commit();
        }
    }

    /// System calls by which requests were handed to the kernel, in the loop's thread and beside the loop's own: io_submit(2).
    pub fn submit_calls(&self) -> u64 {
        if let Kind::LinuxAio(aio) = &self.0 { aio.submit_calls() } else { 0 }
    }
}
