//! The work that every loop does, and the trait that a loop implements for it. One visit creates a
//! loop, registers, warms up, measures, and destroys everything again, so nothing is left of a loop
//! when the next one runs.
#![expect(unsafe_code, reason = "write(2) of eight bytes")]

use super::task_work::TaskWork;
use crate::bare::clock_ns;
use crate::bare::{Calls, EventFd};
use crate::error::reason;
use crate::machine::{Placement, pin_current_thread};
use crate::measure::{latencies, median, quantile_us};
use hdrhistogram::Histogram;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

/// What is repeated and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// `registered` notifiers, `ready` of them are signalled, and the loop turns until their
    /// handlers have run.
    Bells { registered: usize, ready: usize },
    /// A notifier is registered beside `registered` others, signalled, handled, and removed.
    Churn { registered: usize },
    /// A timer gets another deadline while `armed` others are armed. None of them expires.
    Rearm { armed: usize },
    /// A timer is armed for now while `armed` others are armed, and the loop turns until it has
    /// expired.
    Expire { armed: usize },
    /// The loop's own way to be woken from other threads is used from its own thread, and the loop
    /// turns until the handler has run.
    Wake,
    /// The same from a thread on another CPU while the loop sleeps. That thread measures the time
    /// from the wake-up call until it sees that the handler has run.
    WakeAcross,
    /// The work of an executor.
    Tasks(TaskWork),
}

impl Work {
    /// All kinds of work, in the order of the report.
    pub(super) fn all() -> impl Iterator<Item = Work> {
        const REGISTERED: [usize; 4] = [1, 100, 1_000, 10_000];
        let one = REGISTERED.map(|registered| Work::Bells { registered, ready: 1 });
        let every = REGISTERED[1..].iter().map(|&n| Work::Bells { registered: n, ready: n });
        one.into_iter()
            .chain(every)
            .chain([
                Work::Churn { registered: 100 },
                Work::Rearm { armed: 1_000 },
                Work::Expire { armed: 1_000 },
                Work::Wake,
                Work::WakeAcross,
            ])
            .chain(TaskWork::all().map(Work::Tasks))
    }

    /// Events of one repetition.
    pub(super) fn events(self) -> u64 {
        match self {
            Work::Bells { ready, .. } => ready as u64,
            Work::Tasks(work) => work.events(),
            _ => 1,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Work::Bells { registered: 1, .. } => "1 notifier, rung".to_owned(),
            Work::Bells { registered, ready: 1 } => format!("{registered} notifiers, 1 rung"),
            Work::Bells { registered, .. } => format!("{registered} notifiers, all rung"),
            Work::Churn { registered } => format!("add, ring, handle, remove, beside {registered} notifiers"),
            Work::Rearm { armed } => format!("timer re-armed beside {armed}"),
            Work::Expire { armed } => format!("timer armed for now beside {armed}, expired"),
            Work::Wake => "woken from its own thread".to_owned(),
            Work::WakeAcross => "woken from another CPU while asleep, until it is known there".to_owned(),
            Work::Tasks(work) => work.to_string(),
        };
        f.pad(&text)
    }
}

/// The number of handlers that have run. Shared with threads that wake the loop, but written only
/// by the loop's thread, so counting needs no atomic read-modify-write.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<AtomicU64>);

impl Seen {
    #[inline]
    pub(super) fn one_more(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a loop has no row: a sentence, or an error of the system.
pub(super) type Cannot = String;

/// A way to wake a loop from any thread.
pub(super) type Waker = Box<dyn FnMut() + Send>;

/// An event loop. Its handlers clear their notifiers as its users have to, and count themselves in
/// [`Seen`].
pub(super) trait EventLoop: Sized {
    /// A notifier that is not registered.
    type Bell: AsRawFd + Send + 'static;
    /// A registration.
    type Key;

    /// Creates a loop for about this many registrations.
    fn open(registrations: usize, seen: Seen) -> io::Result<Self>;

    fn bell() -> io::Result<Self::Bell>;

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key>;

    fn remove(&mut self, key: Self::Key) -> io::Result<()>;

    /// Waits for events and calls their handlers.
    fn turn(&mut self) -> io::Result<()>;

    fn seen(&self) -> &Seen;

    /// Creates the waker of this loop. By default a notifier, for loops without their own means.
    fn waker(&mut self) -> Result<Waker, Cannot> {
        let bell = Self::bell().map_err(|error| reason(&error))?;
        self.add(&bell).map_err(|error| reason(&error))?;
        Ok(Box::new(move || ring(bell.as_raw_fd())))
    }

    /// Arms `others` timers for later, and makes the one that is measured.
    fn arm_timers(&mut self, _others: usize) -> Result<(), Cannot> {
        Err("it has no timers, only a timeout of its wait".to_owned())
    }

    /// Sets the timer to expire after `delay`. Only called after [`EventLoop::arm_timers`].
    fn rearm(&mut self, _delay: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Turns until `target` handlers have run.
    #[inline]
    fn turn_until(&mut self, target: u64) -> io::Result<()> {
        while self.seen().get() < target {
            self.turn()?;
        }
        Ok(())
    }

    /// `times` times: calls `act` and turns until `events` more handlers have run.
    #[inline]
    fn repeat(&mut self, times: u64, events: u64, mut act: impl FnMut()) -> io::Result<()> {
        for _ in 0..times {
            let target = self.seen().get() + events;
            act();
            self.turn_until(target)?;
        }
        Ok(())
    }

    /// `times` times: registers the bell, rings, turns until its handler has run, and removes it.
    #[inline]
    fn churn(&mut self, bell: &Self::Bell, times: u64) -> io::Result<()> {
        for _ in 0..times {
            let target = self.seen().get() + 1;
            let key = self.add(bell)?;
            ring(bell.as_raw_fd());
            self.turn_until(target)?;
            self.remove(key)?;
        }
        Ok(())
    }

    /// `times` times: moves the timer's deadline.
    #[inline]
    fn rearm_for_later(&mut self, times: u64) -> io::Result<()> {
        (0..times).try_for_each(|n| self.rearm(later(n)))
    }

    /// `times` times: arms the timer for now and turns until it has expired.
    #[inline]
    fn expire(&mut self, times: u64) -> io::Result<()> {
        for _ in 0..times {
            let target = self.seen().get() + 1;
            self.rearm(Duration::ZERO)?;
            self.turn_until(target)?;
        }
        Ok(())
    }
}

/// A deadline that is later than the end of any sample.
pub(super) const LATER: Duration = Duration::from_secs(3_600);

/// The deadlines that the measured timer gets in turn: before and after those of the others, in no
/// particular order.
#[inline]
pub(super) fn later(n: u64) -> Duration {
    LATER + Duration::from_secs(n * 7_919 % 1_000)
}

/// The deadlines of the timers beside the measured one: before and after its own, in no particular
/// order.
pub(super) fn others_at(index: usize) -> Duration {
    LATER + Duration::from_secs((index * 617 % 1_000) as u64)
}

/// Signals an eventfd: one write(2), the same in every row.
#[inline]
pub(super) fn ring(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight live bytes, only read. The descriptor is an eventfd that its loop keeps open;
    // its counter never fills.
    unsafe { libc::syscall(libc::SYS_write, fd, &raw const one, size_of::<u64>()) };
}

/// Clears an eventfd, as a handler must: one read(2).
#[inline]
pub(super) fn clear(bell: &EventFd) {
    // An empty counter means a spurious wake-up. No other error is possible with an open,
    // non-blocking eventfd.
    let _ = bell.read(&mut Calls::default());
}

/// Creates an eventfd for a loop that has no notifier of its own.
pub(super) fn eventfd() -> io::Result<Arc<EventFd>> {
    EventFd::new(0, libc::EFD_NONBLOCK).map(Arc::new)
}

/// What a loop does when its notifier was signalled.
pub(super) type Handler = Box<dyn FnMut()>;

/// The handler of a notifier, which clears it unless `UNREAD`.
pub(super) fn handler<const UNREAD: bool>(bell: &Arc<EventFd>, seen: &Seen) -> Handler {
    let (seen, own) = (seen.clone(), Arc::clone(bell));
    Box::new(move || {
        if !UNREAD {
            clear(&own);
        }
        seen.one_more();
    })
}

/// What one visit measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    /// All repetitions together.
    pub(super) elapsed: Duration,
    /// One repetition: the median over [`SLICES`].
    pub(super) each_ns: f64,
}

/// The repetitions of a visit are timed in this many parts, and the median is used: losing the CPU
/// for a moment affects one part and not the visit.
const SLICES: u64 = 9;

/// Where the threads are. The loop's own thread is on `placement.device` already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub(super) work: Work,
    pub(super) times: u64,
    pub(super) placement: Placement,
    /// Called right before and right after what is timed.
    pub(super) mark: fn(Mark),
}

/// The ends of what is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Begin,
    End,
}

/// Does the work on a loop of the kind `L`.
pub(super) fn visit<L: EventLoop>(visit: Visit) -> Result<Timed, Cannot> {
    let Visit { work, times, placement, .. } = visit;
    let why = |error: io::Error| reason(&error);
    let registered = match work {
        Work::Bells { registered, .. } | Work::Churn { registered } => registered,
        _ => 1,
    };
    let seen = Seen::default();
    let mut it = L::open(registered, seen.clone()).map_err(why)?;
    let bells = (0..registered).map(|_| L::bell()).collect::<io::Result<Vec<_>>>().map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EMFILE) => format!("needs {registered} descriptors; raise 'ulimit -n'"),
            _ => reason(&error),
        }
    })?;
    let keys = bells.iter().map(|bell| it.add(bell)).collect::<io::Result<Vec<_>>>().map_err(why)?;
    // The warm-up: a tenth of the repetitions, and at least one.
    let warm = times / 10 + 1;
    let timed = match work {
        Work::Bells { ready, .. } => {
            let middle = (registered - ready) / 2;
            let fds: Vec<RawFd> = bells[middle..middle + ready].iter().map(AsRawFd::as_raw_fd).collect();
            let mut run = |times| it.repeat(times, ready as u64, || fds.iter().for_each(|&fd| ring(fd)));
            run(warm).and_then(|()| visit.time(run))
        }
        Work::Churn { .. } => {
            let bell = L::bell().map_err(why)?;
            it.churn(&bell, warm).and_then(|()| visit.time(|times| it.churn(&bell, times)))
        }
        Work::Rearm { armed } => {
            it.arm_timers(armed)?;
            it.rearm_for_later(warm).and_then(|()| visit.time(|times| it.rearm_for_later(times)))
        }
        Work::Expire { armed } => {
            it.arm_timers(armed)?;
            it.expire(warm).and_then(|()| visit.time(|times| it.expire(times)))
        }
        Work::Wake => {
            let mut wake = it.waker()?;
            it.repeat(warm, 1, &mut wake).and_then(|()| visit.time(|times| it.repeat(times, 1, &mut wake)))
        }
        Work::WakeAcross => {
            if placement.guest == placement.device {
                return Err("needs two CPUs".to_owned());
            }
            let wake = it.waker()?;
            let over = AtomicBool::new(false);
            let (seen, first) = (&seen, seen.get());
            thread::scope(|scope| {
                let waking = scope.spawn(|| waking_thread(wake, seen, [warm, times], placement.guest, &over));
                let result = it.turn_until(first + warm);
                let result = result.and_then(|()| visit.time_whole(|| it.turn_until(first + warm + times)));
                over.store(true, Ordering::Relaxed);
                // The waking thread's measurement, without the pauses.
                let each_ns = waking.join().map_or(f64::NAN, |latencies| quantile_us(&latencies, 0.5) * 1e3);
                result.map(|elapsed| Timed { elapsed, each_ns })
            })
        }
        Work::Tasks(_) => return Err("it runs no futures".to_owned()),
    };
    let timed = timed.map_err(why)?;
    keys.into_iter().try_for_each(|key| it.remove(key)).map_err(why)?;
    Ok(timed)
}

/// How long the other thread waits before it wakes the loop, so that the loop is asleep by then.
/// This is longer than any loop needs to fall asleep; a loop that is not asleep yet would be woken
/// at once.
const ASLEEP: Duration = Duration::from_micros(50);

/// Wakes the loop `warm` times and then `times` times, and waits each time until the loop has run
/// the handler. Returns how long the last `times` took.
fn waking_thread(
    mut wake: Waker,
    seen: &Seen,
    [warm, times]: [u64; 2],
    cpu: usize,
    over: &AtomicBool,
) -> Histogram<u64> {
    // On a CPU of its own if that is allowed. The loop's thread is pinned, so elsewhere this one
    // can only be slower.
    let _ = pin_current_thread(cpu);
    let now = || clock_ns(libc::CLOCK_MONOTONIC);
    let mut latencies = latencies();
    for round in 0..warm + times {
        let before = seen.get();
        let start = now();
        while now() - start < ASLEEP.as_nanos() as u64 {
            std::hint::spin_loop();
        }
        let begin = now();
        wake();
        while seen.get() == before && !over.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        if round >= warm {
            latencies.saturating_record(now() - begin);
        }
    }
    latencies
}

impl Visit {
    /// Times `run` as a whole.
    fn time_whole(&self, run: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
        (self.mark)(Mark::Begin);
        let begin = clock_ns(libc::CLOCK_MONOTONIC);
        run()?;
        let elapsed_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
        (self.mark)(Mark::End);
        Ok(Duration::from_nanos(elapsed_ns))
    }

    /// Times `run`, which repeats the work the given number of times.
    pub(super) fn time(&self, mut run: impl FnMut(u64) -> io::Result<()>) -> io::Result<Timed> {
        let slices = SLICES.min(self.times);
        let (mut elapsed_ns, mut each_ns) = (0, [0.0; SLICES as usize]);
        (self.mark)(Mark::Begin);
        for slice in 0..slices {
            let times = self.times * (slice + 1) / slices - self.times * slice / slices;
            let begin = clock_ns(libc::CLOCK_MONOTONIC);
            run(times)?;
            let took = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
            elapsed_ns += took;
            each_ns[slice as usize] = took as f64 / times as f64;
        }
        (self.mark)(Mark::End);
        let each_ns = median(&each_ns[..slices as usize]).unwrap_or(f64::NAN);
        Ok(Timed { elapsed: Duration::from_nanos(elapsed_ns), each_ns })
    }
}
