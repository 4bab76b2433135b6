//! Doorbells: never lost, maybe spurious, writes coalesce, no count.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, os, settle, turn, turn_until};
use aio::{AioContext, EventNotifier, Method, MonitorKind, NotifierRegistration, Reset};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Registers a handler that counts its calls.
fn counted(ctx: &AioContext, notifier: &EventNotifier) -> (NotifierRegistration, Count) {
    let calls = Count::default();
    let registration = ctx.add_notifier(notifier, {
        let calls = calls.clone();
        move |_| calls.bump()
    });
    (registration.unwrap(), calls)
}

pub(crate) fn notifier_written_before_add_is_delivered(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    notifier.notify().unwrap();
    let (_bell, calls) = counted(&ctx, &notifier);
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    assert!(!look(&ctx));
}

pub(crate) fn notifier_written_after_add_is_delivered(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    assert!(!look(&ctx));
    notifier.notify().unwrap();
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    assert!(!look(&ctx));
}

pub(crate) fn notifier_written_in_its_handler_is_delivered_again(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let calls = Count::default();
    let bell = ctx.add_notifier(&notifier, {
        let (calls, notifier) = (calls.clone(), notifier.clone());
        move |_| {
            calls.bump();
            if calls.get() < 100 {
                notifier.notify().unwrap();
            }
        }
    });
    let _bell = bell.unwrap();
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() == 100);
    assert!(!look(&ctx));
}

pub(crate) fn each_of_many_writes_is_delivered(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    for write in 1..=1_000 {
        notifier.notify().unwrap();
        assert!(turn(&ctx));
        assert_eq!(calls.get(), write);
    }
    assert!(!look(&ctx));
}

pub(crate) fn writes_coalesce(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    for _ in 0..50 {
        notifier.notify().unwrap();
    }
    assert!(turn(&ctx));
    settle(&ctx);
    assert!(calls.get() <= 2, "{} calls for 50 writes before a turn", calls.get());
}

pub(crate) fn a_silent_notifier_is_not_called(setup: &Setup) {
    let ctx = setup.context();
    let notifiers: Vec<_> = (0..10).map(|_| setup.notifier()).collect();
    let bells: Vec<_> = notifiers.iter().map(|n| counted(&ctx, n)).collect();
    notifiers[3].notify().unwrap();
    turn(&ctx);
    settle(&ctx);
    for (i, (_, calls)) in bells.iter().enumerate() {
        assert_eq!(calls.get(), u64::from(i == 3), "notifier {i}");
    }
}

pub(crate) fn no_read_unless_classic(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (bell, calls) = counted(&ctx, &notifier);
    settle(&ctx);
    let before = ctx.stats();
    for write in 1..=20 {
        notifier.notify().unwrap();
        turn_until(&ctx, || calls.get() == write);
    }
    let reads = (ctx.stats() - before).syscalls_read;
    let expected = if bell.method() == Method::Read { 20 } else { 0 };
    assert_eq!(reads, expected, "by {}", bell.method());
}

pub(crate) fn the_method_is_the_one_asked_for(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (bell, _) = counted(&ctx, &notifier);
    assert_eq!(notifier.reset(), setup.reset);
    if setup.reset != Reset::Autoreset {
        assert_eq!((bell.method(), bell.fallback()), (setup.method(), None));
        assert_eq!(ctx.own_notifier(), (setup.method(), None));
    }
}

pub(crate) fn autoreset_reports_its_fallback(setup: &Setup) {
    let ctx = setup.context();
    let notifier = EventNotifier::new(Reset::Autoreset).unwrap();
    if setup.is_embedded
        && setup.monitor == MonitorKind::Poll
        && let Err(refused) = ctx.add_notifier(&notifier, |_| ())
    {
        // Only where the kernel has reset it before the loop could read it.
        assert!(os::has_autoreset_flag() && refused.to_string().contains("EFD_AUTORESET"), "{refused}");
        return;
    }
    let (bell, _) = counted(&ctx, &notifier);
    match bell.method() {
        Method::Read => {
            let why = bell.fallback().expect("a fallback is never silent");
            assert!(!setup.has_ring(), "a ring can always read");
            assert!(why.contains("read"), "{why}");
        }
        method => {
            assert_eq!(bell.fallback(), None);
            // ppoll on a stock kernel has no autoreset method.
            assert!(setup.monitor != MonitorKind::Poll || method == Method::KernelFlag);
        }
    }
    assert!(bell.into_registration().is_live());
}

pub(crate) fn an_unfit_method_is_refused_and_the_handler_comes_back(setup: &Setup) {
    let ctx = setup.context();
    for method in Method::ALL {
        let Ok(notifier) = EventNotifier::new(Reset::AutoresetBy(method)) else {
            assert_eq!(method, Method::KernelFlag, "only a kernel flag can be missing");
            continue;
        };
        let fits = match method {
            Method::Read => true,
            Method::Edge => setup.monitor != MonitorKind::Poll,
            Method::RingRead => setup.has_ring(),
            // Both also need a kernel that supports them.
            Method::RingReadMultishot if setup.has_ring() => continue,
            Method::KernelFlag if !setup.has_ring() => continue,
            _ => false,
        };
        let calls = Count::default();
        let handler = {
            let calls = calls.clone();
            move |_: &AioContext| calls.bump()
        };
        match ctx.add_notifier(&notifier, handler) {
            Ok(bell) => assert!(fits && bell.method() == method, "{method}"),
            Err(e) => {
                assert!(!fits, "{method}: {e}");
                assert_eq!(e.error.kind(), io::ErrorKind::Unsupported);
                assert!(!e.to_string().is_empty());
                (e.value)(&ctx);
                assert_eq!(calls.get(), 1, "it works as before");
                let again = EventNotifier::new(setup.reset).unwrap();
                assert!(ctx.add_notifier(&again, e.value).unwrap().is_live());
            }
        }
    }
}

pub(crate) fn a_full_counter_rings(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    settle(&ctx);
    // With a counter that is full and unread, as after 2^64 - 2 rings.
    let raw = notifier.as_fd().try_clone_to_owned().unwrap();
    let _ = notifier.test_and_clear().unwrap();
    os::add_to_counter(&raw, u64::MAX - 1);
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() > 0);
    settle(&ctx);
    let calls_before = calls.get();
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() > calls_before);
}

pub(crate) fn a_full_counter_is_delivered(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let raw = notifier.as_fd().try_clone_to_owned().unwrap();
    os::add_to_counter(&raw, u64::MAX - 1);
    let (_bell, calls) = counted(&ctx, &notifier);
    turn_until(&ctx, || calls.get() > 0);
}

pub(crate) fn test_and_clear_tells_and_resets(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    assert!(!notifier.test_and_clear().unwrap());
    notifier.notify().unwrap();
    notifier.notify().unwrap();
    assert!(notifier.test_and_clear().unwrap());
    assert!(!notifier.test_and_clear().unwrap());
    // A ring that was cleared before the registration is not delivered; later rings are.
    let (_bell, calls) = counted(&ctx, &notifier);
    assert!(!look(&ctx));
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() == 1);
}

pub(crate) fn clones_ring_the_same_bell(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    let clone = notifier.clone();
    assert_eq!(clone.as_raw_fd(), notifier.as_raw_fd());
    std::thread::spawn(move || clone.notify().unwrap());
    turn_until(&ctx, || calls.get() == 1);
}

pub(crate) fn a_registered_notifier_outlives_its_owner(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let peer = notifier.as_fd().try_clone_to_owned().unwrap();
    let (_bell, calls) = counted(&ctx, &notifier);
    drop(notifier);
    for write in 1..=3 {
        os::add_to_counter(&peer, 1);
        turn_until(&ctx, || calls.get() == write);
    }
}

pub(crate) fn adopts_an_eventfd(setup: &Setup) {
    if setup.reset == Reset::AutoresetBy(Method::KernelFlag) {
        return; // a stock eventfd has no such flag and is refused (another test)
    }
    let ctx = setup.context();
    let peer = os::eventfd(libc::EFD_NONBLOCK);
    os::add_to_counter(&peer, 3);
    let notifier = EventNotifier::adopt(peer.try_clone().unwrap(), setup.reset).unwrap();
    let (_bell, calls) = counted(&ctx, &notifier);
    turn_until(&ctx, || calls.get() == 1);
    os::add_to_counter(&peer, 1);
    turn_until(&ctx, || calls.get() == 2);
    assert!(!look(&ctx));
}

/// It clears O_NONBLOCK and writes 2^64 - 2: a ring by write(2) would never return. It also takes
/// the count before the loop reads it.
pub(crate) fn a_peer_that_fills_the_counter_blocks_nobody(setup: &Setup) {
    if setup.reset == Reset::AutoresetBy(Method::KernelFlag) {
        return;
    }
    let peer = os::eventfd(libc::EFD_NONBLOCK);
    let notifier = match EventNotifier::adopt_from_peer(peer.try_clone().unwrap(), setup.reset) {
        Ok(notifier) => notifier,
        Err(refused) => return println!("skipped: {}", refused.error),
    };
    let (ctx, calls) = (setup.context(), Count::default());
    let bump = calls.clone();
    let bell = ctx.add_notifier(&notifier, move |_| bump.bump()).unwrap();
    // An honest peer first.
    for _ in 0..3 {
        let before = calls.get();
        os::add_to_counter(&peer, 1);
        turn_until(&ctx, || calls.get() > before);
        settle(&ctx);
        let before = calls.get();
        notifier.notify().unwrap();
        turn_until(&ctx, || calls.get() > before);
        settle(&ctx);
    }
    for _ in 0..50 {
        os::take_counter(&peer);
        os::add_to_counter(&peer, u64::MAX - 1);
        os::set_blocking(&peer);
        (0..3).for_each(|_| notifier.notify().unwrap());
        os::take_counter(&peer);
        os::set_blocking(&peer);
        (0..3).for_each(|_| _ = look(&ctx));
        assert!(!notifier.test_and_clear().unwrap());
    }
    // Nobody has waited, and everybody is served.
    os::set_nonblocking(&peer);
    let before = calls.get();
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() > before);
    drop(bell);
}

pub(crate) fn adopt_refuses_what_is_no_doorbell(setup: &Setup) {
    let pipe = io::pipe().unwrap();
    os::set_nonblocking(&pipe.0);
    let cases = [
        (os::eventfd(0), "blocking"),
        (os::eventfd(libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE), "SEMAPHORE"),
        (pipe.0.into(), "not an eventfd"),
    ];
    for (fd, why) in cases {
        let number = fd.as_raw_fd();
        let e = EventNotifier::adopt(fd, setup.reset).unwrap_err();
        assert_eq!(e.error.kind(), io::ErrorKind::InvalidInput);
        assert!(e.to_string().contains(why), "{e}");
        assert!(e.to_string().contains(&number.to_string()), "{e}");
        assert_eq!(e.value.as_raw_fd(), number, "given back");
        assert!(e.value.try_clone().is_ok(), "and open");
    }
    let stock = os::eventfd(libc::EFD_NONBLOCK);
    let e = EventNotifier::adopt(stock, Reset::AutoresetBy(Method::KernelFlag)).unwrap_err();
    assert_eq!(e.error.kind(), io::ErrorKind::Unsupported);
}

pub(crate) fn what_was_published_is_visible(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let value = Arc::new(AtomicU64::new(0));
    let seen = Count::default();
    let bell = ctx.add_notifier(&notifier, {
        let (value, seen) = (Arc::clone(&value), seen.clone());
        move |_| seen.add(value.load(Ordering::Relaxed) - seen.get())
    });
    let _bell = bell.unwrap();
    for n in 1..=50 {
        let (value, notifier) = (Arc::clone(&value), notifier.clone());
        let thread = std::thread::spawn(move || {
            value.store(n, Ordering::Relaxed);
            notifier.notify().unwrap();
        });
        turn_until(&ctx, || seen.get() == n);
        thread.join().unwrap();
    }
}

/// What four guests publish, and what the loop has seen of it.
#[derive(Default)]
struct Mailboxes {
    published: [AtomicU64; 4],
    acknowledged: [AtomicU64; 4],
}

const LAST: u64 = 25_000;

impl Mailboxes {
    /// A guest: publishes and rings `LAST` times, and sometimes waits until the loop has seen it.
    /// If a ring is lost before such a wait, the test hangs.
    fn guest(&self, i: usize, bell: &EventNotifier) {
        for value in 1..=LAST {
            self.published[i].store(value, Ordering::Relaxed);
            bell.notify().unwrap();
            if value % 500 == 0 {
                while self.acknowledged[i].load(Ordering::Relaxed) != value {
                    std::thread::yield_now();
                }
            }
        }
    }

    fn answer(&self, i: usize) {
        self.acknowledged[i].store(self.published[i].load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn all_heard(&self) -> bool {
        self.acknowledged.iter().all(|a| a.load(Ordering::Relaxed) == LAST)
    }
}

/// The device side: a loop that stops, starts, and exchanges its handlers all the time.
struct Restless {
    mail: Arc<Mailboxes>,
    bells: [EventNotifier; 4],
    registrations: RefCell<[Option<NotifierRegistration>; 4]>,
    calls: Cell<u64>,
}

impl Restless {
    fn register(self: &Rc<Self>, ctx: &AioContext, i: usize) {
        let this = Rc::downgrade(self);
        let answer = move |ctx: &AioContext| {
            if let Some(this) = this.upgrade() {
                this.called(ctx, i);
            }
        };
        let new = ctx.add_notifier(&self.bells[i], answer).unwrap();
        let old = self.registrations.borrow_mut()[i].replace(new);
        drop(old);
    }

    fn remove(&self, i: usize) {
        let old = self.registrations.borrow_mut()[i].take();
        drop(old);
    }

    fn called(self: &Rc<Self>, ctx: &AioContext, i: usize) {
        self.mail.answer(i);
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        let other = (i + 1) % 4;
        match calls % 100 {
            10 => self.register(ctx, i),
            20 => self.register(ctx, other),
            30 => ctx.handle().stop(),
            // Not registered for a turn, while its guest continues to ring.
            40 | 60 => {
                let away = if calls % 100 == 40 { i } else { other };
                self.remove(away);
                let this = Rc::clone(self);
                ctx.defer(move |ctx| this.register(ctx, away));
            }
            80 => drop(ctx.poll(false).unwrap()),
            _ => {}
        }
        if self.mail.all_heard() {
            ctx.handle().stop();
        }
    }
}

pub(crate) fn nothing_is_lost_while_the_loop_lives_on(setup: &Setup) {
    let restless = Rc::new(Restless {
        mail: Arc::default(),
        bells: std::array::from_fn(|_| setup.notifier()),
        registrations: RefCell::default(),
        calls: Cell::new(0),
    });
    let guests: Vec<_> = (0..4)
        .map(|i| {
            let (mail, bell) = (Arc::clone(&restless.mail), restless.bells[i].clone());
            std::thread::spawn(move || mail.guest(i, &bell))
        })
        .collect();
    while !restless.mail.all_heard() {
        // Every eighth stop ends this loop for good, and the bells move to a new one.
        let ctx = setup.context();
        (0..4).for_each(|i| restless.register(&ctx, i));
        for _ in 0..8 {
            ctx.run().unwrap();
            if restless.mail.all_heard() {
                break;
            }
        }
        // Anything deferred for the old loop is dropped with it.
        drop(ctx);
        (0..4).for_each(|i| restless.remove(i));
    }
    guests.into_iter().for_each(|guest| guest.join().unwrap());
}

pub(crate) fn rung_for_one_context_is_heard_in_the_next(setup: &Setup) {
    let notifier = setup.notifier();
    for round in 0..20 {
        let (ctx, slot) = (setup.context(), Slot::new());
        let (bell, calls) = counted(&ctx, &notifier);
        slot.put(bell);
        assert!(!look(&ctx), "round {round}");
        notifier.notify().unwrap();
        // The old loop is dropped without a turn, or after a turn that collected the ring and then
        // removed the handler.
        if round % 2 == 1 {
            ctx.defer({
                let slot = slot.clone();
                move |_| drop(slot.take())
            });
            look(&ctx);
            assert_eq!(calls.get(), 0, "removed by a bottom half, which comes before the handlers");
        }
        drop(ctx);
        let next = setup.context();
        let (_bell, calls) = counted(&next, &notifier);
        turn_until(&next, || calls.get() > 0);
        // The edge methods never read; the next round must begin without pending events.
        settle(&next);
        let _ = notifier.test_and_clear().unwrap();
    }
}

pub(crate) fn a_loop_that_never_sleeps_hears_other_threads(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (_bell, calls) = counted(&ctx, &notifier);
    for n in 1..=20 {
        let bell = notifier.clone();
        let ringer = std::thread::spawn(move || bell.notify().unwrap());
        while calls.get() < n {
            look(&ctx);
        }
        ringer.join().unwrap();
    }
}
