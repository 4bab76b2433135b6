//! One test for each bug that was found after the fact, named after the symptom, with its cause.
//!
//! The conformance suite tests the rules that these bugs broke; here each bug has a minimal test.

#[expect(dead_code, reason = "only a part of the helpers is used here")]
mod support;

use aio::io_uring::opcode;
use aio::{
    AioContext, BusyPolled, BusyPolling, EventNotifier, Interest, IoThread, Method, MonitorKind, Operations,
    Reset, RingSetup,
};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use support::{Count, SPIN, Slot, guarded, look, settle, turn, turn_until, turns_of_an_idle_loop};

/// Runs a test with each monitor that this machine supports.
fn each_monitor(name: &'static str, test: impl Fn(AioContext)) {
    guarded(name, || {
        for kind in MonitorKind::ALL {
            let ring = kind == MonitorKind::IoUring;
            if ring && aio::io_uring::IoUring::new(2).is_err() {
                eprintln!("{name}: skipped, no io_uring on this machine");
                continue;
            }
            test(AioContext::builder().monitor(kind).busy_polling(POLICY).build().unwrap());
        }
    });
}

fn on_a_ring(name: &'static str, test: impl Fn(AioContext)) {
    each_monitor(name, |ctx| {
        if ctx.monitor().kind == MonitorKind::IoUring {
            test(ctx);
        }
    });
}

fn submit_nop<T: 'static>(ops: &Operations<T>, held: T) -> io::Result<()> {
    #[expect(unsafe_code, reason = "an SQE without a pointer")]
    // SAFETY: points to nothing.
    unsafe { ops.submit(opcode::Nop::new().build(), held) }.map_err(|e| e.error)?;
    Ok(())
}

/// `if let Some(held) = cell.borrow_mut().try_remove(..)` keeps the borrow to the end of its block,
/// so a callback that submitted the next operation panicked with a BorrowMutError.
#[test]
fn operation_submitted_in_the_callback_of_its_kind_panicked() {
    on_a_ring("operation_submitted_in_its_callback", |ctx| {
        let (slot, calls) = (Slot::<Operations<()>>::new(), Count::default());
        let ops = ctx.operations({
            let (slot, calls) = (slot.clone(), calls.clone());
            move |_, _, ()| {
                calls.bump();
                if calls.get() < 3 {
                    slot.with(|ops| submit_nop(ops, ())).unwrap();
                }
            }
        });
        slot.put(ops.unwrap());
        slot.with(|ops| submit_nop(ops, ())).unwrap();
        turn_until(&ctx, || calls.get() == 3);
        drop(slot.take());
    });
}

/// Callbacks are dropped after the ring has been drained, and one whose captures submitted more
/// operations than the SQ holds made the monitor enter the kernel, which then held buffers that
/// were freed a moment later.
#[test]
fn capture_of_a_dropped_context_gave_the_kernel_an_operation() {
    struct SubmitsOnDrop(Operations<()>, Count);
    impl Drop for SubmitsOnDrop {
        fn drop(&mut self) {
            let refused = submit_nop(&self.0, ()).is_err_and(|e| e.kind() == io::ErrorKind::NotConnected);
            self.1.add(refused.into());
        }
    }
    on_a_ring("capture_of_a_dropped_context", |ctx| {
        let refused = Count::default();
        let capture = SubmitsOnDrop(ctx.operations(|_, _, ()| ()).unwrap(), refused.clone());
        let timer = ctx.timer(move |_| _ = &capture);
        drop(ctx);
        assert_eq!(refused.get(), 1);
        drop(timer);
    });
}

/// The list of scheduled closures belongs to the handles, too, so a closure for a loop that had
/// already ended was kept in it, and a thread that waited for its answer waited forever.
#[test]
fn iothread_run_waited_for_ever_for_a_loop_that_had_ended() {
    guarded("iothread_run_waited_for_ever", || {
        let thread = IoThread::spawn("ended", AioContext::builder()).unwrap();
        thread.handle().stop();
        let mut answer = Ok(());
        while answer.is_ok() {
            answer = thread.run(|_| ());
        }
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::NotConnected);
    });
}

type InProcess = Box<dyn FnOnce(&AioContext)>;

/// A device whose hooks run a closure of the test, once.
#[derive(Default)]
struct Device {
    ready: Cell<bool>,
    processed: Count,
    begins: Count,
    ends: Count,
    on_end: RefCell<Option<Box<dyn FnOnce()>>>,
    on_process: RefCell<Option<InProcess>>,
}

impl BusyPolled for Device {
    fn process(&self, context: &AioContext) {
        self.processed.add(self.ready.replace(false).into());
        if let Some(hook) = self.on_process.take() {
            hook(context);
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.get()
    }

    fn begin(&self) {
        self.begins.bump();
    }

    fn end(&self) {
        self.ends.bump();
        if let Some(hook) = self.on_end.take() {
            hook();
        }
    }
}

/// A polling window that opens with the first event and neither grows nor closes.
const POLICY: BusyPolling = BusyPolling { max_ns: 600_000_000_000, grow: 1, ..BusyPolling::OFF };

/// Registers a device and gives it its first event, so that it is polled from here on.
fn polled_device(ctx: &AioContext) -> (Rc<Device>, EventNotifier, Slot<aio::NotifierRegistration>) {
    let (device, bell, slot) =
        (Rc::<Device>::default(), EventNotifier::new(Reset::Classic).unwrap(), Slot::new());
    slot.put(ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap());
    device.ready.set(true);
    bell.notify().unwrap();
    turn_until(ctx, || device.processed.get() == 1);
    settle(ctx);
    (device, bell, slot)
}

/// The timeout of the sleep was computed before the hooks ran, so a bottom half or timer that `end`
/// scheduled did not shorten the sleep.
#[test]
fn bottom_half_scheduled_by_the_end_hook_was_slept_over() {
    each_monitor("bottom_half_scheduled_by_end", |ctx| {
        let (device, _bell, _registration) = polled_device(&ctx);
        let runs = Count::default();
        let on_run = runs.clone();
        let bh = Rc::new(ctx.bottom_half(move |_| on_run.bump()));
        let in_hook = Rc::clone(&bh);
        device.on_end.replace(Some(Box::new(move || in_hook.schedule())));
        turn_until(&ctx, || runs.get() == 1);
    });
}

/// Removing a handler moves the last one of the polled list into its place, which the iteration had
/// already visited: the `end` of the moved handler was not called, and its doorbell stayed off
/// forever.
#[test]
fn device_behind_one_that_removed_itself_kept_its_doorbell_off() {
    each_monitor("device_behind_one_that_removed_itself", |ctx| {
        let (first, _first_bell, slot) = polled_device(&ctx);
        let (last, _last_bell, _registration) = polled_device(&ctx);
        first.on_end.replace(Some(Box::new(move || drop(slot.take()))));
        turns_of_an_idle_loop(&ctx);
        for device in [first, last] {
            assert!(device.begins.get() > 0);
            assert_eq!(device.begins.get(), device.ends.get());
        }
    });
}

/// A handler is not polled while it runs. If polling ended at that time, the check that has to
/// follow `end` was skipped, and a request that came while the doorbell was off was not seen.
#[test]
fn request_was_lost_when_polling_ended_inside_process() {
    each_monitor("request_was_lost_when_polling_ended", |ctx| {
        let (device, _bell, _registration) = polled_device(&ctx);
        let guest = Rc::clone(&device);
        device.on_process.replace(Some(Box::new(move |ctx| {
            guest.ready.set(true);
            ctx.set_busy_polling(BusyPolling::OFF);
        })));
        device.ready.set(true);
        turn_until(&ctx, || device.processed.get() == 3);
    });
}

/// Removing a device switched its doorbell on without checking for requests: one that had come
/// while it was off was found neither by the old handler nor by the next (RHEL-3934 in QEMU).
#[test]
fn request_was_lost_when_a_polled_device_moved() {
    each_monitor("request_was_lost_when_a_device_moved", |ctx| {
        let (device, bell, slot) = polled_device(&ctx);
        let guest = Rc::clone(&device);
        device.on_end.replace(Some(Box::new(move || guest.ready.set(true))));
        // A hit begins the mode, and the removal ends it.
        device.ready.set(true);
        turn_until(&ctx, || device.processed.get() == 2);
        drop(slot.take());
        assert_eq!(device.begins.get(), device.ends.get());
        let next = AioContext::new().unwrap();
        let _registration = next.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
        turn_until(&next, || device.processed.get() == 3);
    });
}

/// A READ in flight takes the count out of the eventfd. If it completed after its handler had been
/// removed or replaced, or if the handler was removed before the dispatch, the ring was lost.
#[test]
fn ring_read_of_a_removed_handler_swallowed_the_ring() {
    on_a_ring("ring_read_of_a_removed_handler", |ctx| {
        let bell = EventNotifier::new(Reset::AutoresetBy(Method::RingRead)).unwrap();
        for collected in [false, true] {
            let old = ctx.add_notifier(&bell, |_| unreachable!("removed")).unwrap();
            settle(&ctx);
            bell.notify().unwrap();
            if collected {
                // A bottom half runs after events are collected and before the handlers.
                ctx.defer(move |_| drop(old));
                assert!(look(&ctx));
            } else {
                drop(old);
            }
            let calls = Count::default();
            let on_call = calls.clone();
            let _new = ctx.add_notifier(&bell, move |_| on_call.bump()).unwrap();
            turn_until(&ctx, || calls.get() == 1);
        }
    });
}

/// The cancellation of the READ waited for the loop's next turn, and until then the READ consumed
/// each ring. But the loop may have no next turn while the loop that the notifier has moved to
/// waits.
#[test]
fn ring_read_of_a_loop_at_rest_swallowed_the_rings_of_another() {
    guarded("ring_read_of_a_loop_at_rest", || {
        let builder = AioContext::builder().monitor(MonitorKind::IoUring);
        let Ok(old) = builder.ring_setup(RingSetup::Plain).build() else {
            return eprintln!("skipped, no io_uring on this machine");
        };
        let bell = EventNotifier::new(Reset::AutoresetBy(Method::RingRead)).unwrap();
        let on_old = old.add_notifier(&bell, |_| unreachable!("removed")).unwrap();
        settle(&old);
        drop(on_old);
        let new = AioContext::builder().monitor(MonitorKind::IoUring).build().unwrap();
        let calls = Count::default();
        let on_call = calls.clone();
        let _on_new = new.add_notifier(&bell, move |_| on_call.bump()).unwrap();
        settle(&new);
        bell.notify().unwrap();
        turn_until(&new, || calls.get() == 1);
    });
}

/// Only regular files and directories were rejected, so with ppoll and io_uring a device without a
/// poll operation was accepted, and it was ready in every turn.
#[test]
fn dev_null_was_taken_and_spun() {
    each_monitor("dev_null_was_taken", |ctx| {
        let null = File::open("/dev/null").unwrap();
        let e = ctx.add_borrowed_fd(&null, Interest::READABLE, |_, _| ()).unwrap_err();
        assert_eq!(e.error.kind(), io::ErrorKind::PermissionDenied);
    });
}

/// POLL_ADD always reports POLLRDHUP. A handler that waits for something else, on a socket whose
/// peer has shut down its sending half, got its one-shot poll completed at once and armed it again,
/// in every turn.
#[test]
fn half_closed_socket_spun_on_io_uring() {
    each_monitor("half_closed_socket", |ctx| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _on =
            ctx.add_borrowed_fd(&theirs, Interest::NONE, |_, _| unreachable!("nothing to hear")).unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        let turns = turns_of_an_idle_loop(&ctx);
        assert!(turns < SPIN, "{turns} turns with nothing to do");
    });
}

/// Changing the interest cancelled the poll in one wait and armed the new one only in the next, so
/// a turn in between missed a ready descriptor.
#[test]
fn changed_interest_missed_a_turn_on_io_uring() {
    each_monitor("changed_interest", |ctx| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let on = ctx.add_borrowed_fd(&theirs, Interest::NONE, |_, _| ()).unwrap();
        ours.write_all(b"x").unwrap();
        settle(&ctx);
        on.set_interest(Interest::READABLE).unwrap();
        assert!(turn(&ctx));
    });
}

/// POLL_REMOVE returns -EALREADY and cancels nothing while a wake-up of the poll is waiting to be
/// processed. A multishot poll then stayed armed: it held the file open, and reported each ring for
/// a handler that was already removed.
#[test]
fn removed_multishot_poll_lived_on() {
    on_a_ring("removed_multishot_poll", |ctx| {
        let bell = EventNotifier::new(Reset::AutoresetBy(Method::Edge)).unwrap();
        let on = ctx.add_notifier(&bell, |_| unreachable!("removed")).unwrap();
        settle(&ctx);
        bell.notify().unwrap();
        drop(on);
        settle(&ctx);
        let stale = ctx.stats().stale;
        bell.notify().unwrap();
        settle(&ctx);
        assert_eq!(ctx.stats().stale, stale);
    });
}

/// An overflow of the CQ ends multishot polls. Polls that are armed again report at once, because
/// their eventfds are never read. If all are armed together, without reaping in between, they
/// overflow the CQ again, in every turn.
#[test]
fn overflow_of_the_completion_queue_never_ended() {
    guarded("overflow_of_the_completion_queue", || {
        let builder = AioContext::builder().monitor(MonitorKind::IoUring).ring_entries(2);
        let Ok(ctx) = builder.build() else {
            return eprintln!("skipped, no io_uring on this machine");
        };
        let calls = Count::default();
        let bells: Vec<_> =
            (0..100).map(|_| EventNotifier::new(Reset::AutoresetBy(Method::Edge)).unwrap()).collect();
        let registrations: Vec<_> = bells
            .iter()
            .map(|bell| {
                let calls = calls.clone();
                ctx.add_notifier(bell, move |_| calls.bump()).unwrap()
            })
            .collect();
        settle(&ctx);
        // More than the sixteen entries of this CQ, so that polls end; afterwards the loop must
        // become idle.
        bells.iter().for_each(|bell| bell.notify().unwrap());
        let ops = ctx.operations(|_, _, ()| ()).unwrap();
        (0..100).for_each(|_| submit_nop(&ops, ()).unwrap());
        settle(&ctx);
        assert!(calls.get() >= 100 && ops.in_flight() == 0);
        drop(registrations);
    });
}

/// A loop that kept busy polling while its own disk operations were in flight polled for requests
/// that could not come yet, which wasted CPU time. A multishot operation may wait forever and does
/// not count as such work.
#[test]
fn a_loop_whose_disk_is_at_work_does_not_linger() {
    guarded("no_lingering_while_an_operation_is_in_flight", || {
        let builder = AioContext::builder().monitor(MonitorKind::IoUring);
        let Ok(ctx) = builder.busy_polling(BusyPolling::OFF.lingering_ns(600_000_000_000)).build() else {
            return eprintln!("skipped, no io_uring on this machine");
        };
        let (device, bell, registration) = polled_device(&ctx);
        // A millisecond of work, and time for what it has earned.
        let slow = ctx.bottom_half(|_| std::thread::sleep(Duration::from_millis(1)));
        let timer = ctx.timer(|_| ());
        let work_and_sleep = || {
            slow.schedule();
            timer.arm_after(Duration::from_millis(10));
            turn_until(&ctx, || !timer.is_pending());
        };
        let (pipe, mut writer) = io::pipe().unwrap();
        let done = Count::default();
        let bump = done.clone();
        // At u64::MAX: where the pipe is.
        ctx.read_at(pipe, vec![0; 1], u64::MAX, move |_, _, _, _| bump.bump()).unwrap();
        work_and_sleep();
        let begins = device.begins.get();
        work_and_sleep();
        assert_eq!(device.begins.get(), begins, "must not poll while the read is in flight");
        writer.write_all(&[1]).unwrap();
        turn_until(&ctx, || done.get() == 1);
        work_and_sleep();
        assert!(device.begins.get() > begins, "must poll once the read has completed");
        drop((registration, bell));
    });
}

/// A device with one hook that panics once.
#[derive(Default)]
struct Faulty {
    requests: Cell<u32>,
    processed: Count,
    begins: Count,
    ends: Count,
    fault: Cell<Option<Fault>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Process,
    Begin,
    End,
}

impl Faulty {
    fn reach(&self, place: Fault) {
        if self.fault.get() == Some(place) {
            self.fault.set(None);
            panic!("a fault of the device");
        }
    }
}

impl BusyPolled for Faulty {
    fn process(&self, _: &AioContext) {
        self.processed.bump();
        while self.requests.get() > 0 {
            self.requests.set(self.requests.get() - 1);
            self.reach(Fault::Process);
        }
    }

    fn is_ready(&self) -> bool {
        self.requests.get() > 0
    }

    fn begin(&self) {
        self.begins.bump();
        self.reach(Fault::Begin);
    }

    fn end(&self) {
        self.ends.bump();
        self.reach(Fault::End);
    }
}

impl Faulty {
    /// Turns until busy polling has switched the doorbell off.
    fn poll_until_begun(&self, ctx: &AioContext, bell: &EventNotifier) {
        let timer = ctx.timer(|_| ());
        for round in 0..2000 {
            if self.begins.get() > self.ends.get() {
                return;
            }
            self.requests.set(1);
            if round % 100 == 0 {
                bell.notify().unwrap();
            }
            timer.arm_after(Duration::from_micros(100));
            ctx.poll(true).unwrap();
        }
        panic!("busy polling did not begin");
    }
}

/// Expects a panic in one of a number of turns.
fn turns_with_a_panic(ctx: &AioContext) {
    let turns = || (0..50).for_each(|_| _ = ctx.poll(false).unwrap());
    catch_unwind(AssertUnwindSafe(turns)).unwrap_err();
}

/// A doorbell was reset and its device panicked after the first of two requests: the second waited
/// for a kick that the guest had no reason to send. Only busy polling found it.
#[test]
fn requests_behind_one_whose_processing_panicked_were_forgotten() {
    each_monitor("requests_behind_a_panic", |ctx| {
        for policy in [BusyPolling::OFF, POLICY] {
            ctx.set_busy_polling(policy);
            let (device, bell) = (Rc::new(Faulty::default()), EventNotifier::new(Reset::Autoreset).unwrap());
            let _registration = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
            device.requests.set(2);
            device.fault.set(Some(Fault::Process));
            bell.notify().unwrap();
            turns_with_a_panic(&ctx);
            settle(&ctx);
            assert_eq!((device.processed.get(), device.requests.get()), (2, 0));
        }
    });
}

/// The same in turns that are nested in a callback, which catches the panic.
#[test]
fn requests_behind_a_panic_in_a_nested_turn_were_forgotten() {
    each_monitor("requests_behind_a_nested_panic", |ctx| {
        ctx.set_busy_polling(BusyPolling::OFF);
        let (device, bell) = (Rc::new(Faulty::default()), EventNotifier::new(Reset::Autoreset).unwrap());
        let _registration = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
        device.requests.set(2);
        device.fault.set(Some(Fault::Process));
        bell.notify().unwrap();
        let once = Count::default();
        let outer = ctx.bottom_half({
            let once = once.clone();
            move |ctx| {
                turns_with_a_panic(ctx);
                once.bump();
            }
        });
        outer.schedule();
        turn_until(&ctx, || once.get() == 1);
        settle(&ctx);
        assert_eq!(device.requests.get(), 0);
    });
}

/// `begin` is called by the first event of a device while the others are already polled. When it
/// panicked there, the event that was taken from the doorbell was lost.
#[test]
fn event_of_a_device_whose_begin_panicked_is_not_lost() {
    each_monitor("event_of_a_begin_that_panics", |ctx| {
        let bells = [(); 2].map(|()| EventNotifier::new(Reset::Autoreset).unwrap());
        let devices = [(); 2].map(|()| Rc::new(Faulty::default()));
        let _registrations: Vec<_> = devices
            .iter()
            .zip(&bells)
            .map(|(device, bell)| ctx.add_polled_notifier(bell, Rc::clone(device)).unwrap())
            .collect();
        devices[0].poll_until_begun(&ctx, &bells[0]);
        devices[1].fault.set(Some(Fault::Begin));
        bells[1].notify().unwrap();
        turns_with_a_panic(&ctx);
        let processed = devices[1].processed.get();
        (0..5).for_each(|_| _ = ctx.poll(false).unwrap());
        assert!(devices[1].processed.get() > processed);
    });
}

/// A device whose doorbell was off is removed while it has work, and its `end` panics: the next
/// loop that the doorbell is registered with must find the work all the same.
#[test]
fn work_of_a_removed_device_whose_end_panicked_is_not_lost() {
    each_monitor("work_of_an_end_that_panics", |ctx| {
        // Read by both loops, so that none of the two reports a ring of before.
        let (device, bell) = (Rc::new(Faulty::default()), EventNotifier::new(Reset::Classic).unwrap());
        let registration = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
        device.poll_until_begun(&ctx, &bell);
        (0..5).for_each(|_| _ = ctx.poll(false).unwrap());
        device.requests.set(1);
        device.fault.set(Some(Fault::End));
        catch_unwind(AssertUnwindSafe(|| drop(registration))).unwrap_err();
        let next = AioContext::builder().monitor(MonitorKind::Poll).build().unwrap();
        let _registration = next.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
        turn_until(&next, || device.requests.get() == 0);
    });
}
