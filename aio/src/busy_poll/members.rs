//! The handlers that are polled, and what was learned about each.

use super::policy::BusyPolling;
use crate::agenda::{Agenda, Item};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// A polled handler without an event for this long is left to its doorbell.
const IDLE_NS: u64 = 7_000_000_000;

/// A turn that found work in memory makes no system call, unless some events show only in the
/// kernel. Then it makes one in this many turns, so that a busy device cannot starve the others.
const LOOK_AT_FDS_EVERY: u32 = 8;

/// What busy polling knows of one handler.
#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// Not polled: it had no event, or none for a long time.
    #[default]
    Unlisted,
    /// Polled in the next round; its doorbell is on.
    Listed(Learned),
    /// Being polled; its doorbell is off. `end` has to follow.
    Begun(Learned),
}

#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    window_ns: u64,
    last_event_ns: u64,
}

impl Phase {
    fn learned(self) -> Learned {
        match self {
            Self::Unlisted => Learned::default(),
            Self::Listed(learned) | Self::Begun(learned) => learned,
        }
    }

    fn is_begun(self) -> bool {
        matches!(self, Self::Begun(_))
    }
}

/// The part of a handler that belongs to busy polling.
#[derive(Debug, Default)]
pub(crate) struct State(Cell<Phase>);

/// A handler that can be polled.
pub(crate) trait Member: Clone {
    /// Its part that belongs to busy polling.
    fn state(&self) -> &State;

    /// Returns true if both are the same handler.
    fn is(&self, other: &Self) -> bool;
}

/// How a round of busy polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// No window is open: nothing was looked at.
    Off,
    /// A device has work; its handler is marked ready.
    Hit,
    /// The loop itself has something to do: a producer notified it, or the monitor has something to
    /// submit or to reap.
    Loop,
    /// The window passed.
    Miss,
}

/// When a turn began to look for work, and when it had found it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) start_ns: u64,
    pub(crate) now_ns: u64,
}

/// Busy polling of one context.
pub(crate) struct BusyPoll<H> {
    policy: Cell<Option<BusyPolling>>,
    /// The handlers that are `Listed` or `Begun`.
    members: RefCell<Vec<H>>,
    /// How often a handler was taken off the list.
    removals: Cell<u64>,
    /// Set while a member may be `Begun`.
    begun: Cell<bool>,
    turns_without_fds: Cell<u32>,
    /// What lingering may spend.
    credit_ns: Cell<u64>,
    /// The work of this turn earns nothing.
    rests: Cell<bool>,
    turn: Cell<Found>,
    agenda: Rc<Agenda>,
}

impl<H> fmt::Debug for BusyPoll<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusyPoll")
            .field("policy", &self.policy)
            .field("members", &self.members.borrow().len())
            .finish_non_exhaustive()
    }
}

impl<H: Member> BusyPoll<H> {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Self {
        Self {
            policy: Cell::new(None),
            members: RefCell::default(),
            removals: Cell::new(0),
            begun: Cell::new(false),
            turns_without_fds: Cell::new(0),
            credit_ns: Cell::new(0),
            rests: Cell::new(false),
            turn: Cell::default(),
            agenda: Rc::clone(agenda),
        }
    }

    /// Sets the policy. The caller then ends the mode ([`end`](Self::end)), and what was learned is
    /// forgotten.
    pub(crate) fn set_policy(&self, policy: BusyPolling) {
        self.credit_ns.set(0);
        self.policy.set(policy.is_on().then_some(policy));
        // A mode that is on must be ended, also by the next turn if a hook panics before it is.
        self.agenda.set(Item::BusyPolling, policy.is_on() || self.begun.get());
    }

    /// Forgets what was learned. The mode has been ended.
    pub(crate) fn forget_learned(&self) {
        self.removals.set(self.removals.get() + 1);
        let members = self.members.take();
        members.iter().for_each(|member| member.state().0.set(Phase::Unlisted));
    }

    /// The loop was at work for so long: it may linger for as long.
    pub(crate) fn earn(&self, worked_ns: u64) {
        if self.rests.replace(false) {
            self.credit_ns.set(0);
            return;
        }
        let most = self.policy.get().map_or(0, |policy| policy.linger_ns);
        let earned = worked_ns.saturating_mul(BusyPolling::LINGER_FACTOR);
        self.credit_ns.set(self.credit_ns.get().saturating_add(earned).min(most));
    }

    /// Returns true if nothing but lingering for one member keeps the loop awake.
    pub(crate) fn may_rest(&self) -> bool {
        self.members.borrow().len() <= 1 && self.policy.get().is_none_or(|policy| policy.max_ns == 0)
    }

    /// After this turn the loop does not linger.
    pub(crate) fn rest(&self) {
        self.rests.set(true);
    }

    /// The loop looked for so long.
    pub(crate) fn spend(&self, looked_ns: u64) {
        self.credit_ns.set(self.credit_ns.get().saturating_sub(looked_ns));
    }

    /// For how many nanoseconds to look, `limit_ns` at most. `None` if busy polling has nothing to
    /// do.
    pub(crate) fn window_ns(&self, limit_ns: Option<u64>, may_linger: bool) -> Option<u64> {
        let credit_ns = if may_linger { self.credit_ns.get() } else { 0 };
        let window = |member: &H| member.state().0.get().learned().window_ns.max(credit_ns);
        let widest = match self.policy.get() {
            Some(_) => self.members.borrow().iter().map(window).max().unwrap_or(0),
            None => 0,
        };
        let window_ns = limit_ns.map_or(widest, |limit| widest.min(limit));
        (window_ns != 0 || self.begun.get()).then_some(window_ns)
    }

    /// Begins the mode unless it is on. `hook` switches a doorbell off.
    pub(crate) fn begin(&self, hook: impl Fn(&H)) {
        if !self.begun.replace(true) {
            self.each(|member| {
                if let Phase::Listed(learned) = member.state().0.get() {
                    member.state().0.set(Phase::Begun(learned));
                    hook(member);
                }
            });
        }
    }

    /// Ends the mode, if it is on. `hook` switches a doorbell on and looks once more. Returns true
    /// if it was on: hooks ran, so the caller must compute its timeout again.
    ///
    /// If a hook panics, the other doorbells are switched on by the next call.
    pub(crate) fn end(&self, hook: impl Fn(&H)) -> bool {
        let was_begun = self.begun.get();
        if was_begun {
            self.each(|member| {
                if let Phase::Begun(learned) = member.state().0.get() {
                    member.state().0.set(Phase::Listed(learned));
                    hook(member);
                }
            });
            self.begun.set(false);
            self.agenda.set(Item::BusyPolling, self.policy.get().is_some());
        }
        was_begun
    }

    /// Calls `visit` for each member, by index and with a reference of its own, because a hook may
    /// add and remove handlers. A removal may move another member to a place that was visited
    /// already, so it makes this start over; to begin what has begun, or to end what has ended,
    /// does nothing.
    pub(crate) fn each(&self, mut visit: impl FnMut(&H)) {
        let mut index = 0;
        loop {
            // A statement of its own: nothing may be borrowed while a hook runs.
            let member = self.members.borrow().get(index).cloned();
            let Some(member) = member else { return };
            let removals = self.removals.get();
            visit(&member);
            index = if self.removals.get() == removals { index + 1 } else { 0 };
        }
    }

    /// Sets when the present turn began to look for work and when it had found it. Returns what a
    /// turn further up the stack has set.
    pub(crate) fn note_turn(&self, turn: Found) -> Found {
        self.turn.replace(turn)
    }

    /// After an event of a handler: lists it, and adapts its window. Returns true if the mode is
    /// on, and the caller must switch its doorbell off.
    pub(crate) fn had_event(&self, member: &H) -> bool {
        let Some(policy) = self.policy.get() else { return false };
        let Found { start_ns, now_ns } = self.turn.get();
        let phase = member.state().0.get();
        let learned = Learned {
            window_ns: policy.adapt(phase.learned().window_ns, now_ns.saturating_sub(start_ns)),
            last_event_ns: now_ns,
        };
        let is_new = matches!(phase, Phase::Unlisted);
        if is_new {
            self.members.borrow_mut().push(member.clone());
        }
        let begins = is_new && self.begun.get();
        let begun = begins || phase.is_begun();
        member.state().0.set(if begun { Phase::Begun(learned) } else { Phase::Listed(learned) });
        begins
    }

    /// Takes a handler off the list. Returns true if its doorbell was off: the caller must end it.
    pub(crate) fn remove(&self, member: &H) -> bool {
        let phase = member.state().0.take();
        if matches!(phase, Phase::Unlisted) {
            return false;
        }
        let mut members = self.members.borrow_mut();
        // Not dropped here, where the list is borrowed.
        let removed = members.iter().position(|other| other.is(member)).map(|at| members.swap_remove(at));
        drop(members);
        self.removals.set(self.removals.get() + 1);
        drop(removed);
        phase.is_begun()
    }

    /// A member that had no event for a long time, to be removed.
    pub(crate) fn find_idle(&self, now_ns: u64) -> Option<H> {
        let last_event_ns = |member: &H| member.state().0.get().learned().last_event_ns;
        let is_idle = |member: &&H| now_ns.saturating_sub(last_event_ns(member)) > IDLE_NS;
        self.members.borrow().iter().find(is_idle).cloned()
    }

    /// Returns true if a turn that found work must ask the kernel all the same. `registered`: the
    /// handlers whose descriptors it watches.
    pub(crate) fn must_look_at_fds(&self, registered: usize) -> bool {
        if registered <= self.members.borrow().len() {
            return false;
        }
        let turns = self.turns_without_fds.get() + 1;
        let due = turns >= LOOK_AT_FDS_EVERY;
        self.turns_without_fds.set(if due { 0 } else { turns });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Member for Rc<State> {
        fn state(&self) -> &State {
            self
        }

        fn is(&self, other: &Self) -> bool {
            Rc::ptr_eq(self, other)
        }
    }

    fn polling(policy: BusyPolling) -> BusyPoll<Rc<State>> {
        let busy = BusyPoll::new(&Rc::default());
        busy.set_policy(policy);
        busy
    }

    #[test]
    fn lingering_spends_what_work_has_earned() {
        let busy = polling(BusyPolling::OFF);
        busy.earn(1_000);
        assert_eq!(busy.credit_ns.get(), 0, "off");
        busy.set_policy(BusyPolling::OFF.lingering_ns(5_000));
        busy.earn(1_000);
        assert_eq!(busy.credit_ns.get(), 2_000);
        busy.spend(500);
        busy.earn(100);
        assert_eq!(busy.credit_ns.get(), 1_700, "the rest is kept");
        busy.earn(u64::MAX);
        assert_eq!(busy.credit_ns.get(), 5_000, "up to the limit");
        busy.spend(6_000);
        assert_eq!(busy.credit_ns.get(), 0, "no debts");
        busy.earn(1_000);
        busy.set_policy(BusyPolling::up_to_ns(5_000));
        assert_eq!(busy.credit_ns.get(), 0, "a new policy starts with nothing");
    }

    #[test]
    fn each_doorbell_is_switched_off_and_on_once() {
        let busy = polling(BusyPolling::up_to_ns(1_000));
        let members = [(); 3].map(|()| Rc::<State>::default());
        members.iter().for_each(|member| assert!(!busy.had_event(member)));
        let (off, on) = (Cell::new(0), Cell::new(0));
        let begin = || busy.begin(|_| off.set(off.get() + 1));
        let end = || busy.end(|_| on.set(on.get() + 1));
        assert!(!end(), "not begun");
        begin();
        begin();
        assert_eq!(off.get(), 3);
        assert!(busy.remove(&members[1]), "its doorbell is off");
        assert!(!busy.remove(&members[1]));
        assert!(busy.had_event(&members[1]), "listed while the mode is on");
        assert!(!busy.had_event(&members[1]));
        assert!(end() && !end());
        assert_eq!(on.get(), 3);
    }

    #[test]
    fn a_hook_that_panics_leaves_the_other_doorbells_to_the_next_turn() {
        let busy = polling(BusyPolling::up_to_ns(1_000));
        let members = [(); 3].map(|()| Rc::<State>::default());
        members.iter().for_each(|member| assert!(!busy.had_event(member)));
        busy.begin(|_| ());
        let ended = Cell::new(0);
        let end = |panics: bool| {
            busy.end(|_| {
                ended.set(ended.get() + 1);
                assert!(!panics || ended.get() != 2, "a hook panics");
            })
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| end(true))).unwrap_err();
        busy.set_policy(BusyPolling::OFF);
        assert!(busy.agenda.has(Item::BusyPolling), "the next turn has to end the rest");
        assert!(end(false));
        assert_eq!(ended.get(), 3);
        assert!(!busy.agenda.has(Item::BusyPolling));
    }

    #[test]
    fn idle_members_are_found() {
        let busy = polling(BusyPolling::up_to_ns(1_000));
        let member = Rc::<State>::default();
        busy.note_turn(Found { start_ns: 0, now_ns: 1 });
        busy.had_event(&member);
        assert!(busy.find_idle(1 + IDLE_NS).is_none());
        let idle = busy.find_idle(2 + IDLE_NS).unwrap();
        assert!(!busy.remove(&idle));
        assert!(busy.find_idle(u64::MAX).is_none());
    }
}
