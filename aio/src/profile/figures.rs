//! What is counted of callbacks.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

/// What a callback was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl CallbackKind {
    /// The kind with its indefinite article.
    pub(crate) fn with_article(self) -> String {
        let article = match self {
            Self::Fd | Self::OwnNotifier | Self::Operation => "an",
            _ => "a",
        };
        format!("{article} {self}")
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
/// The time is that of CLOCK_MONOTONIC from the call of the callback to its return, preemption
/// included. A callback that turns the loop ([`poll`](crate::AioContext::poll)) does not hold it up
/// meanwhile: the nested turns count in `total` and `longest`, and not in `own` and `longest_own`.
/// A call that panics counts as any other.
///
/// A callback that is given another name begins with new figures. Those of its old one are in
/// [`Dump::ended`](crate::Dump::ended).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// How often it was called.
    pub calls: u64,
    /// The sum of the times of all calls.
    pub total: Duration,
    /// The time of the longest call.
    pub longest: Duration,
    /// The part of `total` that was not spent in nested turns: the time for which the loop was held
    /// up.
    pub own: Duration,
    /// The longest time for which one call has held the loop up.
    pub longest_own: Duration,
}

/// How long a call took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) ns: u64,
    /// Without nested turns.
    pub(crate) own_ns: u64,
}

/// Figures as they are counted. Home thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// The profile that these figures belong to. Those of an earlier one count as zero.
    profile: Cell<u64>,
    calls: Cell<u64>,
    total_ns: Cell<u64>,
    longest_ns: Cell<u64>,
    own_ns: Cell<u64>,
    longest_own_ns: Cell<u64>,
}

impl Tally {
    /// Counts a call in the profile with this number.
    pub(crate) fn add(&self, profile: u64, took: Took) {
        self.begin(profile);
        self.calls.set(self.calls.get().wrapping_add(1));
        self.total_ns.set(self.total_ns.get().wrapping_add(took.ns));
        self.longest_ns.set(self.longest_ns.get().max(took.ns));
        self.own_ns.set(self.own_ns.get().wrapping_add(took.own_ns));
        self.longest_own_ns.set(self.longest_own_ns.get().max(took.own_ns));
    }

    /// Counts what another tally has counted, unless that was in an earlier profile.
    pub(crate) fn absorb(&self, other: &Self) {
        if other.profile.get() < self.profile.get() {
            return;
        }
        self.begin(other.profile.get());
        self.calls.set(self.calls.get().wrapping_add(other.calls.get()));
        self.total_ns.set(self.total_ns.get().wrapping_add(other.total_ns.get()));
        self.longest_ns.set(self.longest_ns.get().max(other.longest_ns.get()));
        self.own_ns.set(self.own_ns.get().wrapping_add(other.own_ns.get()));
        self.longest_own_ns.set(self.longest_own_ns.get().max(other.longest_own_ns.get()));
    }

    fn begin(&self, profile: u64) {
        if self.profile.replace(profile) != profile {
            for count in [&self.calls, &self.total_ns, &self.longest_ns, &self.own_ns, &self.longest_own_ns] {
                count.set(0);
            }
        }
    }

    /// The number of the profile that it belongs to.
    pub(crate) fn profile(&self) -> u64 {
        self.profile.get()
    }

    pub(crate) fn figures(&self, profile: u64) -> Figures {
        if self.profile.get() != profile {
            return Figures::default();
        }
        Figures {
            calls: self.calls.get(),
            total: Duration::from_nanos(self.total_ns.get()),
            longest: Duration::from_nanos(self.longest_ns.get()),
            own: Duration::from_nanos(self.own_ns.get()),
            longest_own: Duration::from_nanos(self.longest_own_ns.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(ns: u64) -> Took {
        Took { ns, own_ns: ns - 1 }
    }

    #[test]
    fn figures_of_an_earlier_profile_count_as_zero() {
        let tally = Tally::default();
        assert_eq!(tally.figures(1), Figures::default());
        [3, 5, 4].into_iter().for_each(|ns| tally.add(1, took(ns)));
        let [total, longest, own, longest_own] = [12, 5, 9, 4].map(Duration::from_nanos);
        assert_eq!(tally.figures(1), Figures { calls: 3, total, longest, own, longest_own });
        assert_eq!(tally.figures(2), Figures::default());
        tally.add(2, took(1));
        let (once, own) = (Duration::from_nanos(1), Duration::ZERO);
        let expected = Figures { calls: 1, total: once, longest: once, own, longest_own: own };
        assert_eq!(tally.figures(2), expected);
    }

    #[test]
    fn tallies_add_up_within_a_profile() {
        let (sum, other) = (Tally::default(), Tally::default());
        [3, 5].into_iter().for_each(|ns| sum.add(2, took(ns)));
        other.add(1, took(100));
        sum.absorb(&other);
        assert_eq!(sum.figures(2).calls, 2, "of an earlier one");
        other.add(2, took(7));
        sum.absorb(&other);
        let [total, longest, own, longest_own] = [15, 7, 12, 6].map(Duration::from_nanos);
        assert_eq!(sum.figures(2), Figures { calls: 3, total, longest, own, longest_own });
        other.add(3, took(1));
        sum.absorb(&other);
        assert_eq!((sum.figures(2).calls, sum.figures(3).calls), (0, 1), "of a later one");
    }
}
