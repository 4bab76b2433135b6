//! A worker that panics loses its chain, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, EventNotifier, MonitorKind, Reset};

use super::interrupt::Interrupt;
use super::irqfd::Irqfd;
use super::queue::{Queue, QueueParts};
use super::worker::{Handled, Immediate};
use crate::memory::log_bits::LogBits;
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::{Chain, DeviceQueue, DirtyPages, DriverQueue, QueueConfig};

/// Answers each chain with its first byte, and panics if that is 7.
struct Panics;

impl Handled for Panics {
    fn handle(&self, chain: &Chain) -> u32 {
        let mut byte = [0];
        chain.readable().copy_to(0, &mut byte);
        assert_ne!(byte, [7], "the worker panics");
        chain.writable().copy_from(0, &byte) as u32
    }
}

/// The first look at the ring is made by the queue's bottom half, later ones by its doorbell. The
/// loop looks again after a panic in a doorbell's handler, and the queue itself after any panic.
#[test]
fn a_panic_of_a_worker_costs_its_chain_only() {
    for kind in MonitorKind::ALL {
        let Ok(context) = AioContext::builder().monitor(kind).build() else {
            println!("skipped: no {kind}");
            continue;
        };
        for (by_kick, logged) in [(false, false), (true, false), (false, true), (true, true)] {
            one_of_three_chains_panics(&context, kind, by_kick, logged);
        }
    }
}

/// If the pages are `logged`, so are those of the chain that is lost.
fn one_of_three_chains_panics(context: &AioContext, kind: MonitorKind, by_kick: bool, logged: bool) {
    use vm_memory::Bytes;
    let ram = GuestRam::new(64 << 10).unwrap();
    let memory = ram.map().unwrap();
    let config = QueueConfig::at(GuestAddress(0), 16);
    let bits = Arc::<LogBits>::default();
    let mut queue = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    if logged {
        let used_ring = Some(config.used_ring);
        queue.set_dirty_log(Some(DirtyPages { log: bits.log(32), buffers: true, used_ring }));
    }
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let kick = EventNotifier::new(Reset::Autoreset).unwrap();
    let parts = QueueParts {
        queue,
        kick: kick.clone().into(),
        interrupt: Interrupt::Irqfd(Irqfd::new().unwrap()),
        on_broken: Box::new(|error| panic!("the queue is broken: {error}")),
        limit: None,
        in_flight: None,
        memory_lost: None,
    };
    let attached = Queue::attach(context, parts, |_| Ok(Immediate::new(Rc::new(Panics)))).unwrap();
    if by_kick {
        while context.poll(false).unwrap() {}
    }
    let add = |driver: &mut DriverQueue, byte: u8| {
        let place = GuestAddress(0x8000 + u64::from(byte) * 0x1000);
        memory.write_obj(byte, place).unwrap();
        driver.add(&[(place, 1)], &[(GuestAddress(place.0 + 8), 1)]).unwrap().unwrap()
    };
    let heads = [1, 7, 2].map(|byte| add(&mut driver, byte));
    let wanted = driver.publish();
    if by_kick {
        assert!(wanted, "{kind}: the device needs a kick");
        kick.notify().unwrap();
    }
    let turn = || catch_unwind(AssertUnwindSafe(|| context.poll(true).unwrap()));
    while turn().is_ok() {}
    // The next turns go on without a kick, and show what was answered before the panic.
    while context.poll(false).unwrap() {}
    let used = [(); 4].map(|()| driver.pop_used().unwrap());
    assert_eq!(used, [Some((heads[0], 1)), Some((heads[1], 0)), Some((heads[2], 1)), None], "{kind}");
    assert_eq!(bits.take(), if logged { vec![0, 9, 10, 15] } else { vec![] }, "{kind}");
    // Kicks are on again.
    let head = add(&mut driver, 3);
    assert!(driver.publish(), "{kind}: the device needs a kick");
    kick.notify().unwrap();
    context.poll(true).unwrap();
    assert_eq!(driver.pop_used().unwrap(), Some((head, 1)), "{kind}");
    assert_eq!(attached.in_flight(), 0);
    attached.stop(context).unwrap();
}
