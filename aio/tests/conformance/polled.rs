//! A device whose work is visible in memory, and a context that busy polls it.

use crate::setup::Setup;
use crate::support::{Count, Slot, settle, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, BusyPolled, BusyPolling, EventNotifier, NotifierRegistration, RingSetup};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

type Hook = RefCell<Option<Box<dyn Fn()>>>;

pub(crate) type InProcess = Box<dyn Fn(&AioContext)>;

/// A queue whose doorbell is switched off while it is polled, as a virtqueue's.
#[derive(Default)]
pub(crate) struct Device {
    /// Requests in the queue. A guest in another thread may add some.
    pub(crate) queued: Arc<AtomicU64>,
    pub(crate) processed: Count,
    pub(crate) calls: Count,
    pub(crate) begins: Count,
    pub(crate) ends: Count,
    /// How long the first check waits before it finds work, so that the first window has passed.
    pub(crate) slow: Cell<bool>,
    pub(crate) on_begin: Hook,
    pub(crate) on_end: Hook,
    pub(crate) on_process: RefCell<Option<InProcess>>,
    /// Whether the queue never becomes empty.
    pub(crate) endless: Cell<bool>,
    depth: Cell<u32>,
    pub(crate) deepest: Cell<u32>,
}

impl BusyPolled for Device {
    fn process(&self, context: &AioContext) {
        self.calls.bump();
        self.depth.set(self.depth.get() + 1);
        self.deepest.set(self.deepest.get().max(self.depth.get()));
        self.processed.add(self.queued.swap(0, Ordering::AcqRel));
        let hook = self.on_process.take();
        if let Some(hook) = &hook {
            hook(context);
        }
        self.on_process.replace(hook);
        self.depth.set(self.depth.get() - 1);
    }

    fn is_ready(&self) -> bool {
        let ready = self.endless.get() || self.queued.load(Ordering::Acquire) != 0;
        if ready && self.slow.get() {
            std::thread::sleep(Duration::from_micros(10));
        }
        ready
    }

    fn begin(&self) {
        assert_eq!(self.begins.get(), self.ends.get(), "begin was called twice in a row");
        self.begins.bump();
        run(&self.on_begin);
    }

    fn end(&self) {
        self.ends.bump();
        assert_eq!(self.begins.get(), self.ends.get(), "end was called twice in a row");
        run(&self.on_end);
    }
}

fn run(hook: &Hook) {
    let taken = hook.take();
    if let Some(hook) = taken {
        hook();
    }
}

impl Device {
    pub(crate) fn add(&self, requests: u64) {
        self.queued.fetch_add(requests, Ordering::AcqRel);
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.begins.get() > self.ends.get()
    }

    pub(crate) fn is_balanced(&self) -> bool {
        self.begins.get() == self.ends.get() && self.begins.get() > 0
    }
}

/// A context with a device, its doorbell and its registration.
pub(crate) struct Polled {
    pub(crate) ctx: AioContext,
    pub(crate) device: Rc<Device>,
    pub(crate) bell: EventNotifier,
    pub(crate) registration: Slot<NotifierRegistration>,
}

impl Polled {
    pub(crate) fn new(setup: &Setup, policy: BusyPolling) -> Self {
        let ctx = setup.builder().busy_polling(policy).build().unwrap();
        let (device, bell, registration) = Self::device(setup, &ctx);
        Self { ctx, device, bell, registration }
    }

    /// Busy polling is switched on later, so that the ring is not created with the `tells` flag.
    pub(crate) fn later(setup: &Setup, policy: BusyPolling) -> Self {
        let p = Self::new(setup, BusyPolling::OFF);
        assert!(p.ctx.monitor().ring.is_none_or(|ring| ring.tells == (ring.setup == RingSetup::Plain)));
        p.ctx.set_busy_polling(policy);
        p
    }

    pub(crate) fn device(
        setup: &Setup,
        ctx: &AioContext,
    ) -> (Rc<Device>, EventNotifier, Slot<NotifierRegistration>) {
        let (device, bell, slot) = (Rc::new(Device::default()), setup.notifier(), Slot::new());
        slot.put(ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap());
        (device, bell, slot)
    }

    /// The first event comes through the doorbell and opens a window.
    pub(crate) fn first_event(&self) {
        self.device.add(1);
        self.bell.notify().unwrap();
        let before = self.device.processed.get();
        turn_until(&self.ctx, || self.device.processed.get() > before);
        // Finish all arming first, so that only the polling is counted from here on.
        settle(&self.ctx);
    }

    /// Begins polling, and opens the window as wide as the policy allows, with a hit that came
    /// later than the first window.
    pub(crate) fn open_wide(&self) {
        self.first_event();
        self.device.slow.set(true);
        self.device.add(1);
        let before = self.device.processed.get();
        turn_until(&self.ctx, || self.device.processed.get() > before);
        self.device.slow.set(false);
        assert!(self.device.is_begun());
        settle(&self.ctx);
        assert!(self.device.is_begun(), "turns without sleeping must not end polling");
    }

    /// Makes the loop sleep until a timer expires.
    pub(crate) fn sleep(&self) {
        turns_of_an_idle_loop(&self.ctx);
    }
}
