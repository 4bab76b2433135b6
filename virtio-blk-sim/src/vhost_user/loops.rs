//! Which event loops the queues run on: the server's own loop, or a set of IoThreads.
//!
//! A running queue belongs to the thread of its loop. The server only holds a [`RunningQueue`],
//! which asks that thread. The server's own thread never waits for another one, because it serves
//! the sockets of other devices, too.
//!
//! A loop can end while queues run on it: a callback has panicked, or the kernel has failed it.
//! Where these queues were on their rings is lost with it. So the frontends are disconnected, and
//! when they come back, the queues start on a loop that is left.

use std::cell::RefCell;
use std::future::Ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use aio::{AioContext, Builder, IoThread, JoinError, RemoteJoinHandle};

use super::held::{self, Held};
use super::losses::{Loss, Losses};
use super::ring_device::{RingDevice, RingOrder, RunningRing};
use crate::log::Line;
use crate::queue::Stopped;

/// The event loops that a server spreads its queues over. Several servers can share their threads.
#[derive(Debug)]
pub struct Loops {
    threads: Vec<Arc<IoThread>>,
    /// Index of the thread for each queue. Queues beyond its end are assigned round robin.
    mapping: RefCell<Vec<usize>>,
}

impl Loops {
    /// Runs all queues on the server's own loop.
    pub fn own() -> Self {
        Self { threads: Vec::new(), mapping: RefCell::default() }
    }

    /// Starts `threads` IoThreads (0: none, as [`own`](Self::own)). Queue `n` runs on thread
    /// `mapping[n]`. If the mapping is too short, it runs on thread `n` modulo the number of
    /// threads.
    ///
    /// # Errors
    /// Returns `InvalidInput` if the mapping contains a thread index that does not exist, and the
    /// errors of [`IoThread::spawn`].
    pub fn spawn(threads: usize, mapping: Vec<usize>, builder: &Builder) -> io::Result<Self> {
        check(threads, &mapping)?;
        let spawn = |index| IoThread::spawn(&format!("queue-io-{index}"), builder.clone()).map(Arc::new);
        Ok(Self {
            threads: (0..threads).map(spawn).collect::<io::Result<_>>()?,
            mapping: RefCell::new(mapping),
        })
    }

    /// Like [`spawn`](Self::spawn), with threads that exist and may serve other devices, too.
    ///
    /// # Errors
    /// Returns `InvalidInput` if the mapping contains a thread index that does not exist.
    pub fn on(threads: impl IntoIterator<Item = Arc<IoThread>>, mapping: Vec<usize>) -> io::Result<Self> {
        let threads: Vec<_> = threads.into_iter().collect();
        check(threads.len(), &mapping)?;
        Ok(Self { threads, mapping: RefCell::new(mapping) })
    }

    /// The threads; none if the queues run on the server's own loop.
    pub fn threads(&self) -> &[Arc<IoThread>] {
        &self.threads
    }

    /// Runs `work` on the home thread of the loop that serves a queue, and waits for what it
    /// returns. `own` is the server's loop, which serves queues that have no I/O thread. Blocks.
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

    /// The index of the thread that a queue runs on, or will run on; `None` for the server's own
    /// loop.
    pub fn place(&self, queue: u16) -> Option<usize> {
        let queue = usize::from(queue);
        let mapped = self.mapping.borrow().get(queue).copied();
        mapped.or_else(|| queue.checked_rem(self.threads.len()))
    }

    /// Changes the thread of a queue, for its next start. Returns false if that is its thread
    /// already. [`Server::move_queue`](super::Server::move_queue) also moves a queue that runs.
    ///
    /// # Errors
    /// Returns `InvalidInput` if there is no such thread.
    pub fn set_place(&self, queue: u16, thread: usize) -> io::Result<bool> {
        check(self.threads.len(), &[thread])?;
        if self.place(queue) == Some(thread) {
            return Ok(false);
        }
        let mut mapping = self.mapping.borrow_mut();
        let queue = usize::from(queue);
        for earlier in mapping.len()..=queue {
            mapping.push(earlier % self.threads.len());
        }
        if let Some(place) = mapping.get_mut(queue) {
            *place = thread;
        }
        Ok(true)
    }

    fn thread(&self, queue: u16) -> Option<&Arc<IoThread>> {
        self.threads.get(self.place(queue)?)
    }

    /// The thread that a queue is to start on, `None` for the server's own loop. If the loop of its
    /// thread has ended, this is the next one whose loop has not, from now on.
    fn thread_to_start_on(&self, queue: u16) -> io::Result<Option<&Arc<IoThread>>> {
        let Some(place) = self.place(queue) else { return Ok(None) };
        let count = self.threads.len();
        let mut from_there = (place..count).chain(0..place);
        // One that has failed is alive until all that it had is dropped.
        let is_living = |thread: &Arc<IoThread>| thread.is_alive() && thread.failure().is_none();
        let living = from_there.find(|index| self.threads.get(*index).is_some_and(is_living));
        let living = living.ok_or_else(|| io::Error::other("the loops of all I/O threads have ended"))?;
        self.set_place(queue, living)?;
        Ok(self.threads.get(living))
    }

    /// Starts queue `index` on its thread. If the loop of that thread ends while the queue runs,
    /// the queue is dropped there, and then `losses` has it.
    pub(super) async fn start<D: RingDevice>(
        &self,
        index: u16,
        device: Arc<D>,
        order: RingOrder,
        losses: &Arc<Losses>,
        own: &AioContext,
    ) -> io::Result<RunningQueue> {
        let before = self.thread(index);
        let Some(thread) = self.thread_to_start_on(index)? else {
            return Ok(RunningQueue::Here(Held::new(device.start_ring(index, order, own)?)));
        };
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, thread)) {
            let (before, now) = (before.name(), thread.name());
            let line = format_args!("queue {index} runs on {now}, because the loop of {before} has ended");
            device.log_line(Line::warn(line).queue(index));
        }
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        // Made first: if nobody waits for the end of the start, it takes the queue back.
        let losses = Arc::clone(losses);
        let remote =
            Remote { thread: Arc::clone(thread), id, index, losses: Arc::clone(&losses), stopped: false };
        let loss = remote.loss();
        let start = move |context: &AioContext| {
            let queue = device.start_ring(index, order, context);
            std::future::ready(queue.map(|queue| held::add(id, queue, loss, losses)))
        };
        thread.handle().spawn(start).await??;
        Ok(RunningQueue::There(remote))
    }
}

/// Checks that each thread of a mapping exists.
fn check(threads: usize, mapping: &[usize]) -> io::Result<()> {
    let Some(wrong) = mapping.iter().find(|thread| **thread >= threads) else { return Ok(()) };
    let message = match threads.checked_sub(1) {
        Some(last) => format!("a queue is mapped to thread {wrong}, but there are threads 0 to {last}"),
        None => format!("a queue is mapped to thread {wrong}, but there are no I/O threads"),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// A running queue. Dropping it stops the queue without waiting for requests in flight.
#[derive(Debug)]
pub(super) enum RunningQueue {
    Here(Held),
    There(Remote),
}

/// A queue on an IoThread.
#[derive(Debug)]
pub(super) struct Remote {
    thread: Arc<IoThread>,
    /// The key in the thread's table.
    id: u64,
    index: u16,
    losses: Arc<Losses>,
    /// The queue was removed from there.
    stopped: bool,
}

/// Whom to ask about a queue, as long as that is.
pub(super) enum Asker {
    Here(Held),
    There(Arc<IoThread>, u64),
}

/// The answer to a question about a queue.
pub(super) enum Asked<R> {
    Here(R),
    There(RemoteJoinHandle<Option<R>>),
}

impl RunningQueue {
    /// Stops taking requests, and waits until the requests in flight have been answered.
    pub(super) async fn stop(self, own: &AioContext) -> io::Result<Stopped> {
        match self {
            Self::Here(queue) => Ok(queue.stop(own).await),
            Self::There(remote) => remote.stop().await,
        }
    }

    /// Whom to ask about it. Nothing may be borrowed while it is asked.
    pub(super) fn asker(&self) -> Asker {
        match self {
            Self::Here(queue) => Asker::Here(queue.clone()),
            Self::There(Remote { thread, id, .. }) => Asker::There(Arc::clone(thread), *id),
        }
    }
}

impl Asker {
    /// Asks the queue in its thread. The question is asked in the order of these calls, also if
    /// nobody waits for the answer.
    pub(super) fn ask<R: Send + 'static>(
        self,
        question: impl FnOnce(&dyn RunningRing) -> R + Send + 'static,
    ) -> Asked<R> {
        match self {
            Self::Here(queue) => Asked::Here(queue.ask(question)),
            Self::There(thread, id) => {
                let ask = move |_: &AioContext| -> Ready<Option<R>> {
                    std::future::ready(held::find(id).map(|queue| queue.ask(question)))
                };
                Asked::There(thread.handle().spawn(ask))
            }
        }
    }
}

impl<R> Asked<R> {
    /// Waits for the answer. `None` if the queue has ended meanwhile.
    pub(super) async fn answer(self) -> Option<R> {
        match self {
            Self::Here(answer) => Some(answer),
            Self::There(answer) => answer.await.ok().flatten(),
        }
    }

    /// Blocks until the answer is there.
    pub(super) fn wait(self) -> Option<R> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut answer = pin!(self.answer());
        loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                return answer;
            }
            std::thread::park();
        }
    }
}

/// Wakes a thread that waits for an answer.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Remote {
    fn loss(&self) -> Loss {
        Loss { ring: self.index, thread: self.thread.name().to_owned() }
    }

    async fn stop(mut self) -> io::Result<Stopped> {
        let id = self.id;
        self.stopped = true;
        let stop = move |context: &AioContext| {
            let stopping = held::remove(id).map(|queue| queue.stop(context));
            async move {
                match stopping {
                    Some(stopping) => Ok(stopping.await),
                    None => Err(io::Error::from(io::ErrorKind::NotFound)),
                }
            }
        };
        let stopped = self.thread.handle().spawn(stop).await;
        if stopped.as_ref().is_err_and(JoinError::is_aborted) {
            // The loop has ended. The queue may have left the table before.
            self.losses.add(self.loss());
        }
        stopped?
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        let id = self.id;
        self.thread.handle().schedule(move |_| {
            drop(held::remove(id));
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
