//! A chain that cannot be served is answered beside the others, and logged and charged like them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, EventNotifier, Reset};

use super::in_flight::{InFlight, InFlightLog};
use super::interrupt::Interrupt;
use super::queue::{Queue, QueueParts};
use super::rate_limit::RateLimit;
use super::worker::{Handled, Immediate};
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::{Chain, DeviceQueue, DriverQueue, QueueConfig};

const BUFFER: GuestAddress = GuestAddress(0x8000);
const OUTSIDE: GuestAddress = GuestAddress(1 << 40);

/// Answers each chain with all of its writable bytes.
struct Echo;

impl Handled for Echo {
    fn handle(&self, chain: &Chain) -> u32 {
        chain.writable().len_bytes() as u32
    }
}

/// What happened: a letter and a head.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<(char, u16)>>>);

impl InFlightLog for Log {
    fn popped(&mut self, head: u16) {
        self.0.borrow_mut().push(('<', head));
    }

    fn pushed(&mut self, head: u16) {
        self.0.borrow_mut().push(('>', head));
    }

    fn published(&mut self) {}
}

/// What a queue did: its log, and the answers in their order.
struct Outcome {
    log: Vec<(char, u16)>,
    answers: Vec<(u16, u32)>,
}

/// Chains of 16 bytes; those at `bad` lie outside guest memory. A former process took the first
/// `taken`.
fn run(bad: &[u16], taken: u16) -> Outcome {
    let context = AioContext::new().unwrap();
    let ram = GuestRam::new(0x1_0000).unwrap();
    let config = QueueConfig::at(GuestAddress(0), 8);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    for at in 0..5 {
        let addr = if bad.contains(&at) { OUTSIDE } else { BUFFER };
        assert_eq!(driver.add(&[], &[(addr, 16)]), Ok(Some(at)));
    }
    let _ = driver.publish();
    let log = Log::default();
    let limit = Arc::new(RateLimit::new(Some(1_000_000), None));
    let parts = QueueParts {
        queue: DeviceQueue::resume(ram.memory().clone(), config, taken, 0).unwrap(),
        kick: EventNotifier::new(Reset::Autoreset).unwrap().into(),
        interrupt: Interrupt::None,
        on_broken: Box::new(|error| panic!("the queue broke: {error}")),
        limit: Some(limit),
        in_flight: Some(InFlight { log: Box::new(log.clone()), resubmit: (0..taken).collect() }),
        memory_lost: None,
    };
    let attached = Queue::attach(&context, parts, |_| Ok(Immediate::new(Rc::new(Echo)))).unwrap();
    while context.poll(false).unwrap() {}
    assert_eq!(attached.stats().requests, 5);
    assert_eq!((attached.in_flight(), attached.broken()), (0, None));
    let answers = std::iter::from_fn(|| driver.pop_used().unwrap()).collect();
    Outcome { log: log.0.take(), answers }
}

#[test]
fn only_the_chain_that_cannot_be_served_is_returned_empty() {
    for taken in 0..=5 {
        for bad in [vec![], vec![0], vec![2], vec![4], vec![1, 3], vec![0, 1, 2, 3, 4]] {
            let Outcome { log, answers } = run(&bad, taken);
            let written = |head| if bad.contains(&head) { 0 } else { 16 };
            assert_eq!(answers, (0..5).map(|head| (head, written(head))).collect::<Vec<_>>());
            // What the former process took is in the log already.
            let fresh = (taken..5).flat_map(|head| [('<', head), ('>', head)]);
            let expected: Vec<_> = (0..taken).map(|head| ('>', head)).chain(fresh).collect();
            assert_eq!(log, expected, "{taken} {bad:?}");
        }
    }
}

/// How many chains of a full ring are answered by the start of the queue, and by each turn after
/// that. The first `taken` of them were taken by a former process.
fn answers_of_turns(size: u16, is_bad: bool, taken: u16) -> Vec<u64> {
    const BUFFER: GuestAddress = GuestAddress(0xf_0000);
    let context = AioContext::new().unwrap();
    let ram = GuestRam::new(0x10_0000).unwrap();
    let config = QueueConfig::at(GuestAddress(0), size);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    for _ in 0..size {
        driver.add(&[], &[(if is_bad { OUTSIDE } else { BUFFER }, 16)]).unwrap().unwrap();
    }
    let _ = driver.publish();
    let in_flight = InFlight { log: Box::new(Log::default()), resubmit: (0..taken).collect() };
    let parts = QueueParts {
        queue: DeviceQueue::resume(ram.memory().clone(), config, taken, 0).unwrap(),
        kick: EventNotifier::new(Reset::Autoreset).unwrap().into(),
        interrupt: Interrupt::None,
        on_broken: Box::new(|error| panic!("the queue broke: {error}")),
        limit: None,
        in_flight: Some(in_flight),
        memory_lost: None,
    };
    let attached = Queue::attach(&context, parts, |_| Ok(Immediate::new(Rc::new(Echo)))).unwrap();
    let mut answers = vec![attached.stats().requests];
    let mut sum = answers[0];
    while context.poll(false).unwrap() {
        answers.push(attached.stats().requests - sum);
        sum = attached.stats().requests;
    }
    assert_eq!(sum, u64::from(size));
    answers
}

/// Other handlers of the loop wait for what a turn does for one queue.
#[test]
fn a_turn_is_bounded_whatever_the_guest_offers() {
    for (size, is_bad, most) in
        [(256, false, 256), (256, true, 16), (1024, true, 16), (4096, false, 1024), (4096, true, 4)]
    {
        // Also if a former process took them.
        for taken in [0, size / 2, size] {
            let answers = answers_of_turns(size, is_bad, taken);
            let largest = answers.iter().copied().max().unwrap();
            assert!(largest <= most, "{size} {is_bad} {taken}: {answers:?}");
            // Neither does it do much less than it may.
            assert!(
                answers.len() as u64 <= u64::from(size) / most + 4,
                "{size} {is_bad} {taken}: {answers:?}"
            );
        }
    }
}
