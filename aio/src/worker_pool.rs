//! Threads for work that would block the loop.
//!
//! A job is a closure that runs once, in one of the pool's threads, and reports its end itself. The
//! home thread keeps what is to be done after it (`D`, usually a callback that cannot leave the
//! thread), under the number of the job. Jobs begin in the order in which they were submitted.
//!
//! A thread is started when a job finds none idle, up to the limit, and ends when it has been idle
//! for a while. The lock is held for a few instructions, and by the home thread while it starts a
//! thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// What a thread runs. It must not unwind.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Names a job of one pool. Never used twice.
pub(crate) type JobId = u64;

/// How many threads a pool may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// So many stay once they were started.
    pub(crate) min: usize,
    /// At least one.
    pub(crate) max: usize,
    /// A thread above `min` ends after it had nothing to do for so long.
    pub(crate) idle: Duration,
}

impl Default for Limits {
    /// The limits of QEMU's thread pool.
    fn default() -> Self {
        Self { min: 0, max: 64, idle: Duration::from_secs(10) }
    }
}

/// What a pool is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) threads: usize,
    pub(crate) queued: usize,
    pub(crate) running: usize,
}

/// The home thread's side. Costs nothing until the first job.
pub(crate) struct WorkerPool<D> {
    limits: Limits,
    start: Start,
    threads: OnceCell<Arc<Threads>>,
    /// What follows each job that was submitted and whose end was not taken.
    done: RefCell<BTreeMap<JobId, D>>,
    next: Cell<JobId>,
    closed: Cell<bool>,
}

/// Starts one thread. The lock is held.
type Start = fn(Arc<Threads>, u64) -> io::Result<JoinHandle<()>>;

struct Threads {
    limits: Limits,
    state: Mutex<State>,
    /// A job was queued, or the pool closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: BTreeMap<JobId, Job>,
    threads: BTreeMap<u64, JoinHandle<()>>,
    started: u64,
    /// Threads that wait. One that was woken and has not run yet still counts.
    idle: usize,
    running: usize,
    closed: bool,
}

impl<D> fmt::Debug for WorkerPool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<D> WorkerPool<D> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            start,
            threads: OnceCell::new(),
            done: RefCell::default(),
            next: Cell::new(0),
            closed: Cell::new(false),
        }
    }

    /// Makes sure that a thread will take one more job. Blocks while a thread is started.
    ///
    /// # Errors
    /// `NotConnected` once the pool is closed; what pthread_create(3) returns if there is no other
    /// thread that could take the job.
    pub(crate) fn reserve(&self) -> io::Result<Reserved<'_, D>> {
        if self.closed.get() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "this event loop was dropped"));
        }
        let threads = self.threads.get_or_init(|| Arc::new(Threads::new(self.limits)));
        let mut state = threads.lock();
        let claimed = state.queue.len() >= state.idle;
        if claimed && state.threads.len() < self.limits.max {
            state.started += 1;
            let number = state.started;
            match (self.start)(Arc::clone(threads), number) {
                Ok(thread) => _ = state.threads.insert(number, thread),
                Err(error) if state.threads.is_empty() => return Err(error),
                // The others take it, one after another. The next job tries again.
                Err(_) => {}
            }
        }
        Ok(Reserved { pool: self, threads, state })
    }

    /// Takes a job back that has not begun. The caller drops it, and runs what follows it.
    pub(crate) fn cancel(&self, job: JobId) -> Option<Job> {
        self.threads.get()?.lock().queue.remove(&job)
    }

    /// Takes out what follows a job.
    pub(crate) fn take_done(&self, job: JobId) -> Option<D> {
        self.done.borrow_mut().remove(&job)
    }

    /// Returns true until `take_done`.
    pub(crate) fn is_pending(&self, job: JobId) -> bool {
        self.done.borrow().contains_key(&job)
    }

    pub(crate) fn load(&self) -> Load {
        self.threads.get().map_or_else(Load::default, |threads| {
            let state = threads.lock();
            Load { threads: state.threads.len(), queued: state.queue.len(), running: state.running }
        })
    }

    /// Refuses jobs from now on, and takes out those that have not begun.
    pub(crate) fn close(&self) -> Vec<Job> {
        self.closed.set(true);
        let Some(threads) = self.threads.get() else { return Vec::new() };
        let mut state = threads.lock();
        state.closed = true;
        threads.changed.notify_all();
        std::mem::take(&mut state.queue).into_values().collect()
    }

    /// Waits until every job that had begun has ended, and its thread with it. To be called after
    /// `close`.
    pub(crate) fn join(&self) {
        let Some(threads) = self.threads.get() else { return };
        let handles = std::mem::take(&mut threads.lock().threads);
        for handle in handles.into_values() {
            // An error is a panic outside of every job, such as in the destructor of a thread-local
            // value. The panic hook has reported it. The payload may panic when it is dropped.
            if let Err(payload) = handle.join() {
                std::mem::forget(payload);
            }
        }
    }

    /// Takes out what follows every job, and drops nothing.
    pub(crate) fn take_all(&self) -> Vec<D> {
        self.done.take().into_values().collect()
    }
}

/// A place in the queue. The lock is held.
pub(crate) struct Reserved<'a, D> {
    pool: &'a WorkerPool<D>,
    threads: &'a Threads,
    state: MutexGuard<'a, State>,
}

impl<D> Reserved<'_, D> {
    /// Submits a job, which is made by `job` from its number.
    pub(crate) fn submit(mut self, done: D, job: impl FnOnce(JobId) -> Job) -> JobId {
        let id = self.pool.next.get();
        self.pool.next.set(id.wrapping_add(1));
        self.pool.done.borrow_mut().insert(id, done);
        self.state.queue.insert(id, job(id));
        self.threads.changed.notify_one();
        id
    }
}

impl Threads {
    fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of a user runs under the lock, so it is never left half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(&self, number: u64) {
        let mut state = self.lock();
        loop {
            if let Some((_, job)) = state.queue.pop_first() {
                state.running += 1;
                drop(state);
                job();
                state = self.lock();
                state.running -= 1;
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let waited = self.changed.wait_timeout(state, self.limits.idle);
            let (locked, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = locked;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() && state.threads.len() > self.limits.min {
                break;
            }
        }
        // Nobody joins a thread that ends because it was idle.
        drop(state.threads.remove(&number));
    }
}

fn start(threads: Arc<Threads>, number: u64) -> io::Result<JoinHandle<()>> {
    Builder::new().name("aio-worker".to_owned()).spawn(move || threads.work(number))
}

#[cfg(all(test, not(loom)))]
mod tests;
