//! The atomic method: the count is an atomic in shared memory. No system call is made while nobody
//! sleeps.
//!
//! Threads sleep in futex(2). Loops sleep on two eventfds: the doorbell, rung when there is a
//! count, and the room doorbell, rung when there is room. Both are rung only while a loop has
//! announced that it waits, so their own counters stay small, and the doorbell need not be read.
#![expect(unsafe_code, reason = "the state is in memory that other processes also map")]

mod futex;
mod state;

use super::calls::{Calls, bump};
use super::error::{count_too_high, maximum_too_high, stopped};
use super::method::{BoundedMethod, Counting};
use crate::notifier::EventNotifier;
use crate::reset::Reset;
use crate::sys::shared::SharedPage;
use state::{Arrived, MAGIC, Registered, State, Taken, encode};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub(crate) struct Atomic {
    /// A `State` is at its start.
    page: SharedPage,
    doorbell: EventNotifier,
    room: EventNotifier,
}

impl Atomic {
    pub(super) fn new(maximum: u64, counting: Counting, reset: Reset) -> io::Result<Self> {
        let page = SharedPage::new()?;
        let state = State::new(check_maximum(maximum)?, counting == Counting::Semaphore);
        // SAFETY: the page is large enough and aligned (`as_ptr` checks), and no other process has
        // its descriptor yet.
        unsafe { page.as_ptr::<State>().write(state) };
        Ok(Self { page, doorbell: EventNotifier::new(reset)?, room: EventNotifier::new(Reset::Classic)? })
    }

    pub(super) fn from_fds(
        counting: Counting,
        [page, doorbell, room]: [OwnedFd; 3],
        reset: Reset,
    ) -> io::Result<Self> {
        let page = SharedPage::from_fd(page)?;
        let this = Self {
            page,
            doorbell: EventNotifier::adopt(doorbell, reset)?,
            room: EventNotifier::adopt(room, Reset::Classic)?,
        };
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if this.state().magic.load(std::sync::atomic::Ordering::Acquire) != MAGIC {
            return refuse("this memory does not contain a bounded notifier of this version");
        }
        if this.counting() != counting {
            return refuse("the counting does not match: one side says counter, the other semaphore");
        }
        Ok(this)
    }

    fn state(&self) -> &State {
        // SAFETY: the page lives as long as `self`, is aligned, and contains a `State` that `new`
        // wrote, in this process or in the one that sent the page. Zeros or arbitrary values from a
        // hostile peer are also valid values for atomics.
        unsafe { &*self.page.as_ptr::<State>() }
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.page.as_fd(), self.doorbell.as_fd(), self.room.as_fd()]
    }

    pub(super) fn counting(&self) -> Counting {
        if self.state().is_semaphore() { Counting::Semaphore } else { Counting::Counter }
    }

    pub(super) fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    pub(crate) fn room(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// The doorbell, for a loop to register.
    pub(crate) fn bell(&self) -> &EventNotifier {
        &self.doorbell
    }

    #[inline]
    pub(super) fn try_add(&self, n: u64, calls: &Calls) -> io::Result<bool> {
        match self.state().try_add(n) {
            None => Ok(false),
            Some(Arrived { ring: false, wake: 0 }) => Ok(true),
            Some(arrived) => self.announce(arrived, calls).map(|()| true),
        }
    }

    #[cold]
    fn announce(&self, arrived: Arrived, calls: &Calls) -> io::Result<()> {
        if arrived.wake != 0 {
            bump(&calls.futex_wakes);
            self.state().readers.wake(arrived.wake);
        }
        if arrived.ring {
            bump(&calls.writes);
            self.doorbell.notify()?;
        }
        Ok(())
    }

    pub(super) fn add(&self, n: u64, calls: &Calls) -> io::Result<()> {
        if self.try_add(n, calls)? { Ok(()) } else { self.sleep_and_add(n, calls) }
    }

    #[cold]
    fn sleep_and_add(&self, n: u64, calls: &Calls) -> io::Result<()> {
        let state = self.state();
        // Must come before `sleep_until` registers in `waiting`; see `State::large`.
        let _large = (n > 1).then(|| Registered::at(&state.large));
        let look = || match state.try_add(n) {
            None => state.is_stopped().then(|| Err(stopped())),
            arrived => arrived.map(Ok),
        };
        let arrived = state.writers.sleep_until(look, || bump(&calls.futex_waits))??;
        self.announce(arrived, calls)
    }

    #[inline]
    pub(super) fn try_take(&self, calls: &Calls) -> io::Result<Option<u64>> {
        match self.state().try_take() {
            None => Ok(None),
            Some(Taken { count, ring_room: false, wake: 0 }) => Ok(Some(count.into())),
            Some(taken) => self.make_room(taken, calls).map(|()| Some(taken.count.into())),
        }
    }

    #[cold]
    fn make_room(&self, taken: Taken, calls: &Calls) -> io::Result<()> {
        if taken.wake != 0 {
            bump(&calls.futex_wakes);
            self.state().writers.wake(taken.wake);
        }
        if taken.ring_room {
            self.ring_room(calls)?;
        }
        Ok(())
    }

    fn ring_room(&self, calls: &Calls) -> io::Result<()> {
        bump(&calls.writes);
        self.room.notify()
    }

    pub(super) fn take(&self, calls: &Calls) -> io::Result<u64> {
        match self.try_take(calls)? {
            Some(count) => Ok(count),
            None => self.sleep_and_take(calls),
        }
    }

    #[cold]
    fn sleep_and_take(&self, calls: &Calls) -> io::Result<u64> {
        let state = self.state();
        let look = || match state.try_take() {
            None => state.is_stopped().then(|| Err(stopped())),
            taken => taken.map(Ok),
        };
        let taken = state.readers.sleep_until(look, || bump(&calls.futex_waits))??;
        self.make_room(taken, calls)?;
        Ok(taken.count.into())
    }

    pub(super) fn set_maximum(&self, maximum: u64, calls: &Calls) -> io::Result<()> {
        match self.state().set_maximum(check_maximum(maximum)?) {
            Some(room) => self.make_room(room, calls),
            None => Err(count_too_high(maximum)),
        }
    }

    pub(super) fn maximum(&self, _: &Calls) -> io::Result<u64> {
        Ok(self.state().maximum())
    }

    pub(super) fn count(&self) -> io::Result<u64> {
        Ok(self.state().count())
    }

    pub(super) fn stop(&self, calls: &Calls) -> io::Result<()> {
        bump(&calls.futex_wakes);
        bump(&calls.futex_wakes);
        self.state().stop();
        Ok(())
    }

    /// Announces that a loop is about to sleep on the doorbell. Returns false if there is a count
    /// already: the loop must look again instead of sleeping.
    pub(crate) fn arm(&self) -> bool {
        self.state().arm()
    }

    /// A loop stops consuming. Leaves the doorbell armed, or rings it if a count is left, so that
    /// the next consumer is woken.
    pub(crate) fn hand_back(&self, calls: &Calls) -> io::Result<()> {
        if self.arm() {
            return Ok(());
        }
        bump(&calls.writes);
        self.doorbell.notify()
    }

    /// Registers a loop that wants the room doorbell. Returns true if there is room already.
    pub(crate) fn want_room(&self) -> bool {
        std::mem::forget(Registered::at(&self.state().wanting));
        self.state().admits(1)
    }

    /// Unregisters a loop that found room at once and does not wait for a ring.
    pub(crate) fn wants_no_more(&self) {
        self.state().wants_no_more();
    }

    /// Unregisters a loop that waited for the room doorbell, and clears the doorbell. The ring may
    /// have been meant for another waiting loop, too, so it is rung again if there is one.
    pub(crate) fn had_room(&self, calls: &Calls) -> io::Result<()> {
        self.room.test_and_clear()?;
        bump(&calls.reads);
        let others = self.state().wants_no_more();
        if others { self.ring_room(calls) } else { Ok(()) }
    }
}

fn check_maximum(maximum: u64) -> io::Result<u32> {
    match (encode(maximum), maximum) {
        (Some(maximum), _) => Ok(maximum),
        (None, 0) => Err(count_too_high(0)),
        (None, _) => Err(maximum_too_high(BoundedMethod::Atomic, "4,294,967,295, or u64::MAX for none,")),
    }
}
