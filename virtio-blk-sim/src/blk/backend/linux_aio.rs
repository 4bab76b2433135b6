//! A file through Linux AIO: io_submit(2), and completions through an eventfd. This is QEMU's
//! `aio=native`, the configuration of the measurement of 2020. Two eventfds are read per request:
//! the guest's doorbell and this one.
//!
//! ```text
//! BlkQueue ─ submit ... commit ─► io_submit ─► the disk ─► completion ring, then eventfd
//!    ▲                                                                        │
//!    └── done(batch) ◄── reap: the ring, in memory ◄── AioContext ◄───────────┘
//! ```
//!
//! Only for files that bypass the page cache. For other files, io_submit(2) blocks the loop until
//! the disk is done.
#![expect(
    unsafe_code,
    reason = "operations point to a request's buffers; the engine owns the request until its completion"
)]

mod kernel;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, BusyPolled, EventNotifier, Method, NotifierRegistration, Reset};
use slab::Slab;

use super::done::Done;
use super::file_image::FileImage;
use super::pool::PoolEngine;
use super::ring::completed;
use crate::blk::device::{FinishedRequest, Operation, PendingRequest};
use kernel::{BATCH, Context, Iocb};

/// Operations in flight at a time; further requests wait in `waiting`. The system-wide limit is
/// 65,536 by default (/proc/sys/fs/aio-max-nr).
const IN_FLIGHT: usize = 256;

#[derive(Debug)]
pub(super) struct LinuxAioEngine {
    files: Rc<Files>,
    _completions: NotifierRegistration,
}

/// The file's operations, and the handler of their eventfd.
struct Files {
    // Dropped in this order: destroying the context waits for the kernel, and only then are the
    // requests dropped.
    context: Context,
    in_flight: RefCell<Slab<PendingRequest>>,
    waiting: RefCell<VecDeque<PendingRequest>>,
    image: Arc<FileImage>,
    notifier: EventNotifier,
    /// For operations that io_submit(2) does not have (fallocate), for buffers that are not aligned
    /// and must be copied, and for operations that it refuses.
    pool: PoolEngine,
    done: Rc<Done>,
    batch: RefCell<Vec<FinishedRequest>>,
    submit_calls: Cell<u64>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.in_flight.borrow().len();
        f.debug_struct("Files")
            .field("context", &self.context)
            .field("in_flight", &in_flight)
            .finish_non_exhaustive()
    }
}

impl LinuxAioEngine {
    /// The completion eventfd is reset by the same method as the loop's own notifier.
    pub(super) fn new(image: Arc<FileImage>, context: &AioContext, done: Rc<Done>) -> io::Result<Self> {
        if image.direct().is_none() {
            let why = "Linux AIO needs a file opened with O_DIRECT; otherwise io_submit(2) blocks";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let setup = Context::new(IN_FLIGHT as u32)
            .map_err(|error| io::Error::new(error.kind(), format!("io_setup(2): {error}")))?;
        let notifier = EventNotifier::new(match context.own_notifier().0 {
            Method::Read => Reset::Classic,
            method => Reset::AutoresetBy(method),
        })?;
        let files = Rc::new(Files {
            context: setup,
            in_flight: RefCell::new(Slab::with_capacity(IN_FLIGHT)),
            waiting: RefCell::default(),
            pool: PoolEngine::new(Arc::clone(&image), context, Rc::clone(&done)),
            image,
            notifier: notifier.clone(),
            done,
            batch: RefCell::default(),
            submit_calls: Cell::new(0),
        });
        let completions = context.add_polled_notifier(&notifier, Rc::clone(&files))?;
        Ok(Self { files, _completions: completions })
    }

    /// Queues a request; [`commit`](Self::commit) submits it to the kernel.
    pub(super) fn submit(&self, mut request: PendingRequest) {
        // The pool answers what is refused because a flush has failed.
        let is_transfer = matches!(request.operation(), Operation::In { .. } | Operation::Out { .. })
            && self.files.image.syncs().check(request.operation()).is_ok();
        if is_transfer && self.files.image.suits(&mut request) {
            self.files.waiting.borrow_mut().push_back(request);
        } else {
            self.files.pool.submit(request);
        }
    }

    /// Submits the queued requests to the kernel in as few calls as possible: one call per
    /// [`BATCH`] operations.
    pub(super) fn commit(&self) {
        self.files.commit();
    }

    /// Returns the number of io_submit(2) calls.
    pub(super) fn submit_calls(&self) -> u64 {
        self.files.submit_calls.get()
    }
}

impl Files {
    fn commit(&self) {
        loop {
            let mut operations = [Iocb::default(); BATCH];
            let (mut keys, mut count) = ([0; BATCH], 0);
            let mut waiting = self.waiting.borrow_mut();
            let mut in_flight = self.in_flight.borrow_mut();
            while count < BATCH && in_flight.len() < IN_FLIGHT {
                let Some(request) = waiting.pop_front() else { break };
                let entry = in_flight.vacant_entry();
                let key = entry.key();
                let request = entry.insert(request);
                if let (Some(operation), Some(slot)) = (operations.get_mut(count), keys.get_mut(count)) {
                    (*operation, *slot) = (self.operation(request, key), key);
                }
                count += 1;
            }
            let (Some(ready), Some(keys)) =
                (operations.get(..count).filter(|ready| !ready.is_empty()), keys.get(..count))
            else {
                return;
            };
            self.submit_calls.set(self.submit_calls.get() + 1);
            // SAFETY: the arrays and the guest memory stay in place and mapped as long as the
            // request lives (see `PendingRequest::iovecs`). The request is in `in_flight` until it
            // completes, or until `context` is dropped. `image` keeps the file open.
            let taken = unsafe { self.context.submit(ready) };
            let refused = keys.get(*taken.as_ref().unwrap_or(&0)..).unwrap_or_default();
            let mut back = refused.iter().filter_map(|&key| in_flight.try_remove(key));
            // If the kernel refuses the first operation, a pool thread runs the request and reports
            // the error.
            if taken.is_err()
                && let Some(request) = back.next()
            {
                self.pool.submit(request);
            }
            let back: Vec<PendingRequest> = back.collect();
            back.into_iter().rev().for_each(|request| waiting.push_front(request));
        }
    }

    fn operation(&self, request: &mut PendingRequest, key: usize) -> Iocb {
        let (write, durable) = match *request.operation() {
            Operation::Out { durable, .. } => (true, durable),
            _ => (false, false),
        };
        let (offset, fd) = (request.offset(), self.image.file().as_raw_fd());
        let answer = (key as u64, self.notifier.as_raw_fd());
        Iocb::transfer(write, fd, request.iovecs(), offset, durable, answer)
    }
}

impl BusyPolled for Files {
    /// Takes all completions: the doorbell does not carry a count.
    fn process(&self, context: &AioContext) {
        let mut batch = self.batch.take();
        while let Some(event) = self.context.next_event() {
            let key = usize::try_from(event.data).unwrap_or(usize::MAX);
            let request = self.in_flight.borrow_mut().try_remove(key);
            let result = i32::try_from(event.result).unwrap_or(-libc::EIO);
            batch.extend(request.and_then(|request| completed(result, request, &self.pool)));
        }
        self.commit();
        if !batch.is_empty() {
            (self.done)(context, &mut batch);
        }
        self.batch.replace(batch);
    }

    fn is_ready(&self) -> bool {
        self.context.has_events()
    }
}
