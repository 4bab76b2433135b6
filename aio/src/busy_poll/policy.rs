//! How long to busy poll, and how the window adapts.

/// How long the loop looks for work in memory before it sleeps: for
/// [`Builder::busy_polling`](crate::Builder::busy_polling) and
/// [`AioContext::set_busy_polling`](crate::AioContext::set_busy_polling). Times are in nanoseconds.
///
/// Only devices that were registered with
/// [`add_polled_notifier`](crate::AioContext::add_polled_notifier) are polled; without one of them
/// nothing here has an effect. A device that had no event for seven seconds is left to its doorbell
/// until that rings. Polling uses the CPU that a sleep would leave to others.
///
/// There are two rules, which can be combined. The *window* is learned for each device, by the rule
/// of QEMU 10.0: an event that comes within the window keeps it, one that comes a little later
/// widens it, and one that comes after more than the maximum narrows it. *Lingering* learns
/// nothing: the loop looks for twice the time that its last work took.
///
/// ```
/// use aio::{AioContext, BusyPolling};
/// # fn main() -> std::io::Result<()> {
/// let policy = BusyPolling::up_to_ns(32_768).lingering_ns(50_000);
/// let ctx = AioContext::builder().busy_polling(policy).build()?;
/// ctx.set_busy_polling(BusyPolling::OFF);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPolling {
    /// The widest window in nanoseconds; 0 is off, which costs nothing. QEMU's IOThreads use
    /// 32,768.
    ///
    /// A window ends early for timers and bottom halves and, on a ring that tells
    /// ([`RingInfo`](crate::RingInfo)), for every event. On other monitors, events that do not show
    /// in memory wait until the window is over, so do not make it longer than they may be late.
    pub max_ns: u64,
    /// The factor for widening; 0 means 2.
    pub grow: u32,
    /// The divisor for narrowing; 0 closes the window at once.
    pub shrink: u32,
    /// Lingering: each nanosecond at work earns [`LINGER_FACTOR`](Self::LINGER_FACTOR) nanoseconds
    /// of looking, up to this many; 0 is off. The wider of the two, this and the window, counts.
    ///
    /// While the kernel works on an operation of the loop (multishot operations left out) the loop
    /// does not linger: the completion will wake it, and a disk takes longer than this.
    pub linger_ns: u64,
}

impl BusyPolling {
    /// No busy polling.
    pub const OFF: Self = Self { max_ns: 0, grow: 0, shrink: 0, linger_ns: 0 };

    /// How many nanoseconds of looking a nanosecond at work earns.
    pub const LINGER_FACTOR: u64 = 2;

    /// A window of up to `max_ns`, with the default factors of QEMU 10.0: it doubles, and it closes
    /// at once.
    pub const fn up_to_ns(max_ns: u64) -> Self {
        Self { max_ns, ..Self::OFF }
    }

    /// The same, and lingering for up to `linger_ns`.
    #[must_use]
    pub const fn lingering_ns(self, linger_ns: u64) -> Self {
        Self { linger_ns, ..self }
    }

    pub(crate) fn is_on(self) -> bool {
        self.max_ns != 0 || self.linger_ns != 0
    }

    /// The next window of a handler whose event came `waited_ns` after the loop began to wait for
    /// it.
    pub(super) fn adapt(self, window_ns: u64, waited_ns: u64) -> u64 {
        if waited_ns <= window_ns {
            window_ns
        } else if waited_ns > self.max_ns {
            window_ns.checked_div(self.shrink.into()).unwrap_or(0)
        } else if window_ns == 0 {
            FIRST_WINDOW_NS.min(self.max_ns)
        } else {
            let grow = if self.grow == 0 { 2 } else { self.grow };
            window_ns.saturating_mul(grow.into()).min(self.max_ns)
        }
    }
}

/// The first window that a handler gets.
const FIRST_WINDOW_NS: u64 = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_follows_the_rule_of_2025() {
        let policy = BusyPolling::up_to_ns(32_768);
        assert_eq!(policy.adapt(0, 10_000), 4_000, "opens");
        assert_eq!(policy.adapt(4_000, 10_000), 8_000, "widens");
        assert_eq!(policy.adapt(20_000, 30_000), 32_768, "up to the maximum");
        assert_eq!(policy.adapt(16_000, 10_000), 16_000, "keeps what was enough");
        assert_eq!(policy.adapt(16_000, 50_000), 0, "closes when even the maximum was too short");
        assert_eq!(BusyPolling { shrink: 4, ..policy }.adapt(16_000, 50_000), 4_000, "or narrows");
        assert_eq!(BusyPolling { grow: 3, ..policy }.adapt(4_000, 10_000), 12_000);
        assert_eq!(BusyPolling::up_to_ns(1_000).adapt(0, 500), 1_000);
    }
}
