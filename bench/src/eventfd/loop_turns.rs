//! The event loop on one thread, compared with bare system calls: signal a notifier, turn the loop,
//! run an empty handler. The same system calls without a loop are measured in the same rounds; the
//! difference is the loop's own work.

use crate::arm::Arm;
use crate::bare::{Calls, EventFd, Method, OperationSample, Patience, Waiter, clock_ns};
use crate::campaign::Repeater;
use crate::error::{Error, reason};
use aio::{AioContext, EventNotifier, NotifierRegistration, Timer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// What is repeated and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The bare system calls of an arm.
    Floor(Arm),
    /// One notifier is signalled while this many are registered.
    Loop(Arm, usize),
    /// A timer is armed and cancelled while this many others are armed.
    Timer(usize),
}

/// Arms measured at every number of registered notifiers.
const SCALED: [&str; 2] = ["epoll/edge", "io_uring/edge"];
const SCALE: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Arms measured at two numbers. (A thread can register sixteen rings, and these tables use
/// twelve.)
const OTHERS: [&str; 3] = ["epoll/classic", "io_uring/classic", "io_uring/ring-read"];
const FEW: [usize; 2] = [1, 1_000];
/// Timers that are armed for later.
const TIMERS: usize = 1_000;

impl Turn {
    pub(super) fn all() -> impl Iterator<Item = Turn> {
        let arms = |names: &'static [&'static str], sizes: &'static [usize]| {
            let arms = names.iter().filter_map(|name| name.parse::<Arm>().ok());
            arms.flat_map(move |arm| {
                std::iter::once(Turn::Floor(arm)).chain(sizes.iter().map(move |&size| Turn::Loop(arm, size)))
            })
        };
        arms(&SCALED, &SCALE).chain(arms(&OTHERS, &FEW)).chain([Turn::Timer(TIMERS)])
    }

    /// A loop is compared with the bare system calls of the same arm.
    pub(super) fn baseline(self) -> Option<Turn> {
        match self {
            Turn::Loop(arm, _) => Some(Turn::Floor(arm)),
            Turn::Floor(_) | Turn::Timer(_) => None,
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Turn::Floor(arm) => format!("{arm}: bare system calls"),
            Turn::Loop(arm, registered) => format!("{arm}: loop, 1 of {registered} registered"),
            Turn::Timer(armed) => format!("timer: arm + cancel, {armed} armed"),
        };
        f.pad(&text)
    }
}

/// The bare calls of an arm.
fn floor(arm: Arm) -> Option<Method> {
    Some(match arm.to_string().as_str() {
        "epoll/edge" => Method::EpollEdge,
        "epoll/classic" => Method::EpollWaitRead,
        "io_uring/edge" => Method::PollMultishot,
        "io_uring/classic" => Method::PollOneshotRead,
        "io_uring/ring-read" => Method::RingRead,
        _ => return None,
    })
}

/// A turn with what it needs, created once.
enum Bench {
    Floor(Arc<EventFd>, Box<dyn Waiter>),
    Loop(LoopBench),
    Timer(TimerBench),
}

struct LoopBench {
    // Dropped before the context.
    _registrations: Vec<NotifierRegistration>,
    context: AioContext,
    bell: EventNotifier,
    handled: Rc<Cell<u64>>,
}

struct TimerBench {
    _armed: Vec<Timer>,
    timer: Timer,
    _context: AioContext,
}

/// Notifiers that are never signalled, shared by the loops because a process has few descriptors.
type Idle = BTreeMap<String, Vec<EventNotifier>>;

impl Bench {
    fn open(turn: Turn, idle: &mut Idle) -> Result<Self, String> {
        match turn {
            Turn::Floor(arm) => {
                let method = floor(arm).ok_or("this arm has no bare system calls to compare with")?;
                let (kick, waiter) = method.open()?;
                Ok(Bench::Floor(kick, waiter))
            }
            Turn::Loop(arm, registered) => {
                LoopBench::open(arm, registered, idle).map(Bench::Loop).map_err(|error| {
                    match error.raw_os_error() {
                        Some(libc::EMFILE) => format!("needs {registered} descriptors; raise 'ulimit -n'"),
                        _ => reason(&error),
                    }
                })
            }
            Turn::Timer(armed) => TimerBench::open(armed).map(Bench::Timer).map_err(|error| reason(&error)),
        }
    }

    fn sample(&mut self, times: u64) -> io::Result<(Duration, OperationSample)> {
        let mut calls = Calls::default();
        let before = self.loop_calls();
        let begin = clock_ns(libc::CLOCK_MONOTONIC);
        match self {
            Bench::Floor(kick, waiter) => {
                for _ in 0..times {
                    kick.signal(&mut calls)?;
                    waiter.wait(Patience::Forever, &mut calls)?;
                }
            }
            Bench::Loop(bench) => {
                for _ in 0..times {
                    bench.bell.notify()?;
                    bench.context.poll(true)?;
                }
                calls.writes += times;
            }
            Bench::Timer(bench) => {
                for _ in 0..times {
                    bench.timer.arm_after(LATER);
                    bench.timer.cancel();
                }
            }
        }
        let elapsed_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
        let after = self.loop_calls();
        let per_turn = |count: u64| count as f64 / times as f64;
        let sample = OperationSample {
            time_ns: per_turn(elapsed_ns),
            syscalls: per_turn(calls.total() + after.0 - before.0),
            reads: per_turn(calls.reads + after.1 - before.1),
        };
        if let Bench::Loop(bench) = self
            && bench.handled.replace(0) < times
        {
            // Each turn found the notifier signalled, so each had to call the handler.
            return Err(io::Error::other(
                "a signal was lost: the handler ran less often than the notifier was signalled",
            ));
        }
        Ok((Duration::from_nanos(elapsed_ns), sample))
    }

    /// System calls and read(2)s that the loop has counted.
    fn loop_calls(&self) -> (u64, u64) {
        match self {
            Bench::Loop(bench) => {
                let stats = bench.context.stats();
                (stats.syscalls(), stats.syscalls_read)
            }
            Bench::Floor(..) | Bench::Timer(_) => (0, 0),
        }
    }
}

impl LoopBench {
    fn open(arm: Arm, registered: usize, idle: &mut Idle) -> io::Result<Self> {
        let reset = aio::Reset::from(arm.reset());
        let context = AioContext::builder().monitor(arm.monitor().kind()).reset(reset).build()?;
        // A notifier belongs to a reset mode, not to a loop.
        let others = idle.entry(arm.reset().to_string()).or_default();
        while others.len() + 1 < registered {
            others.push(EventNotifier::new(reset)?);
        }
        let bell = EventNotifier::new(reset)?;
        let handled = Rc::new(Cell::new(0));
        let mut registrations = Vec::with_capacity(registered);
        // Registered in the middle of the others.
        let (before, after) = others[..registered - 1].split_at((registered - 1) / 2);
        for notifier in before {
            registrations.push(context.add_notifier(notifier, |_| {})?);
        }
        let count = Rc::clone(&handled);
        registrations.push(context.add_notifier(&bell, move |_| count.set(count.get() + 1))?);
        for notifier in after {
            registrations.push(context.add_notifier(notifier, |_| {})?);
        }
        // Arm what has to be armed.
        context.poll(false)?;
        Ok(Self { _registrations: registrations, context, bell, handled })
    }
}

/// A deadline that is later than the end of any sample.
const LATER: Duration = Duration::from_secs(3_600);

impl TimerBench {
    fn open(armed: usize) -> io::Result<Self> {
        let context = AioContext::new()?;
        let at = |index: usize| {
            let timer = context.timer(|_| {});
            // Deadlines before and after the measured one, in no particular order.
            timer.arm_after(LATER / 2 + Duration::from_millis((index * 7_919 % armed) as u64 * 3_600));
            timer
        };
        let armed = (0..armed).map(at).collect();
        Ok(Self { _armed: armed, timer: context.timer(|_| {}), _context: context })
    }
}

/// Creates all `turns` on a thread pinned to `cpu`. Raises the soft limit on descriptors.
pub(super) fn thread(cpu: usize, turns: Vec<Turn>) -> Result<Repeater<OperationSample>, Error> {
    crate::machine::raise_descriptor_limit();
    let make = move || {
        let mut idle = Idle::new();
        turns.into_iter().map(|turn| Bench::open(turn, &mut idle)).collect::<Vec<_>>()
    };
    let repeat =
        |benches: &mut Vec<Result<Bench, String>>, index: usize, times: u64| match &mut benches[index] {
            Ok(bench) => bench.sample(times).map_err(|error| reason(&error)),
            Err(why) => Err(why.clone()),
        };
    Repeater::new("loop-turns", cpu, make, repeat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_makes_the_same_calls_as_its_floor() {
        crate::machine::raise_descriptor_limit();
        let mut idle = Idle::new();
        let mut calls = |turn: Turn| match Bench::open(turn, &mut idle) {
            Ok(mut bench) => {
                bench.sample(2).unwrap();
                let (_, sample) = bench.sample(100).unwrap();
                Some((sample.syscalls, sample.reads))
            }
            Err(why) => {
                eprintln!("{turn}: not available: {why}");
                None
            }
        };
        for turn in Turn::all() {
            let Some(baseline) = turn.baseline() else { continue };
            let (ours, floor) = (calls(turn), calls(baseline));
            assert!(ours.is_none() || ours == floor, "{turn}: {ours:?}, its floor {floor:?}");
        }
    }

    #[test]
    fn every_arm_has_a_floor() {
        for turn in Turn::all() {
            if let Turn::Floor(arm) = turn {
                assert!(floor(arm).is_some(), "{arm}");
            }
        }
    }
}
