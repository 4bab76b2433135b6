//! Looks at a ring whose driver does not kick.
//!
//! ```text
//! work found ─► look again in each turn of the loop, which does not sleep
//!                   │ nothing for 200 µs
//!                   ▼
//!               look every 50 µs ─► work found
//! ```
//!
//! So a driver that keeps the ring busy is served at once, and one that begins is noticed within
//! 50 µs. The cost: one CPU while the ring is busy, and 20,000 turns of the loop a second while it
//! is not, which also run whatever else the loop has. [`BUSY`] and [`PERIOD`] are the two times.
//!
//! 20,000 is the most: a sleep, a wake-up and a look take longer on a busy machine. An idle ring
//! with a kick eventfd costs nothing, so a frontend should send one; QEMU, libblkio,
//! cloud-hypervisor and crosvm do.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use aio::{AioContext, BottomHalf, Timer};

/// How long a loop does not sleep after it has found work.
const BUSY: Duration = Duration::from_micros(200);

/// Time between two looks at a ring that has had no work for [`BUSY`].
const PERIOD: Duration = Duration::from_micros(50);

/// Looks at a ring until it is dropped.
pub struct Looks {
    soon: BottomHalf,
    later: Timer,
    /// When work was found last, in nanoseconds of the timer's clock.
    found: Cell<u64>,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

impl Looks {
    /// Calls `look` from now on. It returns true if there was work. If it panics, it is called
    /// again in the next turn.
    pub(super) fn start(context: &AioContext, look: impl Fn(&AioContext) -> bool + 'static) -> Rc<Self> {
        let look = Rc::new(look);
        let looks = Rc::new_cyclic(|this: &Weak<Self>| {
            let callback = || {
                let (this, look) = (this.clone(), Rc::clone(&look));
                move |context: &AioContext| {
                    let Some(looks) = this.upgrade() else { return };
                    let again = Again(&looks, Cell::new(true));
                    let found = look(context);
                    again.1.set(false);
                    looks.plan(found);
                }
            };
            Self {
                soon: context.bottom_half(callback()),
                later: context.timer(callback()),
                found: Cell::new(0),
            }
        });
        looks.plan(true);
        looks
    }

    fn plan(&self, found: bool) {
        let now = self.later.now_ns();
        if found {
            self.found.set(now);
        }
        if u128::from(now.saturating_sub(self.found.get())) < BUSY.as_nanos() {
            self.soon.schedule();
        } else {
            self.later.arm_after(PERIOD);
        }
    }
}

/// Plans the next look if this one unwinds.
struct Again<'a>(&'a Looks, Cell<bool>);

impl Drop for Again<'_> {
    fn drop(&mut self) {
        if self.1.get() {
            self.0.soon.schedule();
        }
    }
}
