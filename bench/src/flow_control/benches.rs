//! The proposal's three benchmarks, and the cost of an uncontended pair of calls.

use super::pair::{self, Ran, now_ns, spin_ns, spin_until};
use super::way::{Channel, Producer, Way};
use crate::machine::Placement;
use crate::measure::{latencies, quantile_us, sample};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Length of the proposal's run of bench 1; ours are scaled to it.
const BURST_MS: f64 = 5000.0;
/// The pause between two reads of bench 1's consumer.
const NAP: Duration = Duration::from_millis(1);
/// Number of events of bench 2, and the time between two of them.
const POSTS: u64 = 5000;
const INTERVAL_NS: u64 = 100_000;
/// How long the consumer of benches 2 and 3 works after each read.
const WORK_NS: u64 = 125_000;
/// Events of bench 3.
const WRITES: u64 = 10_000;
/// The last part before an event is due is spent spinning, because sleeps end late by the timer
/// slack.
const LATE_NS: u64 = 80_000;

/// One sample, or the reason why it is not available.
pub(super) type Taken<S> = io::Result<Result<S, String>>;

sample! {
    /// Bench 1, scaled to 5 s.
    pub(super) struct Burst {
        wcpu_ms: "ms" Lower,
        rcpu_ms: "ms" Lower,
        eagain: "" Lower,
        writes: "" Higher,
        reads: "" Higher,
        syscalls_per_event: "" Lower,
        ioctl_syscalls_per_event: "" Lower,
        kernel_syscalls_per_event: "" Lower,
    }
}

sample! {
    /// Bench 2: latencies from the write, and from the time when it was due.
    pub(super) struct Tail {
        p50_us: "us" Lower,
        p99_us: "us" Lower,
        p999_us: "us" Lower,
        max_us: "us" Lower,
        intended_p50_us: "us" Lower,
        intended_p99_us: "us" Lower,
        intended_p999_us: "us" Lower,
        intended_max_us: "us" Lower,
        syscalls_per_event: "" Lower,
        ioctl_syscalls_per_event: "" Lower,
        kernel_syscalls_per_event: "" Lower,
    }
}

sample! {
    /// Bench 3.
    pub(super) struct Coalescing {
        writes: "" Lower,
        reads: "" Lower,
        avg_batch: "" Lower,
        syscalls_per_event: "" Lower,
        ioctl_syscalls_per_event: "" Lower,
        kernel_syscalls_per_event: "" Lower,
    }
}

sample! {
    /// A notify and a take by one thread: no thread sleeps, and there is no contention.
    pub(super) struct Pair {
        time_ns: "ns" Lower,
        syscalls_per_event: "" Lower,
    }
}

/// System calls of both sides per event.
#[derive(Debug, Clone, Copy)]
struct Calls {
    made: f64,
    /// What a blocking eventfd (patched or not) would make for the same events: one for each write
    /// and each read, whether it sleeps or not.
    bare_ioctl: f64,
    /// What the kernel method would make. Its sleeps can be interrupted, so a sleep costs a refused
    /// call and a ppoll(2) in addition.
    kernel_method: f64,
}

impl Calls {
    fn of(channel: &Channel, writes: u64, reads: u64) -> Self {
        let each = |calls: u64| calls as f64 / writes.max(1) as f64;
        let bare = writes + reads;
        let stats = channel.stats();
        let sleeps = stats.map_or(0, |stats| stats.futex_waits + stats.polls);
        Self {
            made: each(stats.map_or(bare, |stats| stats.total())),
            bare_ioctl: each(bare),
            kernel_method: each(bare + 2 * sleeps),
        }
    }
}

/// Opens the connection and takes a sample on it. The inner error is the reason why this machine
/// cannot open it.
fn on<S>(way: Way, semaphore: bool, sample: impl FnOnce(&Channel) -> io::Result<S>) -> Taken<S> {
    match way.open(semaphore)? {
        Ok(channel) => sample(&channel).map(Ok),
        Err(why) => Ok(Err(why)),
    }
}

/// Runs a producer and a consumer of one connection. Each is stopped when the other has ended.
fn run<P: Send, C: Send>(
    channel: &Channel,
    placement: Placement,
    produce: impl FnOnce(&mut Producer<'_>, &AtomicBool) -> io::Result<P> + Send,
    consume: impl FnOnce() -> io::Result<C> + Send,
) -> io::Result<(Ran<P>, Ran<C>)> {
    let gone = &AtomicBool::new(false);
    let produce = || {
        let result = channel.producer().and_then(|mut producer| produce(&mut producer, gone));
        result.or_else(|error| channel.stop().and(Err(error)))
    };
    let consume = || {
        let result = consume();
        gone.store(true, Ordering::Relaxed);
        channel.stop()?;
        result
    };
    pair::run(placement, produce, consume)
}

/// Bench 1: the writer writes as fast as it can, the reader sleeps a millisecond after each read.
pub(super) fn burst(way: Way, placement: Placement, runtime: Duration) -> Taken<Burst> {
    let produce = |producer: &mut Producer<'_>, gone: &AtomicBool| {
        let mut writes = 0u64;
        while !gone.load(Ordering::Relaxed) && producer.post(gone)? {
            writes += 1;
        }
        Ok((writes, producer.refused))
    };
    on(way, false, |channel| {
        let consume = || {
            let (begin, end) = (now_ns(), now_ns() + runtime.as_nanos() as u64);
            let mut reads = 0u64;
            while now_ns() < end {
                channel.take()?;
                reads += 1;
                thread::sleep(NAP);
            }
            Ok((reads, now_ns() - begin))
        };
        let (writer, reader) = run(channel, placement, produce, consume)?;
        let ((writes, refused), (reads, elapsed_ns)) = (writer.result, reader.result);
        let scale = BURST_MS / (elapsed_ns as f64 / 1e6);
        let calls = Calls::of(channel, writes, reads);
        Ok(Burst {
            wcpu_ms: writer.cpu_ns as f64 / 1e6 * scale,
            rcpu_ms: reader.cpu_ns as f64 / 1e6 * scale,
            eagain: refused as f64 * scale,
            writes: writes as f64 * scale,
            reads: reads as f64 * scale,
            syscalls_per_event: calls.made,
            ioctl_syscalls_per_event: calls.bare_ioctl,
            kernel_syscalls_per_event: calls.kernel_method,
        })
    })
}

/// Bench 2: the writer posts every 100 us, on an absolute schedule; the reader takes one at a time
/// and works for 125 us on each.
pub(super) fn tail(way: Way, placement: Placement) -> Taken<Tail> {
    let begin_ns = now_ns() + 1_000_000;
    let due = |index: u64| begin_ns + index * INTERVAL_NS;
    let sent: Vec<AtomicU64> = (0..POSTS).map(|_| AtomicU64::new(0)).collect();
    let produce = |producer: &mut Producer<'_>, gone: &AtomicBool| {
        for (index, sent) in (0u64..).zip(&sent) {
            let due = due(index);
            // Do not spin on the reader's CPU.
            if let Some(early) = due.checked_sub(now_ns() + LATE_NS) {
                thread::sleep(Duration::from_nanos(early));
            }
            if placement.guest != placement.device {
                spin_until(due);
            }
            sent.store(now_ns(), Ordering::Relaxed);
            if !producer.post(gone)? {
                break;
            }
        }
        Ok(())
    };
    on(way, true, |channel| {
        let consume = || {
            let (mut from_write, mut from_intended) = (latencies(), latencies());
            for (index, sent) in (0u64..).zip(&sent) {
                channel.take()?;
                let now = now_ns();
                from_write.saturating_record(now.saturating_sub(sent.load(Ordering::Relaxed)));
                from_intended.saturating_record(now.saturating_sub(due(index)));
                spin_ns(WORK_NS);
            }
            Ok((from_write, from_intended))
        };
        let (_, reader) = run(channel, placement, produce, consume)?;
        let (from_write, from_intended) = reader.result;
        let calls = Calls::of(channel, POSTS, POSTS);
        Ok(Tail {
            p50_us: quantile_us(&from_write, 0.5),
            p99_us: quantile_us(&from_write, 0.99),
            p999_us: quantile_us(&from_write, 0.999),
            max_us: quantile_us(&from_write, 1.0),
            intended_p50_us: quantile_us(&from_intended, 0.5),
            intended_p99_us: quantile_us(&from_intended, 0.99),
            intended_p999_us: quantile_us(&from_intended, 0.999),
            intended_max_us: quantile_us(&from_intended, 1.0),
            syscalls_per_event: calls.made,
            ioctl_syscalls_per_event: calls.bare_ioctl,
            kernel_syscalls_per_event: calls.kernel_method,
        })
    })
}

/// Bench 3: the writer writes 10,000 times as fast as it can; the reader takes all of them
/// at once and works for 125 us.
pub(super) fn coalescing(way: Way, placement: Placement) -> Taken<Coalescing> {
    let produce = |producer: &mut Producer<'_>, gone: &AtomicBool| {
        let mut left = WRITES;
        while left > 0 && producer.post(gone)? {
            left -= 1;
        }
        Ok(())
    };
    on(way, false, |channel| {
        let consume = || {
            let (mut sum, mut reads) = (0, 0u64);
            while sum < WRITES {
                sum += channel.take()?;
                reads += 1;
                spin_ns(WORK_NS);
            }
            Ok(reads)
        };
        let (_, reader) = run(channel, placement, produce, consume)?;
        let reads = reader.result;
        let calls = Calls::of(channel, WRITES, reads);
        Ok(Coalescing {
            writes: WRITES as f64,
            reads: reads as f64,
            avg_batch: WRITES as f64 / reads.max(1) as f64,
            syscalls_per_event: calls.made,
            ioctl_syscalls_per_event: calls.bare_ioctl,
            kernel_syscalls_per_event: calls.kernel_method,
        })
    })
}

/// Notify and take in turns, for about `runtime`.
pub(super) fn uncontended(way: Way, placement: Placement, runtime: Duration) -> Taken<Pair> {
    const AT_ONCE: u64 = 1000;
    on(way, false, |channel| {
        let work = || {
            let never = AtomicBool::new(false);
            let mut producer = channel.producer()?;
            let (begin, end) = (now_ns(), now_ns() + runtime.as_nanos() as u64);
            let mut pairs = 0;
            while now_ns() < end {
                for _ in 0..AT_ONCE {
                    producer.post(&never)?;
                    channel.take()?;
                }
                pairs += AT_ONCE;
            }
            Ok((pairs, now_ns() - begin))
        };
        let (ran, _) = pair::run(placement, work, || Ok(()))?;
        let (pairs, elapsed_ns) = ran.result;
        Ok(Pair {
            time_ns: elapsed_ns as f64 / pairs.max(1) as f64,
            syscalls_per_event: Calls::of(channel, pairs, pairs).made,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuSet;

    fn placement() -> Placement {
        let cpus = CpuSet::allowed().unwrap();
        let (first, last) = (cpus.iter().next().unwrap(), cpus.iter().last().unwrap());
        Placement { guest: first, device: last }
    }

    #[test]
    fn every_way_passes_every_event_of_bench_3() {
        for way in Way::all(false) {
            match coalescing(way, placement()).unwrap() {
                Ok(sample) => {
                    let most =
                        if way == Way::Eventfd || way.to_string().contains("unlimited") { 1e5 } else { 9.0 };
                    assert!(sample.avg_batch >= 1.0 && sample.avg_batch <= most, "{way}: {sample:?}");
                    assert_eq!(sample.ioctl_syscalls_per_event, (10_000.0 + sample.reads) / 10_000.0);
                }
                Err(why) => println!("skipped: {way}: {why}"),
            }
        }
    }

    #[test]
    fn a_burst_ends_whatever_its_writer_waits_for() {
        for way in Way::all(false) {
            match burst(way, placement(), Duration::from_millis(20)).unwrap() {
                Ok(sample) => {
                    assert!(sample.writes > 0.0 && sample.reads > 0.0, "{way}: {sample:?}");
                    let polite = !way.to_string().contains("O_NONBLOCK");
                    assert!(!polite || sample.eagain == 0.0, "{way}: {sample:?}");
                }
                Err(why) => println!("skipped: {way}: {why}"),
            }
        }
    }

    #[test]
    fn the_atomic_way_makes_no_system_call_while_nobody_sleeps() {
        let way = Way::all(false).into_iter().find(|way| way.to_string() == "atomic, maximum 10").unwrap();
        let pair = uncontended(way, placement(), Duration::from_millis(2)).unwrap().unwrap();
        assert_eq!(pair.syscalls_per_event, 0.0);
    }
}
