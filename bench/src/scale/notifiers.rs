//! Notifiers on one loop: they are signalled, and the loop turns until their handlers have run.

use super::heap::bytes_in_use;
use crate::arm::Arm;
use crate::bare::clock_ns;
use crate::campaign::Repeater;
use crate::error::{Error, reason};
use crate::measure::sample;
use aio::{AioContext, EventNotifier, NotifierRegistration};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, io};

sample! {
    /// The result of one visit of notifiers.
    pub(super) struct EventSample {
        time_ns: "ns" Lower,
        syscalls: "syscalls" Lower,
        handler_bytes: "bytes" Lower,
    }
}

/// A number of registered notifiers, of which one or all are signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notifiers {
    pub(super) arm: Arm,
    pub(super) registered: usize,
    pub(super) all_rung: bool,
}

/// Numbers of registered notifiers.
pub(super) const REGISTERED: [usize; 5] = [1, 10, 100, 1_000, 10_000];

impl Notifiers {
    pub(super) fn all(arm: Arm) -> impl Iterator<Item = Notifiers> {
        [false, true]
            .into_iter()
            .flat_map(move |all_rung| REGISTERED.map(|registered| Notifiers { arm, registered, all_rung }))
    }

    pub(super) fn group(self, cpu: usize) -> String {
        let rung = if self.all_rung { "all" } else { "1" };
        format!("notifiers on one loop, {rung} rung, {}, CPU {cpu}", self.arm)
    }
}

/// The case: how many are registered.
impl fmt::Display for Notifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.registered.to_string())
    }
}

/// A loop with its notifiers. Created for each visit, because all loops together would need too
/// many descriptors.
struct Loop {
    // Dropped before the context.
    _registrations: Vec<NotifierRegistration>,
    context: AioContext,
    bells: Vec<EventNotifier>,
    handled: Rc<Cell<u64>>,
    bytes_each: f64,
}

impl Loop {
    fn open(what: Notifiers) -> io::Result<Self> {
        let reset = aio::Reset::from(what.arm.reset());
        let context = AioContext::builder().monitor(what.arm.monitor().kind()).reset(reset).build()?;
        let handled = Rc::new(Cell::new(0));
        // Allocate the vectors first, so that only the registrations are counted.
        let mut bells = Vec::with_capacity(what.registered);
        let mut registrations = Vec::with_capacity(what.registered);
        let before = bytes_in_use();
        for _ in 0..what.registered {
            let bell = EventNotifier::new(reset)?;
            let count = Rc::clone(&handled);
            registrations.push(context.add_notifier(&bell, move |_| count.set(count.get() + 1))?);
            bells.push(bell);
        }
        // Arm what has to be armed.
        context.poll(false)?;
        let grown = before.zip(bytes_in_use()).map(|(before, after)| after.saturating_sub(before));
        let bytes_each = grown.map_or(f64::NAN, |grown| grown as f64 / what.registered as f64);
        Ok(Self { _registrations: registrations, context, bells, handled, bytes_each })
    }

    fn turn(&self, rung: &[EventNotifier], times: u64) -> io::Result<()> {
        for _ in 0..times {
            let target = self.handled.get() + rung.len() as u64;
            for bell in rung {
                bell.notify()?;
            }
            while self.handled.get() < target {
                self.context.poll(true)?;
            }
        }
        Ok(())
    }
}

fn visit(what: Notifiers, times: u64) -> io::Result<(Duration, EventSample)> {
    let it = Loop::open(what)?;
    let middle = what.registered / 2;
    let rung = if what.all_rung { &it.bells[..] } else { &it.bells[middle..=middle] };
    it.turn(rung, times / 10 + 1)?;
    let before = it.context.stats();
    let begin = clock_ns(libc::CLOCK_MONOTONIC);
    it.turn(rung, times)?;
    let elapsed_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
    let calls = (it.context.stats() - before).syscalls();
    let events = (times * rung.len() as u64) as f64;
    let sample = EventSample {
        time_ns: elapsed_ns as f64 / events,
        // Plus the write(2) of each signal.
        syscalls: calls as f64 / events + 1.0,
        handler_bytes: it.bytes_each,
    };
    Ok((Duration::from_nanos(elapsed_ns), sample))
}

/// Starts a thread on `cpu` that makes the visits: a case for each of `all`.
pub(super) fn thread(cpu: usize, all: Vec<Notifiers>) -> Result<Repeater<EventSample>, Error> {
    let repeat = move |(): &mut (), index: usize, times: u64| {
        let what: Notifiers = all[index];
        visit(what, times).map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE) => format!("needs {} descriptors; raise 'ulimit -n'", what.registered),
            _ => reason(&error),
        })
    };
    Repeater::new("notifiers", cpu, || (), repeat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_signal_costs_the_same_calls_for_any_number_of_notifiers() {
        let arm: Arm = "epoll/edge".parse().unwrap();
        for registered in [1, 10, 1_000] {
            let (_, sample) = visit(Notifiers { arm, registered, all_rung: false }, 50).unwrap();
            assert_eq!(sample.syscalls, 2.0, "{registered}: a write and a wait");
        }
    }

    #[test]
    fn notifiers_share_waits_and_each_handler_runs() {
        let arm: Arm = "epoll/edge".parse().unwrap();
        let what = Notifiers { arm, registered: 100, all_rung: true };
        let it = Loop::open(what).unwrap();
        it.turn(&it.bells, 7).unwrap();
        assert_eq!(it.handled.get(), 700);
        let (_, sample) = visit(what, 50).unwrap();
        assert_eq!(sample.syscalls, 1.01);
    }
}
