//! io_uring: polls and reads that the kernel holds, and the ring that user operations share.
//!
//! A level-triggered handler is a one-shot POLL_ADD. Its completion queues it to be armed again by the *next* wait,
//! after its callback has run, so a condition that was cleared is not reported twice and one that was not is reported
//! again. (Multishot POLL_ADD is edge-triggered after its first completion; level-triggered users of QEMU hung on it.)
//! A never-read notifier is a multishot POLL_ADD, armed again only when the kernel ends it. Arming, cancelling and user
//! operations are SQEs that ride on the wait's own io_uring_enter(2).
#![expect(
    unsafe_code,
    reason = "pushes SQEs; those with a buffer point into `reads` or `counters`, kept until completion"
)]

use super::{Arm, HandlerState, Sink};
use crate::handler::{Handler, Handlers, Interest, Readiness, Watch};
use crate::notifier::EventNotifier;
use crate::stats::Counters;
use crate::sys::uring::{CounterBuffers, Cqe, Ring};
use crate::sys::{TimeoutNs, monotonic_ns};
use crate::token::{Kind, Token};
use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

/// How long a context that is dropped waits for its cancelled operations before it leaks their buffers.
const SHUTDOWN_NS: u64 = 10_000_000_000;

/// The provided-buffer group of READ_MULTISHOT. Others are the users'.
const COUNTER_GROUP: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct UringMonitor {
    ring: RefCell<Ring>,
    /// Handlers to arm in the next wait.
    queued: RefCell<Vec<Token>>,
    /// SQEs that found the queue full.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// One of these two may have something: the next wait has more to do than to enter.
    unfinished: Cell<bool>,
    /// READs of eventfds, from arming to their last completion, which may come after their handler has gone.
    reads: RefCell<Slab<Read>>,
    counters: RefCell<Option<CounterBuffers>>,
    /// In this wait a poll has ended only to be armed in another way.
    changed: Cell<bool>,
}

#[derive(Debug)]
struct Read {
    handler: Token,
    /// Open as long as the read may complete; rung again if it does when its handler has gone.
    notifier: Option<EventNotifier>,
    in_flight: bool,
    /// Where the kernel puts the count. Nobody looks at it.
    count: Box<Cell<u64>>,
}

/// Its own completion means nothing.
///
/// Not POLL_REMOVE for polls: while a wake-up of the poll waits to be worked off it gives -EALREADY and cancels nothing, and
/// a multishot poll lives on. ASYNC_CANCEL marks the poll, so that working off the wake-up ends it.
fn cancellation(token: Token) -> squeue::Entry {
    opcode::AsyncCancel::new(token.bits()).build().user_data(Token::new(Kind::Internal, 0, 0).bits())
}

/// One-shot, but see `note_half_close`.
#[inline(always)]
fn level_poll(handler: &Handler, interest: Interest) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(handler.fd), interest.poll_events())
        .multi(handler.monitor.half_closed.get())
        .build()
        .user_data(handler.token.bits())
}

impl UringMonitor {
    pub(super) fn new(ring: Ring) -> Self {
        Self {
            ring: RefCell::new(ring),
            queued: RefCell::default(),
            backlog: RefCell::default(),
            unfinished: Cell::new(false),
            reads: RefCell::default(),
            counters: RefCell::default(),
            changed: Cell::new(false),
        }
    }

    pub(super) fn add(&self, token: Token) -> HandlerState {
        let state = HandlerState::default();
        state.arm.set(Arm::Queued);
        self.queue_token(token);
        state
    }

    pub(super) fn modify(&self, handler: &Handler, stats: &Counters) {
        match handler.monitor.arm.get() {
            // The wait that arms it reads the interest then.
            Arm::Queued | Arm::Ending | Arm::Changing => {}
            Arm::Idle => self.queue_arming(handler),
            Arm::Armed => {
                self.cancel(handler.token, stats);
                handler.monitor.arm.set(Arm::Changing);
            }
        }
    }

    pub(super) fn remove(&self, handler: &Handler, sink: &Sink) {
        let arm = handler.monitor.arm.replace(Arm::Idle);
        if let Some(key) = handler.monitor.index.take() {
            let mut reads = self.reads.borrow_mut();
            let in_flight = reads.get(key as usize).is_some_and(|r| r.in_flight);
            if !in_flight {
                reads.try_remove(key as usize);
                return;
            }
            drop(reads);
            self.cancel(Token::new(Kind::Read, key as usize, 0), &sink.stats);
            // At once: until it has ended, the read takes every ring for a handler that has gone. It is rung again when the
            // read completes, but that might be in the next turn of this loop while another loop waits for the ring.
            self.submit_and_reap(sink);
        } else if matches!(arm, Arm::Armed | Arm::Ending | Arm::Changing) {
            self.cancel(handler.token, &sink.stats);
        }
    }

    /// Queues an operation of a user; it reaches the kernel with the next enter.
    ///
    /// # Safety
    /// What the entry points to must stay valid until its last completion has been reaped.
    pub(crate) unsafe fn submit(&self, entry: squeue::Entry, stats: &Counters) {
        // SAFETY: the caller's promise.
        unsafe { self.queue(entry, stats) };
    }

    /// Queues the cancellation of a poll, a read, or a user's operation, which will then complete with -ECANCELED or its own
    /// result.
    pub(crate) fn cancel(&self, token: Token, stats: &Counters) {
        // SAFETY: a cancellation points to nothing.
        unsafe { self.queue(cancellation(token), stats) };
    }

    /// # Safety
    /// As for [`submit`](Self::submit).
    unsafe fn queue(&self, entry: squeue::Entry, stats: &Counters) {
        let mut ring = self.ring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        // SAFETY: the caller's promise, here and below.
        if backlog.is_empty() && unsafe { ring.push(&entry) }.is_ok() {
            return;
        }
        // Full. The kernel takes what is there without a wait; where it will not (the CQ has overflowed), the rest
        // waits for the next turn, which reaps first.
        stats.syscalls_enter.bump();
        let _ = ring.enter(Some(0));
        backlog.push_back(entry);
        self.unfinished.set(true);
        Self::flush(&mut ring, &mut backlog);
    }

    /// True if there is more than the ring has room for.
    fn flush_backlog(&self, ring: &mut Ring) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return false;
        }
        Self::flush(ring, &mut backlog);
        let more = !backlog.is_empty();
        if more {
            self.unfinished.set(true);
        }
        more
    }

    fn flush(ring: &mut Ring, backlog: &mut VecDeque<squeue::Entry>) {
        while let Some(entry) = backlog.front() {
            // SAFETY: whoever queued the entry promised that what it points to stays valid.
            if unsafe { ring.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
    }

    fn queue_arming(&self, handler: &Handler) {
        handler.monitor.arm.set(Arm::Queued);
        self.queue_token(handler.token);
    }

    fn queue_token(&self, token: Token) {
        self.queued.borrow_mut().push(token);
        self.unfinished.set(true);
    }

    /// Turns the queued handlers into SQEs, if there is room for all of them and nothing before them. False if not.
    #[inline(never)]
    fn submit_queued(&self, ring: &mut Ring, handlers: &Handlers) -> bool {
        let mut queued = self.queued.borrow_mut();
        if !self.backlog.borrow().is_empty() || queued.len() > ring.room() {
            return false;
        }
        let handlers = handlers.live();
        for token in &*queued {
            let Some(handler) = handlers.get(*token) else { continue };
            let entry = match (handler.monitor.arm.get(), handler.watch.get()) {
                (Arm::Queued, Watch::Level(interest)) => {
                    handler.monitor.arm.set(Arm::Armed);
                    level_poll(handler, interest)
                }
                _ => match self.entry_for(handler, ring) {
                    Some(entry) => entry,
                    None => continue,
                },
            };
            // SAFETY: as in `arm_queued`. There is room.
            let pushed = unsafe { ring.push(&entry) };
            debug_assert!(pushed.is_ok());
        }
        queued.clear();
        self.unfinished.set(false);
        true
    }

    /// The same however many they are. True if something was collected on the way.
    fn arm_queued(&self, sink: &Sink) -> bool {
        if self.queued.borrow().is_empty() {
            return false;
        }
        let mut collected = false;
        let mut queued = self.queued.take();
        for token in queued.drain(..) {
            let Some(handler) = sink.handlers.get(token) else {
                continue;
            };
            let mut ring = self.ring.borrow_mut();
            let Some(entry) = self.entry_for(&handler, &mut ring) else {
                continue;
            };
            let full = ring.room() == 0;
            drop(ring);
            if full {
                // What is ready at once is reaped on the way: if the CQ overflowed, every multishot poll that fires
                // meanwhile would end, be armed again, be ready at once, and overflow it again, turn after turn.
                collected |= self.submit_and_reap(sink);
            }
            // SAFETY: the only pointer is into `reads`, whose entry stays until its completion (see `complete_read`, and
            // `shutdown` for a context that is dropped).
            unsafe { self.queue(entry, &sink.stats) };
        }
        // Keeps the capacity. What has completed on the way is armed by the next wait.
        let again = self.queued.replace(queued);
        self.queued.borrow_mut().extend(again);
        collected
    }

    fn submit_and_reap(&self, sink: &Sink) -> bool {
        sink.stats.syscalls_enter.bump();
        // Whatever stands in its way stands in the way of the wait, too, which reports it.
        let mut ring = self.ring.borrow_mut();
        let _ = ring.enter(Some(0));
        self.reap(&mut ring, sink)
    }

    /// What a queued handler calls for: its poll or read, or the cancellation of a poll that is to be another.
    fn entry_for(&self, handler: &Handler, ring: &mut Ring) -> Option<squeue::Entry> {
        match handler.monitor.arm.get() {
            Arm::Queued => Some(self.arm(handler, ring)),
            Arm::Ending => {
                handler.monitor.arm.set(Arm::Changing);
                Some(cancellation(handler.token))
            }
            Arm::Idle | Arm::Armed | Arm::Changing => None,
        }
    }

    fn arm(&self, handler: &Handler, ring: &mut Ring) -> squeue::Entry {
        let fd = types::Fd(handler.fd);
        let token = handler.token.bits();
        let entry = match handler.watch.get() {
            Watch::Level(interest) => level_poll(handler, interest),
            Watch::Edge => opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build().user_data(token),
            Watch::RingRead => {
                let (read, count) = self.start_read(handler);
                opcode::Read::new(fd, count, 8).build().user_data(read.bits())
            }
            Watch::RingReadMultishot => match self.provide_counters(ring) {
                Ok(()) => {
                    let (read, _) = self.start_read(handler);
                    opcode::ReadMulti::new(fd, 0, COUNTER_GROUP).build().user_data(read.bits())
                }
                // No memory for the group: one-shot reads do the same with one SQE more for each event.
                Err(_) => {
                    let (read, count) = self.start_read(handler);
                    opcode::Read::new(fd, count, 8).build().user_data(read.bits())
                }
            },
        };
        handler.monitor.arm.set(Arm::Armed);
        entry
    }

    fn provide_counters(&self, ring: &mut Ring) -> io::Result<()> {
        let mut counters = self.counters.borrow_mut();
        if counters.is_none() {
            *counters = Some(ring.provide_counters(COUNTER_GROUP)?);
        }
        Ok(())
    }

    fn start_read(&self, handler: &Handler) -> (Token, *mut u8) {
        let mut reads = self.reads.borrow_mut();
        let key = match handler.monitor.index.get() {
            Some(key) => key as usize,
            None => {
                let key = reads.insert(Read {
                    handler: handler.token,
                    notifier: handler.action.notifier().cloned(),
                    in_flight: true,
                    count: Box::default(),
                });
                handler.monitor.index.set(Some(key as u32));
                key
            }
        };
        reads[key].in_flight = true;
        (Token::new(Kind::Read, key, 0), reads[key].count.as_ptr().cast())
    }

    /// True if a wait would submit or find something; a look at memory.
    pub(super) fn needs_wait(&self) -> bool {
        let look = self.ring.borrow_mut().look();
        look.unsubmitted != 0 || look.completions || self.unfinished.get()
    }

    /// True if `needs_wait` sees every completion that there is.
    pub(super) fn tells(&self) -> bool {
        self.ring.borrow().tells()
    }

    #[inline(always)]
    pub(super) fn wait(&self, mut timeout: TimeoutNs, sink: &Sink) -> io::Result<bool> {
        // The usual turn: a sleep, with room for what there is to submit.
        if timeout != Some(0) {
            let mut ring = self.ring.borrow_mut();
            let submitted = !self.unfinished.get() || self.submit_queued(&mut ring, &sink.handlers);
            if submitted && !ring.any_came_unasked() {
                sink.stats.syscalls_enter.bump();
                match ring.enter(timeout).as_ref().map_err(io::Error::raw_os_error) {
                    Ok(0) | Err(Some(libc::ETIME | libc::EINTR)) => {
                        self.changed.set(false);
                        let collected = self.reap(&mut ring, sink);
                        if collected || !self.changed.get() {
                            return Ok(collected);
                        }
                        // As below.
                        timeout = Some(0);
                    }
                    // Taken in part, or not at all: the kernel did not sleep.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.wait_otherwise(timeout, sink)
    }

    #[inline(never)]
    fn wait_otherwise(&self, mut timeout: TimeoutNs, sink: &Sink) -> io::Result<bool> {
        loop {
            self.changed.set(false);
            self.unfinished.set(false);
            let collected = self.arm_queued(sink);
            let collected = self.enter_and_reap(timeout, sink, collected)?;
            if collected || !self.changed.get() {
                return Ok(collected);
            }
            // A poll has ended only to be armed otherwise: what it is to hear of may be so now. A look, since part of the
            // timeout is over.
            timeout = Some(0);
        }
    }

    /// `collected`: there is something to dispatch already, so this must not sleep.
    fn enter_and_reap(&self, timeout: TimeoutNs, sink: &Sink, mut collected: bool) -> io::Result<bool> {
        loop {
            let mut ring = self.ring.borrow_mut();
            let more = self.flush_backlog(&mut ring);
            let look = ring.look();
            // Completions in memory and nothing to submit, or a mere look of which memory tells that it would find nothing: no
            // system call.
            let nothing_found = timeout == Some(0) && !look.completions && ring.tells();
            if look.unsubmitted == 0 && (look.reapable || collected || nothing_found) {
                break;
            }
            sink.stats.syscalls_enter.bump();
            let sleeps = !(look.reapable || collected || more);
            let entered = ring.enter(if sleeps { timeout } else { Some(0) });
            match entered.as_ref().map_err(io::Error::raw_os_error) {
                // There is more than fits; or taken in part (an entry was refused and has completed with its error, or
                // memory is short): the kernel did not sleep, so go on unless there is something to dispatch.
                Ok(left) if more || *left != 0 => {}
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR)) => break,
                // The completion queue has to be emptied before the kernel takes more.
                Err(Some(libc::EBUSY | libc::EAGAIN)) => {
                    if !self.reap(&mut ring, sink) {
                        entered?;
                    }
                    collected = true;
                }
                Err(_) => return entered.map(|_| false),
            }
        }
        Ok(self.reap(&mut self.ring.borrow_mut(), sink) || collected)
    }

    /// Empties the completion queue into the sink.
    #[inline(always)]
    fn reap(&self, ring: &mut Ring, sink: &Sink) -> bool {
        let (handlers, mut collected) = (sink.handlers.live(), false);
        for cqe in ring.reap_all() {
            let token = Token::from_bits(cqe.user_data);
            collected |= match token.kind() {
                Kind::Handler => match handlers.get(token) {
                    Some(handler) => self.complete_poll(handler, cqe, sink),
                    None => {
                        // The end of a poll that was removed is as it should be; readiness that comes too late is stale.
                        sink.stats.stale.add(u64::from(cqe.result >= 0));
                        false
                    }
                },
                Kind::Read => self.complete_read(token, cqe, sink),
                Kind::Operation => sink.completions.complete(token, cqe.result, cqe.flags, &sink.stats),
                Kind::Internal => false,
            };
        }
        collected
    }

    #[inline(always)]
    fn complete_poll(&self, handler: &Rc<Handler>, cqe: Cqe, sink: &Sink) -> bool {
        if cqe.result < 0 {
            return self.poll_failed(handler, cqe.result, sink);
        }
        let readiness = Readiness::from_poll(cqe.result as u32);
        if matches!(handler.watch.get(), Watch::Level(_)) {
            self.note_half_close(handler, readiness);
        }
        // One-shot, or (multishot) the CQ had overflowed. Armed again by the next wait; a multishot poll then reports at
        // once what it missed, because arming looks at the level.
        if !cqueue::more(cqe.flags) {
            self.queue_arming(handler);
        }
        if !readiness.is_empty() {
            sink.handlers.mark(handler, readiness);
        }
        !readiness.is_empty()
    }

    #[cold]
    fn poll_failed(&self, handler: &Rc<Handler>, result: i32, sink: &Sink) -> bool {
        if result == -libc::ECANCELED {
            // For a change.
            self.queue_arming(handler);
            self.changed.set(true);
            return false;
        }
        // EBADF and its like: the descriptor was closed under us. Said once; arming again would say it for ever.
        handler.monitor.arm.set(Arm::Idle);
        sink.handlers.mark(handler, Readiness::ERROR);
        true
    }

    /// POLL_ADD always asks for POLLRDHUP, too (IO_POLL_UNMASK in io_uring/poll.c). Once a socket's peer has shut down its
    /// sending half, a one-shot poll of somebody who wants something else would end at once, for ever. So such a poll is
    /// multishot, which ends only for what was asked for, and is one-shot again, to report the level, while that lasts.
    fn note_half_close(&self, handler: &Handler, readiness: Readiness) {
        let state = &handler.monitor;
        if readiness.is_empty() == state.half_closed.get() {
            return;
        }
        state.half_closed.set(readiness.is_empty());
        if readiness.is_empty() {
            self.changed.set(true);
        } else if state.arm.get() == Arm::Armed {
            state.arm.set(Arm::Ending);
            self.queue_token(handler.token);
        }
    }

    #[inline(never)]
    fn complete_read(&self, token: Token, cqe: Cqe, sink: &Sink) -> bool {
        if let (Some(id), Some(counters)) =
            (cqueue::buffer_select(cqe.flags), &mut *self.counters.borrow_mut())
        {
            counters.give_back(id);
        }
        let mut reads = self.reads.borrow_mut();
        let Some(read) = reads.get_mut(token.slot()) else {
            return false;
        };
        let handler = sink.handlers.get(read.handler);
        if handler.is_none()
            && cqe.result > 0
            && let Some(notifier) = &read.notifier
        {
            // It has taken the count for nobody: rung again, for whoever answers the doorbell next.
            let _ = notifier.notify();
        }
        if !cqueue::more(cqe.flags) {
            read.in_flight = false;
            match &handler {
                Some(handler) => self.queue_arming(handler),
                // Removed while the read was in flight: this was the completion to wait for.
                None => drop(reads.remove(token.slot())),
            }
        }
        let Some(handler) = handler else { return false };
        match cqe.result {
            result if result > 0 => sink.handlers.mark(&handler, Readiness::IN),
            // Nothing read, nothing lost: no buffer left (the count stays in the eventfd), interrupted, or cancelled.
            result if [libc::ENOBUFS, libc::EINTR, libc::EAGAIN, libc::ECANCELED].contains(&-result) => {
                return false;
            }
            _ => {
                handler.monitor.arm.set(Arm::Idle);
                sink.handlers.mark(&handler, Readiness::ERROR);
            }
        }
        true
    }

    /// Cancels everything and waits until the kernel has let go of every buffer. What will not end (a disk that does not
    /// answer) is leaked after ten seconds: memory that the kernel may still write to must not be used again.
    pub(crate) fn shutdown(&self, sink: &Sink) {
        let Sink { completions, stats, .. } = sink;
        self.queued.borrow_mut().clear();
        let reads =
            self.reads.borrow().iter().filter(|(_, r)| r.in_flight).map(|(k, _)| k).collect::<Vec<_>>();
        for key in reads {
            self.cancel(Token::new(Kind::Read, key, 0), stats);
        }
        for operation in completions.in_flight() {
            self.cancel(operation, stats);
        }
        let deadline = monotonic_ns().saturating_add(SHUTDOWN_NS);
        let busy =
            || !completions.in_flight().is_empty() || self.reads.borrow().iter().any(|(_, r)| r.in_flight);
        while busy() && monotonic_ns() < deadline {
            if self.wait(Some(100_000_000), sink).is_err() {
                break;
            }
        }
        if busy() {
            std::mem::forget(self.reads.take());
            std::mem::forget(self.counters.take());
            completions.leak();
        } else if let Some(counters) = self.counters.take()
            && self.ring.borrow_mut().withdraw_counters(&counters).is_err()
        {
            std::mem::forget(counters);
        }
    }
}
