//! Names of callbacks, and what is counted for each of them while a loop is profiled.
//!
//! Handlers, timers, bottom halves and tasks have a [`Slot`] for a [`Record`], which is made when
//! it is first needed. The usual turn never looks at it.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// What a callback was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallbackKind {
    /// A descriptor was ready: [`AioContext::add_fd`](crate::AioContext::add_fd).
    Fd,
    /// A notifier was rung: [`AioContext::add_notifier`](crate::AioContext::add_notifier).
    Notifier,
    /// A device that can be busy polled has work:
    /// [`AioContext::add_polled_notifier`](crate::AioContext::add_polled_notifier).
    PolledNotifier,
    /// The loop's own notifier, which calls nobody.
    OwnNotifier,
    /// A timer expired.
    Timer,
    /// A bottom half was scheduled.
    BottomHalf,
    /// A closure: [`AioContext::defer`](crate::AioContext::defer),
    /// [`Handle::schedule`](crate::Handle::schedule), the callback of
    /// [`AioContext::spawn_blocking`](crate::AioContext::spawn_blocking).
    Closure,
    /// An operation of the ring completed.
    Operation,
    /// A task was polled: [`AioContext::spawn`](crate::AioContext::spawn). A call is one poll.
    Task,
}

impl CallbackKind {
    /// All kinds, for tables.
    pub const ALL: [Self; 9] = [
        Self::Fd,
        Self::Notifier,
        Self::PolledNotifier,
        Self::OwnNotifier,
        Self::Timer,
        Self::BottomHalf,
        Self::Closure,
        Self::Operation,
        Self::Task,
    ];
}

impl CallbackKind {
    /// The kind in lower case, such as `bottom half`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fd => "fd",
            Self::Notifier => "notifier",
            Self::PolledNotifier => "polled notifier",
            Self::OwnNotifier => "own notifier",
            Self::Timer => "timer",
            Self::BottomHalf => "bottom half",
            Self::Closure => "closure",
            Self::Operation => "operation",
            Self::Task => "task",
        }
    }
}

impl fmt::Display for CallbackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What was counted for a callback, or for all of one kind, while the loop was
/// [profiled](crate::AioContext::set_profiling).
///
/// The time is that of CLOCK_MONOTONIC from the call of the callback to its return, nested turns
/// and preemption included. A call that panics is not counted, except that of a task whose panic
/// goes to its [`JoinHandle`](crate::JoinHandle).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// How often it was called.
    pub calls: u64,
    /// The sum of the times of all calls.
    pub total: Duration,
    /// The time of the longest call.
    pub longest: Duration,
}

/// Figures as they are counted. Home thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// The profile that these figures belong to. Those of an earlier one count as zero.
    profile: Cell<u64>,
    calls: Cell<u64>,
    total_ns: Cell<u64>,
    longest_ns: Cell<u64>,
}

impl Tally {
    /// Counts a call in the profile with this number.
    pub(crate) fn add(&self, profile: u64, took_ns: u64) {
        if self.profile.replace(profile) != profile {
            self.calls.set(0);
            self.total_ns.set(0);
            self.longest_ns.set(0);
        }
        self.calls.set(self.calls.get().wrapping_add(1));
        self.total_ns.set(self.total_ns.get().wrapping_add(took_ns));
        self.longest_ns.set(self.longest_ns.get().max(took_ns));
    }

    pub(crate) fn figures(&self, profile: u64) -> Figures {
        if self.profile.get() != profile {
            return Figures::default();
        }
        Figures {
            calls: self.calls.get(),
            total: Duration::from_nanos(self.total_ns.get()),
            longest: Duration::from_nanos(self.longest_ns.get()),
        }
    }
}

/// What is known of one callback.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) name: Option<Cow<'static, str>>,
    pub(crate) tally: Tally,
}

/// The place for the record of one callback.
#[derive(Default)]
pub(crate) struct Slot(Cell<Option<Rc<Record>>>);

impl Slot {
    /// Sets the name, in place of any earlier one.
    pub(crate) fn set_name(&self, name: Cow<'static, str>) {
        let tally = self.get().map_or_else(Tally::default, |record| record.tally.clone());
        self.0.set(Some(Rc::new(Record { name: Some(name), tally })));
    }

    /// The record, if there is one.
    pub(crate) fn get(&self) -> Option<Rc<Record>> {
        let record = self.0.take();
        self.0.set(record.clone());
        record
    }

    /// The record. The first call allocates it.
    pub(crate) fn get_or_make(&self) -> Rc<Record> {
        let record = self.0.take().unwrap_or_default();
        self.0.set(Some(Rc::clone(&record)));
        record
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_an_earlier_profile_count_as_zero() {
        let tally = Tally::default();
        assert_eq!(tally.figures(1), Figures::default());
        [3, 5, 4].into_iter().for_each(|ns| tally.add(1, ns));
        let (total, longest) = (Duration::from_nanos(12), Duration::from_nanos(5));
        assert_eq!(tally.figures(1), Figures { calls: 3, total, longest });
        assert_eq!(tally.figures(2), Figures::default());
        tally.add(2, 1);
        let once = Duration::from_nanos(1);
        assert_eq!(tally.figures(2), Figures { calls: 1, total: once, longest: once });
    }

    #[test]
    fn a_name_keeps_the_figures() {
        let slot = Slot::default();
        assert!(slot.get().is_none());
        slot.get_or_make().tally.add(1, 7);
        slot.set_name("disk".into());
        slot.set_name("disk 0".into());
        let record = slot.get().unwrap();
        assert_eq!((record.name.as_deref(), record.tally.figures(1).calls), (Some("disk 0"), 1));
    }
}
