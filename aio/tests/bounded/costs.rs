//! The exact number of system calls of each method.

use crate::Setup;
use aio::{AioContext, BoundedMethod, MonitorKind};
use std::cell::Cell;
use std::rc::Rc;

const N: u64 = 1000;

/// Costs while nobody sleeps.
pub(crate) fn a_pair_of_calls(setup: &Setup) {
    for notifier in [setup.counter(10), setup.semaphore(10)] {
        let before = notifier.stats();
        for _ in 0..N {
            notifier.notify(1).unwrap();
            assert_eq!(notifier.take().unwrap(), 1);
        }
        let after = notifier.stats();
        let calls =
            [after.reads - before.reads, after.writes - before.writes, after.total() - before.total()];
        assert_eq!(
            calls,
            match setup.method {
                BoundedMethod::Kernel => [N, N, 2 * N],
                BoundedMethod::Atomic => [0, 0, 0],
                _ => [2 * N, 2 * N, 4 * N],
            }
        );
    }
}

/// A producer that fills a maximum of ten each time, and a consumer that takes all: with the
/// kernel's ioctl this takes 10 calls (9 writes, of which the first sleeps, and a read); with the
/// atomic method it takes at most one sleep and one wake.
pub(crate) fn a_batch_of_nine(setup: &Setup) {
    let notifier = setup.counter(10);
    let (mut taken, mut takes) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..9 * N).for_each(|_| notifier.notify(1).unwrap()));
        while taken < 9 * N {
            // Take only when the count is full, or holds all that is left, like a consumer that is
            // busy with other work.
            while notifier.count().unwrap() < 9.min(9 * N - taken) {
                // Not a spin: the producer may need this CPU.
                std::thread::yield_now();
            }
            taken += notifier.take().unwrap();
            takes += 1;
        }
    });
    assert_eq!((taken, takes), (9 * N, N));
    let stats = notifier.stats();
    println!("{stats:?}");
    if setup.method == BoundedMethod::Atomic {
        assert_eq!((stats.reads, stats.writes, stats.polls), (0, 0, 0));
        // A producer that registers while the consumer takes is woken needlessly, and sleeps again.
        assert!(stats.futex_waits <= 2 * N && stats.futex_wakes <= N, "{stats:?}");
    } else {
        let each = if setup.method == BoundedMethod::Kernel { 1 } else { 2 };
        assert!(stats.total() >= each * (9 * N + N), "{stats:?}");
    }
}

/// One ring for each sleep of the loop, however many notifications arrive.
pub(crate) fn a_sleeping_loop_is_rung_once(setup: &Setup) {
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    let notifier = setup.counter(10);
    let sum = Rc::new(Cell::new(0));
    let total = Rc::clone(&sum);
    let _consumer = ctx.add_bounded(&notifier, move |_, n| total.set(total.get() + n)).unwrap();
    let mut quiet = 0;
    while quiet < 3 {
        quiet = if ctx.poll(false).unwrap() { 0 } else { quiet + 1 };
    }
    let (stats, loops) = (notifier.stats(), ctx.stats());
    for round in 1..=N {
        (0..9).for_each(|_| notifier.notify(1).unwrap());
        assert!(ctx.poll(true).unwrap());
        assert_eq!(sum.get(), 9 * round);
    }
    let (after, loops) = (notifier.stats(), ctx.stats() - loops);
    let calls = [after.writes - stats.writes, after.reads - stats.reads, after.total() - stats.total()];
    let reads = if setup.method == BoundedMethod::Atomic { 0 } else { N };
    assert_eq!(
        (loops.syscalls_wait, loops.syscalls_read, loops.syscalls()),
        (N, reads, N + reads),
        "of the loop"
    );
    assert_eq!(
        calls,
        match setup.method {
            BoundedMethod::Kernel => [9 * N, N, 10 * N],
            BoundedMethod::Atomic => [N, 0, N],
            // Nine reads of the credit, nine writes; a read, and a write of the credit.
            _ => [10 * N, 10 * N, 20 * N],
        }
    );
}
