//! The monitor itself: arming, waiting, and reaping.
#![expect(
    unsafe_code,
    reason = "pushes SQEs; those with a buffer point into `reads`, or are a user's, and what they point \
              to is kept until completion"
)]

use super::backlog::Backlog;
use super::bells::Bells;
use super::reads::{COUNTER_GROUP, ReadDone, Reads};
use super::tables::Tables;
use crate::agenda::Agenda;
use crate::completion::{Completes, Completions};
use crate::monitor::readiness::{Interest, Readiness, Watch};
use crate::monitor::watched::{Arm, RingState, Sink, State, Table, Watched};
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::buffer_ring::BufferRing;
use crate::sys::uring::{Cqe, Ring};
use crate::token::{Kind, Token};
use io_uring::{cqueue, opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;

/// How often, and how long, a removal waits for the end of a poll whose wake-up another CPU is
/// working on at this moment.
const REMOVAL_TRIES: u32 = 100;
const REMOVAL_NS: u64 = 50_000;

/// The ring, what the kernel was given through it, and what that holds: `T` for an operation.
///
/// Whatever drops this, nothing is freed before the kernel is done with it: see `drop`.
#[derive(Debug)]
pub(crate) struct UringMonitor<T> {
    pub(super) ring: RefCell<Ring>,
    /// Handlers to arm in the next wait.
    pub(super) queued: RefCell<Vec<Token>>,
    /// SQEs that found the queue full.
    pub(super) backlog: RefCell<Backlog>,
    /// `queued` or `backlog` may have something: the next wait has more to do than to enter.
    unfinished: Cell<bool>,
    /// READs of eventfds.
    pub(super) reads: Reads,
    /// Operations of users.
    pub(super) completions: Completions<T>,
    /// Eventfds of others that are rung with an enter.
    pub(super) bells: Bells,
    /// What users have registered.
    tables: Tables,
    /// A poll ended in this wait only to be armed in another way.
    changed: Cell<bool>,
    /// The poll or read whose last completion a removal waits for.
    leaving: Cell<Option<Token>>,
    /// The shutdown has begun: nothing is armed any more.
    pub(super) is_down: Cell<bool>,
    agenda: Rc<Agenda>,
}

/// The SQE that cancels a poll, a read or an operation. Its own completion means nothing.
///
/// Not POLL_REMOVE for polls: while a wake-up of the poll waits to be worked off it returns
/// -EALREADY and cancels nothing, and a multishot poll lives on. ASYNC_CANCEL marks the poll, so
/// that working off the wake-up ends it.
fn cancellation(token: Token) -> squeue::Entry {
    opcode::AsyncCancel::new(token.bits()).build().user_data(Token::new(Kind::Internal, 0, 0).bits())
}

/// One-shot, except for what `note_half_close` explains.
#[inline(always)]
fn level_poll(watched: &Watched, state: &RingState, interest: Interest) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(watched.fd), interest.poll_events())
        .multi(state.half_closed.get())
        .build()
        .user_data(watched.token.bits())
}

/// Every descriptor that this monitor watches has a state of this kind.
#[inline(always)]
pub(super) fn state_of(watched: &Watched) -> Option<&RingState> {
    match &watched.state {
        State::IoUring(state) => Some(state),
        _ => None,
    }
}

impl<T> UringMonitor<T> {
    pub(crate) fn new(ring: Ring, agenda: &Rc<Agenda>) -> Self {
        Self {
            ring: RefCell::new(ring),
            queued: RefCell::default(),
            backlog: RefCell::default(),
            unfinished: Cell::new(false),
            reads: Reads::default(),
            completions: Completions::new(agenda),
            bells: Bells::default(),
            tables: Tables::default(),
            changed: Cell::new(false),
            leaving: Cell::new(None),
            is_down: Cell::new(false),
            agenda: Rc::clone(agenda),
        }
    }

    /// The operations of users.
    pub(crate) fn completions(&self) -> &Completions<T> {
        &self.completions
    }

    /// Registers a file and returns its slot.
    pub(crate) fn add_file(&self, fd: RawFd) -> io::Result<u32> {
        self.tables.add_file(&self.ring.borrow(), fd)
    }

    pub(crate) fn remove_file(&self, slot: u32) {
        self.tables.remove_file(&self.ring.borrow(), slot);
    }

    /// Registers memory and returns its slot.
    ///
    /// # Safety
    /// As for `Tables::add_buffer`.
    pub(crate) unsafe fn add_buffer(&self, start: *const u8, len: usize) -> io::Result<u16> {
        // SAFETY: the caller's promise.
        unsafe { self.tables.add_buffer(&self.ring.borrow(), start, len) }
    }

    pub(crate) fn remove_buffer(&self, slot: u16) {
        self.tables.remove_buffer(&self.ring.borrow(), slot);
    }

    /// Makes a group of buffers that the kernel chooses from.
    ///
    /// # Safety
    /// As for `Tables::add_group`.
    pub(crate) unsafe fn add_group(&self, entries: u16, size: u32) -> io::Result<BufferRing> {
        // SAFETY: the caller's promise.
        unsafe { self.tables.add_group(&self.ring.borrow(), entries, size) }
    }

    /// Returns false if the kernel keeps the buffers of the group.
    pub(crate) fn remove_group(&self, group: u16) -> bool {
        self.tables.remove_group(&self.ring.borrow(), group)
    }

    pub(crate) fn add(&self, token: Token) -> State {
        self.queue_token(token);
        State::IoUring(RingState {
            read: Cell::new(None),
            arm: Cell::new(Arm::Queued),
            half_closed: Cell::new(false),
        })
    }

    pub(crate) fn modify(&self, watched: &Watched, stats: &Counters) {
        let Some(state) = state_of(watched) else { return };
        match state.arm.get() {
            // The wait that arms it reads the interest then.
            Arm::Queued | Arm::Ending | Arm::Changing => {}
            Arm::Idle => self.queue_arming(watched.token, state),
            Arm::Armed => {
                self.cancel(watched.token, stats);
                state.arm.set(Arm::Changing);
            }
        }
    }

    /// When this returns, the kernel has no reference to the file of an fd handler. Only the
    /// eventfd of a doorbell that is polled may wait for the next turn.
    pub(crate) fn remove(&self, watched: &Watched, sink: &impl Sink) {
        let Some(state) = state_of(watched) else { return };
        let is_armed = state.is_armed();
        state.arm.set(Arm::Idle);
        if let Some(key) = state.read.take() {
            if let Some(read) = self.reads.remove(key) {
                // At once: until it ends, the read takes every ring for a handler that was removed.
                // It is rung again when the read completes, but that might be in the next turn of
                // this loop while another loop waits for the ring.
                self.cancel_now(read, sink);
            }
        } else if is_armed && watched.eventfd.is_none() {
            // At once: the poll holds the file open. A peer would not see that it was closed, and
            // the address of a listener could not be bound again.
            self.cancel_now(watched.token, sink);
        } else if is_armed {
            self.cancel(watched.token, sink.stats());
        }
    }

    /// Cancels a poll or a read, and returns when it has ended.
    fn cancel_now(&self, token: Token, sink: &impl Sink) {
        self.cancel(token, sink.stats());
        self.leaving.set(Some(token));
        // Usually the cancellation itself ends it.
        self.enter_and_reap_once(Some(0), sink);
        for _ in 0..REMOVAL_TRIES {
            if self.leaving.get().is_none() {
                return;
            }
            self.enter_and_reap_once(Some(REMOVAL_NS), sink);
        }
        // The next turns see it end.
        self.leaving.set(None);
    }

    /// Queues an operation of a user, which holds `held` until its last completion is dispatched.
    /// The kernel gets it with the next enter. `Completions::check_room` found room for it.
    ///
    /// # Safety
    /// What the entry points to must stay valid as long as `held` is not dropped.
    // Inlined where it is hot, however many other callers a program has.
    #[inline(always)]
    pub(crate) unsafe fn submit(
        &self,
        entry: squeue::Entry,
        held: T,
        completes: Completes,
        stats: &Counters,
    ) -> Token {
        let token = self.completions.insert(held, completes);
        // SAFETY: the caller's promise; `completions` keeps `held` until the last completion.
        unsafe { self.queue(entry.user_data(token.bits()), stats) };
        token
    }

    /// Queues the entry of an operation that is finished once more. Returns false if it was
    /// cancelled, or the ring is shut down.
    ///
    /// # Safety
    /// As for `submit`: it is the entry that this operation was submitted with.
    pub(crate) unsafe fn submit_again(&self, token: Token, entry: squeue::Entry, stats: &Counters) -> bool {
        let resumed = self.completions.resume(token);
        if resumed {
            // SAFETY: as in `submit`.
            unsafe { self.queue(entry.user_data(token.bits()), stats) };
        }
        resumed
    }

    /// Queues the cancellation of a poll, a read, or a user's operation, which will then complete
    /// with -ECANCELED or its own result.
    pub(crate) fn cancel(&self, token: Token, stats: &Counters) {
        // SAFETY: a cancellation points to nothing.
        unsafe { self.queue(cancellation(token), stats) };
    }

    #[cfg(feature = "raw-sqe")]
    /// Queues operations of a user that run one after another: each but the last has the flag for
    /// it. `held` makes what the operation of this index holds. There is room for them in
    /// `completions` and, if it is empty, in the queue.
    ///
    /// # Safety
    /// As for `submit`, as long as none of what `held` has made is dropped.
    pub(crate) unsafe fn submit_chain(
        &self,
        mut entries: Vec<squeue::Entry>,
        held: impl Fn(usize) -> T,
        stats: &Counters,
    ) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter_mut().enumerate() {
            let token = self.completions.insert(held(index), Completes::Once);
            *entry = entry.clone().user_data(token.bits());
            tokens.push(token);
        }
        // SAFETY: as in `submit`.
        unsafe { self.queue_unit(&entries, stats) };
        tokens
    }

    #[cfg(feature = "raw-sqe")]
    /// The number of entries of the queue.
    pub(crate) fn entries(&self) -> usize {
        self.ring.borrow().entries()
    }

    /// # Safety
    /// What the entry points to must stay valid until its last completion was reaped.
    pub(super) unsafe fn queue(&self, entry: squeue::Entry, stats: &Counters) {
        // SAFETY: the caller's promise.
        unsafe { self.queue_unit(std::slice::from_ref(&entry), stats) };
    }

    /// Queues entries that the kernel must get with one enter.
    ///
    /// # Safety
    /// As for `queue`, for each of them.
    #[inline(always)]
    unsafe fn queue_unit(&self, unit: &[squeue::Entry], stats: &Counters) {
        let mut ring = self.ring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() && unit.len() <= ring.room() {
            for entry in unit {
                // SAFETY: the caller's promise. There is room.
                let pushed = unsafe { ring.push(entry) };
                debug_assert!(pushed.is_ok());
            }
            return;
        }
        if ring.is_closed() {
            drop((ring, backlog));
            self.set_closed(false);
            // SAFETY: the caller's promise.
            unsafe { self.queue_unit_inside_outer_sleep(unit, stats) };
            return;
        }
        // The queue is full. The kernel takes what is there without a wait. Where it does not (the
        // CQ overflowed), the rest waits for the next turn, which reaps first.
        stats.syscalls_enter.bump();
        let _ = ring.enter(Some(0));
        // SAFETY: the caller's promise.
        unsafe { backlog.add(unit) };
        self.unfinished.set(true);
        backlog.flush(&mut ring);
    }

    /// An outer loop sleeps, or is about to. It will not enter, so its sleep is interrupted.
    ///
    /// # Safety
    /// As for `queue_unit`.
    #[cold]
    unsafe fn queue_unit_inside_outer_sleep(&self, unit: &[squeue::Entry], stats: &Counters) {
        // SAFETY: the caller's promise.
        unsafe { self.queue_unit(unit, stats) };
        self.agenda.nudge();
    }

    /// Returns true if there is more than the ring has room for.
    fn flush_backlog(&self, ring: &mut Ring) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return false;
        }
        backlog.flush(ring);
        let more = !backlog.is_empty();
        if more {
            self.unfinished.set(true);
        }
        more
    }

    fn queue_arming(&self, token: Token, state: &RingState) {
        state.arm.set(Arm::Queued);
        self.queue_token(token);
    }

    fn queue_token(&self, token: Token) {
        if self.is_down.get() {
            return;
        }
        self.queued.borrow_mut().push(token);
        self.unfinished.set(true);
    }

    /// Turns the queued handlers into SQEs, if there is room for all of them and nothing waits in
    /// front of them. Returns false if not.
    #[inline(never)]
    fn submit_queued(&self, ring: &mut Ring, sink: &impl Sink) -> bool {
        let mut queued = self.queued.borrow_mut();
        if !self.backlog.borrow().is_empty() || queued.len() > ring.room() {
            return false;
        }
        let live = sink.live();
        for token in &*queued {
            let Some(watched) = live.get(*token).map(AsRef::as_ref) else { continue };
            let Some(state) = state_of(watched) else { continue };
            let entry = match (state.arm.get(), watched.watch.get()) {
                (Arm::Queued, Watch::Level(interest)) => {
                    state.arm.set(Arm::Armed);
                    level_poll(watched, state, interest)
                }
                _ => match self.entry_for(watched, state, ring) {
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

    /// The same for any number of handlers. Returns true if something was collected on the way.
    fn arm_queued(&self, sink: &impl Sink) -> bool {
        if self.queued.borrow().is_empty() {
            return false;
        }
        let mut collected = false;
        let mut queued = self.queued.take();
        for token in queued.drain(..) {
            let mut ring = self.ring.borrow_mut();
            let live = sink.live();
            let Some(watched) = live.get(token).map(AsRef::as_ref) else { continue };
            let Some(entry) = state_of(watched).and_then(|state| self.entry_for(watched, state, &mut ring))
            else {
                continue;
            };
            let full = ring.room() == 0;
            drop((ring, live));
            if full {
                // Reap what is ready on the way. If the CQ overflowed, every multishot poll that
                // fires meanwhile would end, be armed again, be ready at once, and overflow it
                // again, turn after turn.
                collected |= self.enter_and_reap_once(Some(0), sink);
            }
            // SAFETY: the only pointer is into `reads`, whose entry stays until its completion (see
            // `Reads::complete`, and `shutdown` for a ring that is dropped).
            unsafe { self.queue(entry, sink.stats()) };
        }
        // Keeps the capacity. What completed on the way is armed by the next wait.
        let again = self.queued.replace(queued);
        self.queued.borrow_mut().extend(again);
        collected
    }

    /// Returns true if something was collected.
    fn enter_and_reap_once(&self, timeout: TimeoutNs, sink: &impl Sink) -> bool {
        let mut ring = self.ring.borrow_mut();
        let more = self.flush_backlog(&mut ring);
        sink.stats().syscalls_enter.bump();
        // An error here will also be the error of the next wait, which reports it.
        let _ = ring.enter(if more { Some(0) } else { timeout });
        self.reap(&mut ring, sink)
    }

    /// What a queued handler needs: its poll or read, or the cancellation of a poll that is to be
    /// replaced by another.
    fn entry_for(&self, watched: &Watched, state: &RingState, ring: &mut Ring) -> Option<squeue::Entry> {
        match state.arm.get() {
            Arm::Queued => Some(self.arm(watched, state, ring)),
            Arm::Ending => {
                state.arm.set(Arm::Changing);
                Some(cancellation(watched.token))
            }
            Arm::Idle | Arm::Armed | Arm::Changing => None,
        }
    }

    fn arm(&self, watched: &Watched, state: &RingState, ring: &mut Ring) -> squeue::Entry {
        let fd = types::Fd(watched.fd);
        state.arm.set(Arm::Armed);
        match watched.watch.get() {
            Watch::Level(interest) => level_poll(watched, state, interest),
            Watch::Edge => opcode::PollAdd::new(fd, libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(watched.token.bits()),
            // Without memory for the group, one-shot reads do the same with one SQE more for each
            // event.
            Watch::RingReadMultishot if self.reads.provide_counters(ring).is_ok() => {
                let (read, _) = self.start_read(watched, state);
                opcode::ReadMulti::new(fd, 0, COUNTER_GROUP).build().user_data(read.bits())
            }
            Watch::RingRead | Watch::RingReadMultishot => {
                let (read, count) = self.start_read(watched, state);
                opcode::Read::new(fd, count, 8).build().user_data(read.bits())
            }
        }
    }

    fn start_read(&self, watched: &Watched, state: &RingState) -> (Token, *mut u8) {
        let (key, token, count) = self.reads.start(state.read.get(), watched.token, watched.eventfd.as_ref());
        state.read.set(Some(key));
        (token, count)
    }

    /// Returns true if a wait would submit or find something. Looks at memory only.
    pub(crate) fn needs_wait(&self) -> bool {
        let look = self.ring.borrow_mut().look();
        look.unsubmitted != 0 || look.completions || self.unfinished.get()
    }

    /// Submits what is queued, without a sleep, for an outer loop that will sleep on the ring's
    /// descriptor. Returns true if something was collected.
    pub(crate) fn submit_queued_work(&self, sink: &impl Sink) -> io::Result<bool> {
        if !self.unfinished.get() && self.ring.borrow_mut().look().unsubmitted == 0 {
            return Ok(false);
        }
        self.wait_otherwise(Some(0), sink)
    }

    /// Makes the ring's descriptor readable until the next wait: with a completion that means
    /// nothing, and that is not reaped here.
    #[cold]
    pub(crate) fn make_readable(&self, stats: &Counters) {
        let internal = Token::new(Kind::Internal, 0, 0);
        // SAFETY: a NOP points to nothing.
        unsafe { self.queue(opcode::Nop::new().build().user_data(internal.bits()), stats) };
        stats.syscalls_enter.bump();
        // It fails if the CQ is full, and then the descriptor is readable.
        let _ = self.ring.borrow_mut().enter(Some(0));
    }

    /// While the queue is closed, the next SQE interrupts the sleep of an outer loop, and opens the
    /// queue.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.ring.borrow_mut().set_closed(closed);
    }

    /// The ring's descriptor. poll(2) reports it readable while there are completions, and their
    /// arrival ends a sleep in poll(2) and epoll_wait(2). Not so with DEFER_TASKRUN, as observed on
    /// Linux 6.18: completions wait for the next enter, and only a sleep in io_uring_enter(2) ends.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        let fd = self.ring.borrow().descriptor();
        // SAFETY: the ring, and with it its descriptor, lives as long as the monitor.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Returns true if `needs_wait` sees every completion.
    pub(crate) fn tells(&self) -> bool {
        self.ring.borrow().tells()
    }

    #[inline(always)]
    pub(crate) fn wait(&self, mut timeout: TimeoutNs, sink: &impl Sink) -> io::Result<bool> {
        // The usual turn: a sleep, with room for everything that is to be submitted.
        if timeout != Some(0) {
            let mut ring = self.ring.borrow_mut();
            let submitted = !self.unfinished.get() || self.submit_queued(&mut ring, sink);
            if submitted && !ring.any_came_unasked() {
                sink.stats().syscalls_enter.bump();
                match ring.enter(timeout).as_ref().map_err(io::Error::raw_os_error) {
                    Ok(0) | Err(Some(libc::ETIME | libc::EINTR)) => {
                        self.changed.set(false);
                        let collected = self.reap(&mut ring, sink);
                        if collected || !self.changed.get() {
                            return Ok(collected);
                        }
                        // As in `wait_otherwise`.
                        timeout = Some(0);
                    }
                    // Submitted in part, or not at all: the kernel did not sleep.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.wait_otherwise(timeout, sink)
    }

    #[inline(never)]
    fn wait_otherwise(&self, mut timeout: TimeoutNs, sink: &impl Sink) -> io::Result<bool> {
        loop {
            self.changed.set(false);
            self.unfinished.set(false);
            let collected = self.arm_queued(sink);
            let collected = self.enter_and_reap(timeout, sink, collected)?;
            if collected || !self.changed.get() {
                return Ok(collected);
            }
            // A poll ended only to be armed in another way, and its descriptor may be ready for
            // that now. Only look, because part of the timeout is over.
            timeout = Some(0);
        }
    }

    /// `collected`: there is something to dispatch already, so this must not sleep.
    fn enter_and_reap(&self, timeout: TimeoutNs, sink: &impl Sink, mut collected: bool) -> io::Result<bool> {
        loop {
            let mut ring = self.ring.borrow_mut();
            let more = self.flush_backlog(&mut ring);
            let look = ring.look();
            // No system call if completions are in memory and nothing is to be submitted, or if
            // this is only a look and memory shows that it would find nothing.
            let nothing_found = timeout == Some(0) && !look.completions && ring.tells();
            if look.unsubmitted == 0 && (look.reapable || collected || nothing_found) {
                break;
            }
            sink.stats().syscalls_enter.bump();
            let sleeps = !(look.reapable || collected || more);
            let entered = ring.enter(if sleeps { timeout } else { Some(0) });
            match entered.as_ref().map_err(io::Error::raw_os_error) {
                // There is more than fits; or it was taken in part (an entry was refused and
                // completed with its error, or memory is short). The kernel did not sleep, so go on
                // unless there is something to dispatch.
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

    /// Empties the completion queue. Returns true if there is something to dispatch.
    #[inline(always)]
    fn reap(&self, ring: &mut Ring, sink: &impl Sink) -> bool {
        let (live, mut collected) = (sink.live(), false);
        for cqe in ring.reap_all() {
            let token = Token::from_bits(cqe.user_data);
            collected |= match token.kind() {
                Kind::Handler => match live.get(token) {
                    Some(handler) => self.complete_poll(sink, handler, cqe),
                    None => {
                        // The end of a removed poll is expected; readiness that comes too late is
                        // stale.
                        sink.stats().stale.add(u64::from(cqe.result >= 0));
                        self.note_end(token, cqe.flags);
                        false
                    }
                },
                Kind::Read => {
                    self.note_end(token, cqe.flags);
                    self.complete_read(sink, token, cqe.result, cqe.flags)
                }
                Kind::Operation => self.completions.complete(token, cqe.result, cqe.flags, sink.stats()),
                Kind::Internal => {
                    if cqe.result < 0 {
                        self.bells.failed(token);
                    }
                    false
                }
            };
        }
        collected
    }

    /// For `cancel_now`: notes the last completion of what it cancelled.
    fn note_end(&self, token: Token, flags: u32) {
        if self.leaving.get() == Some(token) && !cqueue::more(flags) {
            self.leaving.set(None);
        }
    }

    #[inline(always)]
    fn complete_poll<S: Sink>(&self, sink: &S, handler: &S::Handler, cqe: Cqe) -> bool {
        let watched = handler.as_ref();
        if cqe.result < 0 {
            return self.poll_failed(sink, handler, cqe.result);
        }
        let readiness = Readiness::from_poll(cqe.result as u32);
        // One-shot; or a multishot poll that ended because the CQ overflowed. Armed again by the
        // next wait. A multishot poll then reports at once what it missed, because arming looks at
        // the level.
        let ended = !cqueue::more(cqe.flags);
        let is_level = matches!(watched.watch.get(), Watch::Level(_));
        if (is_level || ended)
            && let Some(state) = state_of(watched)
        {
            if is_level {
                self.note_half_close(watched.token, state, readiness);
            }
            if ended {
                self.queue_arming(watched.token, state);
            }
        }
        if !readiness.is_empty() {
            sink.mark(handler, readiness);
        }
        !readiness.is_empty()
    }

    #[cold]
    fn poll_failed<S: Sink>(&self, sink: &S, handler: &S::Handler, result: i32) -> bool {
        let Some(state) = state_of(handler.as_ref()) else { return false };
        if result == -libc::ECANCELED {
            // It was cancelled to change it.
            self.queue_arming(handler.as_ref().token, state);
            self.changed.set(true);
            return false;
        }
        // EBADF and the like: the descriptor was closed while it was registered. Reported once;
        // arming it again would report it for ever.
        state.arm.set(Arm::Idle);
        sink.mark(handler, Readiness::ERROR);
        true
    }

    /// POLL_ADD always asks for POLLRDHUP, too (IO_POLL_UNMASK in io_uring/poll.c). Once a socket's
    /// peer shut down its sending half, a one-shot poll for something else would end at once, for
    /// ever. So such a poll is made multishot, which ends only for what was asked for, and one-shot
    /// again, to report the level, while that lasts.
    fn note_half_close(&self, token: Token, state: &RingState, readiness: Readiness) {
        if readiness.is_empty() == state.half_closed.get() {
            return;
        }
        state.half_closed.set(readiness.is_empty());
        if readiness.is_empty() {
            self.changed.set(true);
        } else if state.arm.get() == Arm::Armed {
            state.arm.set(Arm::Ending);
            self.queue_token(token);
        }
    }

    #[inline(never)]
    fn complete_read(&self, sink: &impl Sink, token: Token, result: i32, flags: u32) -> bool {
        let live = sink.live();
        let done = self.reads.complete(token, result, flags, |handler| live.get(handler).is_some());
        let Some(ReadDone { handler, last }) = done else { return false };
        let Some(handler) = live.get(handler) else { return false };
        let Some(state) = state_of(handler.as_ref()) else { return false };
        if last {
            self.queue_arming(handler.as_ref().token, state);
        }
        match result {
            result if result > 0 => sink.mark(handler, Readiness::IN),
            // Nothing was read and nothing is lost: no buffer left (the count stays in the
            // eventfd), interrupted, or cancelled.
            result if [libc::ENOBUFS, libc::EINTR, libc::EAGAIN, libc::ECANCELED].contains(&-result) => {
                return false;
            }
            _ => {
                state.arm.set(Arm::Idle);
                sink.mark(handler, Readiness::ERROR);
            }
        }
        true
    }
}
