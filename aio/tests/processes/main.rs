//! What happens to a loop when its process forks, is stopped and continued, or gets a lower limit
//! of descriptors. Each test runs in a process of its own, so that the others are not affected.

mod alone;
mod forked;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with the other test binaries, and not all of it is used here")]
mod support;

use aio::{AioContext, EventNotifier, Interest, Method, MonitorKind, Reset};
use alone::{alone, fork, lower_descriptor_limit, signal_parent};
use std::time::{Duration, Instant};
use support::{Count, settle, turn, turn_until};

/// A context for each monitor, with the names that an assertion should print.
fn contexts() -> impl Iterator<Item = (MonitorKind, AioContext)> {
    MonitorKind::ALL.into_iter().filter_map(|kind| match AioContext::builder().monitor(kind).build() {
        Ok(ctx) => Some((kind, ctx)),
        Err(e) => {
            eprintln!("skipped: {kind}: {e}");
            None
        }
    })
}

/// ppoll(2) refuses more descriptors than the limit. Each turn failed, and a caller that tried
/// again used all of the CPU.
#[test]
fn a_limit_below_the_number_of_handlers() {
    alone("a_limit_below_the_number_of_handlers", || {
        for (kind, ctx) in contexts() {
            let bells: Vec<_> = (0..40).map(|_| EventNotifier::new(Reset::Classic).unwrap()).collect();
            let calls: Vec<_> = bells.iter().map(|_| Count::default()).collect();
            let _registrations: Vec<_> = bells
                .iter()
                .zip(calls.iter().cloned())
                .map(|(bell, calls)| ctx.add_notifier(bell, move |_| calls.bump()).unwrap())
                .collect();
            settle(&ctx);
            lower_descriptor_limit(16, || {
                for (bell, calls) in bells.iter().zip(&calls) {
                    bell.notify().unwrap();
                    turn_until(&ctx, || calls.get() == 1);
                }
                // A timer, and another thread, are still heard. The loop does not spin.
                let (ticks, before) = (Count::default(), ctx.stats());
                let timer = ctx.timer({
                    let ticks = ticks.clone();
                    move |_| ticks.bump()
                });
                timer.arm_after(Duration::from_millis(100));
                turn_until(&ctx, || ticks.get() == 1);
                let calls = ctx.stats().syscalls_wait - before.syscalls_wait;
                assert!(calls < 100, "{kind}: {calls} system calls in 100 ms of an idle loop");
                let handle = ctx.handle();
                let thread = std::thread::spawn(move || handle.notify());
                turn(&ctx);
                thread.join().unwrap();
            });
        }
    });
}

#[test]
fn a_limit_of_none_is_an_error_that_says_so() {
    alone("a_limit_of_none_is_an_error_that_says_so", || {
        let ctx = AioContext::builder().monitor(MonitorKind::Poll).build().unwrap();
        lower_descriptor_limit(0, || {
            let error = ctx.poll(true).unwrap_err().to_string();
            assert!(error.contains("RLIMIT_NOFILE is 0") && error.contains("raise"), "{error}");
        });
        assert!(!ctx.poll(false).unwrap(), "the context is usable again");
    });
}

/// epoll_wait(2) and io_uring_enter(2) return EINTR then, ppoll(2) goes on. No monitor fails, and
/// timers are neither early nor lost.
#[test]
fn stopped_and_continued() {
    alone("stopped_and_continued", || {
        for (kind, ctx) in contexts() {
            let (over, start) = (Count::default(), Instant::now());
            let timer = ctx.timer({
                let over = over.clone();
                move |_| over.bump()
            });
            timer.arm_after(Duration::from_millis(300));
            let child = fork(|| {
                std::thread::sleep(Duration::from_millis(50));
                signal_parent(libc::SIGSTOP);
                std::thread::sleep(Duration::from_millis(50));
                signal_parent(libc::SIGCONT);
            });
            turn_until(&ctx, || over.get() != 0);
            assert!(start.elapsed() >= Duration::from_millis(300), "{kind}: the timer was early");
            assert_eq!(over.get(), 1, "{kind}");
            child.expect_success();
            let (peer, ours) = std::os::unix::net::UnixStream::pair().unwrap();
            let _on = ctx.add_borrowed_fd(&ours, Interest::READABLE, |_, _| ()).unwrap();
            drop(peer);
            assert!(turn(&ctx), "{kind}");
        }
    });
}

/// A probe that cannot be made has shown nothing about the kernel, and is made again next time.
#[test]
fn a_probe_that_fails_says_its_error() {
    alone("a_probe_that_fails_says_its_error", || {
        for kind in [MonitorKind::Epoll, MonitorKind::IoUring] {
            let Ok(ctx) = AioContext::builder().monitor(kind).reset(Reset::Classic).build() else { continue };
            for method in [Method::Edge, Method::RingReadMultishot] {
                if method == Method::RingReadMultishot && kind != MonitorKind::IoUring {
                    continue;
                }
                let bell = EventNotifier::new(Reset::AutoresetBy(method)).unwrap();
                lower_descriptor_limit(0, || {
                    let error = ctx.add_notifier(&bell, |_| ()).unwrap_err().error.to_string();
                    assert!(error.contains("probe") && error.contains("Too many open files"), "{error}");
                });
                assert_eq!(ctx.add_notifier(&bell, |_| ()).unwrap().method(), method, "{kind}");
            }
            drop(ctx);
        }
    });
}
