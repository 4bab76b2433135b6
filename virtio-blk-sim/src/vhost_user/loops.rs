//! Which event loops the queues run on: the server's own loop, or a set of IoThreads.
//!
//! A running queue belongs to the thread of its loop. The server only holds a [`RunningQueue`],
//! which sends its calls to that thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aio::{AioContext, Builder, IoThread};

use super::ring_device::{RingDevice, RingOrder, RunningRing};
use crate::queue::{Interrupt, QueueStats, Stopped};
use crate::virtqueue::DirtyPages;

thread_local! {
    /// The queues of this IoThread, by id.
    static QUEUES: RefCell<BTreeMap<u64, Box<dyn RunningRing>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The event loops that a server spreads its queues over.
#[derive(Debug)]
pub struct Loops {
    threads: Vec<Arc<IoThread>>,
    /// Index of the thread for each queue. Queues beyond its end are assigned round robin.
    mapping: Vec<usize>,
}

impl Loops {
    /// Runs all queues on the server's own loop.
    pub fn own() -> Self {
        Self { threads: Vec::new(), mapping: Vec::new() }
    }

    /// Starts `threads` IoThreads (0: none, as [`own`](Self::own)). Queue `n` runs on thread
    /// `mapping[n]`. If the mapping is too short, it runs on thread `n` modulo the number of
    /// threads.
    ///
    /// # Errors
    /// Returns `InvalidInput` if the mapping contains a thread index that does not exist, and the
    /// errors of [`IoThread::spawn`].
    pub fn spawn(threads: usize, mapping: Vec<usize>, builder: &Builder) -> io::Result<Self> {
        if let Some(wrong) = mapping.iter().find(|thread| **thread >= threads) {
            let message = match threads.checked_sub(1) {
                Some(last) => {
                    format!("a queue is mapped to thread {wrong}, but there are threads 0 to {last}")
                }
                None => format!("a queue is mapped to thread {wrong}, but there are no I/O threads"),
            };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let spawn = |index| IoThread::spawn(&format!("queue-io-{index}"), builder.clone()).map(Arc::new);
        Ok(Self { threads: (0..threads).map(spawn).collect::<io::Result<_>>()?, mapping })
    }

    /// Runs `work` on the home thread of the loop that serves a queue, and waits for what it
    /// returns. `own` is the server's loop, which serves queues that have no I/O thread.
    ///
    /// # Errors
    /// As for [`IoThread::run`].
    pub fn run<R: Send + 'static>(
        &self,
        queue: u16,
        own: &AioContext,
        work: impl FnOnce(&AioContext) -> R + Send + 'static,
    ) -> io::Result<R> {
        match self.thread(queue) {
            Some(thread) => thread.run(work),
            None => Ok(work(own)),
        }
    }

    fn thread(&self, queue: u16) -> Option<&Arc<IoThread>> {
        let queue = usize::from(queue);
        let round_robin = || queue.checked_rem(self.threads.len());
        self.threads.get(self.mapping.get(queue).copied().or_else(round_robin)?)
    }

    /// Starts queue `index` on its thread. Blocks until it has been started.
    pub(super) fn start<D: RingDevice>(
        &self,
        index: u16,
        device: Arc<D>,
        order: RingOrder,
        own: &AioContext,
    ) -> io::Result<RunningQueue> {
        let Some(thread) = self.thread(index) else {
            return device.start_ring(index, order, own).map(RunningQueue::Here);
        };
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        thread.run(move |context| {
            let queue = device.start_ring(index, order, context)?;
            QUEUES.with_borrow_mut(|queues| queues.insert(id, queue));
            io::Result::Ok(())
        })??;
        Ok(RunningQueue::There(Remote { thread: Arc::clone(thread), id, stopped: false }))
    }
}

/// A running queue. Dropping it stops the queue without waiting for requests in flight.
#[derive(Debug)]
pub(super) enum RunningQueue {
    Here(Box<dyn RunningRing>),
    There(Remote),
}

/// A queue on an IoThread.
#[derive(Debug)]
pub(super) struct Remote {
    thread: Arc<IoThread>,
    /// The key in the thread's [`QUEUES`].
    id: u64,
    /// The queue was removed from there.
    stopped: bool,
}

impl RunningQueue {
    /// Stops taking requests, and waits until the requests in flight have been answered.
    pub(super) fn stop(self, own: &AioContext) -> io::Result<Stopped> {
        match self {
            Self::Here(queue) => queue.stop(own),
            Self::There(remote) => remote.stop(),
        }
    }

    pub(super) fn set_interrupt(&self, interrupt: Interrupt) -> io::Result<()> {
        self.ask(move |queue| queue.set_interrupt(interrupt))
    }

    /// When this returns, the queue uses the new log, and not the old one.
    pub(super) fn set_dirty_log(&self, pages: Option<DirtyPages>) -> io::Result<()> {
        self.ask(move |queue| queue.set_dirty_log(pages))
    }

    pub(super) fn stats(&self) -> io::Result<QueueStats> {
        self.ask(|queue| queue.stats())
    }

    fn ask<R: Default + Send + 'static>(
        &self,
        question: impl FnOnce(&dyn RunningRing) -> R + Send + 'static,
    ) -> io::Result<R> {
        match self {
            Self::Here(queue) => Ok(question(&**queue)),
            Self::There(Remote { thread, id, .. }) => {
                let id = *id;
                thread.run(move |_| {
                    QUEUES.with_borrow(|queues| {
                        queues.get(&id).map(|queue| question(&**queue)).unwrap_or_default()
                    })
                })
            }
        }
    }
}

impl Remote {
    fn stop(mut self) -> io::Result<Stopped> {
        let id = self.id;
        self.stopped = true;
        self.thread.run(move |context| {
            let queue = QUEUES.with_borrow_mut(|queues| queues.remove(&id));
            queue.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |queue| queue.stop(context))
        })?
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        let id = self.id;
        self.thread.handle().schedule(move |_| {
            let queue = QUEUES.with_borrow_mut(|queues| queues.remove(&id));
            drop(queue);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the thread index of each of five queues.
    fn threads(threads: usize, mapping: Vec<usize>) -> [Option<usize>; 5] {
        let loops = Loops::spawn(threads, mapping, &AioContext::builder()).unwrap();
        let number = |thread| loops.threads.iter().position(|other| Arc::ptr_eq(thread, other)).unwrap();
        [0, 1, 2, 3, 4].map(|queue| loops.thread(queue).map(number))
    }

    #[test]
    fn queues_are_spread_as_listed_and_then_round_robin() {
        assert_eq!(threads(0, vec![]), [None; 5]);
        assert_eq!(threads(1, vec![]), [Some(0); 5]);
        assert_eq!(threads(3, vec![]), [0, 1, 2, 0, 1].map(Some));
        assert_eq!(threads(3, vec![2, 2, 1]), [2, 2, 1, 0, 1].map(Some));
    }

    #[test]
    fn a_mapping_to_a_missing_thread_is_refused() {
        for (threads, mapping) in [(0, vec![0]), (2, vec![0, 2])] {
            let error = Loops::spawn(threads, mapping, &AioContext::builder()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
