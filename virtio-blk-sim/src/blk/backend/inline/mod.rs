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
    /// When its last call ended, which is when the next one begins.
    last_ns: Option<u64>,
    /// The batch has something for `commit`.
    has_work: bool,
    /// The batch has a read.
    has_read: bool,
    writes: Vec<PendingRequest>,
    reads: Vec<PendingRequest>,
    /// Writes to adjacent sectors, which are carried out together, and the buffers of all of them.
    run: Vec<PendingRequest>,
    iovecs: Vec<libc::iovec>,
    /// RWF_NOWAIT does not work on this file.
    no_nowait_write: bool,
    no_nowait_read: bool,
    write_tries: Tries,
    read_tries: Tries,
    /// Answered.
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

    /// Takes a request. What is carried out inline waits for the end of the batch: its answers are
    /// shown together, and the driver is interrupted once. Otherwise a driver that waits would be
    /// woken for each of them.
    pub(super) fn submit(&self, request: PendingRequest) -> Option<FinishedRequest> {
        match *request.operation() {
            Operation::Out { len, durable: false, .. } if len <= MOST_BYTES => self.take_write(request),
            Operation::In { len, .. } if len <= MOST_BYTES => self.take_read(request),
            _ => self.behind.submit(request),
        }
    }

    /// Carries out what the batch has collected, and passes each answer to `answer`. Returns a
    /// stall if there was one.
    pub(super) fn commit(&self, mut answer: impl FnMut(FinishedRequest)) -> Option<Stall> {
        let mut state = self.state.borrow_mut();
        if !state.has_work {
            return None;
        }
        self.write_all(&mut state);
        let mut reads = std::mem::take(&mut state.reads);
        for read in reads.drain(..) {
            if self.may_call(&mut state) {
                self.read_now(&mut state, read);
            } else {
                state.rest.push(read);
            }
        }
        state.reads = reads;
        (state.spent_ns, state.last_ns, state.has_work, state.has_read) = (0, None, false, false);
        state.gate.end_batch();
        let stall = state.stall.take();
        let (mut ready, mut rest) = (std::mem::take(&mut state.ready), std::mem::take(&mut state.rest));
        // Nothing is borrowed while the other engine works, and while `answer` runs.
        drop(state);
        ready.extend(rest.drain(..).filter_map(|request| self.behind.submit(request)));
        ready.drain(..).for_each(&mut answer);
        let mut state = self.state.borrow_mut();
        // They keep their capacity.
        (state.ready, state.rest) = (ready, rest);
        stall
    }

    fn uses_ring(&self) -> bool {
        matches!(self.behind, Behind::Ring(_))
    }

    pub(super) fn stats(&self) -> InlineStats {
        self.state.borrow().stats
    }

    fn take_write(&self, request: PendingRequest) -> Option<FinishedRequest> {
        if let Err(error) = self.image.syncs().check(request.operation()) {
            return Some(request.finish(Err(error)));
        }
        let end = request.offset().saturating_add(request.remaining());
        let mut state = self.state.borrow_mut();
        if end > self.write_end || !state.write_tries.next() || !self.may_call(&mut state) {
            drop(state);
            return self.behind.submit(request);
        }
        state.has_work = true;
        state.writes.push(request);
        None
    }

    fn take_read(&self, request: PendingRequest) -> Option<FinishedRequest> {
        let mut state = self.state.borrow_mut();
        // A ring takes several with one system call.
        let is_second = self.uses_ring() && std::mem::replace(&mut state.has_read, true);
        state.has_work = true;
        if !is_second && !state.no_nowait_read && state.read_tries.next() && self.may_call(&mut state) {
            state.reads.push(request);
            return None;
        }
        let first = if is_second { state.reads.pop() } else { None };
        state.rest.extend(first);
        drop(state);
        self.behind.submit(request)
    }

    fn may_call(&self, state: &mut State) -> bool {
        state.spent_ns < BATCH_NS && state.gate.is_open(|| self.calls.now_ns())
    }

    /// Makes a call and counts it.
    fn timed(
        &self,
        state: &mut State,
        bytes: u64,
        call: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        state.gate.begin(|| self.calls.switches());
        let began_ns = state.last_ns.unwrap_or_else(|| self.calls.now_ns());
        let result = call();
        let ended_ns = self.calls.now_ns();
        let took_ns = ended_ns.saturating_sub(began_ns);
        state.last_ns = Some(ended_ns);
        state.stats.calls += 1;
        state.spent_ns = state.spent_ns.saturating_add(took_ns);
        if let Some(stall) = state.gate.record(bytes, took_ns, ended_ns, || self.calls.switches()) {
            state.stats.stalls += 1;
            state.stall = Some(stall);
        }
        result
    }

    /// Carries out the writes, those to adjacent sectors together.
    fn write_all(&self, state: &mut State) {
        let mut writes = std::mem::take(&mut state.writes);
        let mut iovecs = std::mem::take(&mut state.iovecs);
        let mut left = writes.drain(..).peekable();
        while let Some(mut first) = left.next() {
            if !self.may_call(state) {
                state.rest.push(first);
                continue;
            }
            iovecs.clear();
            let (offset, mut bytes) = (first.offset(), first.remaining());
            iovecs.extend_from_slice(first.iovecs());
            state.run.push(first);
            while let Some(mut next) =
                left.next_if(|next| next.offset() == offset + bytes && bytes + next.remaining() <= MOST_BYTES)
            {
                bytes += next.remaining();
                iovecs.extend_from_slice(next.iovecs());
                state.run.push(next);
            }
            // What does not fit is passed on, as after any short write.
            iovecs.truncate(libc::UIO_MAXIOV as usize);
            let result = self.call_write(state, &iovecs, offset, bytes);
            state.end_run(result);
        }
        drop(left);
        (state.writes, state.iovecs) = (writes, iovecs);
    }

    fn call_write(
        &self,
        state: &mut State,
        iovecs: &[libc::iovec],
        offset: u64,
        bytes: u64,
    ) -> io::Result<usize> {
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
    /// Distributes the result of a call among the requests of the run.
    fn end_run(&mut self, result: io::Result<usize>) {
        let mut run = std::mem::take(&mut self.run);
        match result {
            Ok(mut left) => {
                for request in run.drain(..) {
                    let bytes = request.remaining().min(left as u64) as usize;
                    left -= bytes;
                    if bytes == 0 {
                        self.rest.push(request);
                    } else {
                        self.moved(request, bytes);
                    }
                }
            }
            Err(error) => {
                // With several it is not known which of them the error concerns.
                let alone = if run.len() == 1 && !is_transient(&error) { run.pop() } else { None };
                self.ready.extend(alone.map(|request| request.finish(Err(error))));
                self.rest.append(&mut run);
            }
        }
        self.run = run;
    }

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

/// The file does not know RWF_NOWAIT. Most file systems say EOPNOTSUPP, and for buffered writes
/// some say EINVAL (`generic_write_checks()`).
fn is_unsupported(result: &io::Result<usize>) -> bool {
    let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(errno, Some(libc::EOPNOTSUPP | libc::EINVAL))
}

#[cfg(test)]
mod tests;
