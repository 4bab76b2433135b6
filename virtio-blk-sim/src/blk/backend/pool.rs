//! A file behind a few threads that block on it: for event loops without io_uring, and for what a ring cannot do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use aio::{AioContext, BottomHalf, BottomHalfHandle};

use super::done::Done;
use super::file_image::FileImage;
use crate::blk::device::{FinishedRequest, PendingRequest};

/// Threads for one queue. Each is started when a request finds all others busy.
const MAX_THREADS: usize = 4;

#[derive(Debug)]
pub(super) struct PoolEngine {
    shared: Arc<Shared>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    /// Runs in the home thread when results have come in.
    _collect: BottomHalf,
}

#[derive(Debug)]
struct Shared {
    image: Arc<FileImage>,
    work: Mutex<Work>,
    /// There is something in `Work::queue`, or `Work::closed` is set.
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

/// A panic of another thread leaves these queues whole: each is changed by single calls.
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
            // The two vectors change places: neither gives its capacity up.
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
        if work.queue.len() > work.idle_threads && self.grow() {
            return;
        }
        drop(work);
        self.shared.more.notify_one();
    }

    /// Starts another thread if there may be one more. A thread that cannot be started is a problem only if it is the
    /// first: then the request is answered with the error.
    fn grow(&self) -> bool {
        let mut threads = self.threads.borrow_mut();
        if threads.len() >= MAX_THREADS {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name("blk-pool".into()).spawn(move || shared.serve()) {
            Ok(thread) => threads.push(thread),
            Err(_) if !threads.is_empty() => return false,
            Err(_) => {
                let orphans = std::mem::take(&mut lock(&self.shared.work).queue);
                let failed =
                    orphans.into_iter().map(|r| r.finish(Err(std::io::ErrorKind::OutOfMemory.into())));
                lock(&self.shared.results).extend(failed);
                self.shared.collect.schedule();
            }
        }
        true
    }
}

impl Shared {
    /// A thread's life.
    fn serve(&self) {
        let mut work = lock(&self.work);
        loop {
            if let Some(request) = work.queue.pop_front() {
                drop(work);
                let finished = self.image.execute(request);
                lock(&self.results).push(finished);
                self.collect.schedule();
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

impl Drop for PoolEngine {
    /// Waits for what has been accepted: a write that the guest was told nothing about may still be expected on disk.
    fn drop(&mut self) {
        lock(&self.shared.work).closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            // A panic in a thread lost that thread's request only.
            let _ = thread.join();
        }
    }
}
