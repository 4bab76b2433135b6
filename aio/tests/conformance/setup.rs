//! The setup of one instance of the suite.

use crate::support;
use aio::io_uring::{IoUring, Probe, opcode};
use aio::{AioContext, Builder, EventNotifier, IoThread, Method, MonitorKind, Reset, RingSetup};

/// A monitor, a reset mode for every notifier (the loop's own, too), and the newest ring flags to
/// use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) monitor: MonitorKind,
    pub(crate) reset: Reset,
    ring: RingSetup,
    profiled: bool,
    /// Every turn of a test is made by an outer loop.
    pub(crate) is_embedded: bool,
}

impl Setup {
    pub(crate) const fn new(monitor: MonitorKind, reset: Reset) -> Self {
        Self { monitor, reset, ring: RingSetup::DeferTaskrun, profiled: false, is_embedded: false }
    }

    pub(crate) const fn ring(self, ring: RingSetup) -> Self {
        Self { ring, ..self }
    }

    /// Profiles the contexts of [`context`](Self::context), whose turns are other code.
    pub(crate) const fn profiled(self) -> Self {
        Self { profiled: true, ..self }
    }

    /// The context is turned by an outer loop, in three parts.
    pub(crate) const fn embedded(self) -> Self {
        Self { is_embedded: true, ..self }
    }

    /// Runs one test, or prints why this machine cannot run it.
    pub(crate) fn run(&self, name: &'static str, test: fn(&Setup)) {
        if let Some(missing) = self.missing() {
            eprintln!("{name} skipped: {missing}");
            return;
        }
        support::guarded(name, || support::outer::with_outer_loop(self.is_embedded, || test(self)));
    }

    /// Returns what this machine lacks, determined without the crate under test.
    fn missing(&self) -> Option<&'static str> {
        if self.monitor == MonitorKind::Poll && self.is_embedded && self.reset == Reset::Autoreset {
            return support::os::has_autoreset_flag()
                .then_some("an embedded poll monitor takes no eventfd with EFD_AUTORESET");
        }
        if self.monitor != MonitorKind::IoUring {
            return None;
        }
        let Ok(ring) = IoUring::new(2) else {
            return Some("no io_uring here");
        };
        let mut probe = Probe::new();
        let probed = ring.submitter().register_probe(&mut probe);
        let multishot = probed.is_ok() && probe.is_supported(opcode::ReadMulti::CODE);
        (self.reset == Reset::AutoresetBy(Method::RingReadMultishot) && !multishot)
            .then_some("no IORING_OP_READ_MULTISHOT here")
    }

    pub(crate) fn builder(&self) -> Builder {
        let builder = AioContext::builder().monitor(self.monitor).reset(self.reset).ring_setup(self.ring);
        if self.is_embedded { builder.embeddable() } else { builder }
    }

    pub(crate) fn context(&self) -> AioContext {
        let ctx = self.builder().build().expect("a context");
        ctx.set_profiling(self.profiled);
        ctx
    }

    pub(crate) fn notifier(&self) -> EventNotifier {
        EventNotifier::new(self.reset).expect("a notifier")
    }

    pub(crate) fn io_thread(&self) -> IoThread {
        IoThread::spawn("conformance", self.builder()).expect("an IoThread")
    }

    /// Returns the reset method that this setup must choose if the kernel supports everything that
    /// the mode may use.
    pub(crate) fn method(&self) -> Method {
        match (self.reset, self.monitor) {
            (Reset::Autoreset, MonitorKind::Epoll | MonitorKind::IoUring) => Method::Edge,
            (Reset::AutoresetBy(method), _) => method,
            _ => Method::Read,
        }
    }

    pub(crate) fn newest_ring_setup(&self) -> RingSetup {
        self.ring
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.monitor == MonitorKind::IoUring
    }
}
