//! The credit method: one eventfd counts the notifications, another counts the free room (the
//! credit).
//!
//! ```text
//!   notify(1)   read(credit)   sleeps, or would block, without any        write(count, 1)
//!   take        read(count) = v                                            write(credit, v)
//! ```
//!
//! When no call is in progress, `credit + count == maximum - 1`. Between the two system calls of a
//! notify or a take the sum is lower, so the bound is never exceeded, but room appears a moment
//! after the take. The credit is an EFD_SEMAPHORE eventfd, so a read takes one unit. A notify of
//! `n` reads `n` times, and writes the units back if there are not enough. Two such producers could
//! each hold units that the other needs, so a lock serialises them; `set_maximum` takes it, too.
//! The lock is a third eventfd, whose count is the maximum while the lock is free and zero while it
//! is held.

use super::calls::{Calls, bump};
use super::error::{count_too_high, maximum_too_high};
use super::kernel::{adopt, new_count, write};
use super::method::{BoundedMethod, Counting};
use super::wait::{Patience, until};
use crate::sys::eventfd::{self, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The highest maximum. It is limited because lowering the maximum, or adding more than one, costs
/// one read(2) for each unit.
const MOST: u64 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Credit {
    count: EventFd,
    /// A semaphore.
    credit: EventFd,
    /// The lock: holds the maximum while it is free, and zero while it is held.
    maximum: EventFd,
    /// Written once to stop, and never read.
    stop: EventFd,
    counting: Counting,
}

/// The held lock. Dropping it writes the maximum back, which releases the lock.
struct Locked<'a> {
    credit: &'a Credit,
    calls: &'a Calls,
    maximum: u64,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // This writes a small number to an empty counter. It fails only if a misbehaving peer has
        // filled the counter, and then there is no lock left to release.
        let _ = write(&self.credit.maximum, self.maximum, self.calls);
    }
}

impl Credit {
    pub(super) fn new(maximum: u64, counting: Counting) -> io::Result<Self> {
        check_maximum(maximum)?;
        let this = Self {
            count: new_count(counting)?,
            credit: EventFd::new_semaphore()?,
            maximum: EventFd::new()?,
            stop: EventFd::new()?,
            counting,
        };
        this.credit.write(maximum - 1)?;
        this.maximum.write(maximum)?;
        Ok(this)
    }

    pub(super) fn from_fds(
        counting: Counting,
        [count, credit, maximum, stop]: [OwnedFd; 4],
    ) -> io::Result<Self> {
        let [count, credit, maximum, stop] = [adopt(count)?, adopt(credit)?, adopt(maximum)?, adopt(stop)?];
        Ok(Self { count, credit, maximum, stop, counting })
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.count.as_fd(), self.credit.as_fd(), self.maximum.as_fd(), self.stop.as_fd()]
    }

    pub(super) fn counting(&self) -> Counting {
        self.counting
    }

    pub(super) fn doorbell(&self) -> BorrowedFd<'_> {
        self.count.as_fd()
    }

    pub(crate) fn room(&self) -> BorrowedFd<'_> {
        self.credit.as_fd()
    }

    pub(super) fn try_add(&self, n: u64, calls: &Calls) -> io::Result<bool> {
        let granted = match n {
            // Adding zero needs no room, and is always admitted: the count is always below the
            // maximum.
            0 => return Ok(true),
            1 => self.take_credit(1, calls)?,
            _ => match self.try_lock(calls)? {
                Some(locked) => n < locked.maximum && self.take_credit(n, calls)?,
                // The holder of the lock is taking the credit, or is about to give it back.
                None => false,
            },
        };
        if granted {
            self.publish(n, calls)?;
        }
        Ok(granted)
    }

    pub(super) fn add(&self, n: u64, calls: &Calls) -> io::Result<()> {
        if n <= 1 {
            let patience = || Ok(Patience::level(self.credit.as_fd(), libc::POLLIN));
            return until(&self.stop, calls, patience, || Ok(self.try_add(n, calls)?.then_some(())));
        }
        let attempt = || {
            let locked = self.lock(calls)?;
            // Giving credit back wakes other producers that wait like this one, and theirs would
            // wake this one in turn. So check the amount before taking any.
            let enough = eventfd::count(self.credit.as_fd()).map_or(true, |credit| credit >= n);
            let granted = n < locked.maximum && enough && self.take_credit(n, calls)?;
            drop(locked);
            if granted {
                self.publish(n, calls)?;
            }
            Ok(granted.then_some(()))
        };
        until(&self.stop, calls, || Patience::edge(self.credit.as_fd(), libc::POLLIN, &self.stop), attempt)
    }

    fn publish(&self, n: u64, calls: &Calls) -> io::Result<()> {
        if write(&self.count, n, calls)? {
            return Ok(());
        }
        let why = "the counter of a credit-bounded notifier is full: \
               another writer adds to it without taking credit";
        Err(io::Error::other(why))
    }

    /// Takes `n` units, or none. Returns true if it took them.
    fn take_credit(&self, n: u64, calls: &Calls) -> io::Result<bool> {
        for taken in 0..n {
            bump(&calls.reads);
            if self.credit.read()?.is_none() {
                self.give_credit(taken, calls)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn give_credit(&self, n: u64, calls: &Calls) -> io::Result<()> {
        if n == 0 {
            return Ok(());
        }
        // If the counter is full, a misbehaving peer has written more credit than can exist, so not
        // adding ours loses nothing.
        write(&self.credit, n, calls).map(drop)
    }

    fn try_lock<'a>(&'a self, calls: &'a Calls) -> io::Result<Option<Locked<'a>>> {
        bump(&calls.reads);
        Ok(self.maximum.read()?.map(|maximum| Locked { credit: self, calls, maximum }))
    }

    /// Takes the lock; sleeps while another thread holds it, which is never for long.
    fn lock<'a>(&'a self, calls: &'a Calls) -> io::Result<Locked<'a>> {
        let patience = || Ok(Patience::level(self.maximum.as_fd(), libc::POLLIN));
        until(&self.stop, calls, patience, || self.try_lock(calls))
    }

    pub(super) fn try_take(&self, calls: &Calls) -> io::Result<Option<u64>> {
        bump(&calls.reads);
        let Some(count) = self.count.read()? else { return Ok(None) };
        self.give_credit(count, calls)?;
        Ok(Some(count))
    }

    pub(super) fn take(&self, calls: &Calls) -> io::Result<u64> {
        let patience = || Ok(Patience::level(self.count.as_fd(), libc::POLLIN));
        until(&self.stop, calls, patience, || self.try_take(calls))
    }

    pub(super) fn set_maximum(&self, maximum: u64, calls: &Calls) -> io::Result<()> {
        check_maximum(maximum)?;
        let mut locked = self.lock(calls)?;
        let old = locked.maximum;
        if maximum >= old {
            self.give_credit(maximum - old, calls)?;
        } else if !self.take_credit(old - maximum, calls)? {
            // There is too little credit left: the rest is in the count, or in notifies that are in
            // progress.
            return Err(count_too_high(maximum));
        }
        locked.maximum = maximum;
        Ok(())
    }

    pub(super) fn maximum(&self, calls: &Calls) -> io::Result<u64> {
        if let Ok(maximum @ 1..) = eventfd::count(self.maximum.as_fd()) {
            return Ok(maximum);
        }
        // The lock is held, or /proc is not available.
        self.lock(calls).map(|locked| locked.maximum)
    }

    pub(super) fn count(&self) -> io::Result<u64> {
        eventfd::count(self.count.as_fd())
    }

    pub(super) fn stop(&self, calls: &Calls) -> io::Result<()> {
        write(&self.stop, 1, calls).map(drop)
    }
}

fn check_maximum(maximum: u64) -> io::Result<()> {
    match maximum {
        0 => Err(count_too_high(0)),
        1..=MOST => Ok(()),
        _ => Err(maximum_too_high(BoundedMethod::Credit, "65,536")),
    }
}
