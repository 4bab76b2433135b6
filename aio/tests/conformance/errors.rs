//! A descriptor that cannot be watched is rejected at once by every monitor, with a helpful
//! message, and the callback is returned.

use crate::setup::Setup;
use crate::support::{Count, SPIN, look, os, turn, turns_of_an_idle_loop};
use aio::{AioContext, Interest, Readiness, Refused};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Registers `fd`, which fails, and then registers the returned callback with a working descriptor.
fn refused(ctx: &AioContext, fd: &impl AsFd) -> io::Error {
    let calls = Count::default();
    let callback = {
        let calls = calls.clone();
        move |_: &AioContext, _: Readiness| calls.bump()
    };
    let Refused { error, value: handler, .. } =
        ctx.add_borrowed_fd(fd, Interest::READABLE, callback).unwrap_err();
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let _on = ctx.add_borrowed_fd(&reader, Interest::READABLE, handler).unwrap();
    assert!(turn(ctx));
    assert_eq!(calls.get(), 1, "the returned callback must work");
    error
}

pub(crate) fn a_regular_file_is_refused(setup: &Setup) {
    let ctx = setup.context();
    let file = os::memory_file();
    let directory = File::open(std::env::temp_dir()).unwrap();
    for fd in [file, directory] {
        let e = refused(&ctx, &fd);
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("a regular file, a directory"), "{e}");
        assert!(e.to_string().contains("AioContext::start"), "{e}");
    }
}

pub(crate) fn a_device_that_cannot_be_polled_is_refused(setup: &Setup) {
    let ctx = setup.context();
    let null = File::open("/dev/null").unwrap();
    let e = refused(&ctx, &null);
    assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
    assert!(e.to_string().contains("always ready"), "{e}");
}

/// Regular files of /proc and sysfs can be polled if whoever made them supports it.
pub(crate) fn a_regular_file_that_can_be_polled_is_watched(setup: &Setup) {
    let ctx = setup.context();
    for path in ["/proc/self/mountinfo", "/proc/self/mounts"] {
        let file = File::open(path).unwrap();
        assert!(file.metadata().unwrap().is_file());
        let on = ctx.add_borrowed_fd(&file, Interest::NONE, |_, _| ()).unwrap();
        assert!(!look(&ctx), "{path}: no mount has changed");
        drop(on);
    }
}

pub(crate) fn a_closed_descriptor_is_refused(setup: &Setup) {
    let ctx = setup.context();
    let e = refused(&ctx, &os::closed_descriptor());
    assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
    assert!(e.to_string().contains("closed"), "{e}");
}

pub(crate) fn a_refused_handler_leaves_no_trace(setup: &Setup) {
    let ctx = setup.context();
    let file = os::memory_file();
    for _ in 0..10 {
        let e = ctx.add_borrowed_fd(&file, Interest::READABLE, |_, _| ()).unwrap_err();
        assert!(!format!("{e:?} {e}").is_empty());
        assert!(!look(&ctx));
        let e: io::Error = e.into();
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
    }
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
}

pub(crate) fn what_was_chosen_can_be_asked(setup: &Setup) {
    let ctx = setup.context();
    let info = ctx.monitor();
    assert_eq!(info.kind, setup.monitor);
    assert_eq!(info.kind.to_string().is_empty(), info.reason.is_empty());
    assert_eq!(info.ring.is_some(), setup.has_ring());
    if let Some(ring) = info.ring {
        // At most what was requested; an older kernel may have less.
        assert!(ring.setup >= setup.newest_ring_setup());
    }
    let (method, fallback) = ctx.own_notifier();
    assert_eq!(fallback.is_some(), setup.reset == aio::Reset::Autoreset && method == aio::Method::Read);
    assert!(!format!("{ctx:?} {:?} {:?}", ctx.handle(), ctx.stats()).is_empty());
    let chosen = AioContext::new().unwrap();
    assert!(!chosen.monitor().reason.is_empty());
}

pub(crate) fn a_panic_leaves_the_loop_working(setup: &Setup) {
    let ctx = setup.context();
    let (bad, good) = (setup.notifier(), setup.notifier());
    let rings = Count::default();
    let panics: fn(&AioContext) = |_| panic!("on purpose, by a test");
    let timer = ctx.timer(panics);
    let bh = ctx.bottom_half(panics);
    let _bad = ctx.add_notifier(&bad, panics).unwrap();
    let bell = ctx.add_notifier(&good, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _good = bell.unwrap();
    for round in 1..=3 {
        timer.arm_at(0);
        bh.schedule();
        ctx.defer(panics);
        ctx.handle().schedule(panics);
        bad.notify().unwrap();
        good.notify().unwrap();
        let mut caught = 0;
        while caught < 5 || rings.get() < round {
            let turn = AssertUnwindSafe(|| ctx.poll(false));
            caught += u32::from(catch_unwind(turn).is_err());
        }
        assert_eq!((caught, rings.get()), (5, round));
        let handle = ctx.handle();
        let waker = std::thread::spawn(move || handle.notify());
        assert!(!turn(&ctx), "the loop must still sleep and wake");
        waker.join().unwrap();
    }
}
