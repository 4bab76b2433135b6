//! A timer that wakes whoever awaits it.

use super::expiry::Expiry;
use super::parts::TimersOf;
use super::turn::AioContext;
use crate::timer::{Clock, TimerKey};
use std::fmt;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A timer that is armed once, and wakes a waker. Unlike a [`Timer`](super::Timer) it needs no
/// callback, so it allocates nothing once as many timers existed before. Dropping it disarms it.
///
/// The waker is in the table of timers. It may be of any executor, so it is cloned and dropped
/// while nothing is borrowed.
pub(crate) struct Alarm {
    timers: Rc<TimersOf<AioContext>>,
    key: TimerKey,
}

impl Alarm {
    /// Ready once it has expired. Until then it will wake `waker`. Never ready if the context was
    /// dropped before.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<()> {
        let known = self.timers.value(self.key, |expiry| match expiry {
            Expiry::Wake(Some(old)) => Some(old.will_wake(waker)),
            _ => None,
        });
        match known {
            Some(None) => Poll::Ready(()),
            Some(Some(false)) => self.wake_another(waker),
            Some(Some(true)) | None => Poll::Pending,
        }
    }

    #[cold]
    fn wake_another(&self, waker: &Waker) -> Poll<()> {
        let mut waker = Some(waker.clone());
        // The clone may have turned the loop.
        let is_over = self.timers.value(self.key, |expiry| match expiry {
            Expiry::Wake(old) if old.is_some() => {
                std::mem::swap(old, &mut waker);
                false
            }
            _ => true,
        });
        if is_over == Some(true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Outside of any borrow.
        drop(self.timers.remove(self.key));
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

impl AioContext {
    /// A timer that wakes `waker` when `clock` shows `at_ns`, as that of a
    /// [`Timer`](super::Timer): no system call, and in the next turn if the time has passed.
    pub(crate) fn alarm(&self, clock: Clock, at_ns: u64, waker: Waker) -> Alarm {
        self.follow(clock);
        let timers = Rc::clone(&self.parts.timers);
        let key = timers.create_armed(clock, Expiry::Wake(Some(waker)), at_ns);
        Alarm { timers, key }
    }

    /// The time that is `delay` from now.
    pub(crate) fn time_after(&self, clock: Clock, delay: Duration) -> u64 {
        super::timer::after(self.parts.timers.now_ns(clock), delay)
    }
}
