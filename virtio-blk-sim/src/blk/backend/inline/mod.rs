//! A file in the page cache: calls in the loop's thread as long as they are short, and the ring or
//! the threads for the rest.
//!
//! ```text
//!           ┌─ small, and the gate is open ─► pwritev2, preadv2 ─┬─► answered in this batch
//! submit ───┤                                                    │
//!           │                 EAGAIN, or a part is missing ◄─────┘
//!           │                            ▼
//!           └─ everything else ─► ring or threads ─► answered in a later turn
//! ```
//!
//! io_uring hands each write to the page cache over to a kernel thread on most file systems (ext4,
//! block devices), which takes longer than the write. A call in the loop's thread does not, but it
//! holds up the other disks of the loop if it sleeps: for the page of a block that is written in
//! part, for the journal, or because there is too much dirty memory (balance_dirty_pages in the
//! kernel). So each call is timed, and the [gate](gate) is closed for a while if that happens.
//! Where the file system has RWF_NOWAIT for such writes (XFS, Btrfs) it is used, and a write that
//! would sleep is passed on.
//!
//! Writes of one batch to adjacent sectors are one call. If it fails or is short, each request
//! that it did not complete is passed on alone, so that only those fail that cannot be written.
//!
//! A read that is alone in its batch is tried by preadv2(2) with RWF_NOWAIT, which returns EAGAIN
//! if it is not in the page cache. Several reads go to the ring in one system call; without a ring
//! each is tried.
#![expect(unsafe_code, reason = "calls with a request's buffers, which the request owns meanwhile")]

mod calls;
mod gate;

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use calls::{Calls, Kernel};
pub use gate::Stall;
use gate::{Gate, Tries};

use super::file_image::FileImage;
use super::pool::PoolEngine;
use super::ring::RingEngine;
use crate::blk::device::{FinishedRequest, Operation, PendingRequest, Transfer};

/// The longest request that is carried out inline: copying more takes longer than handing it over.
const MOST_BYTES: u64 = 128 << 10;

/// The longest that a batch works inline, besides its last call.
const BATCH_NS: u64 = 500_000;

/// What carries out the rest.
#[derive(Debug)]
pub(super) enum Behind {
    Ring(RingEngine),
    Pool(PoolEngine),
}

impl Behind {
    fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match self {
            Self::Ring(ring) => ring.submit(request),
            Self::Pool(pool) => {
                pool.submit(request);
                None
            }
        }
    }
}

/// What an engine did inline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InlineStats {
    /// System calls.
    pub(super) calls: u64,
    /// Times the gate was closed.
    pub(super) stalls: u64,
}

pub(super) struct InlineEngine<C = Kernel> {
    image: Arc<FileImage>,
    behind: Behind,
    calls: C,
    /// Where writes end that may be inline.
    write_end: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    gate: Gate,
    /// The batch has worked so long.
    spent_ns: u64,
    /// Writes to adjacent sectors, in this order, which are carried out together.
    run: Vec<PendingRequest>,
    /// Where they end.
    run_end: u64,
    run_bytes: u64,
    /// The buffers of all of them.
    iovecs: Vec<libc::iovec>,
    /// The first read of the batch, if there is a ring.
    read: Option<PendingRequest>,
    /// The batch has several reads.
    reads: bool,
    /// RWF_NOWAIT does not work on this file.
    no_nowait_write: bool,
    no_nowait_read: bool,
    write_tries: Tries,
    read_tries: Tries,
    /// Answered, and not returned yet.
    ready: Vec<FinishedRequest>,
    /// To pass on.
    rest: Vec<PendingRequest>,
    stall: Option<Stall>,
    stats: InlineStats,
}

impl<C> std::fmt::Debug for InlineEngine<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InlineEngine")
            .field("behind", &self.behind)
            .field("stats", &self.state.borrow().stats)
            .finish_non_exhaustive()
    }
}

impl InlineEngine {
    pub(super) fn new(image: Arc<FileImage>, behind: Behind) -> Self {
        Self::with(image, behind, Kernel)
    }
}

impl<C: Calls> InlineEngine<C> {
    fn with(image: Arc<FileImage>, behind: Behind, calls: C) -> Self {
        let write_end = calls::file_size_limit();
        Self { image, behind, calls, write_end, state: RefCell::default() }
    }

    /// Takes a request. What is returned may be the answer of another one.
    pub(super) fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match *request.operation() {
            Operation::Out { len, durable: false, .. } if len <= MOST_BYTES => self.write(request),
            Operation::In { len, .. } if len <= MOST_BYTES => self.read(request),
            _ => self.behind.submit(request),
        }
    }

    /// Carries out what the batch has collected, and passes each answer to `answer`. Returns
    /// whether the gate was closed in this batch.
    pub(super) fn commit(&self, mut answer: impl FnMut(FinishedRequest)) -> Option<Stall> {
        let mut state = self.state.borrow_mut();
        self.write_run(&mut state);
        if let Some(read) = state.read.take() {
            self.read_now(&mut state, read);
        }
        (state.spent_ns, state.reads) = (0, false);
        state.gate.end_batch();
        let stall = state.stall.take();
        drop(state);
        self.pass_on();
        // Not borrowed while `answer` runs.
        let mut ready = std::mem::take(&mut self.state.borrow_mut().ready);
        ready.drain(..).for_each(&mut answer);
        self.state.borrow_mut().ready = ready;
        stall
    }

    pub(super) fn uses_ring(&self) -> bool {
        matches!(self.behind, Behind::Ring(_))
    }

    pub(super) fn stats(&self) -> InlineStats {
        self.state.borrow().stats
    }

    fn write(&self, request: PendingRequest) -> Option<FinishedRequest> {
        if let Err(error) = self.image.syncs().check(request.operation()) {
            return Some(request.finish(Err(error)));
        }
        let (start, bytes) = (request.offset(), request.remaining());
        let end = start.saturating_add(bytes);
        let mut state = self.state.borrow_mut();
        let is_adjacent = start == state.run_end && !state.run.is_empty();
        if is_adjacent && state.run_bytes + bytes <= MOST_BYTES && end <= self.write_end {
            state.run.push(request);
            (state.run_end, state.run_bytes) = (end, state.run_bytes + bytes);
            return None;
        }
        self.write_run(&mut state);
        if end > self.write_end || !state.write_tries.next() || !self.may_call(&mut state) {
            drop(state);
            self.pass_on();
            return self.behind.submit(request);
        }
        state.run.push(request);
        (state.run_end, state.run_bytes) = (end, bytes);
        self.one_of(state)
    }

    fn read(&self, request: PendingRequest) -> Option<FinishedRequest> {
        let mut state = self.state.borrow_mut();
        let is_tried = !state.no_nowait_read && state.read_tries.next() && self.may_call(&mut state);
        if self.uses_ring() {
            if is_tried && !state.reads {
                (state.read, state.reads) = (Some(request), true);
                return None;
            }
            state.reads = true;
            let first = state.read.take();
            drop(state);
            if let Some(answer) = first.and_then(|first| self.behind.submit(first)) {
                self.state.borrow_mut().ready.push(answer);
            }
            return self.behind.submit(request);
        }
        if !is_tried {
            drop(state);
            return self.behind.submit(request);
        }
        self.read_now(&mut state, request);
        self.one_of(state)
    }

    /// Passes on what has to be, and returns one of the answers. The others are returned with the
    /// next requests, or at the end of the batch.
    fn one_of(&self, mut state: std::cell::RefMut<'_, State>) -> Option<FinishedRequest> {
        if state.rest.is_empty() {
            return state.ready.pop();
        }
        drop(state);
        self.pass_on();
        self.state.borrow_mut().ready.pop()
    }

    fn pass_on(&self) {
        loop {
            // A statement of its own: nothing is borrowed while the other engine works.
            let request = self.state.borrow_mut().rest.pop();
            let Some(request) = request else { return };
            if let Some(answer) = self.behind.submit(request) {
                self.state.borrow_mut().ready.push(answer);
            }
        }
    }

    fn may_call(&self, state: &mut State) -> bool {
        state.spent_ns < BATCH_NS && state.gate.is_open(|| self.calls.now_ns())
    }

    /// Makes a call and counts it.
    fn timed(&self, state: &mut State, bytes: u64, call: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        state.gate.begin(|| self.calls.switches());
        let began_ns = self.calls.now_ns();
        let result = call();
        let ended_ns = self.calls.now_ns();
        let took_ns = ended_ns.saturating_sub(began_ns);
        state.stats.calls += 1;
        state.spent_ns = state.spent_ns.saturating_add(took_ns);
        if let Some(stall) = state.gate.record(bytes, took_ns, ended_ns, || self.calls.switches()) {
            state.stats.stalls += 1;
            state.stall = Some(stall);
        }
        result
    }

    /// Carries out the writes of the run.
    fn write_run(&self, state: &mut State) {
        if state.run.is_empty() {
            return;
        }
        let mut run = std::mem::take(&mut state.run);
        let mut iovecs = std::mem::take(&mut state.iovecs);
        iovecs.clear();
        let offset = run.first().map_or(0, PendingRequest::offset);
        for request in &mut run {
            iovecs.extend_from_slice(request.iovecs());
        }
        // What does not fit is passed on, as after any short write.
        iovecs.truncate(libc::UIO_MAXIOV as usize);
        match self.call_write(state, &iovecs, offset) {
            Ok(mut left) => {
                for request in run.drain(..) {
                    let moved = request.remaining().min(left as u64) as usize;
                    left -= moved;
                    if moved == 0 {
                        state.rest.push(request);
                    } else {
                        state.moved(request, moved);
                    }
                }
            }
            Err(error) => {
                // With several it is not known which of them the error concerns.
                let alone = if run.len() == 1 && !is_transient(&error) { run.pop() } else { None };
                state.ready.extend(alone.map(|request| request.finish(Err(error))));
                state.rest.append(&mut run);
            }
        }
        (state.run, state.iovecs) = (run, iovecs);
    }

    fn call_write(&self, state: &mut State, iovecs: &[libc::iovec], offset: u64) -> io::Result<usize> {
        let bytes = state.run_bytes;
        // SAFETY: the requests of the run own their chains, which keep their memory mapped. The
        // array has what they returned last.
        let write = |flags| unsafe { self.calls.write(self.image.as_fd(), iovecs, offset, flags) };
        if !state.no_nowait_write {
            let result = self.timed(state, bytes, || write(libc::RWF_NOWAIT));
            if !is_unsupported(&result) {
                state.write_tries.count(&result);
                return result;
            }
            state.no_nowait_write = true;
            if !self.may_call(state) {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
        }
        self.timed(state, bytes, || write(0))
    }

    /// Tries a read.
    fn read_now(&self, state: &mut State, mut request: PendingRequest) {
        let (offset, bytes) = (request.offset(), request.remaining());
        let iovecs = request.iovecs();
        let result = self.timed(state, bytes, || {
            // SAFETY: the request owns its chain, which keeps its memory mapped. The segments are
            // device-writable guest memory, to which there are no Rust references.
            unsafe { self.calls.read(self.image.as_fd(), iovecs, offset, libc::RWF_NOWAIT) }
        });
        state.no_nowait_read |= is_unsupported(&result);
        state.read_tries.count(&result);
        match result {
            Ok(moved) => state.moved(request, moved),
            Err(error) if is_transient(&error) || state.no_nowait_read => state.rest.push(request),
            Err(error) => state.ready.push(request.finish(Err(error))),
        }
    }
}

impl State {
    fn moved(&mut self, request: PendingRequest, bytes: usize) {
        match request.transferred(bytes) {
            Transfer::Complete(answer) => self.ready.push(answer),
            Transfer::Short(rest) => self.rest.push(rest),
        }
    }
}

/// The call would have to wait, or was interrupted: the request is still to be carried out.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

fn is_unsupported(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests;
