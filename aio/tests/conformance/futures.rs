//! What tasks await: time, notifiers, descriptors.

use crate::setup::Setup;
use crate::support::{Count, SPIN, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, AsyncFd, Clock, Elapsed, Interest, Method};
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_secs(3600);

/// Polls a future once, for nobody.
fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) fn sleeps_are_over_in_order_and_never_early(setup: &Setup) {
    let ctx = setup.context();
    let order = Rc::new(RefCell::new(Vec::new()));
    let tasks = [3, 1, 2].map(|n| {
        let (local, order) = (ctx.local_handle(), Rc::clone(&order));
        ctx.spawn(async move {
            let start_ns = local.now_ns();
            local.sleep(n * MILLISECOND).await;
            assert!(local.now_ns() - start_ns >= u64::from(n) * 1_000_000);
            order.borrow_mut().push(n);
        })
    });
    for task in tasks {
        ctx.block_on(task).unwrap().unwrap();
    }
    assert_eq!(*order.borrow(), [1, 2, 3]);
    assert_eq!(ctx.stats().timers, 3);
}

pub(crate) fn a_sleep_follows_its_clock(setup: &Setup) {
    let ctx = setup.context();
    let mut sleep = pin!(ctx.sleep_until(Clock::Virtual, 1_000));
    assert!(poll_once(sleep.as_mut()).is_pending());
    ctx.virtual_clock().step(Duration::from_nanos(999));
    settle(&ctx);
    assert!(poll_once(sleep.as_mut()).is_pending());
    ctx.virtual_clock().step(Duration::from_nanos(1));
    settle(&ctx);
    assert!(poll_once(sleep.as_mut()).is_ready());
    assert!(poll_once(sleep.as_mut()).is_ready(), "it stays over");
}

/// A sleep wakes whoever polled it last, at the time that its first poll has set.
pub(crate) fn a_sleep_moves_to_another_task(setup: &Setup) {
    let ctx = setup.context();
    let sleep = Rc::new(RefCell::new(ctx.sleep_until(Clock::Virtual, 7)));
    let polls = [(); 2].map(|()| Count::default());
    let tasks = polls.clone().map(|polls| {
        let sleep = Rc::clone(&sleep);
        ctx.spawn(poll_fn(move |cx| {
            polls.bump();
            Pin::new(&mut *sleep.borrow_mut()).poll(cx)
        }))
    });
    turn(&ctx);
    ctx.virtual_clock().step(Duration::from_nanos(7));
    turn_until(&ctx, || tasks[1].is_finished());
    settle(&ctx);
    assert_eq!((polls[0].get(), polls[1].get()), (1, 2));
}

pub(crate) fn a_dropped_sleep_wakes_nobody(setup: &Setup) {
    let ctx = setup.context();
    let task = ctx.spawn({
        let local = ctx.local_handle();
        async move { local.timeout(LATER, local.sleep(MILLISECOND)).await }
    });
    ctx.block_on(task).unwrap().unwrap().unwrap();
    assert_eq!(ctx.stats().timers, 1);
    settle(&ctx);
    // The long one would shorten this sleep, too, if it were still armed.
    assert!(turns_of_an_idle_loop(&ctx) < SPIN);
}

/// Neither one that waits nor one that was never polled.
pub(crate) fn a_sleep_of_a_dropped_context_is_never_over(setup: &Setup) {
    let ctx = setup.context();
    let mut sleeps = [5, 6].map(|at_ns| ctx.sleep_until(Clock::Virtual, at_ns));
    assert!(poll_once(Pin::new(&mut sleeps[0])).is_pending());
    drop(ctx);
    for sleep in &mut sleeps {
        (0..2).for_each(|_| assert!(poll_once(Pin::new(&mut *sleep)).is_pending()));
    }
}

thread_local! {
    static LOCAL: RefCell<Option<aio::LocalHandle>> = const { RefCell::new(None) };
    static DROPS: Cell<u32> = const { Cell::new(0) };
}

/// A waker that uses the timers of a loop when it is dropped.
struct UsesTimers;

impl std::task::Wake for UsesTimers {
    fn wake(self: std::sync::Arc<Self>) {}
}

impl Drop for UsesTimers {
    fn drop(&mut self) {
        LOCAL.with_borrow(|local| {
            let local = local.as_ref().unwrap();
            local.timer(|_| ()).arm_at(1);
            // An error if the context was dropped.
            let _ = local.poll(false);
            DROPS.set(DROPS.get() + 1);
        });
    }
}

/// It is dropped when another waker takes its place, with the sleep, when it was woken, and with
/// the context.
pub(crate) fn a_waker_of_a_sleep_uses_the_loop_while_it_is_dropped(setup: &Setup) {
    let ctx = setup.context();
    LOCAL.set(Some(ctx.local_handle()));
    DROPS.set(0);
    let start = |at_ns| {
        let mut sleep = ctx.sleep_until(Clock::Virtual, at_ns);
        let waker = Waker::from(std::sync::Arc::new(UsesTimers));
        assert!(Pin::new(&mut sleep).poll(&mut Context::from_waker(&waker)).is_pending());
        sleep
    };
    let mut sleep = start(7);
    assert!(poll_once(Pin::new(&mut sleep)).is_pending());
    assert_eq!(DROPS.get(), 1);
    drop(start(7));
    assert_eq!(DROPS.get(), 2);
    let mut woken = start(7);
    ctx.virtual_clock().step(Duration::from_nanos(7));
    settle(&ctx);
    assert_eq!(DROPS.get(), 3);
    assert!([&mut sleep, &mut woken].map(|sleep| poll_once(Pin::new(sleep)).is_ready()).iter().all(|is| *is));
    let _waits = start(8);
    drop(ctx);
    assert_eq!(DROPS.get(), 4);
    LOCAL.set(None);
}

pub(crate) fn a_timeout_limits_a_future(setup: &Setup) {
    let ctx = setup.context();
    let dropped = Rc::new(());
    let held = Rc::clone(&dropped);
    let limited = ctx.timeout(MILLISECOND, async move {
        let _held = held;
        pending::<()>().await;
    });
    let result: Result<(), Elapsed> = ctx.block_on(limited).unwrap();
    let error = std::io::Error::from(result.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(Rc::strong_count(&dropped), 1);
    // One that does not wait arms no timer, whatever the limit is.
    let timers = ctx.stats().timers;
    assert_eq!(ctx.block_on(ctx.timeout(Duration::ZERO, async { 5 })).unwrap(), Ok(5));
    settle(&ctx);
    assert_eq!(ctx.stats().timers, timers);
}

pub(crate) fn a_doorbell_is_awaited(setup: &Setup) {
    let ctx = setup.context();
    let notifier = setup.notifier();
    // A ring before the registration counts.
    notifier.notify().unwrap();
    let mut doorbell = ctx.doorbell(&notifier).unwrap();
    // As of any other registration: a kernel with EFD_AUTORESET has better methods.
    let other = ctx.add_notifier(&setup.notifier(), |_| ()).unwrap();
    assert_eq!(doorbell.method(), other.method());
    drop(other);
    let rings = Count::default();
    let task = ctx.spawn({
        let rings = rings.clone();
        async move {
            loop {
                doorbell.rung().await;
                rings.bump();
            }
        }
    });
    turn_until(&ctx, || rings.get() == 1);
    for n in 2..50 {
        notifier.notify().unwrap();
        // The kernel may confirm something in between.
        turn_until(&ctx, || rings.get() == n);
    }
    settle(&ctx);
    assert_eq!(rings.get(), 49);
    task.abort();
    turn(&ctx);
    notifier.notify().unwrap();
    settle(&ctx);
    assert_eq!(rings.get(), 49, "its handler is removed");
}

/// A ring between two awaits, or while the future of one was dropped, is heard by the next.
pub(crate) fn no_ring_is_lost_between_awaits(setup: &Setup) {
    let ctx = setup.context();
    let notifier = setup.notifier();
    let mut doorbell = ctx.doorbell(&notifier).unwrap();
    assert!(poll_once(pin!(doorbell.rung())).is_pending());
    notifier.notify().unwrap();
    turn(&ctx);
    settle(&ctx);
    assert!(poll_once(pin!(doorbell.rung())).is_ready());
    assert!(poll_once(pin!(doorbell.rung())).is_pending());
    // Dropped after it was woken and before it was polled.
    let waiting = {
        let mut rung = pin!(doorbell.rung());
        let waiting = poll_once(rung.as_mut()).is_pending();
        notifier.notify().unwrap();
        turn(&ctx);
        settle(&ctx);
        waiting
    };
    assert!(waiting);
    assert!(poll_once(pin!(doorbell.rung())).is_ready());
}

pub(crate) fn a_dropped_doorbell_leaves_its_ring_to_the_next_handler(setup: &Setup) {
    let (ctx, other, notifier) = (setup.context(), setup.context(), setup.notifier());
    // Whether the next handler, on this loop or another, is called.
    let next_hears = |next: &AioContext| {
        let calls = Count::default();
        let seen = calls.clone();
        let _next = next.add_notifier(&notifier, move |_| seen.bump()).unwrap();
        settle(next);
        calls.get() != 0
    };
    for next in [&other, &ctx] {
        // Noticed by the loop, and awaited by nobody.
        let doorbell = ctx.doorbell(&notifier).unwrap();
        notifier.notify().unwrap();
        settle(&ctx);
        drop(doorbell);
        assert!(next_hears(next));

        // Not noticed.
        let doorbell = ctx.doorbell(&notifier).unwrap();
        settle(&ctx);
        notifier.notify().unwrap();
        drop(doorbell);
        assert!(next_hears(next));

        // Removed by its id, and dropped later.
        let doorbell = ctx.doorbell(&notifier).unwrap();
        notifier.notify().unwrap();
        settle(&ctx);
        assert!(ctx.remove(doorbell.id()));
        drop(doorbell);
        assert!(next_hears(next));

        // Awaited, or not rung: nothing is made up.
        let mut doorbell = ctx.doorbell(&notifier).unwrap();
        notifier.notify().unwrap();
        settle(&ctx);
        assert!(poll_once(pin!(doorbell.rung())).is_ready());
        // With this method the count stays in the eventfd, and a new handler is called for it.
        let keeps_count = doorbell.method() == Method::Edge;
        drop(doorbell);
        assert!(keeps_count || !next_hears(next));

        // A time limit that is over first.
        let mut doorbell = ctx.doorbell(&notifier).unwrap();
        settle(&ctx);
        let _ = poll_once(pin!(doorbell.rung())).is_ready();
        let rung = ctx.timeout(Duration::ZERO, doorbell.rung());
        assert!(ctx.block_on(rung).unwrap().is_err());
        notifier.notify().unwrap();
        settle(&ctx);
        drop(doorbell);
        assert!(next_hears(next));

        // The task that awaits it is aborted in the turn that collects the ring.
        let mut doorbell = ctx.doorbell(&notifier).unwrap();
        let task = ctx.spawn(async move { doorbell.rung().await });
        settle(&ctx);
        notifier.notify().unwrap();
        ctx.defer(move |_| task.abort());
        settle(&ctx);
        assert!(next_hears(next));
    }
    // The loop ends first.
    let doorbell = ctx.doorbell(&notifier).unwrap();
    notifier.notify().unwrap();
    settle(&ctx);
    drop(ctx);
    drop(doorbell);
    assert!(next_hears(&other));
}

pub(crate) fn a_doorbell_rung_by_a_thread_is_heard_each_time(setup: &Setup) {
    const RINGS: u64 = 500;
    let ctx = setup.context();
    let (kick, answer) = (setup.notifier(), std::sync::mpsc::sync_channel(0));
    let (answers, answered) = answer;
    let mut doorbell = ctx.doorbell(&kick).unwrap();
    let guest = std::thread::spawn(move || {
        for _ in 0..RINGS {
            kick.notify().unwrap();
            answered.recv().unwrap();
        }
    });
    ctx.block_on(async {
        for _ in 0..RINGS {
            doorbell.rung().await;
            answers.send(()).unwrap();
        }
    })
    .unwrap();
    guest.join().unwrap();
}

fn pair(setup: &Setup) -> (aio::AioContext, AsyncFd<UnixStream>, UnixStream) {
    let ctx = setup.context();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = ctx.async_fd(ours).unwrap();
    (ctx, ours, theirs)
}

pub(crate) fn a_descriptor_is_awaited(setup: &Setup) {
    let (ctx, ours, mut theirs) = pair(setup);
    let received = Rc::new(RefCell::new(Vec::new()));
    let task = ctx.spawn({
        let received = Rc::clone(&received);
        async move {
            loop {
                let mut buffer = [0; 16];
                let n = ours.io(Interest::READABLE, |mut ours| ours.read(&mut buffer)).await.unwrap();
                if n == 0 {
                    return ours.into_inner();
                }
                received.borrow_mut().extend_from_slice(&buffer[..n]);
            }
        }
    });
    for n in 1..=20 {
        theirs.write_all(b"abc").unwrap();
        turn_until(&ctx, || received.borrow().len() == 3 * n);
    }
    // Data in every turn, and none in between: the interest never changes.
    let before = ctx.stats();
    for n in 21..=40 {
        theirs.write_all(b"abc").unwrap();
        turn_until(&ctx, || received.borrow().len() == 3 * n);
    }
    assert_eq!((ctx.stats() - before).syscalls_ctl, 0);
    drop(theirs);
    let stream = ctx.block_on(task).unwrap().unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
}

pub(crate) fn both_directions_of_a_stream_are_awaited_at_once(setup: &Setup) {
    const BYTES: usize = 1 << 20;
    let (ctx, ours, theirs) = pair(setup);
    let ours = Rc::new(ours);
    // The peer sends back what it gets.
    let peer = std::thread::spawn(move || {
        let (mut from, mut to) = (theirs.try_clone().unwrap(), theirs);
        std::io::copy(&mut from, &mut to).unwrap()
    });
    let writer = ctx.spawn({
        let ours = Rc::clone(&ours);
        async move {
            let bytes: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
            let mut sent = 0;
            while sent < BYTES {
                sent += ours.io(Interest::WRITABLE, |mut ours| ours.write(&bytes[sent..])).await.unwrap();
            }
            ours.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let reader = ctx.spawn(async move {
        let (mut received, mut buffer) = (0, [0; 4096]);
        loop {
            let mut ready = ours.readable().await.unwrap();
            assert!(ready.readiness().is_readable());
            match ready.try_io(|mut ours| ours.read(&mut buffer)) {
                None => {}
                Some(Ok(0)) => return received,
                Some(n) => {
                    let n = n.unwrap();
                    let whole = buffer[..n].iter().zip(received..).all(|(byte, at)| *byte == at as u8);
                    assert!(whole, "at {received}");
                    received += n;
                }
            }
        }
    });
    ctx.block_on(writer).unwrap().unwrap();
    assert_eq!(ctx.block_on(reader).unwrap().unwrap(), BYTES);
    assert_eq!(peer.join().unwrap(), BYTES as u64);
}

/// What nobody waits for does not keep the loop from sleeping.
pub(crate) fn a_descriptor_that_nobody_awaits_is_silent(setup: &Setup) {
    let (ctx, ours, mut theirs) = pair(setup);
    theirs.write_all(b"data").unwrap();
    settle(&ctx);
    assert!(turns_of_an_idle_loop(&ctx) < SPIN);
    assert_eq!(ctx.stats().fd_dispatches, 0);
    // Reported once, and not read.
    ctx.block_on(async { drop(ours.readable().await.unwrap()) }).unwrap();
    assert!(turns_of_an_idle_loop(&ctx) < SPIN, "with data");
    // A hang-up is reported whatever the interest is.
    drop(theirs);
    assert!(turns_of_an_idle_loop(&ctx) < SPIN, "after the hang-up");
    ctx.block_on(async {
        let mut ready = ours.readable().await.unwrap();
        assert_eq!(ready.get_ref().read(&mut [0; 16]).unwrap(), 4);
        // Wrongly, but the loop looks again.
        ready.clear_ready();
        let again = ours.readable().await.unwrap();
        assert!(again.readiness().is_hang_up());
        assert_eq!(again.get_ref().read(&mut [0; 16]).unwrap(), 0);
    })
    .unwrap();
    assert!(turns_of_an_idle_loop(&ctx) < SPIN, "after the end");
}

pub(crate) fn a_dropped_wait_for_a_descriptor_loses_nothing(setup: &Setup) {
    let (ctx, ours, mut theirs) = pair(setup);
    {
        let mut ready = pin!(ours.readable());
        assert!(poll_once(ready.as_mut()).is_pending());
        theirs.write_all(b"x").unwrap();
        turn(&ctx);
    }
    {
        let ready = pin!(ours.readable());
        assert!(poll_once(ready).is_ready());
    }
    ctx.block_on(async { drop(ours.readable().await.unwrap()) }).unwrap();
    assert_eq!(ours.get_ref().read(&mut [0; 4]).unwrap(), 1);
}

pub(crate) fn two_wait_for_one_descriptor(setup: &Setup) {
    let (ctx, ours, mut theirs) = pair(setup);
    let (ours, woken) = (Rc::new(ours), Count::default());
    for _ in 0..2 {
        let (ours, woken) = (Rc::clone(&ours), woken.clone());
        drop(ctx.spawn(async move {
            drop(ours.readable().await.unwrap());
            woken.bump();
        }));
    }
    settle(&ctx);
    assert_eq!(woken.get(), 0);
    theirs.write_all(b"x").unwrap();
    turn_until(&ctx, || woken.get() == 2);
}

pub(crate) fn a_dropped_async_fd_leaves_nothing(setup: &Setup) {
    let (ctx, ours, mut theirs) = pair(setup);
    let waiting = Cell::new(false);
    {
        let mut ready = pin!(ours.readable());
        waiting.set(poll_once(ready.as_mut()).is_pending());
        turn_no_sleep(&ctx);
    }
    assert!(waiting.get());
    drop(ours);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the peer sees the close");
    settle(&ctx);
    let file = setup.notifier();
    let again = ctx.async_fd(file.clone()).unwrap();
    drop(ctx);
    let gone = poll_once(pin!(again.readable()));
    assert!(matches!(gone, Poll::Ready(Err(_))));
}

fn turn_no_sleep(ctx: &aio::AioContext) {
    ctx.poll(false).unwrap();
}

pub(crate) fn a_descriptor_that_cannot_be_awaited_comes_back(setup: &Setup) {
    let ctx = setup.context();
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let refused = ctx.async_fd(file).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::PermissionDenied);
    assert!(refused.value.metadata().unwrap().len() > 0);
}
