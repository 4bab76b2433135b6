//! The choices that there are when a context is made.

use crate::busy_poll::BusyPolling;
use crate::context::AioContext;
use crate::monitor::{MonitorKind, RingSetup};
use crate::notifier::Reset;
use crate::sys::set_timer_slack;
use std::io;

/// How to make an [`AioContext`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) monitor: Option<MonitorKind>,
    pub(crate) reset: Reset,
    pub(crate) busy_polling: BusyPolling,
    pub(crate) ring_entries: u32,
    pub(crate) ring_setup: RingSetup,
    pub(crate) timer_slack_ns: Option<u64>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            monitor: None,
            reset: Reset::Autoreset,
            busy_polling: BusyPolling::OFF,
            ring_entries: 256,
            ring_setup: RingSetup::DeferTaskrun,
            timer_slack_ns: None,
        }
    }
}

impl Builder {
    /// The monitor; by default the best that this kernel has (io_uring, else epoll), with the reason in
    /// [`AioContext::monitor`].
    #[must_use]
    pub fn monitor(mut self, kind: MonitorKind) -> Self {
        self.monitor = Some(kind);
        self
    }

    /// How the loop's own notifier is reset; by default [`Reset::Autoreset`].
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// Busy polling; by default off. It can be switched on and off later, but a ring is made for one or the other
    /// ([`RingInfo::tells`](crate::RingInfo::tells)): if it will be wanted, ask for it here.
    #[must_use]
    pub fn busy_polling(mut self, policy: BusyPolling) -> Self {
        self.busy_polling = policy;
        self
    }

    /// Entries of the submission queue (rounded up to a power of two; 256 by default). The completion queue has eight
    /// times as many. More operations than this may be queued at once; they cost extra enters.
    #[must_use]
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.ring_entries = entries;
        self
    }

    /// The newest way of delivering completions to try, for those who measure the older ones.
    #[must_use]
    pub fn ring_setup(mut self, newest: RingSetup) -> Self {
        self.ring_setup = newest;
        self
    }

    /// Sets the timer slack of the calling thread, which becomes the home thread (PR_SET_TIMERSLACK of prctl(2)). Linux
    /// lets a sleep overrun its deadline by 50,000 ns to save wake-ups; 1 asks for the deadline itself.
    #[must_use]
    pub fn timer_slack_ns(mut self, ns: u64) -> Self {
        self.timer_slack_ns = Some(ns);
        self
    }

    /// Makes the context. The calling thread becomes its home thread.
    ///
    /// # Errors
    /// `Unsupported`, with the reason and a remedy, if the monitor or the own notifier's reset method asked for cannot be
    /// had; what eventfd(2) and epoll_create1(2) say.
    pub fn build(self) -> io::Result<AioContext> {
        if let Some(ns) = self.timer_slack_ns {
            set_timer_slack(ns)?;
        }
        AioContext::assemble(&self)
    }
}
