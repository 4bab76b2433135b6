//! Options for building a context.

use super::turn::AioContext;
use crate::busy_poll::BusyPolling;
use crate::monitor::{MonitorKind, RingSetup, Wanted};
use crate::reset::Reset;
use crate::sys::set_timer_slack;
use crate::timer::VirtualClock;
use crate::worker_pool::Limits;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Options for building an [`AioContext`]. The methods only note what is wanted; [`build`] does
/// everything, in the thread that is to be the home thread. So a builder can be sent to that
/// thread, as [`IoThread::spawn`](crate::IoThread::spawn) does, and used for several contexts.
///
/// [`build`]: Self::build
#[derive(Clone, Debug)]
pub struct Builder {
    monitor: Option<MonitorKind>,
    reset: Reset,
    busy_polling: BusyPolling,
    ring_entries: u32,
    ring_setup: RingSetup,
    timer_slack_ns: Option<u64>,
    virtual_clock: Option<Arc<VirtualClock>>,
    workers: Limits,
    embeddable: bool,
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
            virtual_clock: None,
            workers: Limits::default(),
            embeddable: false,
        }
    }
}

impl Builder {
    /// The monitor. By default the best of this kernel (io_uring, else epoll);
    /// [`AioContext::monitor`] has the reason.
    #[must_use]
    pub fn monitor(mut self, kind: MonitorKind) -> Self {
        self.monitor = Some(kind);
        self
    }

    /// How the loop's own notifier is reset, the eventfd with which other threads wake it; by
    /// default
    /// [`Reset::Autoreset`]. [`AioContext::own_notifier`] has the method that was chosen. The
    /// notifiers that you add have their own.
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// Busy polling; by default off. It can be switched on and off later, but a ring is set up for
    /// one or the other ([`RingInfo::tells`](crate::RingInfo::tells)): if you will want it, ask for
    /// it here.
    #[must_use]
    pub fn busy_polling(mut self, policy: BusyPolling) -> Self {
        self.busy_polling = policy;
        self
    }

    /// Entries of the submission queue (rounded up to a power of two; 256 by default). The
    /// completion queue has eight times as many. More operations than this may be queued at once;
    /// they cost extra enters. No effect without a ring.
    #[must_use]
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.ring_entries = entries;
        self
    }

    /// The newest way of delivering completions to try, for measuring the older ones. By default
    /// [`RingSetup::DeferTaskrun`], the newest; [`RingInfo::setup`](crate::RingInfo::setup) tells
    /// which one it was. No effect without a ring.
    #[must_use]
    pub fn ring_setup(mut self, newest: RingSetup) -> Self {
        self.ring_setup = newest;
        self
    }

    /// Sets the timer slack of the thread that calls [`build`](Self::build), and leaves it set
    /// (PR_SET_TIMERSLACK of prctl(2)). Linux lets a sleep overrun its deadline by 50,000 ns to
    /// save wake-ups; 1 asks for the deadline itself, and 0 for the thread's default.
    #[must_use]
    pub fn timer_slack_ns(mut self, ns: u64) -> Self {
        self.timer_slack_ns = Some(ns);
        self
    }

    /// The clock of [`Clock::Virtual`](crate::Clock::Virtual) timers; by default one that only this
    /// context has. Loops that get the same clock see the same guest time.
    #[must_use]
    pub fn virtual_clock(mut self, clock: Arc<VirtualClock>) -> Self {
        self.virtual_clock = Some(clock);
        self
    }

    /// How many threads [`AioContext::spawn_blocking`] may use: `0..=64` by default, as in QEMU.
    /// They are started when they are needed. Those above the lower bound end when they had nothing
    /// to do for ten seconds.
    #[must_use]
    pub fn worker_threads(mut self, threads: RangeInclusive<usize>) -> Self {
        (self.workers.min, self.workers.max) = threads.into_inner();
        self
    }

    /// The context may be turned by another event loop: see [`Embedded`](crate::Embedded).
    ///
    /// The poll and epoll monitors get an epoll descriptor more. A ring is set up with
    /// COOP_TASKRUN, because completions of a ring with DEFER_TASKRUN do not end a sleep in poll(2)
    /// or epoll_wait(2), and so that it [tells](crate::RingInfo::tells). If nobody embeds the
    /// context, it works as any other.
    #[must_use]
    pub fn embeddable(mut self) -> Self {
        self.embeddable = true;
        self
    }

    /// Makes the context. The calling thread becomes its home thread.
    ///
    /// # Errors
    /// `Unsupported`, with the reason and a remedy, if the monitor or the own notifier's reset
    /// method that was asked for cannot be used; `InvalidInput` if no worker thread is allowed, or
    /// if the range is empty; what eventfd(2) and epoll_create1(2) return.
    pub fn build(self) -> io::Result<AioContext> {
        if self.workers.max == 0 || self.workers.min > self.workers.max {
            let why = "worker_threads needs a range that is not empty and ends at one or more";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if let Some(ns) = self.timer_slack_ns {
            set_timer_slack(ns)?;
        }
        let wanted = Wanted {
            kind: self.monitor,
            ring_entries: self.ring_entries,
            ring_setup: self.ring_setup,
            tells: self.busy_polling.is_on(),
            embeddable: self.embeddable,
        };
        let virtual_clock = self.virtual_clock.unwrap_or_default();
        AioContext::assemble(wanted, self.reset, self.busy_polling, virtual_clock, self.workers)
    }
}

impl AioContext {
    /// A context with the best monitor of this kernel and busy polling off.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Options for building a context. No system call.
    pub fn builder() -> Builder {
        Builder::default()
    }
}
