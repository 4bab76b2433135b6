//! Two pinned threads and their CPU time.

use crate::bare::clock_ns;
use crate::machine::{Placement, pin_current_thread};
use std::io;
use std::sync::Barrier;
use std::thread;

/// The result of a thread, and the CPU time that it used.
#[derive(Debug)]
pub(super) struct Ran<T> {
    pub(super) result: T,
    pub(super) cpu_ns: u64,
}

/// Runs both at the same time, the producer on the guest's CPU and the consumer on the device's. If
/// one of them cannot be pinned, neither runs. `produce` and `consume` must make sure that each
/// ends when the other has ended.
pub(super) fn run<P: Send, C: Send>(
    placement: Placement,
    produce: impl FnOnce() -> io::Result<P> + Send,
    consume: impl FnOnce() -> io::Result<C> + Send,
) -> io::Result<(Ran<P>, Ran<C>)> {
    let start = Barrier::new(2);
    let pinned = |cpu| {
        let pinned = pin_current_thread(cpu);
        start.wait();
        pinned
    };
    thread::scope(|scope| {
        let producer = scope.spawn(|| pinned(placement.guest).and_then(|()| timed(produce)));
        let consumer = scope.spawn(|| pinned(placement.device).and_then(|()| timed(consume)));
        let ended = |_| io::Error::other("a thread panicked");
        let producer = producer.join().map_err(ended)?;
        let consumer = consumer.join().map_err(ended)?;
        Ok((producer?, consumer?))
    })
}

fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<Ran<T>> {
    let before = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    let result = work()?;
    Ok(Ran { result, cpu_ns: clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - before })
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(super) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Keeps the CPU busy.
pub(super) fn spin_ns(ns: u64) {
    spin_until(now_ns() + ns);
}

pub(super) fn spin_until(deadline_ns: u64) {
    while now_ns() < deadline_ns {
        std::hint::spin_loop();
    }
}
