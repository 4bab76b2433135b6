//! A round trip between two threads over two eventfds, like a guest's kick and a device's call.
//!
//! The guest writes the kick and sleeps in a blocking read(2) of the call, which waits and resets
//! at once. The device waits for the kick by the method that is measured and writes the call. So
//! the methods differ only on the device's side. The event itself is a sequence number in shared
//! memory, as in a virtqueue: after a spurious wake-up the device finds nothing new and waits
//! again.

use crate::bare::{Calls, EventFd, Method, Patience, Waiter, clock_ns};
use crate::error::{Error, reason};
use crate::machine::Placement;
use crate::machine::{NoOutcome, Worker};
use crate::measure::sample;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

sample! {
    /// One sample of a method.
    pub(crate) struct RoundTripSample {
        round_trip_ns: "ns" Lower,
        device_cpu_ns: "ns" Lower,
        device_syscalls: "syscalls" Lower,
        device_reads: "reads" Lower,
    }
}

/// What both threads share for one method.
struct Link {
    kick: Arc<EventFd>,
    call: EventFd,
    /// Number of kicks that the guest has sent: the work that a kick announces.
    sequence: AtomicU64,
    /// One side failed: both leave their loops.
    stop: AtomicBool,
}

impl Link {
    /// Wakes both threads and makes them leave their loops. May be called from any thread.
    fn abandon(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut calls = Calls::default();
        // Each write wakes a sleeping thread. If the counter is full, the thread is awake.
        let _ = self.kick.signal(&mut calls);
        let _ = self.call.signal(&mut calls);
    }
}

/// Abandons the link when dropped, unless it was defused: if one thread fails or panics, the other
/// leaves its loop.
struct AbandonOnError<'a>(Option<&'a Link>);

impl Drop for AbandonOnError<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.0 {
            link.abandon();
        }
    }
}

/// The guest's side of `times` round trips; returns how long they took, in nanoseconds.
fn play_guest(link: &Link, times: u64) -> io::Result<u64> {
    let mut guard = AbandonOnError(Some(link));
    let mut calls = Calls::default();
    let first = link.sequence.load(Ordering::Relaxed);
    let begin = clock_ns(libc::CLOCK_MONOTONIC);
    for round_trip in 1..=times {
        link.sequence.store(first + round_trip, Ordering::Release);
        link.kick.signal(&mut calls)?;
        link.call.read(&mut calls)?;
        if link.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the device gave up"));
        }
    }
    let elapsed = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
    guard.0 = None;
    Ok(elapsed)
}

/// The device's side; returns its CPU time in nanoseconds, and its system calls.
fn play_device(link: &Link, waiter: &mut dyn Waiter, seen: &mut u64, times: u64) -> io::Result<(u64, Calls)> {
    let mut guard = AbandonOnError(Some(link));
    let mut calls = Calls::default();
    let begin = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    for _ in 0..times {
        loop {
            waiter.wait(Patience::Forever, &mut calls)?;
            if link.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("the guest gave up"));
            }
            // Acquire pairs with the guest's Release: what it wrote before the kick is visible.
            let sequence = link.sequence.load(Ordering::Acquire);
            if sequence != *seen {
                *seen = sequence;
                break;
            }
        }
        link.call.signal(&mut calls)?;
    }
    let cpu = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(begin);
    guard.0 = None;
    Ok((cpu, calls))
}

/// What the device's thread keeps for one method.
struct DeviceEnd {
    link: Arc<Link>,
    waiter: Box<dyn Waiter>,
    seen: u64,
}

impl DeviceEnd {
    fn open(method: Method) -> Result<Self, String> {
        let (kick, waiter) = method.open()?;
        // The guest blocks in read(2) of the call.
        let call = EventFd::new(0, 0).map_err(|error| format!("eventfd: {}", reason(&error)))?;
        let link = Link { kick, call, sequence: AtomicU64::new(0), stop: AtomicBool::new(false) };
        Ok(Self { link: Arc::new(link), waiter, seen: 0 })
    }
}

enum DeviceJob {
    /// Return the link of a method, or the reason why it is not available.
    Open(usize),
    Run(usize, u64),
}

enum DeviceOutcome {
    Opened(Result<Arc<Link>, String>),
    Ran(io::Result<(u64, Calls)>),
}

fn device(ends: &mut [Result<DeviceEnd, String>], job: DeviceJob) -> DeviceOutcome {
    match job {
        DeviceJob::Open(index) => DeviceOutcome::Opened(match &ends[index] {
            Ok(end) => Ok(Arc::clone(&end.link)),
            Err(why) => Err(why.clone()),
        }),
        DeviceJob::Run(index, times) => DeviceOutcome::Ran(match &mut ends[index] {
            Ok(end) => play_device(&end.link, end.waiter.as_mut(), &mut end.seen, times),
            Err(why) => Err(io::Error::other(why.clone())),
        }),
    }
}

/// Two pinned threads, guest and device, with a link for each method. The owner's thread sleeps
/// while they run and stops them if they hang.
pub(crate) struct TwoThreads {
    guest: Worker<(Arc<Link>, u64), io::Result<u64>>,
    device: Worker<DeviceJob, DeviceOutcome>,
    links: Vec<Result<Arc<Link>, String>>,
}

/// A sample that takes this much longer than expected has lost a wake-up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long threads may take to stop after they were asked to.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

impl TwoThreads {
    /// Starts both threads, with a waiter for each of `methods` on the device's.
    pub(crate) fn new(placement: Placement, methods: &[Method]) -> Result<Self, Error> {
        let failed = |cpu| move |error| Error::failed(&format!("cannot start a thread on CPU {cpu}"), &error);
        let owned = methods.to_vec();
        let make = move || owned.into_iter().map(DeviceEnd::open).collect::<Vec<_>>();
        let mut device = Worker::spawn("device", placement.device, make, |ends, job| device(ends, job))
            .map_err(failed(placement.device))?;
        let play = |(): &mut (), (link, times): (Arc<Link>, u64)| play_guest(&link, times);
        let guest = Worker::spawn("guest", placement.guest, || (), play).map_err(failed(placement.guest))?;
        let mut links = Vec::with_capacity(methods.len());
        for index in 0..methods.len() {
            device.start(DeviceJob::Open(index));
            match device.finish(PATIENCE) {
                Ok(DeviceOutcome::Opened(link)) => links.push(link),
                _ => return Err(Error::Failed("the device's thread ended early".to_owned())),
            }
        }
        Ok(Self { guest, device, links })
    }

    /// Makes `times` round trips with method `index`. Returns how long they took, and the sample.
    /// The inner error is the reason why the method is not available here; the outer one is a
    /// failure of the benchmark.
    pub(crate) fn sample(
        &mut self,
        index: usize,
        times: u64,
        expected: Duration,
    ) -> Result<Result<(Duration, RoundTripSample), String>, Error> {
        let link = match &self.links[index] {
            Ok(link) => Arc::clone(link),
            Err(why) => return Ok(Err(why.clone())),
        };
        self.device.start(DeviceJob::Run(index, times));
        self.guest.start((Arc::clone(&link), times));
        let mut guest = self.guest.finish(PATIENCE + 10 * expected);
        let timed_out = matches!(guest, Err(NoOutcome::TimedOut));
        if guest.is_err() {
            link.abandon();
        }
        if timed_out {
            guest = self.guest.finish(LAST_PATIENCE);
        }
        // The guest has finished or left its loop early, so the device has answered its last kick
        // or has left its loop, too.
        let device = self.device.finish(LAST_PATIENCE);
        let (Ok(guest), Ok(DeviceOutcome::Ran(device))) = (guest, device) else {
            return Err(Error::Failed(
                "a thread of a round trip ended early or cannot be stopped".to_owned(),
            ));
        };
        let outcome = match (guest, device) {
            _ if timed_out => Err("a wake-up was lost: a round trip did not end".to_owned()),
            // The first error is the cause; the other thread only reports that it was abandoned.
            (_, Err(error)) | (Err(error), _) => Err(reason(&error)),
            (Ok(elapsed_ns), Ok((cpu_ns, calls))) => {
                let per_trip = |count: u64| count as f64 / times as f64;
                let sample = RoundTripSample {
                    round_trip_ns: per_trip(elapsed_ns),
                    device_cpu_ns: per_trip(cpu_ns),
                    device_syscalls: per_trip(calls.total()),
                    device_reads: per_trip(calls.reads),
                };
                Ok((Duration::from_nanos(elapsed_ns), sample))
            }
        };
        if let Err(why) = &outcome {
            // Its eventfds and its stop flag cannot be used any more.
            self.links[index] = Err(why.clone());
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{CpuSet, default_placements};

    #[test]
    fn every_method_works_on_every_placement() {
        for placement in default_placements(&CpuSet::allowed().unwrap()) {
            let mut threads = TwoThreads::new(placement, &Method::ALL).unwrap();
            for (index, method) in Method::ALL.into_iter().enumerate() {
                // Twice, because the second run starts with what the first left behind.
                for times in [1, 200] {
                    let sample = match threads.sample(index, times, Duration::ZERO).unwrap() {
                        Ok((_, sample)) => sample,
                        Err(why) => {
                            eprintln!("{method}: not available: {why}");
                            continue;
                        }
                    };
                    assert!(sample.round_trip_ns > 0.0);
                    // The call's write, and at least one wait or read for each kick.
                    assert!(sample.device_syscalls >= 2.0, "{method} on {placement}: {sample:?}");
                    if method.reads() {
                        assert!(sample.device_reads >= 1.0, "{method} on {placement}");
                    } else {
                        assert_eq!(sample.device_reads, 0.0, "{method} on {placement}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_guest_ends_if_the_device_fails() {
        struct Broken;
        impl Waiter for Broken {
            fn wait(&mut self, _: Patience, _: &mut Calls) -> io::Result<bool> {
                Err(io::Error::other("broken"))
            }
        }
        let link = Arc::new(Link {
            kick: Arc::new(EventFd::new(0, libc::EFD_NONBLOCK).unwrap()),
            call: EventFd::new(0, 0).unwrap(),
            sequence: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let guest = std::thread::spawn({
            let link = Arc::clone(&link);
            move || play_guest(&link, 5)
        });
        assert_eq!(play_device(&link, &mut Broken, &mut 0, 5).unwrap_err().to_string(), "broken");
        assert_eq!(guest.join().unwrap().unwrap_err().to_string(), "the device gave up");
    }

    #[test]
    fn both_threads_end_if_the_link_is_abandoned() {
        let (kick, mut waiter) = Method::BlockingRead.open().unwrap();
        let link = Link {
            kick,
            call: EventFd::new(0, 0).unwrap(),
            sequence: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        link.abandon();
        assert!(play_guest(&link, 5).is_err());
        assert!(play_device(&link, waiter.as_mut(), &mut 0, 5).is_err());
    }
}
