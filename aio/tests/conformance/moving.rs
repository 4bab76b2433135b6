//! Devices that move from loop to loop.

use crate::setup::Setup;
use crate::support::{look, turn_until};
use aio::{AioContext, EventNotifier, Handle, Home, Hosted, Interest, Movable, MovableFd, MovableNotifier};
use aio::{JoinHandle, NotifierRegistration, Stay, Timer};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// What a [`Device`] is to do, and what it has done.
#[derive(Debug, Default)]
struct Plan {
    /// Turn the loop in the callback.
    nest: AtomicBool,
    /// Move to this loop in the callback, or in the `attach` that refuses.
    move_to: Mutex<Option<Handle>>,
    refuse: AtomicBool,
    panic_in_attach: AtomicBool,
    panic_in_detach: AtomicBool,
    /// How often its callback was called, was attached, was detached, was dropped.
    calls: AtomicU64,
    attached: AtomicU64,
    detached: AtomicU64,
    drops: AtomicU64,
}

impl Plan {
    fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::SeqCst)
    }

    fn bump(count: &AtomicU64) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

struct Device {
    kick: EventNotifier,
    plan: Arc<Plan>,
}

impl Drop for Device {
    fn drop(&mut self) {
        Plan::bump(&self.plan.drops);
    }
}

thread_local! {
    /// Lets a test reach the device on its loop.
    static HOME: RefCell<Option<Home<Device>>> = const { RefCell::new(None) };
}

fn stay() -> Option<Stay<Device>> {
    HOME.with_borrow(|home| home.as_ref()?.stay())
}

impl Movable for Device {
    type Attached = NotifierRegistration;

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<NotifierRegistration> {
        let again = home.clone();
        let registration = context.add_notifier(
            &self.kick,
            home.callback(move |device, context| {
                Plan::bump(&device.plan.calls);
                if let Some(target) = device.plan.move_to.lock().unwrap().take() {
                    again.move_to(&target);
                    assert!(again.is_leaving());
                }
                if device.plan.nest.swap(false, Ordering::SeqCst) {
                    for _ in 0..5 {
                        look(context);
                    }
                    assert_eq!(Plan::get(&device.plan.detached), 0, "it left under its own callback");
                }
            }),
        )?;
        assert!(!self.plan.panic_in_attach.swap(false, Ordering::SeqCst), "on purpose, in attach");
        if self.plan.refuse.swap(false, Ordering::SeqCst) {
            if let Some(target) = self.plan.move_to.lock().unwrap().take() {
                home.move_to(&target);
            }
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        HOME.set(Some(home.clone()));
        Plan::bump(&self.plan.attached);
        Ok(registration)
    }

    fn detach(&self, _: &AioContext, attached: NotifierRegistration) {
        assert!(!self.plan.panic_in_detach.swap(false, Ordering::SeqCst), "on purpose, in detach");
        drop(attached);
        Plan::bump(&self.plan.detached);
    }
}

/// Two loops in one thread, and a device on the first.
struct Two {
    a: AioContext,
    b: AioContext,
    device: Option<Hosted<Device>>,
    plan: Arc<Plan>,
    kick: EventNotifier,
    results: (mpsc::Sender<io::Result<()>>, mpsc::Receiver<io::Result<()>>),
}

impl Two {
    fn new(setup: &Setup) -> Self {
        let (a, b, kick, plan) = (setup.context(), setup.context(), setup.notifier(), Arc::<Plan>::default());
        let device = Hosted::new(Device { kick: kick.clone(), plan: Arc::clone(&plan) });
        device.attach(&a).unwrap();
        assert!(device.is_on(&a.handle()));
        Self { a, b, device: Some(device), plan, kick, results: mpsc::channel() }
    }

    fn device(&self) -> &Hosted<Device> {
        self.device.as_ref().unwrap()
    }

    fn start_move(&self, to: &AioContext) {
        let done = self.results.0.clone();
        self.device().move_then(&to.handle(), move |result| done.send(result).unwrap());
    }

    /// The results of moves that have ended: `None` for success.
    fn ended(&self) -> Vec<Option<ErrorKind>> {
        self.results.1.try_iter().map(|result| result.err().map(|e| e.kind())).collect()
    }

    fn turn_both(&self) {
        for _ in 0..4 {
            look(&self.a);
            look(&self.b);
        }
    }

    fn is_on(&self, context: &AioContext) -> bool {
        self.device().is_on(&context.handle())
    }

    /// Rings, and checks that the device hears it on this loop.
    fn rings_on(&self, context: &AioContext) {
        assert!(self.is_on(context));
        let before = Plan::get(&self.plan.calls);
        self.kick.notify().unwrap();
        turn_until(context, || Plan::get(&self.plan.calls) > before);
    }
}

pub(crate) fn a_device_moves_there_and_back(setup: &Setup) {
    let two = Two::new(setup);
    for round in 1..=10 {
        for (from, to) in [(&two.a, &two.b), (&two.b, &two.a)] {
            two.rings_on(from);
            two.start_move(to);
            two.kick.notify().unwrap();
            two.turn_both();
            assert_eq!(two.ended(), [None]);
            two.rings_on(to);
            assert!(!look(from));
        }
        assert_eq!(Plan::get(&two.plan.attached), 1 + 2 * round);
        assert_eq!(Plan::get(&two.plan.detached), 2 * round);
    }
    two.start_move(&two.a);
    two.turn_both();
    assert_eq!((two.ended(), Plan::get(&two.plan.detached)), (vec![None], 20), "it is there already");
}

pub(crate) fn a_ring_that_was_not_dispatched_is_heard_on_the_next_loop(setup: &Setup) {
    let two = Two::new(setup);
    for (from, to) in [(&two.a, &two.b), (&two.b, &two.a)] {
        let before = Plan::get(&two.plan.calls);
        two.kick.notify().unwrap();
        // Bottom halves run before handlers: the wait takes the ring, and the device leaves with it
        // undelivered.
        two.start_move(to);
        look(from);
        assert_eq!(Plan::get(&two.plan.calls), before);
        turn_until(to, || Plan::get(&two.plan.calls) > before);
    }
}

pub(crate) fn it_moves_itself_in_its_callback(setup: &Setup) {
    let two = Two::new(setup);
    for (from, to) in [(&two.a, &two.b), (&two.b, &two.a)] {
        *two.plan.move_to.lock().unwrap() = Some(to.handle());
        two.rings_on(from);
        two.turn_both();
        two.rings_on(to);
    }
}

pub(crate) fn it_does_not_leave_in_its_own_callback(setup: &Setup) {
    let two = Two::new(setup);
    two.plan.nest.store(true, Ordering::SeqCst);
    *two.plan.move_to.lock().unwrap() = Some(two.b.handle());
    two.rings_on(&two.a);
    two.turn_both();
    two.rings_on(&two.b);
}

pub(crate) fn a_stay_keeps_it(setup: &Setup) {
    let two = Two::new(setup);
    let held = stay().unwrap();
    two.start_move(&two.b);
    two.turn_both();
    assert!(two.ended().is_empty());
    two.rings_on(&two.a);
    drop(held);
    two.turn_both();
    assert_eq!(two.ended(), [None]);
    two.rings_on(&two.b);
}

pub(crate) fn a_loop_that_refuses_sends_it_back(setup: &Setup) {
    let two = Two::new(setup);
    two.plan.refuse.store(true, Ordering::SeqCst);
    two.start_move(&two.b);
    two.kick.notify().unwrap();
    two.turn_both();
    let [Some(_)] = two.ended()[..] else { panic!("it was refused") };
    assert_eq!(Plan::get(&two.plan.attached), 2);
    two.rings_on(&two.a);
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!(two.ended(), [None]);
    two.rings_on(&two.b);
}

pub(crate) fn a_refusal_at_the_first_loop_leaves_it_with_its_owner(setup: &Setup) {
    let (ctx, kick, plan) = (setup.context(), setup.notifier(), Arc::<Plan>::default());
    let device = Hosted::new(Device { kick: kick.clone(), plan: Arc::clone(&plan) });
    plan.refuse.store(true, Ordering::SeqCst);
    assert_eq!(device.attach(&ctx).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert!(!device.is_on(&ctx.handle()));
    device.attach(&ctx).unwrap();
    assert_eq!(device.attach(&ctx).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(device.take().is_none(), "it is on a loop");
    kick.notify().unwrap();
    turn_until(&ctx, || Plan::get(&plan.calls) != 0);
    assert_eq!(Plan::get(&plan.drops), 0);
}

pub(crate) fn an_order_given_in_a_refusal_comes_before_the_way_back(setup: &Setup) {
    let (two, third) = (Two::new(setup), setup.context());
    two.plan.move_to.lock().unwrap().replace(third.handle());
    two.plan.refuse.store(true, Ordering::SeqCst);
    two.start_move(&two.b);
    two.turn_both();
    let [Some(_)] = two.ended()[..] else { panic!("it was refused, and that is reported once") };
    (0..4).for_each(|_| _ = look(&third));
    two.rings_on(&third);
    assert_eq!(Plan::get(&two.plan.attached), 2, "it was not on the first loop in between");
}

pub(crate) fn a_dropped_target_is_an_error_and_it_stays(setup: &Setup) {
    let mut two = Two::new(setup);
    // Dropped before the device leaves.
    let gone = setup.context();
    two.start_move(&gone);
    drop(gone);
    two.turn_both();
    assert_eq!(two.ended(), [Some(ErrorKind::NotConnected)]);
    two.rings_on(&two.a);
    assert_eq!(Plan::get(&two.plan.detached), 0);
    // Dropped while the device is on its way.
    two.start_move(&two.b);
    look(&two.a);
    assert_eq!(Plan::get(&two.plan.detached), 1);
    drop(std::mem::replace(&mut two.b, setup.context()));
    two.turn_both();
    assert_eq!(two.ended(), [Some(ErrorKind::NotConnected)]);
    two.rings_on(&two.a);
}

pub(crate) fn it_survives_its_loop(setup: &Setup) {
    let mut two = Two::new(setup);
    two.kick.notify().unwrap();
    drop(std::mem::replace(&mut two.a, setup.context()));
    assert_eq!(Plan::get(&two.plan.drops), 0);
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!((two.ended(), Plan::get(&two.plan.calls)), (vec![None], 1));
    two.rings_on(&two.b);
    // A move that was ordered before the loop was dropped is carried out.
    two.start_move(&two.a);
    drop(std::mem::replace(&mut two.b, setup.context()));
    two.turn_both();
    assert_eq!(two.ended(), [None]);
    two.rings_on(&two.a);
    drop(std::mem::replace(&mut two.a, setup.context()));
    let device = two.device().take().expect("it is on no loop");
    assert_eq!(Plan::get(&two.plan.drops), 0);
    drop(device);
    two.start_move(&two.b);
    assert_eq!(two.ended(), [Some(ErrorKind::NotFound)], "there is nothing to move");
}

/// Takes the deadline of its timer along, and rings what it has begun.
struct Timed {
    deadline_ns: Option<u64>,
    kept: Cell<Option<u64>>,
    detached: Cell<u32>,
}

impl Movable for Timed {
    type Attached = Timer;

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<Timer> {
        let timer = context.timer(home.callback(|_, _| ()));
        self.deadline_ns.into_iter().for_each(|at| timer.arm_at(at));
        Ok(timer)
    }

    fn detach(&self, context: &AioContext, timer: Timer) {
        self.detached.set(self.detached.get() + 1);
        self.kept.set(timer.deadline_ns());
        // Everything works still; this is dropped with the context.
        drop(context.spawn(std::future::pending::<()>()));
        context.defer(|_| unreachable!("the loop does not turn any more"));
    }
}

pub(crate) fn it_is_detached_when_its_loop_ends(setup: &Setup) {
    const LATER: Option<u64> = Some(u64::MAX / 2);
    let new =
        || Arc::new(Hosted::new(Timed { deadline_ns: LATER, kept: Cell::new(None), detached: Cell::new(0) }));
    let is_kept = |device: &Hosted<Timed>| {
        let device = device.take().expect("it is on no loop");
        assert_eq!((device.kept.get(), device.detached.get()), (LATER, 1));
    };
    let (ctx, device) = (setup.context(), new());
    device.attach(&ctx).unwrap();
    drop(ctx);
    is_kept(&device);

    for panics in [false, true] {
        let (thread, device) = (setup.io_thread(), new());
        let (done, arrived) = mpsc::channel();
        device.move_then(thread.handle(), move |result| done.send(result).unwrap());
        arrived.recv().unwrap().unwrap();
        let (told, ended) = mpsc::channel();
        let owner = Arc::clone(&device);
        thread.on_exit(move || told.send(owner.take()).unwrap());
        if panics {
            thread.handle().schedule(|_| panic!("on purpose, in an IoThread"));
        } else {
            thread.handle().stop();
        }
        let device = ended.recv().unwrap().expect("the owner gets it in on_exit");
        assert_eq!((device.kept.get(), device.detached.get()), (LATER, 1));
        let _ = catch_unwind(AssertUnwindSafe(|| thread.stop()));
    }

    // Held, and on its way out.
    let two = Two::new(setup);
    let held = stay().unwrap();
    two.start_move(&two.b);
    let Two { a, b, device, plan, .. } = two;
    drop(a);
    assert_eq!((Plan::get(&plan.detached), Plan::get(&plan.attached)), (1, 1));
    drop(held);
    look(&b);
    assert_eq!((Plan::get(&plan.detached), Plan::get(&plan.attached)), (1, 2));
    drop(device);
}

pub(crate) fn a_panic_in_detach_at_the_end_of_a_loop_loses_nothing(setup: &Setup) {
    let mut two = Two::new(setup);
    two.plan.panic_in_detach.store(true, Ordering::SeqCst);
    two.kick.notify().unwrap();
    let a = std::mem::replace(&mut two.a, setup.context());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(a))).is_err());
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!((two.ended(), Plan::get(&two.plan.calls)), (vec![None], 1));
    two.rings_on(&two.b);
}

pub(crate) fn the_last_move_wins(setup: &Setup) {
    let two = Two::new(setup);
    two.start_move(&two.b);
    two.start_move(&two.a);
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!(two.ended(), [Some(ErrorKind::Interrupted), Some(ErrorKind::Interrupted), None]);
    assert_eq!(Plan::get(&two.plan.detached), 1);
    two.rings_on(&two.b);
    // While it is on its way.
    two.start_move(&two.a);
    look(&two.b);
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!(two.ended(), [Some(ErrorKind::Interrupted), None]);
    two.rings_on(&two.b);
}

pub(crate) fn it_is_called_back_from_its_way_to_a_loop_that_does_not_turn(setup: &Setup) {
    let stuck = setup.context();
    let on_its_way = || {
        let two = Two::new(setup);
        two.start_move(&stuck);
        look(&two.a);
        assert!(two.ended().is_empty() && !two.is_on(&two.a) && !two.is_on(&stuck));
        two
    };
    // To another loop, and to the one that it came from.
    let two = on_its_way();
    for to in [&two.b, &two.a] {
        two.start_move(to);
        assert_eq!(two.ended(), [Some(ErrorKind::Interrupted)], "at once");
        turn_until(to, || two.is_on(to));
        assert_eq!(two.ended(), [None]);
        two.rings_on(to);
        two.start_move(&stuck);
        look(to);
    }
    // A loop that refuses it sends it to the loop that it came from before.
    two.plan.refuse.store(true, Ordering::SeqCst);
    two.start_move(&two.b);
    two.turn_both();
    let [Some(ErrorKind::Interrupted), Some(_)] = two.ended()[..] else { panic!("it was refused") };
    two.rings_on(&two.a);

    let mut two = on_its_way();
    let (back, released) = mpsc::channel();
    two.device.take().unwrap().release(move |device| back.send(device).unwrap());
    drop(released.try_recv().expect("at once"));
    assert_eq!((two.ended(), Plan::get(&two.plan.drops)), (vec![Some(ErrorKind::Interrupted)], 1));

    let mut two = on_its_way();
    two.device = None;
    assert_eq!((two.ended(), Plan::get(&two.plan.drops)), (vec![Some(ErrorKind::Interrupted)], 1));

    // What the loop had been sent means nothing any more, but for the last one.
    let two = on_its_way();
    two.start_move(&stuck);
    assert_eq!(two.ended(), [Some(ErrorKind::Interrupted)]);
    turn_until(&stuck, || two.is_on(&stuck));
    assert_eq!((two.ended(), Plan::get(&two.plan.attached)), (vec![None], 2));
    two.rings_on(&stuck);
}

pub(crate) fn each_call_reports_the_reason_in_each_state(setup: &Setup) {
    use ErrorKind::{AlreadyExists, NotFound};
    type Enter = fn(&Two);
    const ON_ITS_WAY: &str = "on its way";
    // How to get there, and why `attach` fails.
    type Why = Option<(ErrorKind, &'static str)>;
    let states: [(&str, Enter, Why); 3] = [
        ("on the same loop", |_| {}, Some((AlreadyExists, "on a loop already"))),
        (
            "on another loop",
            |two| {
                two.start_move(&two.b);
                two.turn_both();
            },
            Some((AlreadyExists, "on a loop already")),
        ),
        (
            ON_ITS_WAY,
            |two| {
                two.start_move(&two.b);
                look(&two.a);
            },
            Some((AlreadyExists, "on its way")),
        ),
    ];
    let check = |what: &str, call: &str, result: io::Result<()>, why: Why| match (result, why) {
        (Ok(()), None) => {}
        (Err(error), Some((kind, text))) => {
            assert!(error.kind() == kind && error.to_string().contains(text), "{what}, {call}: {error}");
        }
        (result, why) => panic!("{what}, {call}: {result:?} instead of {why:?}"),
    };
    for (what, enter, attach) in states {
        let two = Two::new(setup);
        enter(&two);
        two.results.1.try_iter().for_each(drop);
        check(what, "attach", two.device().attach(&two.a), attach);
        assert!(two.device().take().is_none(), "{what}, take");
        two.start_move(&two.b);
        two.turn_both();
        if what == ON_ITS_WAY {
            assert_eq!(two.results.1.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
        }
        check(what, "move", two.results.1.try_recv().expect("an outcome"), None);
    }
    // On no loop: taken, or not.
    let (ctx, plan) = (setup.context(), Arc::<Plan>::default());
    let device = Hosted::new(Device { kick: setup.notifier(), plan });
    assert!(device.take().is_some());
    assert!(device.take().is_none());
    let gone = Some((NotFound, "was taken"));
    check("taken", "attach", device.attach(&ctx), gone);
    let (done, outcome) = mpsc::channel();
    device.move_then(&ctx.handle(), move |result| done.send(result).unwrap());
    check("taken", "move", outcome.try_recv().expect("at once"), gone);
    device.release(|_| unreachable!("it was taken"));
}

pub(crate) fn release_gives_it_back(setup: &Setup) {
    let mut two = Two::new(setup);
    let (back, released) = mpsc::channel();
    two.device.take().unwrap().release(move |device| back.send(device).unwrap());
    two.turn_both();
    let device = released.try_recv().unwrap();
    assert_eq!((Plan::get(&two.plan.drops), Plan::get(&two.plan.detached)), (0, 1));
    two.kick.notify().unwrap();
    assert!(!look(&two.a));
    let again = Hosted::new(device);
    again.attach(&two.b).unwrap();
    turn_until(&two.b, || Plan::get(&two.plan.calls) == 1);
}

pub(crate) fn dropping_the_owner_takes_it_off_its_loop(setup: &Setup) {
    let mut two = Two::new(setup);
    two.device = None;
    assert_eq!(Plan::get(&two.plan.drops), 0);
    two.turn_both();
    assert_eq!((Plan::get(&two.plan.drops), Plan::get(&two.plan.detached)), (1, 1));
    two.kick.notify().unwrap();
    assert!(!look(&two.a));
    // While it is on its way.
    let mut two = Two::new(setup);
    two.start_move(&two.b);
    look(&two.a);
    two.device = None;
    two.turn_both();
    assert_eq!((Plan::get(&two.plan.drops), two.ended()), (1, vec![Some(ErrorKind::Interrupted)]));
}

/// Turns a loop on which a device panics.
fn panics(context: &AioContext) {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..4 {
            look(context);
        }
    }));
    assert!(caught.is_err(), "no panic came out of poll");
}

pub(crate) fn a_panic_in_detach_loses_nothing(setup: &Setup) {
    let two = Two::new(setup);
    two.plan.panic_in_detach.store(true, Ordering::SeqCst);
    two.start_move(&two.b);
    two.kick.notify().unwrap();
    panics(&two.a);
    two.turn_both();
    assert_eq!(two.ended(), [None]);
    two.rings_on(&two.b);
}

pub(crate) fn a_panic_in_attach_sends_it_back(setup: &Setup) {
    let two = Two::new(setup);
    two.plan.panic_in_attach.store(true, Ordering::SeqCst);
    two.start_move(&two.b);
    two.kick.notify().unwrap();
    look(&two.a);
    panics(&two.b);
    two.turn_both();
    assert_eq!(two.ended(), [Some(ErrorKind::Other)]);
    two.rings_on(&two.a);
}

pub(crate) fn a_panic_in_the_report_of_a_replaced_move_loses_nothing(setup: &Setup) {
    let two = Two::new(setup);
    two.device().move_then(&two.b.handle(), |_| panic!("on purpose, in the report"));
    look(&two.a);
    assert!(!two.is_on(&two.a), "it is on its way");
    // The new order ends the journey at once, and reports that in this call.
    let reported = catch_unwind(AssertUnwindSafe(|| two.start_move(&two.a)));
    assert!(reported.is_err());
    two.turn_both();
    assert_eq!((two.ended(), Plan::get(&two.plan.drops)), (vec![None], 0));
    two.rings_on(&two.a);
}

/// A device whose attachment holds something.
struct Holder(Arc<()>);

impl Movable for Holder {
    type Attached = Arc<()>;

    fn attach(&self, _: &AioContext, _: &Home<Self>) -> io::Result<Arc<()>> {
        Ok(Arc::clone(&self.0))
    }
}

pub(crate) fn the_attachment_is_dropped_with_the_loop(setup: &Setup) {
    let (ctx, held) = (setup.context(), Arc::new(()));
    let device = Hosted::new(Holder(Arc::clone(&held)));
    device.attach(&ctx).unwrap();
    assert_eq!(Arc::strong_count(&held), 3);
    drop(ctx);
    assert_eq!(Arc::strong_count(&held), 2, "the device is kept, what it had on the loop is not");
    drop(device);
    assert_eq!(Arc::strong_count(&held), 1);
}

pub(crate) fn a_stream_moves_between_two_threads(setup: &Setup) {
    const BYTES: u64 = 20_000;
    let threads = [setup.io_thread(), setup.io_thread()];
    let (reader, mut writer) = io::pipe().unwrap();
    let (done, received) = mpsc::channel();
    let (sum, count) = (std::cell::Cell::new(0u64), std::cell::Cell::new(0u64));
    let stream =
        Hosted::new(MovableFd::new(reader, Interest::READABLE, move |_, mut reader: &io::PipeReader, _| {
            let mut buffer = [0; 64];
            let n = reader.read(&mut buffer).unwrap();
            count.set(count.get() + n as u64);
            sum.set(sum.get() + buffer[..n].iter().map(|byte| u64::from(*byte)).sum::<u64>());
            if count.get() == BYTES {
                done.send(sum.get()).unwrap();
            }
        }));
    let sent = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(|i| i as u8).collect();
        bytes.chunks(50).for_each(|chunk| writer.write_all(chunk).unwrap());
        (bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>(), writer)
    });
    let mut there = 0;
    let sum = loop {
        stream.move_to(threads[there].handle());
        there = 1 - there;
        match received.try_recv() {
            Ok(sum) => break sum,
            Err(_) => std::thread::yield_now(),
        }
    };
    let (expected, mut writer) = sent.join().unwrap();
    assert_eq!(sum, expected);
    // Its owner closes the descriptor with it.
    drop(stream);
    while writer.write_all(b"x").is_ok() {
        std::thread::yield_now();
    }
}

pub(crate) fn rings_of_two_threads_survive_moves_between_two_others(setup: &Setup) {
    let moves = std::env::var("MOVES").ok().and_then(|n| n.parse().ok()).unwrap_or(300u64);
    let threads = [setup.io_thread(), setup.io_thread()];
    let kick = setup.notifier();
    // Rung so often, and seen so often. The bell is rung after the count went up.
    let rung = Arc::new(AtomicU64::new(0));
    let (seen, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let in_use = Mutex::new(());
    let device = Hosted::new(MovableNotifier::new(kick.clone(), {
        let (rung, seen) = (Arc::clone(&rung), Arc::clone(&seen));
        move |_| {
            let _alone = in_use.try_lock().expect("called on two loops at the same time");
            seen.store(rung.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }));
    let ringers: Vec<_> = (0..2)
        .map(|_| {
            let (kick, rung, seen, over) =
                (kick.clone(), Arc::clone(&rung), Arc::clone(&seen), Arc::clone(&over));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mine = rung.fetch_add(1, Ordering::SeqCst) + 1;
                    kick.notify().unwrap();
                    // A ring that is lost is never seen, and the hang guard reports it.
                    while seen.load(Ordering::SeqCst) < mine {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let (done, arrived) = mpsc::channel();
    for n in 0..moves {
        let done = done.clone();
        device.move_then(threads[n as usize % 2].handle(), move |result| done.send(result).unwrap());
        arrived.recv().unwrap().unwrap();
    }
    over.store(true, Ordering::Relaxed);
    ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    assert!(seen.load(Ordering::SeqCst) > 0);
}

/// A device whose doorbell is awaited by a task: see the documentation of [`Movable`].
struct Tasked {
    kick: EventNotifier,
    rung: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
}

impl Movable for Tasked {
    type Attached = JoinHandle<()>;

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<JoinHandle<()>> {
        let (mut doorbell, home) = (context.doorbell(&self.kick)?, home.clone());
        Ok(context.spawn(async move {
            loop {
                doorbell.rung().await;
                let Some(device) = home.stay() else { break };
                device.seen.store(device.rung.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }))
    }

    fn detach(&self, _: &AioContext, task: JoinHandle<()>) {
        task.abort();
    }
}

pub(crate) fn rings_survive_moves_of_a_device_with_a_task(setup: &Setup) {
    const MOVES: u64 = 300;
    let threads = [setup.io_thread(), setup.io_thread()];
    let (kick, rung, seen) = (setup.notifier(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let device = Hosted::new(Tasked { kick: kick.clone(), rung: Arc::clone(&rung), seen: Arc::clone(&seen) });
    let (done, arrived) = mpsc::channel();
    for n in 0..MOVES {
        let done = done.clone();
        device.move_then(threads[n as usize % 2].handle(), move |result| done.send(result).unwrap());
        for _ in 0..n % 7 {
            rung.fetch_add(1, Ordering::SeqCst);
            kick.notify().unwrap();
            (0..n * 31 % 200).for_each(|_| std::hint::spin_loop());
        }
        arrived.recv().unwrap().unwrap();
        // A ring that is lost is never seen, and the hang guard reports it.
        while seen.load(Ordering::SeqCst) < rung.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
    let tasks = threads.map(|thread| thread.run(|context| context.dump().tasks().count()).unwrap());
    assert!(tasks.iter().sum::<usize>() <= 2, "tasks that have ended stay behind: {tasks:?}");
}

pub(crate) fn a_stay_may_outlive_the_context(setup: &Setup) {
    let mut two = Two::new(setup);
    let held = Rc::new(stay().unwrap());
    drop(std::mem::replace(&mut two.a, setup.context()));
    assert!(two.device().take().is_none(), "held");
    two.kick.notify().unwrap();
    drop(held);
    assert_eq!(Plan::get(&two.plan.drops), 0);
    two.start_move(&two.b);
    two.turn_both();
    assert_eq!(two.ended(), [None]);
    two.rings_on(&two.b);
}
