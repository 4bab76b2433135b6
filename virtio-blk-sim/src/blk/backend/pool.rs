//! A file accessed by a few blocking threads. Used for event loops without io_uring, and for
//! operations that a ring cannot do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use aio::{AioContext, BottomHalf, BottomHalfHandle};

use super::done::Done;
use super::file_image::FileImage;
use super::file_sync::PendingSync;
use crate::blk::device::{FinishedRequest, Operation, PendingRequest};
use crate::log::Line;

/// Threads per queue. One is started when a request finds all others busy.
const MAX_THREADS: usize = 4;

#[derive(Debug)]
pub(super) struct PoolEngine {
    shared: Arc<Shared>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    /// Runs in the home thread when results have arrived.
    _collect: BottomHalf,
}

#[derive(Debug)]
struct Shared {
    image: Arc<FileImage>,
    work: Mutex<Work>,
    /// Signalled when `Work::queue` gets an entry or `Work::closed` is set.
    more: Condvar,
    results: Arc<Mutex<Vec<FinishedRequest>>>,
    collect: BottomHalfHandle,
}

#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<PendingRequest>,
    idle_threads: usize,
    closed: bool,
}

/// Ignores poisoning: each change to these queues is a single call, so a panic leaves them
/// consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PoolEngine {
    pub(super) fn new(image: Arc<FileImage>, context: &AioContext, done: Rc<Done>) -> Self {
        let results: Arc<Mutex<Vec<FinishedRequest>>> = Arc::default();
        let source = Arc::clone(&results);
        let batch = RefCell::default();
        let collect = context.bottom_half(move |context| {
            let mut batch = batch.borrow_mut();
            // Swapping the vectors keeps the capacity of both.
            std::mem::swap(&mut *lock(&source), &mut *batch);
            done(context, &mut batch);
        });
        let (work, more) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { image, work, more, results, collect: collect.handle() });
        Self { shared, threads: RefCell::default(), _collect: collect }
    }

    pub(super) fn submit(&self, request: PendingRequest) {
        let mut work = lock(&self.shared.work);
        work.queue.push_back(request);
        if work.queue.len() > work.idle_threads && self.grow(&mut work) {
            return;
        }
        drop(work);
        self.shared.more.notify_one();
    }

    /// Ends a flush that somebody else carried out, and answers it like a request of this pool.
    pub(super) fn end_flush(&self, sync: PendingSync, result: io::Result<()>, request: PendingRequest) {
        let shared = Arc::clone(&self.shared);
        sync.end(result, move |result| shared.answer(request.finish(result)));
    }

    /// Starts another thread if the limit allows. Failing to start a thread matters only if there
    /// is none yet: then the queued requests fail with an error.
    fn grow(&self, work: &mut Work) -> bool {
        let mut threads = self.threads.borrow_mut();
        if threads.len() >= MAX_THREADS {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name("blk-pool".into()).spawn(move || shared.serve()) {
            Ok(thread) => threads.push(thread),
            Err(_) if !threads.is_empty() => return false,
            Err(error) => {
                let line = format_args!("no thread can be started for the image's I/O: {error}");
                Line::error(line).caused_by(&error).limited();
                let orphans = std::mem::take(&mut work.queue);
                let failed = orphans.into_iter().map(|r| r.finish(Err(io::ErrorKind::OutOfMemory.into())));
                lock(&self.shared.results).extend(failed);
                self.shared.collect.schedule();
            }
        }
        true
    }
}

impl Shared {
    /// The body of a pool thread.
    fn serve(self: &Arc<Self>) {
        let mut work = lock(&self.work);
        loop {
            if let Some(request) = work.queue.pop_front() {
                drop(work);
                self.execute(request);
                work = lock(&self.work);
            } else if work.closed {
                return;
            } else {
                work.idle_threads += 1;
                work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
                work.idle_threads -= 1;
            }
        }
    }
}

impl Shared {
    fn execute(self: &Arc<Self>, request: PendingRequest) {
        let syncs = self.image.syncs();
        if !matches!(request.operation(), Operation::Flush) || syncs.check(&Operation::Flush).is_err() {
            return self.answer(self.image.execute(request));
        }
        let sync = syncs.begin();
        let result = self.image.file().sync_data();
        let shared = Arc::clone(self);
        sync.end(result, move |result| shared.answer(request.finish(result)));
    }

    /// Passes a result to the home thread.
    fn answer(&self, finished: FinishedRequest) {
        lock(&self.results).push(finished);
        self.collect.schedule();
    }
}

impl Drop for PoolEngine {
    /// Waits for all accepted requests: a write that the guest got no completion for may still be
    /// expected on the disk.
    fn drop(&mut self) {
        lock(&self.shared.work).closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            // Ignores a panic: it only loses the request of that thread.
            let _ = thread.join();
        }
    }
}
