//! IoThread: a loop in a thread of its own.

use crate::setup::Setup;
use aio::{AioContext, Builder, IoThread, MonitorKind};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::ThreadId;

pub(crate) fn runs_closures_in_its_thread(setup: &Setup) {
    let thread = setup.io_thread();
    let (id, name, monitor) = thread
        .run(|ctx| {
            let current = std::thread::current();
            (current.id(), current.name().map(str::to_owned), ctx.monitor().kind)
        })
        .unwrap();
    assert_ne!(id, std::thread::current().id());
    assert_eq!(name.as_deref(), Some("conformance"));
    assert_eq!(monitor, setup.monitor);
    let same = (0..100).all(|n| thread.run(move |_| (n, std::thread::current().id())).unwrap() == (n, id));
    assert!(same);
    assert!(format!("{thread:?}").contains("conformance"));
    thread.stop().unwrap();
}

/// Records in which thread and in which order it was dropped.
struct Dropped(Arc<Mutex<Vec<(&'static str, ThreadId)>>>, &'static str);

impl Drop for Dropped {
    fn drop(&mut self) {
        let entry = (self.1, std::thread::current().id());
        self.0.lock().unwrap().push(entry);
    }
}

pub(crate) fn its_state_is_dropped_in_its_thread_before_the_context(setup: &Setup) {
    let drops = Arc::new(Mutex::new(Vec::new()));
    let (of_state, of_context) =
        (Dropped(Arc::clone(&drops), "state"), Dropped(Arc::clone(&drops), "context"));
    let thread = IoThread::spawn_with("state", setup.builder(), move |ctx| {
        // Belongs to the context: a handler's capture.
        ctx.timer(|_| ()).arm_at(0);
        let bh = ctx.bottom_half(move |_| _ = &of_context);
        std::mem::forget(bh);
        Ok(of_state)
    });
    let thread = thread.unwrap();
    let id = thread.run(|_| std::thread::current().id()).unwrap();
    assert!(drops.lock().unwrap().is_empty());
    thread.stop().unwrap();
    assert_eq!(*drops.lock().unwrap(), [("state", id), ("context", id)]);
}

pub(crate) fn stop_returns_after_the_turn(setup: &Setup) {
    let thread = setup.io_thread();
    let done = Arc::new(AtomicU64::new(0));
    for _ in 0..10 {
        let done = Arc::clone(&done);
        thread.handle().schedule(move |_| _ = done.fetch_add(1, Ordering::Relaxed));
    }
    thread.run(|_| ()).unwrap();
    thread.stop().unwrap();
    assert_eq!(done.load(Ordering::Relaxed), 10);
}

pub(crate) fn drop_stops_it(setup: &Setup) {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let thread = IoThread::spawn_with("drop", setup.builder(), move |_| Ok(held)).unwrap();
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(thread);
    assert_eq!(Arc::strong_count(&alive), 1);
}

pub(crate) fn an_error_of_init_comes_back(setup: &Setup) {
    let e = IoThread::spawn_with("init", setup.builder(), |_| Err::<(), _>(io::Error::other("no disk")));
    assert_eq!(e.unwrap_err().to_string(), "no disk");
    // An error of the builder: a method that ppoll does not support.
    let bad: Builder =
        setup.builder().monitor(MonitorKind::Poll).reset(aio::Reset::AutoresetBy(aio::Method::Edge));
    let e = IoThread::spawn("bad", bad).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::Unsupported);
}

pub(crate) fn a_panic_of_init_is_an_error(setup: &Setup) {
    let thread = IoThread::spawn_with("panic", setup.builder(), |_| -> io::Result<()> {
        panic!("on purpose, by a test")
    });
    assert!(thread.unwrap_err().to_string().contains("init"));
}

pub(crate) fn stop_returns_the_panic_of_a_callback(setup: &Setup) {
    let thread = setup.io_thread();
    let e = thread.run(|_| panic!("on purpose, by a test")).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotConnected);
    let e = thread.stop().unwrap_err();
    let text = "a callback of IoThread 'conformance' panicked: on purpose, by a test";
    assert_eq!((e.thread(), e.to_string().as_str()), ("conformance", text));
    assert_eq!(e.into_panic().unwrap().downcast_ref(), Some(&"on purpose, by a test"));
}

/// Waits until the loop has ended and its hook has run.
fn wait_for_the_exit(thread: &IoThread, end: impl FnOnce()) {
    let (sender, receiver) = mpsc::channel();
    thread.on_exit(|| panic!("a hook that panics keeps no other from running"));
    thread.on_exit(move || sender.send(std::thread::current().id()).unwrap());
    end();
    assert_ne!(receiver.recv().unwrap(), std::thread::current().id());
    assert!(!thread.is_alive() && !thread.handle().is_alive());
    let (sent, dropped) = (Arc::new(()), "the closure must be dropped, not kept");
    let held = Arc::clone(&sent);
    assert!(!thread.handle().schedule(move |_| drop(held)));
    assert_eq!(Arc::strong_count(&sent), 1, "{dropped}");
    // The loop has ended already: at once, in this thread.
    let (sender, receiver) = mpsc::channel();
    thread.on_exit(move || sender.send(std::thread::current().id()).unwrap());
    assert_eq!(receiver.try_recv().unwrap(), std::thread::current().id());
}

pub(crate) fn the_end_by_a_panic_is_noticed(setup: &Setup) {
    let thread = setup.io_thread();
    assert!(thread.is_alive() && thread.handle().schedule(|_| ()));
    assert!(thread.failure().is_none());
    let task = thread.handle().spawn(|_| std::future::pending::<()>());
    wait_for_the_exit(&thread, || assert!(thread.handle().schedule(|_| panic!("on purpose, by a test"))));
    assert_eq!(thread.failure().unwrap().to_string(), "a callback panicked");
    let aborted = AioContext::new().unwrap().block_on(task).unwrap();
    assert!(aborted.unwrap_err().is_aborted());
    assert!(thread.stop().unwrap_err().into_panic().is_some());
}

pub(crate) fn the_end_by_a_stop_is_noticed(setup: &Setup) {
    let thread = setup.io_thread();
    wait_for_the_exit(&thread, || thread.handle().stop());
    assert!(thread.failure().is_none());
    thread.stop().unwrap();
}

/// The thread cannot wait for itself: there was a panic, or a hang.
pub(crate) fn one_that_is_dropped_or_stopped_in_its_own_thread(setup: &Setup) {
    for is_dropped in [false, true] {
        let thread = setup.io_thread();
        let handle = thread.handle().clone();
        let (sender, receiver) = mpsc::channel();
        thread.on_exit(move || sender.send(()).unwrap());
        let (returns, returned) = mpsc::channel();
        let end = move |_: &AioContext| {
            if is_dropped {
                drop(thread)
            } else {
                thread.stop().unwrap()
            }
            returns.send(()).unwrap();
        };
        assert!(handle.schedule(end));
        receiver.recv().unwrap();
        assert_eq!(returned.try_recv(), Ok(()), "the call panicked");
        assert!(!handle.is_alive());
    }
}

pub(crate) fn run_in_its_own_thread_is_an_error(setup: &Setup) {
    let thread = Arc::new(setup.io_thread());
    let inner = Arc::clone(&thread);
    let error = thread.run(move |_| inner.run(|_| ()).unwrap_err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::Deadlock);
    assert!(thread.is_alive());
}

pub(crate) fn run_on_one_that_ended_is_an_error(setup: &Setup) {
    let thread = setup.io_thread();
    thread.run(|_| ()).unwrap();
    thread.handle().stop();
    // Before or after the loop has noticed: the call returns the answer, or reports that there is
    // none.
    let mut result = thread.run(|_| ());
    while result.is_ok() {
        result = thread.run(|_| ());
    }
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotConnected);
    thread.stop().unwrap();
}

pub(crate) fn serves_notifiers(setup: &Setup) {
    let bell = setup.notifier();
    let heard = Arc::new(AtomicU64::new(0));
    let thread = IoThread::spawn_with("bells", setup.builder(), {
        let (bell, heard) = (bell.clone(), Arc::clone(&heard));
        move |ctx| {
            let bell = ctx.add_notifier(&bell, move |_| _ = heard.fetch_add(1, Ordering::Relaxed));
            Ok(bell?)
        }
    });
    let thread = thread.unwrap();
    for n in 1..=100 {
        bell.notify().unwrap();
        while heard.load(Ordering::Relaxed) < n {
            std::thread::yield_now();
        }
    }
    thread.stop().unwrap();
}
