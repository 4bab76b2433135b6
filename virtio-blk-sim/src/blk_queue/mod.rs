//! One virtqueue of a block device on an event loop: doorbell in, requests to the backend, answers and interrupt out.
//!
//! ```text
//! kick ─► process: kicks off ─► pop, begin, submit ... ─► kicks on, look again ─► publish ─► irqfd
//!                     ▲               publish early            │ more came
//!                     └────────────────────────────────────────┘
//! ```
//!
//! Kicks stay off while the queue is drained, and for as long as the loop busy polls (`begin` .. `end`). One drain takes
//! at most as many chains as the queue has entries, or as the backend does at a time; if the guest has made more available
//! meanwhile, the rest waits for the next turn, so no guest can keep the other handlers of the loop from running. A queue that has used up its
//! [`RateLimit`] rests, kicks off, until a timer says that it may go on.

mod interrupt;
mod irqfd;
mod kick;
mod level;
mod rate_limit;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, BottomHalf, BusyPolled, Timer};

use crate::backend::{Backend, Engine};
use crate::device::{BlockDevice, FinishedRequest, Operation, RequestSlot, SECTOR_SIZE, Started};
use crate::virtqueue::{DeviceQueue, QueueError};
pub use interrupt::Interrupt;
pub(crate) use interrupt::set_nonblocking;
pub use irqfd::Irqfd;
pub use kick::{Doorbell, Kick};
pub use level::LevelLine;
pub use rate_limit::RateLimit;

/// What a queue did since it was made. Subtract two snapshots for an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Requests answered.
    pub requests: u64,
    /// Times the queue was looked at: kicks, busy-poll hits, and drains that went on in another turn.
    pub drains: u64,
    /// Interrupts: writes to the irqfd.
    pub interrupts: u64,
    /// System calls of the backend in the loop's thread ([`Engine::submit_calls`]).
    pub submits: u64,
}

impl std::ops::Sub for QueueStats {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            drains: self.drains.wrapping_sub(earlier.drains),
            interrupts: self.interrupts.wrapping_sub(earlier.interrupts),
            submits: self.submits.wrapping_sub(earlier.submits),
        }
    }
}

/// Notes of what is in flight, kept where they survive this process. None of the methods may block.
pub trait InFlightLog {
    /// The chain has been popped and is about to be carried out.
    fn popped(&mut self, head: u16);
    /// It is on the used ring, and not shown to the driver yet.
    fn pushed(&mut self, head: u16);
    /// Everything that was pushed has been shown; nothing has been popped or pushed since.
    fn published(&mut self);
}

/// What a former process left in flight, and where to note what comes.
pub struct InFlight {
    /// The notes.
    pub log: Box<dyn InFlightLog>,
    /// Heads that were taken and not answered, in the order of their taking: carried out before anything new.
    pub resubmit: Vec<u16>,
}

/// What a queue is made of.
pub struct QueueParts {
    /// The device that it belongs to.
    pub device: Arc<BlockDevice>,
    /// The device's half of the ring.
    pub queue: DeviceQueue,
    /// The disk.
    pub backend: Backend,
    /// The doorbell.
    pub kick: Kick,
    /// The interrupt line.
    pub interrupt: Interrupt,
    /// Tells the transport that the driver broke a rule, before the interrupt that makes the driver look.
    pub on_broken: Box<dyn Fn(QueueError)>,
    /// The limit that it shares with the device's other queues.
    pub limit: Option<Arc<RateLimit>>,
    /// For a transport whose queues survive a crash of this process.
    pub in_flight: Option<InFlight>,
    /// For a transport whose guest memory can be taken away: true once that has happened. Asked before each batch of
    /// answers; from then on the driver is told nothing more.
    pub memory_lost: Option<Box<dyn Fn() -> bool>>,
}

impl std::fmt::Debug for QueueParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueParts")
            .field("queue", &self.queue)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("resubmit", &self.resubmit).finish_non_exhaustive()
    }
}

/// A running queue. Home thread of its loop.
///
/// Dropping it detaches it from the loop. Requests that a backend still works on keep their hold on guest memory until
/// they are done; their answers are dropped.
pub struct BlkQueue {
    device: Arc<BlockDevice>,
    ring: RefCell<Ring>,
    engine: Engine,
    interrupt: RefCell<Interrupt>,
    on_broken: Box<dyn Fn(QueueError)>,
    limit: Option<Arc<RateLimit>>,
    memory_lost: Option<Box<dyn Fn() -> bool>>,
    /// The driver broke the rules: the queue is stopped, and this is the first rule.
    broken: Cell<Option<QueueError>>,
    /// Busy polling is on: kicks are off, and stay so.
    polling: Cell<bool>,
    /// The limit is used up: kicks are off, and stay so until `rest` is over.
    resting: Cell<bool>,
    stats: Cell<QueueStats>,
    /// Goes on with a drain that reached its bound.
    again: BottomHalf,
    /// Goes on with a drain that reached its limit.
    rest: Timer,
}

struct Ring {
    queue: DeviceQueue,
    /// Slots without a request; there are never more slots than entries in the queue.
    slots: Vec<RequestSlot>,
    log: Option<Box<dyn InFlightLog>>,
}

impl Ring {
    fn slot(&mut self) -> RequestSlot {
        self.slots.pop().unwrap_or_else(|| RequestSlot::new(self.queue.new_chain()))
    }
}

/// A queue and its doorbell. Dropping it stops the queue.
#[derive(Debug)]
#[must_use = "dropping an attachment stops the queue"]
pub struct Attached {
    queue: Rc<BlkQueue>,
    doorbell: Doorbell,
}

impl BlkQueue {
    /// Starts a queue on the loop of `context`: its kick is answered from now on, and what was made available before counts.
    ///
    /// # Errors
    /// What registering the doorbell or starting the backend says.
    pub fn attach(context: &AioContext, parts: QueueParts) -> io::Result<Attached> {
        let this: Rc<RefCell<Weak<Self>>> = Rc::default();
        let find = |this: &Rc<RefCell<Weak<Self>>>| {
            let this = Rc::clone(this);
            move || this.borrow().upgrade()
        };
        let queue = find(&this);
        let done = move |_: &AioContext, finished: &mut Vec<FinishedRequest>| match queue() {
            Some(queue) => queue.complete(finished),
            None => finished.clear(),
        };
        let engine = parts.backend.attach(context, Rc::new(done))?;
        let queue = find(&this);
        let again = context.bottom_half(move |context| {
            if let Some(queue) = queue() {
                queue.process(context);
            }
        });
        let queue = find(&this);
        let rest = context.timer(move |context| {
            if let Some(queue) = queue() {
                queue.resting.set(false);
                queue.process(context);
            }
        });
        let (log, resubmit) = parts.in_flight.map_or((None, Vec::new()), |f| (Some(f.log), f.resubmit));
        let queue = Rc::new(Self {
            device: parts.device,
            ring: RefCell::new(Ring { queue: parts.queue, slots: Vec::new(), log }),
            engine,
            interrupt: RefCell::new(parts.interrupt),
            on_broken: parts.on_broken,
            limit: parts.limit.filter(|limit| !limit.is_unlimited()),
            memory_lost: parts.memory_lost,
            broken: Cell::new(None),
            polling: Cell::new(false),
            resting: Cell::new(false),
            stats: Cell::default(),
            again,
            rest,
        });
        this.replace(Rc::downgrade(&queue));
        let doorbell = match &parts.kick {
            Kick::Plain(kick) => Doorbell::Plain(context.add_polled_notifier(kick, Rc::clone(&queue))?),
            Kick::Bounded(kick) => {
                let queue = Rc::clone(&queue);
                kick::answer(context, kick, move |context| queue.process(context))?
            }
        };
        if queue.ring.borrow().log.is_some() {
            // A process that was killed may have shown answers and not interrupted for them.
            queue.interrupt();
        }
        queue.resubmit(&resubmit);
        // The guest may have been told not to kick by whoever ran this queue before (virtio 1.2 section 2.7.10 leaves the
        // suppression as it is): look once without being asked.
        queue.again.schedule();
        Ok(Attached { queue, doorbell })
    }

    /// Carries out what a former process took and did not answer.
    fn resubmit(&self, heads: &[u16]) {
        let ring = &mut *self.ring.borrow_mut();
        for &head in heads {
            let mut slot = ring.slot();
            if let Err(error) = ring.queue.resubmit(head, slot.chain_mut()) {
                self.stop(error);
                break;
            }
            self.begin_request(ring, slot);
        }
        self.engine.commit();
        self.publish(ring);
    }

    /// The counters.
    pub fn stats(&self) -> QueueStats {
        QueueStats { submits: self.engine.submit_calls(), ..self.stats.get() }
    }

    /// Requests that were taken off the ring and not answered.
    pub fn in_flight(&self) -> u16 {
        self.ring.borrow().queue.in_flight()
    }

    /// The rule that the driver broke, if it did: the device needs a reset.
    pub fn broken(&self) -> Option<QueueError> {
        self.broken.get()
    }

    /// Gives the queue another interrupt line, and signals it: what was signalled on the old one may have gone unheard.
    pub fn set_interrupt(&self, interrupt: Interrupt) {
        self.interrupt.replace(interrupt);
        self.interrupt();
    }

    fn count(&self, change: impl FnOnce(&mut QueueStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// Takes up to a batch of chains off the ring. True if that bound was reached.
    fn drain(&self, ring: &mut Ring) -> Result<bool, QueueError> {
        let bound = ring.queue.size().min(self.engine.batch());
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
                let mut slot = ring.slot();
                match ring.queue.pop(slot.chain_mut()) {
                    Ok(true) => taken += 1,
                    other => {
                        ring.slots.push(slot);
                        other?;
                        break;
                    }
                }
                if let Some(log) = &mut ring.log {
                    log.popped(slot.chain_mut().head());
                }
                self.begin_request(ring, slot);
                self.publish_early(ring);
            }
            self.engine.commit();
            if taken >= bound {
                return Ok(true);
            }
            if !suppress || !ring.queue.enable_kicks() {
                return Ok(false);
            }
        }
    }

    /// Gives a popped chain to the backend, and answers it if that is done at once.
    #[inline]
    fn begin_request(&self, ring: &mut Ring, slot: RequestSlot) {
        let finished = match slot.begin(&self.device) {
            Started::Finished(finished) => {
                self.charge(0);
                Some(finished)
            }
            Started::Pending(request) => {
                if self.limit.is_some() {
                    self.charge(bytes(request.operation()));
                }
                self.engine.submit(request)
            }
        };
        if let Some(finished) = finished {
            self.answer(ring, finished);
        }
    }

    /// True if the limit is used up; the timer then goes on when it is not.
    fn must_rest(&self) -> bool {
        let Some(limit) = &self.limit else { return false };
        let wait_ns = limit.wait_ns(self.rest.now_ns());
        if wait_ns > 0 {
            self.resting.set(true);
            self.rest.arm_after(Duration::from_nanos(wait_ns));
        }
        wait_ns > 0
    }

    fn charge(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.charge(bytes, self.rest.now_ns());
        }
    }

    /// Puts one answer on the used ring, for [`publish`](Self::publish).
    #[inline]
    fn answer(&self, ring: &mut Ring, finished: FinishedRequest) {
        let (head, written) = (finished.head(), finished.written());
        ring.slots.push(finished.into_slot());
        // It was popped by this queue and has come back once, so it is in flight.
        let pushed = ring.queue.push(head, written);
        debug_assert_eq!(pushed, Ok(()));
        if let Some(log) = &mut ring.log
            && !ring.queue.is_broken()
        {
            log.pushed(head);
        }
        self.count(|stats| stats.requests += 1);
    }

    /// Shows the answers to the guest before all of the batch are there: when there are enough, and at once if it waits for
    /// any, since being woken takes it longer than the rest takes the device. The last are shown when kicks are on again: a
    /// guest that this wakes on the device's own CPU must be able to kick.
    #[inline]
    fn publish_early(&self, ring: &mut Ring) {
        let due = ring.queue.unpublished() >= SHOWN_AT_ONCE || ring.queue.driver_waits();
        if due && ring.queue.has_available() {
            self.publish(ring);
        }
    }

    /// Shows the answers to the guest.
    fn publish(&self, ring: &mut Ring) {
        if self.memory_lost.as_ref().is_some_and(|lost| lost()) {
            // What was read from there may be nothing that the guest ever wrote, and what was written has reached nobody.
            ring.queue.mark_broken();
            self.stop(QueueError::MemoryLost);
            return;
        }
        let wanted = ring.queue.publish();
        if let Some(log) = &mut ring.log
            && !ring.queue.is_broken()
        {
            log.published();
        }
        if wanted {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        if self.interrupt.borrow().signal() {
            self.count(|stats| stats.interrupts += 1);
        }
    }

    /// Takes what the backend has finished.
    fn complete(&self, finished: &mut Vec<FinishedRequest>) {
        let mut ring = self.ring.borrow_mut();
        for finished in finished.drain(..) {
            self.answer(&mut ring, finished);
        }
        self.publish(&mut ring);
    }

    /// Stops a queue whose driver broke the rules. The interrupt stands for the configuration change that tells the driver
    /// of DEVICE_NEEDS_RESET (virtio 1.2 section 2.1.2).
    fn stop(&self, error: QueueError) {
        if self.broken.replace(Some(error)).is_none() {
            (self.on_broken)(error);
            self.interrupt();
        }
    }
}

/// Answers shown at a time, should there be more: the guest takes the first while the device works on the last.
const SHOWN_AT_ONCE: u16 = 8;

/// What a limit on bytes counts: data that moves.
fn bytes(operation: &Operation) -> u64 {
    match operation {
        Operation::In { len, .. } | Operation::Out { len, .. } => *len,
        Operation::WriteZeroes { ranges, .. } => {
            ranges.iter().map(|range| u64::from(range.sectors) * SECTOR_SIZE).sum()
        }
        Operation::Flush | Operation::Discard(_) => 0,
    }
}

impl BusyPolled for BlkQueue {
    fn process(&self, _context: &AioContext) {
        if self.resting.get() {
            return;
        }
        self.count(|stats| stats.drains += 1);
        let mut ring = self.ring.borrow_mut();
        match self.drain(&mut ring) {
            Ok(false) => {}
            Ok(true) => self.again.schedule(),
            Err(QueueError::Broken) => {}
            Err(error) => self.stop(error),
        }
        self.publish(&mut ring);
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
        // What came meanwhile is found by the look that follows, or by whoever attaches the queue next.
        let _ = self.ring.borrow_mut().queue.enable_kicks();
    }
}

impl std::fmt::Debug for BlkQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlkQueue")
            .field("stats", &self.stats.get())
            .field("broken", &self.broken.get())
            .finish_non_exhaustive()
    }
}

impl Attached {
    /// The doorbell's registration: how it is reset, and why.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// Turns the loop until every request that was taken has been answered, and stops the queue: the doorbell goes first,
    /// so nothing new is taken, not even what the ring holds. Blocks for as long as the backend takes.
    ///
    /// # Errors
    /// What [`AioContext::poll`] says; the queue is stopped all the same, without waiting.
    pub fn stop(self, context: &AioContext) -> io::Result<Stopped> {
        let Self { queue, doorbell } = self;
        drop(doorbell);
        queue.again.cancel();
        queue.rest.cancel();
        while queue.in_flight() > 0 {
            context.poll(true)?;
        }
        let ring = queue.ring.borrow();
        Ok(Stopped {
            next_avail: ring.queue.next_avail(),
            next_used: ring.queue.next_used(),
            stats: queue.stats(),
        })
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

impl std::ops::Deref for Attached {
    type Target = BlkQueue;

    fn deref(&self) -> &BlkQueue {
        &self.queue
    }
}
