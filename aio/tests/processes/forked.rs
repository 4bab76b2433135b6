//! fork(2): the loop stays with the parent, and is inert in the child.

use super::alone::{alone, fork};
use super::support::{Count, settle, turn_until};
use aio::op::{ReadAt, RecvMultishot, Shot};
use aio::{
    AioContext, Builder, BusyPolled, BusyPolling, EventNotifier, Handle, Interest, IoThread, Method,
    MonitorKind, Reset, RingSetup,
};
use std::cell::Cell;
use std::io::{ErrorKind, PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

/// Each monitor with each of its reset methods, and the older ring set-ups.
fn setups() -> Vec<(Builder, Reset)> {
    use Method::{RingRead, RingReadMultishot};
    use MonitorKind::{Epoll, IoUring, Poll};
    let mut setups = Vec::new();
    for kind in [Poll, Epoll, IoUring] {
        for reset in [Reset::Classic, Reset::Autoreset] {
            setups.push((AioContext::builder().monitor(kind).reset(reset), reset));
        }
    }
    for ring in [RingSetup::DeferTaskrun, RingSetup::CoopTaskrun, RingSetup::Plain] {
        for reset in [Reset::Autoreset, Reset::AutoresetBy(RingRead), Reset::AutoresetBy(RingReadMultishot)] {
            setups.push((AioContext::builder().monitor(IoUring).ring_setup(ring).reset(reset), reset));
        }
    }
    setups
}

/// A loop with one source of each kind.
struct Everything {
    ctx: AioContext,
    bell: EventNotifier,
    peer: UnixStream,
    pipe: Option<PipeWriter>,
    /// Bell, stream, bottom half, timer, operation.
    calls: [Count; 5],
    halves: aio::BottomHalf,
    timer: aio::Timer,
    _held: (aio::NotifierRegistration, aio::Registration, UnixStream),
}

impl Everything {
    fn new(builder: Builder, reset: Reset) -> Option<Self> {
        let ctx = match builder.clone().build() {
            Ok(ctx) => ctx,
            Err(e) => {
                eprintln!("skipped: {builder:?}: {e}");
                return None;
            }
        };
        let calls: [Count; 5] = Default::default();
        let bump = |n: usize| {
            let count = calls[n].clone();
            move || count.bump()
        };
        let (bell, (ours, peer)) = (EventNotifier::new(reset).unwrap(), UnixStream::pair().unwrap());
        let [on_bell, on_fd, on_half, on_timer, on_read] = std::array::from_fn(bump);
        let rung = ctx.add_notifier(&bell, move |_| on_bell()).unwrap();
        let read = ctx.add_borrowed_fd(&ours, Interest::READABLE, move |_, _| on_fd()).unwrap();
        let halves = ctx.bottom_half(move |_| on_half());
        let timer = ctx.timer(move |_| on_timer());
        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = ctx.read_at(reader, vec![0; 8], u64::MAX, move |_, result, _, _| {
            assert_eq!(result.unwrap(), 1);
            on_read();
        });
        let pipe = pipe.is_ok().then_some(writer);
        settle(&ctx);
        Some(Self { ctx, bell, peer, pipe, calls, halves, timer, _held: (rung, read, ours) })
    }

    /// Checks that each source still works.
    fn works(mut self) {
        let before = self.calls.each_ref().map(Count::get);
        self.bell.notify().unwrap();
        self.peer.write_all(b"x").unwrap();
        self.halves.handle().schedule();
        self.timer.arm_after(Duration::from_millis(1));
        let is_called = |n: usize| self.calls[n].get() > before[n];
        turn_until(&self.ctx, || (0..4).all(is_called));
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(b"x").unwrap();
            turn_until(&self.ctx, || is_called(4));
        }
    }
}

#[test]
fn a_child_that_drops_its_copy() {
    alone("forked::a_child_that_drops_its_copy", || {
        for (builder, reset) in setups() {
            let Some(all) = Everything::new(builder.clone(), reset) else { continue };
            let all = Cell::new(Some(all));
            let child = fork(|| drop(all.take()));
            child.expect_success();
            eprintln!("{builder:?}");
            all.take().unwrap().works();
        }
    });
}

#[test]
fn a_child_that_uses_its_copy() {
    alone("forked::a_child_that_uses_its_copy", || {
        for (builder, reset) in setups() {
            let Some(all) = Everything::new(builder.clone(), reset) else { continue };
            let child = fork(|| use_in_child(&all, &builder, reset));
            child.expect_success();
            eprintln!("{builder:?}");
            all.works();
        }
    });
}

/// Everything is refused, or does nothing. A new context works.
fn use_in_child(all: &Everything, builder: &Builder, reset: Reset) {
    let ctx = &all.ctx;
    let error = ctx.poll(true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("forked child"), "{error}");
    let (ours, _peer) = UnixStream::pair().unwrap();
    assert_eq!(ctx.run().unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(ctx.add_borrowed_fd(&ours, Interest::READABLE, |_, _| ()).is_err());
    assert!(ctx.add_notifier(&EventNotifier::new(reset).unwrap(), |_| ()).is_err());
    assert!(all._held.1.set_interest(Interest::WRITABLE).is_err());
    assert!(ctx.read_at(ours, vec![0; 8], 0, |_, _, _, _| ()).is_err());
    ctx.set_busy_polling(BusyPolling::OFF);
    all.timer.arm_after(Duration::ZERO);
    all.halves.schedule();
    let handle: Handle = ctx.handle();
    assert!(!handle.is_alive() && !handle.schedule(|_| panic!("not here")));
    handle.notify();
    handle.stop();
    Everything::new(builder.clone(), reset).unwrap().works();
}

/// A child of a child, and a context that the child made.
#[test]
fn a_child_that_forks() {
    alone("forked::a_child_that_forks", || {
        for (builder, reset) in setups() {
            let Some(all) = Everything::new(builder.clone(), reset) else { continue };
            let child = fork(|| {
                let new = Everything::new(builder.clone(), reset).unwrap();
                let child = fork(|| {
                    assert!(new.ctx.poll(false).is_err() && all.ctx.poll(false).is_err());
                    Everything::new(builder.clone(), reset).unwrap().works();
                });
                child.expect_success();
                new.works();
            });
            child.expect_success();
            all.works();
        }
    });
}

/// A device whose hooks must not run in the child.
#[derive(Default)]
struct Parents {
    has_work: Cell<bool>,
    begins: Count,
    ends: Count,
}

impl BusyPolled for Parents {
    fn process(&self, _: &AioContext) {
        self.has_work.set(false);
    }

    fn is_ready(&self) -> bool {
        self.has_work.get()
    }

    fn begin(&self) {
        self.begins.bump();
    }

    fn end(&self) {
        self.ends.bump();
    }
}

#[test]
fn no_hook_of_a_device_runs_in_the_child() {
    alone("forked::no_hook_of_a_device_runs_in_the_child", || {
        let policy = BusyPolling::up_to_ns(1_000_000);
        for kind in MonitorKind::ALL {
            let Ok(ctx) = AioContext::builder().monitor(kind).busy_polling(policy).build() else { continue };
            let bell = EventNotifier::new(Reset::Autoreset).unwrap();
            let device = Rc::new(Parents::default());
            let registration = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
            // Until the loop has switched the doorbell off.
            let timer = ctx.timer(|_| ());
            for round in 0.. {
                if device.begins.get() > device.ends.get() {
                    break;
                }
                assert!(round < 2000, "busy polling did not begin");
                device.has_work.set(true);
                if round % 100 == 0 {
                    bell.notify().unwrap();
                }
                timer.arm_after(Duration::from_micros(100));
                ctx.poll(true).unwrap();
            }
            let before = device.ends.get();
            let both = Cell::new(Some((registration, ctx)));
            let child = fork(|| {
                drop(both.take());
                assert_eq!(device.ends.get(), before);
            });
            child.expect_success();
            drop(both.take());
            assert_eq!(device.ends.get(), before + 1);
        }
    });
}

/// What the child drops stays registered with the ring, which is its parent's.
#[test]
fn registrations_stay_with_the_parent() {
    alone("forked::registrations_stay_with_the_parent", || {
        // With the others, the kernel refuses what another process registers.
        let builder = AioContext::builder().monitor(MonitorKind::IoUring).ring_setup(RingSetup::Plain);
        let Ok(ctx) = builder.build() else {
            return eprintln!("skipped: no io_uring on this machine");
        };
        let (reader, mut writer) = std::io::pipe().unwrap();
        let Ok(file) = ctx.register_file(&reader) else { return eprintln!("skipped: no registered files") };
        let Ok(buffer) = ctx.register_buffer(vec![0_u8; 8]) else {
            return eprintln!("skipped: no registered buffers");
        };
        let group = ctx.buffer_group(2, 8).unwrap();
        let held = Cell::new(Some((file, buffer, group)));
        fork(|| drop(held.take())).expect_success();
        let (file, buffer, group) = held.take().unwrap();
        writer.write_all(b"x").unwrap();
        let read = Count::default();
        let count = read.clone();
        let started = ctx.start(ReadAt::new(file, buffer, u64::MAX), move |_, (result, _, buffer)| {
            assert_eq!((result.unwrap(), buffer.get_ref()[0]), (1, b'x'));
            count.bump();
        });
        started.unwrap();
        turn_until(&ctx, || read.get() == 1);
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let count = read.clone();
        let started = ctx.start_multishot(RecvMultishot::new(ours, &group, 0), move |_, shot| {
            if let Shot::Item(bytes) = shot {
                assert_eq!(&*bytes, b"y");
                count.bump();
            }
        });
        started.unwrap();
        peer.write_all(b"y").unwrap();
        turn_until(&ctx, || read.get() == 2);
    });
}

#[test]
fn an_io_thread_stays_with_the_parent() {
    alone("forked::an_io_thread_stays_with_the_parent", || {
        for (builder, _) in setups() {
            let Ok(thread) = IoThread::spawn("parent", builder) else { continue };
            let thread = Cell::new(Some(thread));
            let child = fork(|| {
                let thread = thread.take().unwrap();
                assert!(!thread.is_alive());
                assert_eq!(thread.run(|_| ()).unwrap_err().kind(), ErrorKind::Unsupported);
                assert!(!thread.handle().schedule(|_| ()));
                thread.stop().unwrap();
            });
            child.expect_success();
            let thread = thread.take().unwrap();
            assert_eq!(thread.run(|_| 7).unwrap(), 7);
            thread.stop().unwrap();
        }
    });
}
