//! The set-ups: each monitor with each reset method, each with four ways to ring.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aio::{
    AioContext, BottomHalf, BottomHalfHandle, BusyPolled, BusyPolling, EventNotifier, Method, MonitorKind,
    NotifierRegistration, Reset, RingSetup,
};

use crate::ledger::{Ledger, THREADS};

/// A monitor with a reset method, which the loop's own notifier uses, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) monitor: MonitorKind,
    pub(crate) reset: Reset,
    ring: RingSetup,
}

impl Setup {
    /// All combinations, whether or not this kernel supports them.
    pub(crate) fn all() -> Vec<Self> {
        let resets = Method::ALL.map(|method| match method {
            Method::Read => Reset::Classic,
            method => Reset::AutoresetBy(method),
        });
        let mut all = Vec::new();
        for monitor in MonitorKind::ALL {
            let rings: &[RingSetup] = match monitor {
                MonitorKind::IoUring => &[RingSetup::DeferTaskrun, RingSetup::CoopTaskrun, RingSetup::Plain],
                _ => &[RingSetup::DeferTaskrun],
            };
            for &ring in rings {
                all.extend(resets.map(|reset| Self { monitor, reset, ring }));
            }
        }
        all
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.reset {
            Reset::AutoresetBy(method) => method.to_string(),
            _ => "classic".to_owned(),
        };
        let ring = match (self.monitor, self.ring) {
            (MonitorKind::IoUring, RingSetup::DeferTaskrun) => ", deferred",
            (MonitorKind::IoUring, RingSetup::CoopTaskrun) => ", cooperative",
            (MonitorKind::IoUring, _) => ", plain",
            _ => "",
        };
        f.pad(&format!("{}/{method}{ring}", self.monitor))
    }
}

/// How the threads ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A notifier for each thread.
    OwnBells,
    /// One notifier for all threads.
    OneBell,
    /// A bottom half for each thread: the loop's own notifier.
    BottomHalves,
    /// A notifier for each thread, for a device that the loop busy polls. It is only rung when the
    /// device asks for it, as a virtqueue.
    Polled,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::OwnBells, Self::OneBell, Self::BottomHalves, Self::Polled];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OwnBells => "a notifier each",
            Self::OneBell => "one notifier",
            Self::BottomHalves => "a bottom half each",
            Self::Polled => "a polled notifier each",
        })
    }
}

/// What a thread rings.
pub(crate) enum Bell {
    Notifier(EventNotifier),
    BottomHalf(BottomHalfHandle),
    Polled(EventNotifier, Arc<AtomicBool>),
}

impl Bell {
    /// Rings, unless the device does not want it. Returns whether it rang.
    pub(crate) fn ring(&self) -> bool {
        match self {
            Self::Notifier(notifier) => notifier.notify().expect("an eventfd can be written to"),
            Self::BottomHalf(handle) => handle.schedule(),
            Self::Polled(_, wanted) if !wanted.load(Ordering::SeqCst) => return false,
            Self::Polled(notifier, _) => notifier.notify().expect("an eventfd can be written to"),
        }
        true
    }
}

/// A device that sees the numbers of one thread.
struct Device {
    ledger: Arc<Ledger>,
    thread: usize,
    wanted: Arc<AtomicBool>,
    begun: Cell<bool>,
}

impl BusyPolled for Device {
    fn process(&self, _: &AioContext) {
        self.ledger.count_call();
        self.ledger.see(self.thread);
    }

    fn is_ready(&self) -> bool {
        self.ledger.is_unseen(self.thread)
    }

    fn begin(&self) {
        assert!(!self.begun.replace(true), "polling began twice");
        self.wanted.store(false, Ordering::SeqCst);
    }

    fn end(&self) {
        assert!(self.begun.replace(false), "polling ended twice");
        self.wanted.store(true, Ordering::SeqCst);
    }
}

/// A loop that answers all bells.
pub(crate) struct Answering {
    pub(crate) context: AioContext,
    pub(crate) bells: Vec<Bell>,
    _registrations: Vec<NotifierRegistration>,
    _bottom_halves: Vec<BottomHalf>,
}

impl Answering {
    /// # Errors
    /// The reason why this kernel cannot do it.
    pub(crate) fn new(setup: Setup, way: Way, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let mut builder =
            AioContext::builder().monitor(setup.monitor).reset(setup.reset).ring_setup(setup.ring);
        if way == Way::Polled {
            builder = builder.busy_polling(BusyPolling::up_to_ns(10_000));
        }
        let context = builder.build()?;
        // Older kernels have no newer ring; it would be the same set-up twice.
        if setup.monitor == MonitorKind::IoUring
            && context.monitor().ring.is_none_or(|ring| ring.setup != setup.ring)
        {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel lacks the flags of the ring",
            ));
        }
        let (mut bells, mut registrations, mut bottom_halves) = (Vec::new(), Vec::new(), Vec::new());
        let see = |threads: std::ops::Range<usize>| {
            let ledger = Arc::clone(ledger);
            move |_: &AioContext| {
                ledger.count_call();
                threads.clone().for_each(|i| ledger.see(i));
            }
        };
        let shared = EventNotifier::new(setup.reset)?;
        if way == Way::OneBell {
            registrations.push(context.add_notifier(&shared, see(0..THREADS)).map_err(|e| e.error)?);
        }
        for i in 0..THREADS {
            bells.push(match way {
                Way::OneBell => Bell::Notifier(shared.clone()),
                Way::OwnBells => {
                    let bell = EventNotifier::new(setup.reset)?;
                    registrations.push(context.add_notifier(&bell, see(i..i + 1)).map_err(|e| e.error)?);
                    Bell::Notifier(bell)
                }
                Way::BottomHalves => {
                    let bottom_half = context.bottom_half(see(i..i + 1));
                    let handle = bottom_half.handle();
                    bottom_halves.push(bottom_half);
                    Bell::BottomHalf(handle)
                }
                Way::Polled => {
                    let bell = EventNotifier::new(setup.reset)?;
                    let wanted = Arc::new(AtomicBool::new(true));
                    let device = Rc::new(Device {
                        ledger: Arc::clone(ledger),
                        thread: i,
                        wanted: Arc::clone(&wanted),
                        begun: Cell::new(false),
                    });
                    registrations.push(context.add_polled_notifier(&bell, device).map_err(|e| e.error)?);
                    Bell::Polled(bell, wanted)
                }
            });
        }
        Ok(Self { context, bells, _registrations: registrations, _bottom_halves: bottom_halves })
    }
}
