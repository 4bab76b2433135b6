//! One virtqueue on an event loop: doorbell in, chains to the worker, answers and interrupt out.
//!
//! Kicks stay off while the queue is drained, and for as long as the loop busy polls (`begin` ..
//! `end`). One drain takes at most as many chains as the queue has entries, or as the worker takes
//! in a batch, and few of those that are refused: to find that out can take longer than many good
//! ones. If the guest made more available meanwhile, the rest waits for the next turn, so no guest
//! can keep the other handlers of the loop from running. A queue that used up its
//! [`RateLimit`] rests, kicks off, until a timer continues it. One whose worker may not begin rests
//! until the worker wakes it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, BottomHalf, BusyPolled, Ringer, Timer};

use super::in_flight::{InFlight, InFlightLog};
use super::interrupt::Interrupt;
use super::kick::{self, Doorbell, Kick};
use super::no_kick::Looks;
use super::rate_limit::RateLimit;
use super::stats::QueueStats;
use super::worker::{Answer, Meter, Worker};
use crate::memory::GuestMemoryMmap;
use crate::virtqueue::{Chain, DeviceQueue, DirtyPages, MAX_CHAIN, QueueError};
use crate::waiters::Waiters;

/// The longest that a queue rests before it looks at its limit again: it may have been changed.
const LONGEST_REST_NS: u64 = 100_000_000;

/// The largest batch that is made because many requests are outstanding. Other handlers of the loop
/// wait for it, and a request can be large.
const LARGEST_BATCH: u16 = 32;

/// Descriptors that are read in vain, at most, before other handlers of the loop get their turn:
/// those of sixteen refused chains of the longest kind, each of them read twice, or of one if the
/// queue has more entries.
const READ_IN_VAIN: u32 = 16 * 2 * MAX_CHAIN as u32;

/// What a queue is made of, besides its worker.
pub struct QueueParts<M = GuestMemoryMmap> {
    /// The device's half of the ring.
    pub queue: DeviceQueue<M>,
    /// The doorbell.
    pub kick: Kick,
    /// The interrupt line.
    pub interrupt: Interrupt,
    /// Called when the driver broke a rule of the ring, before the interrupt that makes the driver
    /// look.
    pub on_broken: Box<dyn Fn(QueueError)>,
    /// The limit that it shares with the device's other queues. It can be changed at any time, but
    /// not set where there was none.
    pub limit: Option<Arc<RateLimit>>,
    /// For a transport whose queues survive a crash of this process.
    pub in_flight: Option<InFlight>,
    /// For a transport whose guest memory can be taken away: returns true once that happened. Asked
    /// before each batch of answers; from then on the driver gets no more answers.
    pub memory_lost: Option<Box<dyn Fn() -> bool>>,
}

impl<M> std::fmt::Debug for QueueParts<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueParts").field("kick", &self.kick).finish_non_exhaustive()
    }
}

/// A running queue. Home thread of its loop.
///
/// Dropping it detaches it from the loop. Chains that a worker still works on keep their hold on
/// guest memory until they are done; their answers are dropped.
pub struct Queue<W: Worker> {
    worker: W,
    ring: RefCell<Ring<W>>,
    interrupt: RefCell<Interrupt>,
    ringer: Ringer,
    on_broken: Box<dyn Fn(QueueError)>,
    limit: Option<Arc<RateLimit>>,
    /// The driver broke the rules: the queue is stopped, and this is the first rule.
    broken: Cell<Option<QueueError>>,
    /// Busy polling is on: kicks are off, and stay off.
    polling: Cell<bool>,
    /// The limit is used up, the worker may not begin, or waits for something else: kicks are off
    /// until that is over.
    resting: Cell<bool>,
    /// Nothing new is taken any more.
    stopping: Cell<bool>,
    /// Who waits for the end of what is in flight.
    idle: Waiters,
    stats: Cell<QueueStats>,
    /// Descriptors that may have been read in vain since a drain was ended because of that.
    in_vain: Cell<u32>,
    /// Continues a drain that reached its bound or panicked.
    again: BottomHalf,
    /// Continues a drain that reached its limit.
    rest: Timer,
}

struct Ring<W: Worker> {
    queue: DeviceQueue<W::Memory>,
    /// Heads that a former process did not answer and that have not begun. Taken from the end.
    resubmit: Vec<u16>,
    /// Slots without a chain; there are never more slots than entries in the queue.
    slots: Vec<W::Slot>,
    log: Option<Box<dyn InFlightLog>>,
    /// Asked before each batch of answers: is there a reason to look closer ([`Ring::failure`])?
    /// While there is no dirty log, this is [`QueueParts::memory_lost`] itself.
    suspect: Option<Box<dyn Fn() -> bool>>,
    /// [`QueueParts::memory_lost`] while there is a dirty log.
    memory_lost: Option<Box<dyn Fn() -> bool>>,
}

impl<W: Worker> Ring<W> {
    fn slot(&mut self, worker: &W) -> W::Slot {
        self.slots.pop().unwrap_or_else(|| worker.new_slot(self.queue.new_chain()))
    }

    /// Puts a chain in flight on the used ring, for [`Queue::publish`]. The log keeps the chain if
    /// the queue is broken, because a broken queue writes nothing to the used ring.
    #[inline]
    fn push(&mut self, chain: &Chain<W::Memory>, written: u32) {
        let pushed = self.queue.push_chain(chain, written);
        debug_assert_eq!(pushed, Ok(()));
        self.log_push(chain.head());
    }

    /// The same for a chain that is gone, with nothing written.
    #[cold]
    fn push_lost(&mut self, head: u16) {
        let pushed = self.queue.push_lost(head);
        debug_assert_eq!(pushed, Ok(()));
        self.log_push(head);
    }

    #[inline]
    fn log_push(&mut self, head: u16) {
        if let Some(log) = &mut self.log
            && !self.queue.is_broken()
        {
            log.pushed(head);
        }
    }

    /// Starts or ends the log of dirty pages, or replaces it.
    fn set_dirty_log(&mut self, pages: Option<DirtyPages>) {
        match (self.queue.has_dirty_log(), &pages) {
            (false, Some(_)) => {
                self.memory_lost = self.suspect.replace(Box::new(|| true));
            }
            (true, None) => self.suspect = self.memory_lost.take(),
            (false, None) | (true, Some(_)) => {}
        }
        self.queue.set_dirty_log(pages);
    }

    /// Returns why the driver must get no more answers. Called when `suspect` says so.
    #[cold]
    fn failure(&self) -> Option<QueueError> {
        if !self.queue.has_dirty_log() {
            return Some(QueueError::MemoryLost);
        }
        let lost = self.memory_lost.as_ref().is_some_and(|lost| lost());
        lost.then_some(QueueError::MemoryLost).or_else(|| self.queue.dirty_log_failure())
    }
}

/// A queue and its doorbell. Dropping it stops the queue.
#[must_use = "dropping an attachment stops the queue"]
pub struct Attached<W: Worker> {
    queue: Rc<Queue<W>>,
    doorbell: Doorbell,
}

impl<W: Worker> std::fmt::Debug for Attached<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("queue", &self.queue).field("doorbell", &self.doorbell).finish()
    }
}

impl<W: Worker> Queue<W> {
    /// Starts a queue on the loop of `context`: its kick is answered from now on, and what was made
    /// available before counts. `worker` makes the worker, which answers through the reference that
    /// it gets.
    ///
    /// # Errors
    /// What registering the doorbell or making the worker returns.
    pub fn attach(
        context: &AioContext,
        parts: QueueParts<W::Memory>,
        worker: impl FnOnce(QueueRef<W>) -> io::Result<W>,
    ) -> io::Result<Attached<W>> {
        let this = QueueRef(Rc::default());
        let worker = worker(this.clone())?;
        let queue = this.clone();
        let again = context.bottom_half(move |context| {
            if let Some(queue) = queue.get() {
                queue.process(context);
            }
        });
        let queue = this.clone();
        let rest = context.timer(move |context| {
            if let Some(queue) = queue.get() {
                queue.resting.set(false);
                queue.process(context);
            }
        });
        let (log, mut resubmit) = parts.in_flight.map_or((None, Vec::new()), |f| (Some(f.log), f.resubmit));
        resubmit.reverse();
        let waits = worker.waits();
        let (suspect, memory_lost) = match parts.queue.has_dirty_log() {
            true => (Some(Box::new(|| true) as Box<dyn Fn() -> bool>), parts.memory_lost),
            false => (parts.memory_lost, None),
        };
        let ring = Ring { queue: parts.queue, resubmit, slots: Vec::new(), log, suspect, memory_lost };
        let queue = Rc::new(Self {
            worker,
            ring: RefCell::new(ring),
            interrupt: RefCell::new(parts.interrupt),
            ringer: context.ringer(),
            on_broken: parts.on_broken,
            limit: parts.limit,
            broken: Cell::new(None),
            polling: Cell::new(false),
            resting: Cell::new(waits),
            stopping: Cell::new(false),
            idle: Waiters::default(),
            stats: Cell::default(),
            in_vain: Cell::new(0),
            again,
            rest,
        });
        this.0.replace(Rc::downgrade(&queue));
        let doorbell = match &parts.kick {
            Kick::Plain(kick) => Doorbell::Plain(context.add_polled_notifier(kick, Rc::clone(&queue))?),
            Kick::Bounded(kick) => {
                let queue = Rc::clone(&queue);
                kick::answer(context, kick, move |context| queue.process(context))?
            }
            Kick::Polled => {
                let queue = Rc::clone(&queue);
                Doorbell::Polled(Looks::start(context, move |context| {
                    let is_ready = queue.is_ready();
                    if is_ready {
                        queue.process(context);
                    }
                    is_ready
                }))
            }
        };
        if queue.ring.borrow().log.is_some() {
            // A process that was killed may have shown answers and not interrupted for them.
            queue.interrupt();
        }
        if !waits {
            queue.resubmit(&mut queue.ring.borrow_mut());
        }
        // The previous owner of this queue may have told the guest not to kick (virtio 1.2 section
        // 2.7.10 leaves the suppression as it is), so look once without a kick.
        queue.again.schedule();
        Ok(Attached { queue, doorbell })
    }

    /// Carries out what a former process took and did not answer, as far as the worker may begin,
    /// and at most as much as in a drain. What is left stays in the log, and is found there again
    /// should the queue stop before.
    #[cold]
    fn resubmit(&self, ring: &mut Ring<W>) {
        let mut is_last = false;
        for _ in 0..ring.queue.size().min(self.worker.batch()) {
            if is_last {
                break;
            }
            let Some(head) = ring.resubmit.pop() else { break };
            if !self.worker.may_begin() {
                ring.resubmit.push(head);
                self.resting.set(true);
                break;
            }
            let mut slot = ring.slot(&self.worker);
            let refused = match ring.queue.resubmit(head, W::chain(&mut slot)) {
                Ok(()) => None,
                Err(error) if error.is_of_one_chain() => {
                    is_last = self.was_in_vain(ring.queue.size());
                    Some(error)
                }
                Err(error) => {
                    self.stop(error);
                    ring.resubmit.clear();
                    break;
                }
            };
            self.begin_chain(ring, slot, refused);
        }
        self.commit(ring);
        self.publish(ring);
    }

    /// The counters.
    pub fn stats(&self) -> QueueStats {
        QueueStats { submits: self.worker.submit_calls(), stalls: self.worker.stalls(), ..self.stats.get() }
    }

    /// Requests that were taken off the ring and not answered.
    pub fn in_flight(&self) -> u16 {
        self.ring.borrow().queue.in_flight()
    }

    /// The rule that the driver broke, if it did: the device needs a reset.
    pub fn broken(&self) -> Option<QueueError> {
        self.broken.get()
    }

    /// Sets another interrupt line, and signals it: nobody may have seen the signals on
    /// the old one.
    pub fn set_interrupt(&self, interrupt: Interrupt) {
        self.interrupt.replace(interrupt);
        self.interrupt();
    }

    /// Records the guest pages that are written from now on, or with `None` does not record them
    /// any more: see [`DeviceQueue::set_dirty_log`]. The queue keeps running. If a page cannot be
    /// recorded, the queue stops with the reason ([`DeviceQueue::dirty_log_failure`]), before the
    /// driver sees the answer. Not inside a method of the worker, like [`QueueRef::answer`].
    pub fn set_dirty_log(&self, pages: Option<DirtyPages>) {
        self.ring.borrow_mut().set_dirty_log(pages);
    }

    fn count(&self, change: impl FnOnce(&mut QueueStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// Takes up to a batch of chains off the ring, and leaves the commit to the caller. Returns
    /// true if that bound was reached.
    fn drain(&self, ring: &mut Ring<W>) -> Result<bool, QueueError> {
        let bound = self.batch(ring);
        let suppress = !self.polling.get();
        let mut taken = 0;
        loop {
            if suppress {
                ring.queue.disable_kicks();
            }
            while taken < bound {
                if self.must_rest() {
                    return Ok(false);
                }
                let mut slot = ring.slot(&self.worker);
                let refused = match ring.queue.pop(W::chain(&mut slot)) {
                    Ok(true) => None,
                    Err(error) if error.is_of_one_chain() => {
                        if self.was_in_vain(ring.queue.size()) {
                            taken = bound.saturating_sub(1);
                        }
                        Some(error)
                    }
                    other => {
                        ring.slots.push(slot);
                        other?;
                        break;
                    }
                };
                taken += 1;
                if let Some(log) = &mut ring.log {
                    log.popped(W::chain(&mut slot).head());
                }
                self.begin_chain(ring, slot, refused);
                self.publish_early(ring);
            }
            if taken >= bound {
                return Ok(true);
            }
            if !suppress || !ring.queue.enable_kicks() {
                return Ok(false);
            }
        }
    }

    /// Counts a chain that is refused. Returns true if it is the last of this turn.
    #[cold]
    fn was_in_vain(&self, size: u16) -> bool {
        let descriptors = self.in_vain.get() + 2 * u32::from(size.max(MAX_CHAIN));
        let is_last = descriptors >= READ_IN_VAIN;
        self.in_vain.set(if is_last { 0 } else { descriptors });
        is_last
    }

    /// How many chains are taken before the worker commits them. The worker's batch is small, so
    /// that the first request does not wait for many others. A driver with many requests
    /// outstanding waits for all of them in any case, so half of those are one batch: each commit
    /// is a system call, and the driver works on one half while the device works on the other.
    #[inline]
    fn batch(&self, ring: &Ring<W>) -> u16 {
        let (batch, size) = (self.worker.batch(), ring.queue.size());
        if batch >= size {
            size
        } else {
            batch.max((ring.queue.outstanding() / 2).min(LARGEST_BATCH)).min(size)
        }
    }

    /// Passes a popped chain to the worker, and answers it if that is done at once. `refused` is
    /// the reason why the chain cannot be served, if it cannot.
    #[inline]
    fn begin_chain(&self, ring: &mut Ring<W>, slot: W::Slot, refused: Option<QueueError>) {
        let meter = Meter { limit: self.limit.as_deref(), clock: &self.rest };
        let mut slot = slot;
        let head = W::chain(&mut slot).head();
        let lost = Lost { ring, head };
        let answer = match refused {
            None => self.worker.begin(slot, meter),
            Some(error) => {
                meter.charge(|| 0);
                Some(self.worker.refuse(slot, error))
            }
        };
        std::mem::forget(lost);
        if let Some(answer) = answer {
            self.answer(ring, answer);
        }
    }

    /// Returns true if nothing may be taken now. If the limit is used up, the timer continues when
    /// it is not; if the worker may not begin, it wakes the queue.
    fn must_rest(&self) -> bool {
        if !self.worker.may_begin() {
            self.resting.set(true);
            return true;
        }
        let Some(limit) = self.limit.as_deref().filter(|limit| !limit.is_unlimited()) else { return false };
        let wait_ns = limit.wait_ns(self.rest.now_ns()).min(LONGEST_REST_NS);
        if wait_ns > 0 {
            self.resting.set(true);
            self.rest.arm_after(Duration::from_nanos(wait_ns));
        }
        wait_ns > 0
    }

    /// Ends a batch.
    #[inline(always)]
    fn commit(&self, ring: &mut Ring<W>) {
        if self.worker.collects() {
            self.commit_collected(ring);
        }
    }

    #[inline(never)]
    fn commit_collected(&self, ring: &mut Ring<W>) {
        self.worker.commit(|answer| self.answer(ring, answer));
    }

    /// Puts one answer on the used ring, for [`publish`](Self::publish).
    #[inline]
    fn answer(&self, ring: &mut Ring<W>, answer: Answer<W::Slot>) {
        let Answer { mut slot, written } = answer;
        ring.push(W::chain(&mut slot), written);
        ring.slots.push(slot);
        self.count(|stats| stats.requests += 1);
    }

    /// Shows answers to the guest before the batch is complete: when there are enough of them, or
    /// at once if the guest waits for any, because waking up takes the guest longer than the rest
    /// of the batch takes the device. The last answers are shown when kicks are on again: a guest
    /// that this wakes on the device's own CPU must be able to kick.
    #[inline]
    fn publish_early(&self, ring: &mut Ring<W>) {
        let due = ring.queue.unpublished() >= SHOWN_AT_ONCE || ring.queue.driver_waits();
        if due && ring.queue.has_available() {
            self.publish(ring);
        }
    }

    /// Shows the answers to the guest, and interrupts it at once if it asked for that.
    fn publish(&self, ring: &mut Ring<W>) {
        if self.show(ring) {
            self.interrupt();
        }
    }

    /// The same at the end of what the queue does in this turn. The interrupt may ride on the
    /// system call in which the loop sleeps, which comes next.
    fn publish_last(&self, ring: &mut Ring<W>) {
        let shown = ring.queue.unpublished();
        if !self.show(ring) {
            return;
        }
        // A driver that has waited for this one answer makes nothing available before it is awake.
        let rests = shown == 1 && ring.queue.in_flight() == 0 && !ring.queue.has_available();
        if self.stopping.get() {
            self.interrupt();
        } else if self.interrupt.borrow().signal_with(&self.ringer, rests) {
            self.count(|stats| stats.interrupts += 1);
        }
    }

    /// Shows the answers to the guest. Returns true if it asked for an interrupt.
    fn show(&self, ring: &mut Ring<W>) -> bool {
        if ring.suspect.as_ref().is_some_and(|suspect| suspect())
            && let Some(error) = ring.failure()
        {
            // What was read may not be what the guest wrote, and what was written may reach nobody.
            ring.queue.mark_broken();
            self.stop(error);
            return false;
        }
        let wanted = ring.queue.publish();
        if let Some(log) = &mut ring.log
            && !ring.queue.is_broken()
        {
            log.published();
        }
        wanted
    }

    fn interrupt(&self) {
        if self.interrupt.borrow().signal() {
            self.count(|stats| stats.interrupts += 1);
        }
    }

    /// Stops a queue whose driver broke the rules. The interrupt stands for the configuration
    /// change that reports DEVICE_NEEDS_RESET to the driver (virtio 1.2 section 2.1.2).
    fn stop(&self, error: QueueError) {
        if self.broken.replace(Some(error)).is_none() {
            (self.on_broken)(error);
            self.interrupt();
        }
    }
}

impl<W: Worker> Drop for Queue<W> {
    fn drop(&mut self) {
        self.worker.ended(self.stats());
    }
}

/// How many answers are shown together if more follow: the guest handles the first ones while the
/// device works on the others.
const SHOWN_AT_ONCE: u16 = 8;

/// A chain that its worker is about to begin. Dropped only if the worker panics: then the chain is
/// returned with nothing written, so that it is not in flight for ever.
struct Lost<'a, W: Worker> {
    ring: &'a mut Ring<W>,
    head: u16,
}

impl<W: Worker> Drop for Lost<'_, W> {
    fn drop(&mut self) {
        self.ring.push_lost(self.head);
    }
}

/// Continues a drain in the next turn if it unwinds. That also commits the chains that were begun,
/// shows the answers that were not shown, and switches kicks on.
struct Continue<'a, W: Worker>(&'a Queue<W>);

impl<W: Worker> Drop for Continue<'_, W> {
    fn drop(&mut self) {
        // If the queue had to rest, the next drain finds that out again.
        self.0.resting.set(false);
        self.0.again.schedule();
    }
}

/// Tells those who wait for the last answer that there were answers, also if showing them unwinds.
struct Answered<'a, W: Worker>(&'a Queue<W>);

impl<W: Worker> Drop for Answered<'_, W> {
    fn drop(&mut self) {
        if self.0.stopping.get() {
            self.0.idle.wake();
        }
    }
}

/// A queue as its worker sees it. Does nothing once the queue is gone.
pub struct QueueRef<W: Worker>(Rc<RefCell<Weak<Queue<W>>>>);

impl<W: Worker> QueueRef<W> {
    fn get(&self) -> Option<Rc<Queue<W>>> {
        self.0.borrow().upgrade()
    }

    /// The counters; `None` once the queue is gone. May be called in any method of the worker.
    pub fn stats(&self) -> Option<QueueStats> {
        self.get().map(|queue| queue.stats())
    }

    /// Answers chains that the worker kept, each of them once. They are shown to the guest with one
    /// store and one interrupt at most, so answers that are ready at the same time should be passed
    /// in one call. Not inside [`begin`](Worker::begin), [`commit`](Worker::commit),
    /// [`may_begin`](Worker::may_begin) or [`new_slot`](Worker::new_slot), which run while the ring
    /// is in use.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer<W::Slot>>) {
        let Some(queue) = self.get() else { return };
        // Before the ring, so it is dropped after it.
        let _answered = Answered(&queue);
        let mut ring = queue.ring.borrow_mut();
        for answer in answers {
            queue.answer(&mut ring, answer);
        }
        queue.publish_last(&mut ring);
    }

    /// To call when [`Worker::may_begin`] has become true, or what the worker waits for is there
    /// ([`Worker::waits`]): looks at the ring in the next turn.
    /// Calls while the queue is not waiting for the worker have no effect. To call it from another
    /// thread, or from a callback that outlives the queue, schedule a [`BottomHalf`] that calls it.
    pub fn wake(&self) {
        if let Some(queue) = self.get()
            && queue.resting.replace(false)
        {
            queue.again.schedule();
        }
    }
}

impl<W: Worker> Clone for QueueRef<W> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<W: Worker> std::fmt::Debug for QueueRef<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("QueueRef").field(&self.get()).finish()
    }
}

impl<W: Worker> BusyPolled for Queue<W> {
    fn process(&self, _context: &AioContext) {
        if self.resting.get() {
            return;
        }
        self.count(|stats| stats.drains += 1);
        let unwound = Continue(self);
        let mut ring = self.ring.borrow_mut();
        if !ring.resubmit.is_empty() {
            self.resubmit(&mut ring);
            if !self.resting.get() {
                self.again.schedule();
            }
            return std::mem::forget(unwound);
        }
        let drained = self.drain(&mut ring);
        // Whatever ended the drain, the chains before that have begun.
        self.commit(&mut ring);
        match drained {
            Ok(false) => {}
            Ok(true) => self.again.schedule(),
            Err(QueueError::Broken) => {}
            Err(error) => self.stop(error),
        }
        self.publish_last(&mut ring);
        std::mem::forget(unwound);
    }

    fn is_ready(&self) -> bool {
        !self.resting.get() && self.ring.borrow().queue.has_available()
    }

    fn begin(&self) {
        self.polling.set(true);
        self.ring.borrow_mut().queue.disable_kicks();
    }

    fn end(&self) {
        self.polling.set(false);
        if self.resting.get() {
            return;
        }
        // What came meanwhile is found by the look that follows, or by whoever attaches the queue
        // next.
        let _ = self.ring.borrow_mut().queue.enable_kicks();
    }
}

impl<W: Worker> std::fmt::Debug for Queue<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("stats", &self.stats.get())
            .field("broken", &self.broken.get())
            .finish_non_exhaustive()
    }
}

impl<W: Worker> Attached<W> {
    /// The doorbell's registration: how it is reset, and why.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Stops the queue and waits until every request that was taken has been answered: the doorbell
    /// goes in this call, so nothing new is taken, not even what the ring holds. Takes as long as
    /// the backend does. If the future is dropped, the rest of the answers is dropped, too.
    pub fn stopped(self) -> impl Future<Output = Stopped> + 'static {
        let Self { queue, doorbell } = self;
        drop(doorbell);
        queue.again.cancel();
        queue.rest.cancel();
        // From here on a wake-up does nothing, or the queue would take chains while it waits for
        // the last.
        queue.resting.set(false);
        queue.stopping.set(true);
        // If the worker has panicked, some chains may not be committed and some answers not shown.
        let mut ring = queue.ring.borrow_mut();
        queue.commit(&mut ring);
        if ring.queue.unpublished() > 0 {
            queue.publish(&mut ring);
        }
        drop(ring);
        async move {
            queue.idle.until(|| (queue.in_flight() == 0).then_some(())).await;
            let ring = queue.ring.borrow();
            Stopped {
                next_avail: ring.queue.next_avail(),
                next_used: ring.queue.next_used(),
                stats: queue.stats(),
            }
        }
    }

    /// Like [`stopped`](Self::stopped), and turns the loop meanwhile.
    ///
    /// # Errors
    /// What [`AioContext::block_on`] says; the queue is stopped all the same, without waiting.
    pub fn stop(self, context: &AioContext) -> io::Result<Stopped> {
        context.block_on(self.stopped())
    }
}

/// What a stopped queue leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Index of the next chain to pop.
    pub next_avail: u16,
    /// Index of the next used entry to write; the same, unless the driver broke the queue.
    pub next_used: u16,
    /// The counters.
    pub stats: QueueStats,
}

impl<W: Worker> std::ops::Deref for Attached<W> {
    type Target = Queue<W>;

    fn deref(&self) -> &Queue<W> {
        &self.queue
    }
}
