//! A queue whose worker may not begin, and one whose worker keeps chains.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio::{AioContext, BottomHalf, BusyPolled, BusyPolling, EventNotifier, Reset};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::GuestRam;
use crate::virtqueue::{Chain, DeviceQueue, DriverQueue, QueueConfig, QueueError};

const SIZE: u16 = 8;
const BUFFER: GuestAddress = GuestAddress(0x8000);

/// Answers each chain with `tokens` left at once, and takes a token for it.
#[derive(Debug, Default)]
struct Tokens {
    left: Cell<u32>,
    handled: Cell<u32>,
}

impl Handled for Tokens {
    fn handle(&self, _: &Chain) -> u32 {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.expect("a chain is taken only if the worker may begin"));
        self.handled.set(self.handled.get() + 1);
        self.handled.get()
    }

    fn may_begin(&self) -> bool {
        self.left.get() > 0
    }
}

/// A queue, both halves of it, and its loop.
struct Rig {
    context: AioContext,
    driver: DriverQueue,
    kick: EventNotifier,
    tokens: Rc<Tokens>,
    wake: QueueRef<Immediate<Tokens>>,
    attached: Attached<Immediate<Tokens>>,
}

/// What a queue has beside its ring.
#[derive(Default)]
struct Setup {
    event_idx: bool,
    limit: Option<Arc<RateLimit>>,
    in_flight: Option<InFlight>,
    busy: Option<BusyPolling>,
}

impl Rig {
    fn new(setup: Setup) -> Self {
        Self::with_chains(setup, 0)
    }

    /// `chains` were made available before the queue started.
    fn with_chains(setup: Setup, chains: u16) -> Self {
        let Setup { event_idx, limit, in_flight, busy } = setup;
        let context = AioContext::builder().busy_polling(busy.unwrap_or(BusyPolling::OFF)).build().unwrap();
        let ram = GuestRam::new(0x1_0000).unwrap();
        let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(0), SIZE) };
        let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
        for _ in 0..chains {
            driver.add(&[], &[(BUFFER, 16)]).unwrap().unwrap();
        }
        let _ = driver.publish();
        // What was in flight was taken off the ring by the former process.
        let taken = in_flight.as_ref().map_or(0, |in_flight| in_flight.resubmit.len() as u16);
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let parts = QueueParts {
            queue: DeviceQueue::resume(ram.memory().clone(), config, taken, 0).unwrap(),
            kick: kick.clone().into(),
            interrupt: Interrupt::None,
            on_broken: Box::new(|error| panic!("{error}")),
            limit,
            in_flight,
            memory_lost: None,
        };
        let tokens = Rc::<Tokens>::default();
        let (handler, mut wake) = (Rc::clone(&tokens), None);
        let attached = Queue::attach(&context, parts, |queue| {
            wake = Some(queue);
            Ok(Immediate::new(handler))
        })
        .unwrap();
        let mut rig = Self { context, driver, kick, tokens, wake: wake.unwrap(), attached };
        rig.settle();
        rig
    }

    /// Turns the loop until nothing is left to do.
    fn settle(&mut self) {
        while self.context.poll(false).unwrap() {}
    }

    /// Makes chains available; returns whether the device wants a kick, which it then gets.
    fn post(&mut self, chains: u16) -> bool {
        for _ in 0..chains {
            self.driver.add(&[], &[(BUFFER, 16)]).unwrap().unwrap();
        }
        let wanted = self.driver.publish();
        if wanted {
            self.kick.notify().unwrap();
        }
        self.settle();
        wanted
    }

    /// Lets the worker begin so many more chains.
    fn grant(&mut self, tokens: u32) {
        self.tokens.left.set(self.tokens.left.get() + tokens);
        self.wake.wake();
        self.settle();
    }

    /// Takes the answers; returns how many there are.
    fn answers(&mut self) -> usize {
        std::iter::from_fn(|| self.driver.pop_used().unwrap()).count()
    }

    /// Turns the loop until the condition holds.
    fn turn_until(&self, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "the loop makes no progress");
            self.context.poll(true).unwrap();
        }
    }
}

fn both(test: impl Fn(bool)) {
    [false, true].into_iter().for_each(test);
}

#[test]
fn nothing_is_popped_while_the_worker_may_not_begin() {
    both(|event_idx| {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        rig.post(3);
        assert_eq!((rig.attached.in_flight(), rig.answers()), (0, 0));
        rig.grant(2);
        assert_eq!(rig.answers(), 2);
        rig.grant(5);
        assert_eq!(rig.answers(), 1);
        assert_eq!(rig.tokens.left.get(), 4, "no token is taken for a chain that is not there");
    });
}

#[test]
fn kicks_are_off_while_the_worker_may_not_begin_and_on_when_it_waits_for_the_guest() {
    both(|event_idx| {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        assert!(!rig.post(1), "it waits for the worker");
        assert!(!rig.post(1), "it waits for the worker");
        let drains = rig.attached.stats().drains;
        // A guest that kicks nevertheless.
        for _ in 0..10 {
            rig.kick.notify().unwrap();
            rig.settle();
        }
        assert_eq!(rig.attached.stats().drains, drains, "a queue that rests does not look at its ring");
        rig.grant(3);
        assert_eq!(rig.answers(), 2);
        assert!(rig.post(1), "it waits for the guest");
        assert_eq!(rig.answers(), 1);
        assert!(!rig.post(1), "it waits for the worker again");
    });
}

#[test]
fn a_wake_up_that_changes_nothing_does_no_harm() {
    let mut rig = Rig::new(Setup::default());
    for _ in 0..3 {
        rig.grant(0);
    }
    rig.post(1);
    rig.grant(0);
    assert_eq!(rig.answers(), 0);
    rig.grant(1);
    assert_eq!(rig.answers(), 1);
    // And one that nobody waits for.
    rig.grant(1);
    let drains = rig.attached.stats().drains;
    rig.grant(1);
    assert_eq!(rig.attached.stats().drains, drains);
}

#[test]
fn a_loop_that_busy_polls_sleeps_while_the_worker_may_not_begin() {
    both(|event_idx| {
        let busy = Some(BusyPolling::up_to_ns(1_000_000));
        let mut rig = Rig::new(Setup { event_idx, busy, ..Setup::default() });
        rig.post(2);
        let (drains, handle) = (rig.attached.stats().drains, rig.context.handle());
        assert!(!rig.attached.is_ready(), "there is nothing to find in the ring");
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            handle.notify();
        });
        rig.context.poll(true).unwrap();
        waker.join().unwrap();
        assert!(rig.attached.stats().drains - drains <= 1, "it does not drain over and over");
        // Polling begins and ends, and the kicks stay off.
        rig.attached.begin();
        rig.attached.end();
        assert!(!rig.post(1));
        rig.grant(3);
        assert_eq!(rig.answers(), 3);
        rig.grant(1);
        rig.post(1);
        assert_eq!(rig.answers(), 1, "found by looking at the ring, or by the kick");
    });
}

#[test]
fn a_queue_that_rests_stops_at_once_and_goes_on_where_it_was() {
    both(|event_idx| {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::default() });
        rig.post(3);
        rig.grant(1);
        let Rig { context, attached, wake, .. } = rig;
        let stopped = attached.stop(&context).unwrap();
        assert_eq!((stopped.next_avail, stopped.next_used), (1, 1), "event_idx {event_idx}");
        // Does nothing: the queue is gone.
        wake.wake();
        while context.poll(false).unwrap() {}
    });
}

#[test]
fn the_limits_timer_does_not_begin_what_the_worker_may_not() {
    both(|event_idx| {
        // A request at once, and another each tenth of a second.
        let limit = Some(Arc::new(RateLimit::new(Some(10), None)));
        let mut rig = Rig::new(Setup { event_idx, limit, ..Setup::default() });
        rig.post(6);
        rig.tokens.left.set(2);
        rig.wake.wake();
        // `settle` would not sleep until the timer.
        rig.turn_until(|rig| rig.tokens.handled.get() == 2);
        // The limit is used up and no token is left. Whatever ends first, the other still holds.
        std::thread::sleep(Duration::from_millis(250));
        rig.settle();
        assert_eq!(rig.tokens.handled.get(), 2, "the timer must not begin a chain");
        rig.tokens.left.set(4);
        rig.wake.wake();
        rig.wake.wake();
        rig.settle();
        let handled = rig.tokens.handled.get();
        // After the pause two may go at once.
        assert!(handled < 6, "a wake-up must not overrule the limit");
        assert!(!rig.post(1), "kicks are off");
        rig.turn_until(|rig| rig.tokens.handled.get() == 6);
        assert_eq!(rig.answers(), 6);
    });
}

/// A log that remembers the heads that are in flight.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<u16>>>);

impl InFlightLog for Log {
    fn popped(&mut self, head: u16) {
        self.0.borrow_mut().push(head);
    }

    fn pushed(&mut self, head: u16) {
        self.0.borrow_mut().retain(|&other| other != head);
    }

    fn published(&mut self) {}
}

#[test]
fn what_a_former_process_left_in_flight_waits_for_the_worker_and_goes_first() {
    both(|event_idx| {
        let log = Log::default();
        log.0.replace(vec![1, 0]);
        let in_flight = InFlight { log: Box::new(log.clone()), resubmit: vec![1, 0] };
        let setup = Setup { event_idx, in_flight: Some(in_flight), ..Setup::default() };
        let mut rig = Rig::with_chains(setup, 3);
        assert_eq!((rig.answers(), rig.attached.in_flight()), (0, 0));
        rig.grant(1);
        assert_eq!(rig.driver.pop_used(), Ok(Some((1, 1))), "the first that was taken");
        assert_eq!(*log.0.borrow(), [0]);
        rig.grant(2);
        assert_eq!(rig.driver.pop_used(), Ok(Some((0, 2))));
        assert_eq!(rig.driver.pop_used(), Ok(Some((2, 3))), "then what is new");
        assert!(log.0.borrow().is_empty());
    });
}

#[test]
fn what_was_left_in_flight_stays_in_the_log_if_the_queue_stops_first() {
    let log = Log::default();
    log.0.replace(vec![0]);
    let in_flight = InFlight { log: Box::new(log.clone()), resubmit: vec![0] };
    let rig = Rig::with_chains(Setup { in_flight: Some(in_flight), ..Setup::default() }, 1);
    rig.attached.stop(&rig.context).unwrap();
    assert_eq!(*log.0.borrow(), [0]);
}

/// Keeps one chain at a time, until the test lets it answer.
#[derive(Debug)]
struct Keeper {
    kept: RefCell<Option<Box<Chain>>>,
    queue: QueueRef<Rc<Keeper>>,
}

impl Worker for Rc<Keeper> {
    type Memory = crate::memory::GuestMemoryMmap;
    type Slot = Box<Chain>;

    fn new_slot(&self, chain: Chain) -> Box<Chain> {
        Box::new(chain)
    }

    fn chain(slot: &mut Box<Chain>) -> &mut Chain {
        slot
    }

    fn begin(&self, slot: Box<Chain>, _: Meter<'_>) -> Option<Answer<Box<Chain>>> {
        assert!(self.kept.replace(Some(slot)).is_none(), "one at a time");
        None
    }

    fn may_begin(&self) -> bool {
        self.kept.borrow().is_none()
    }
}

impl Keeper {
    /// Answers, and asks for the next.
    fn release(&self) {
        let slot = self.kept.take().unwrap();
        self.queue.answer([Answer { slot, written: 0 }]);
        self.queue.wake();
    }
}

/// A ring with chains that were made available before the queue starts.
struct Posted {
    ram: GuestRam,
    config: QueueConfig,
    driver: DriverQueue,
}

impl Posted {
    fn new(chains: u16) -> Self {
        let ram = GuestRam::new(0x1_0000).unwrap();
        let config = QueueConfig::at(GuestAddress(0), SIZE);
        let driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
        let mut posted = Self { ram, config, driver };
        (0..chains).for_each(|_| posted.add(BUFFER));
        posted
    }

    fn add(&mut self, buffer: GuestAddress) {
        self.driver.add(&[], &[(buffer, 16)]).unwrap().unwrap();
        let _ = self.driver.publish();
    }

    fn parts(&self) -> QueueParts {
        QueueParts {
            queue: DeviceQueue::new(self.ram.memory().clone(), self.config).unwrap(),
            kick: EventNotifier::new(Reset::Autoreset).unwrap().into(),
            interrupt: Interrupt::None,
            on_broken: Box::new(|error| panic!("{error}")),
            limit: None,
            in_flight: None,
            memory_lost: None,
        }
    }
}

/// Fails instead of waiting for ever if a chain that was begun is not answered.
fn stop_soon<W: Worker>(attached: Attached<W>, context: &AioContext) -> Stopped {
    let watchdog = context.timer(|_| panic!("the queue does not stop"));
    watchdog.arm_after(Duration::from_secs(10));
    attached.stop(context).unwrap()
}

#[test]
fn a_wake_up_during_a_stop_takes_no_chain() {
    let context = AioContext::new().unwrap();
    let posted = Posted::new(4);
    let mut keeper = None;
    let attached = Queue::attach(&context, posted.parts(), |queue| {
        let worker = Rc::new(Keeper { kept: RefCell::default(), queue });
        keeper = Some(Rc::clone(&worker));
        io::Result::Ok(worker)
    })
    .unwrap();
    let keeper = keeper.unwrap();
    while context.poll(false).unwrap() {}
    assert_eq!(attached.in_flight(), 1);
    keeper.release();
    while context.poll(false).unwrap() {}
    assert_eq!(attached.in_flight(), 1, "the next one is taken when the first was answered");
    let last = Rc::clone(&keeper);
    context.defer(move |context| {
        // The worker has room for another chain two turns before the last one is answered. The
        // queue is still waiting in `stop` in these turns.
        let slot = last.kept.take().unwrap();
        last.queue.wake();
        context.defer(move |context| {
            context.defer(move |_| last.queue.answer([Answer { slot, written: 0 }]));
        });
    });
    let stopped = stop_soon(attached, &context);
    assert_eq!((stopped.next_avail, stopped.next_used), (2, 2));
    assert!(keeper.kept.borrow().is_none());
}

/// The answer counts, although `on_broken` panics on it.
#[test]
fn a_panic_in_the_last_answer_does_not_keep_a_queue_from_stopping() {
    let context = AioContext::new().unwrap();
    let posted = Posted::new(1);
    let (is_lost, mut keeper) = (Rc::new(Cell::new(false)), None);
    let asked = Rc::clone(&is_lost);
    let parts = QueueParts { memory_lost: Some(Box::new(move || asked.get())), ..posted.parts() };
    let attached = Queue::attach(&context, parts, |queue| {
        let worker = Rc::new(Keeper { kept: RefCell::default(), queue });
        keeper = Some(Rc::clone(&worker));
        io::Result::Ok(worker)
    })
    .unwrap();
    let keeper = keeper.unwrap();
    while context.poll(false).unwrap() {}
    assert_eq!(attached.in_flight(), 1);
    let stopping = context.spawn(attached.stopped());
    while context.poll(false).unwrap() {}
    is_lost.set(true);
    assert!(catch_unwind(AssertUnwindSafe(|| keeper.release())).is_err());
    let watchdog = context.timer(|_| panic!("the queue does not stop"));
    watchdog.arm_after(Duration::from_secs(10));
    let stopped = context.block_on(stopping).unwrap().unwrap();
    assert_eq!((stopped.next_avail, stopped.next_used), (1, 1));
}

/// Collects chains until `commit`, which answers them in a bottom half.
struct Collector {
    begun: RefCell<Vec<Chain>>,
    committed: Rc<RefCell<Vec<Chain>>>,
    done: BottomHalf,
    /// Panics in this call of `begin`, counted from 1. 0 is never.
    faulty_begin: Cell<u32>,
    /// Panics in the next call of `commit`.
    faulty_commit: Cell<bool>,
}

impl Worker for Rc<Collector> {
    type Memory = crate::memory::GuestMemoryMmap;
    type Slot = Chain;

    fn new_slot(&self, chain: Chain) -> Chain {
        chain
    }

    fn chain(slot: &mut Chain) -> &mut Chain {
        slot
    }

    fn begin(&self, slot: Chain, meter: Meter<'_>) -> Option<Answer<Chain>> {
        meter.charge(|| 0);
        if let Some(left) = self.faulty_begin.get().checked_sub(1) {
            self.faulty_begin.set(left);
            assert_ne!(left, 0, "a fault of the worker in begin");
        }
        self.begun.borrow_mut().push(slot);
        None
    }

    fn may_begin(&self) -> bool {
        self.begun.borrow().len() < 4
    }

    fn commit(&self, _: impl FnMut(Answer<Chain>)) {
        assert!(!self.faulty_commit.take(), "a fault of the worker in commit");
        if !self.begun.borrow().is_empty() {
            self.committed.borrow_mut().append(&mut self.begun.borrow_mut());
            self.done.schedule();
        }
    }
}

fn collect(context: &AioContext, parts: QueueParts) -> (Attached<Rc<Collector>>, Rc<Collector>) {
    let mut worker = None;
    let attached = Queue::attach(context, parts, |queue: QueueRef<Rc<Collector>>| {
        let committed = Rc::<RefCell<Vec<Chain>>>::default();
        let slots = Rc::clone(&committed);
        let done = context.bottom_half(move |_| {
            queue.answer(slots.take().into_iter().map(|slot| Answer { slot, written: 0 }));
            queue.wake();
        });
        let made = Rc::new(Collector {
            begun: RefCell::default(),
            committed,
            done,
            faulty_begin: Cell::default(),
            faulty_commit: Cell::default(),
        });
        worker = Some(Rc::clone(&made));
        Ok(made)
    });
    (attached.unwrap(), worker.unwrap())
}

#[test]
fn chains_before_one_that_breaks_the_queue_are_committed() {
    let context = AioContext::new().unwrap();
    let posted = Posted::new(4);
    // The head of the last one is beyond the table.
    let entry = GuestAddress(posted.config.avail_ring.0 + 4 + 2 * 3);
    posted.ram.memory().write_obj(u16::MAX, entry).unwrap();
    let broken = Rc::<Cell<u32>>::default();
    let count = Rc::clone(&broken);
    let on_broken: Box<dyn Fn(QueueError)> = Box::new(move |_| count.set(count.get() + 1));
    let (attached, worker) = collect(&context, QueueParts { on_broken, ..posted.parts() });
    while context.poll(false).unwrap() {}
    assert_eq!((broken.get(), worker.begun.borrow().len(), attached.in_flight()), (1, 0, 0));
    assert_eq!(stop_soon(attached, &context).next_avail, 3);
}

#[test]
fn chains_before_the_limit_is_used_up_are_committed() {
    let context = AioContext::new().unwrap();
    let posted = Posted::new(3);
    // One request per second: two can begin at once.
    let limit = Some(Arc::new(RateLimit::new(Some(1), None)));
    let (attached, worker) = collect(&context, QueueParts { limit, ..posted.parts() });
    while context.poll(false).unwrap() {}
    assert_eq!((worker.begun.borrow().len(), attached.in_flight()), (0, 0));
    assert!(stop_soon(attached, &context).next_avail < 3);
}

#[test]
fn chains_before_the_worker_may_begin_no_more_are_committed() {
    let context = AioContext::new().unwrap();
    let posted = Posted::new(6);
    let (attached, worker) = collect(&context, posted.parts());
    while context.poll(false).unwrap() {}
    assert_eq!((worker.begun.borrow().len(), attached.in_flight()), (0, 0));
    assert_eq!(stop_soon(attached, &context).next_used, 6);
}

#[test]
fn chains_before_a_panic_are_committed_in_the_next_turn() {
    let context = AioContext::new().unwrap();
    for (faulty_begin, faulty_commit) in [(3, false), (0, true)] {
        // With more chains than the worker may begin, the queue rests when `commit` panics.
        let posted = Posted::new(6);
        let (attached, worker) = collect(&context, posted.parts());
        worker.faulty_begin.set(faulty_begin);
        worker.faulty_commit.set(faulty_commit);
        catch_unwind(AssertUnwindSafe(|| context.poll(true))).unwrap_err();
        while context.poll(false).unwrap() {}
        assert_eq!((worker.begun.borrow().len(), attached.in_flight()), (0, 0));
        assert_eq!(stop_soon(attached, &context).next_used, 6);
    }
}

#[test]
fn a_queue_that_stops_after_a_panic_answers_what_was_begun() {
    let context = AioContext::new().unwrap();
    for (faulty_begin, faulty_commit, taken) in [(3, false, 3), (0, true, 4), (1, false, 1)] {
        let mut posted = Posted::new(6);
        let (attached, worker) = collect(&context, posted.parts());
        worker.faulty_begin.set(faulty_begin);
        worker.faulty_commit.set(faulty_commit);
        catch_unwind(AssertUnwindSafe(|| context.poll(true))).unwrap_err();
        let stopped = stop_soon(attached, &context);
        assert_eq!((stopped.next_avail, stopped.next_used), (taken, taken));
        let shown = std::iter::from_fn(|| posted.driver.pop_used().unwrap()).count();
        assert_eq!(shown, usize::from(taken), "the driver sees every answer");
    }
}
