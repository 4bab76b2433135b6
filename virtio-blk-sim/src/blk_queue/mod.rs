//! One virtqueue of a block device on an event loop: doorbell in, requests to the backend, answers and interrupt out.
//!
//! ```text
//! kick ─► process: kicks off ─► pop, begin, submit ... ─► kicks on, look again ─► publish ─► irqfd
//!                     ▲                                        │ more came
//!                     └────────────────────────────────────────┘
//! ```
//!
//! Kicks stay off while the queue is drained, and for as long as the loop busy polls (`begin` .. `end`). One drain takes
//! at most as many chains as the queue has entries; if the guest has made more available meanwhile, the rest waits for the
//! next turn, so no guest can keep the other handlers of the loop from running.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aio::{AioContext, BottomHalf, BusyPolled, EventNotifier, NotifierRegistration};

use super::{BlockDevice, FinishedRequest, RequestSlot, Started};
use crate::backend::{Backend, Engine};
use crate::transport::Irqfd;
use crate::virtqueue::{DeviceQueue, QueueError};

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
}

impl std::ops::Sub for QueueStats {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            drains: self.drains.wrapping_sub(earlier.drains),
            interrupts: self.interrupts.wrapping_sub(earlier.interrupts),
        }
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
    irq: Irqfd,
    on_broken: Box<OnBroken>,
    /// The driver broke the rules: the queue is stopped, and this is the first rule.
    broken: Cell<Option<QueueError>>,
    /// Busy polling is on: kicks are off, and stay so.
    polling: Cell<bool>,
    stats: Cell<QueueStats>,
    /// Goes on with a drain that reached its bound.
    again: BottomHalf,
}

/// Tells the transport that the driver broke a rule, before the interrupt that makes the driver look.
pub type OnBroken = dyn Fn(QueueError);

struct Ring {
    queue: DeviceQueue,
    /// Slots without a request; there are never more slots than entries in the queue.
    slots: Vec<RequestSlot>,
}

/// A queue and its doorbell. Dropping it stops the queue.
#[derive(Debug)]
#[must_use = "dropping an attachment stops the queue"]
pub struct Attached {
    queue: Rc<BlkQueue>,
    doorbell: NotifierRegistration,
}

impl BlkQueue {
    /// Starts a queue on the loop of `context`: `kick` is answered from now on, and what was made available before counts.
    ///
    /// # Errors
    /// What registering the doorbell or starting the backend says.
    pub fn attach(
        context: &AioContext,
        device: Arc<BlockDevice>,
        queue: DeviceQueue,
        backend: Backend,
        kick: &EventNotifier,
        irq: Irqfd,
        on_broken: Box<OnBroken>,
    ) -> io::Result<Attached> {
        let this: Rc<RefCell<Weak<Self>>> = Rc::default();
        let of_engine = Rc::clone(&this);
        let engine = backend.attach(
            context,
            Rc::new(move |_: &AioContext, finished: &mut Vec<FinishedRequest>| {
                match of_engine.borrow().upgrade() {
                    Some(queue) => queue.complete(finished),
                    None => finished.clear(),
                }
            }),
        )?;
        let of_again = Rc::clone(&this);
        let again = context.bottom_half(move |context| {
            let queue = of_again.borrow().upgrade();
            if let Some(queue) = queue {
                queue.process(context);
            }
        });
        let queue = Rc::new(Self {
            device,
            ring: RefCell::new(Ring {
                queue,
                slots: Vec::new(),
            }),
            engine,
            irq,
            on_broken,
            broken: Cell::new(None),
            polling: Cell::new(false),
            stats: Cell::default(),
            again,
        });
        this.replace(Rc::downgrade(&queue));
        let doorbell = context.add_polled_notifier(kick, Rc::clone(&queue))?;
        // The guest may have been told not to kick by whoever ran this queue before (virtio 1.2 section 2.7.10 leaves the
        // suppression as it is): look once without being asked.
        queue.again.schedule();
        Ok(Attached { queue, doorbell })
    }

    /// The counters.
    pub fn stats(&self) -> QueueStats {
        self.stats.get()
    }

    /// Requests that were taken off the ring and not answered.
    pub fn in_flight(&self) -> u16 {
        self.ring.borrow().queue.in_flight()
    }

    /// The rule that the driver broke, if it did: the device needs a reset.
    pub fn broken(&self) -> Option<QueueError> {
        self.broken.get()
    }

    fn count(&self, change: impl FnOnce(&mut QueueStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// Takes up to a queue of chains off the ring. True if that bound was reached.
    fn drain(&self, ring: &mut Ring) -> Result<bool, QueueError> {
        let bound = ring.queue.size();
        let suppress = !self.polling.get();
        let mut taken = 0;
        loop {
            if suppress {
                ring.queue.disable_kicks();
            }
            while taken < bound {
                let mut slot = ring
                    .slots
                    .pop()
                    .unwrap_or_else(|| RequestSlot::new(ring.queue.new_chain()));
                match ring.queue.pop(slot.chain_mut()) {
                    Ok(true) => taken += 1,
                    other => {
                        ring.slots.push(slot);
                        other?;
                        break;
                    }
                }
                let finished = match slot.begin(&self.device) {
                    Started::Finished(finished) => Some(finished),
                    Started::Pending(request) => self.engine.submit(request),
                };
                if let Some(finished) = finished {
                    self.answer(ring, finished);
                }
            }
            if taken >= bound {
                return Ok(true);
            }
            if !suppress || !ring.queue.enable_kicks() {
                return Ok(false);
            }
        }
    }

    /// Puts one answer on the used ring, for [`publish`](Self::publish).
    fn answer(&self, ring: &mut Ring, finished: FinishedRequest) {
        let (head, written) = (finished.head(), finished.written());
        ring.slots.push(finished.into_slot());
        // It was popped by this queue and has come back once, so it is in flight.
        let pushed = ring.queue.push(head, written);
        debug_assert_eq!(pushed, Ok(()));
        self.count(|stats| stats.requests += 1);
    }

    /// Shows the answers to the guest.
    fn publish(&self, ring: &mut Ring) {
        if ring.queue.publish() {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        self.count(|stats| stats.interrupts += 1);
        self.irq.signal();
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

impl BusyPolled for BlkQueue {
    fn process(&self, _context: &AioContext) {
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
        self.ring.borrow().queue.has_available()
    }

    fn begin(&self) {
        self.polling.set(true);
        self.ring.borrow_mut().queue.disable_kicks();
    }

    fn end(&self) {
        self.polling.set(false);
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
    pub fn doorbell(&self) -> &NotifierRegistration {
        &self.doorbell
    }

    /// Turns the loop until every request that was taken has been answered, and stops the queue: the doorbell goes first,
    /// so nothing new is taken, not even what the ring holds. Blocks for as long as the backend takes.
    ///
    /// # Errors
    /// What [`AioContext::poll`] says; the queue is stopped all the same, without waiting.
    pub fn stop(self, context: &AioContext) -> io::Result<QueueStats> {
        let Self { queue, doorbell } = self;
        drop(doorbell);
        queue.again.cancel();
        while queue.in_flight() > 0 {
            context.poll(true)?;
        }
        Ok(queue.stats())
    }
}

impl std::ops::Deref for Attached {
    type Target = BlkQueue;

    fn deref(&self) -> &BlkQueue {
        &self.queue
    }
}
