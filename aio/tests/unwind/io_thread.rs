//! The order in which an `IoThread` drops what it holds: the state first, then the context, both in
//! the thread, however the loop has ended.

use aio::{AioContext, EventNotifier, IoThread, MonitorKind, NotifierRegistration, Registration, Reset};
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// What was dropped, in which thread, and whether the context was still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    what: &'static str,
    thread: ThreadId,
    context_lives: bool,
}

#[derive(Clone, Debug, Default)]
struct Trace(Arc<Mutex<Vec<Entry>>>);

impl Trace {
    fn add(&self, what: &'static str, context_lives: bool) {
        let entry = Entry { what, thread: std::thread::current().id(), context_lives };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    #[track_caller]
    fn assert_state_then_context(&self, home: Option<ThreadId>) {
        let trace = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let order: Vec<_> = trace.iter().map(|entry| entry.what).collect();
        assert_eq!(order, ["state", "context"], "the order of the drops");
        assert!(trace[0].context_lives, "the context was gone when the state was dropped");
        assert_eq!(trace[0].thread, trace[1].thread, "the thread of the drops");
        assert_ne!(trace[0].thread, std::thread::current().id(), "dropped in the thread that spawned it");
        assert!(home.is_none_or(|home| home == trace[0].thread), "dropped in the home thread");
    }
}

/// Belongs to the context: the capture of a bottom half that nobody deletes.
struct OfContext(Trace);

impl Drop for OfContext {
    fn drop(&mut self) {
        self.0.add("context", false);
    }
}

/// A device with its registration.
struct State {
    trace: Trace,
    on: Registration,
    panics: bool,
}

impl State {
    fn new(ctx: &AioContext, trace: &Trace) -> io::Result<Self> {
        let of_context = OfContext(trace.clone());
        std::mem::forget(ctx.bottom_half(move |_| _ = &of_context));
        let bell = EventNotifier::new(Reset::Autoreset)?;
        let on = ctx.add_notifier(&bell, |_| ()).map(NotifierRegistration::into_registration)?;
        Ok(Self { trace: trace.clone(), on, panics: false })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.trace.add("state", self.on.is_live());
        if self.panics && !std::thread::panicking() {
            blow();
        }
    }
}

/// Panics without a message.
fn blow() {
    resume_unwind(Box::new("on purpose, by a test"));
}

fn each_monitor(test: impl Fn(MonitorKind)) {
    for kind in MonitorKind::ALL {
        if let Err(e) = AioContext::builder().monitor(kind).build() {
            eprintln!("{kind} skipped: {e}");
            continue;
        }
        test(kind);
    }
}

fn spawn(kind: MonitorKind, trace: &Trace) -> (IoThread, ThreadId) {
    let trace = trace.clone();
    let builder = AioContext::builder().monitor(kind);
    let thread =
        IoThread::spawn_with("order", builder, move |ctx| State::new(ctx, &trace)).expect("an IoThread");
    let id = thread.run(|_| std::thread::current().id()).expect("it runs");
    (thread, id)
}

#[test]
fn state_is_dropped_before_the_context_after_a_stop() {
    each_monitor(|kind| {
        let trace = Trace::default();
        let (thread, id) = spawn(kind, &trace);
        thread.stop().expect("stopped");
        trace.assert_state_then_context(Some(id));
    });
}

#[test]
fn state_is_dropped_before_the_context_after_a_panic_of_a_callback() {
    each_monitor(|kind| {
        let trace = Trace::default();
        let (thread, id) = spawn(kind, &trace);
        let ended = thread.run(|_| blow()).map_err(|e| e.kind());
        assert_eq!(ended, Err(io::ErrorKind::NotConnected), "the loop ended");
        assert!(thread.stop().is_err_and(|e| e.to_string().contains("panicked")));
        trace.assert_state_then_context(Some(id));
    });
}

#[test]
fn state_is_dropped_before_the_context_after_a_panic_of_init() {
    each_monitor(|kind| {
        let trace = Trace::default();
        let in_init = trace.clone();
        let builder = AioContext::builder().monitor(kind);
        let thread = IoThread::spawn_with("order", builder, move |ctx| {
            let state = State::new(ctx, &in_init)?;
            blow();
            Ok(state)
        });
        assert!(thread.is_err_and(|e| e.to_string().contains("init")));
        wait_for_the_context(&trace);
        trace.assert_state_then_context(None);
    });
}

#[test]
fn state_is_dropped_before_the_context_after_an_error_of_init() {
    each_monitor(|kind| {
        let trace = Trace::default();
        let in_init = trace.clone();
        let builder = AioContext::builder().monitor(kind);
        let thread = IoThread::spawn_with("order", builder, move |ctx| {
            let _state = State::new(ctx, &in_init)?;
            Err::<(), _>(io::Error::other("no disk"))
        });
        assert!(thread.is_err_and(|e| e.to_string() == "no disk"));
        wait_for_the_context(&trace);
        trace.assert_state_then_context(None);
    });
}

/// The context is dropped all the same, in the thread, and `stop` reports the panic.
#[test]
fn a_panic_of_the_state_reaches_stop() {
    each_monitor(|kind| {
        let trace = Trace::default();
        let of_state = trace.clone();
        let builder = AioContext::builder().monitor(kind);
        let thread = IoThread::spawn_with("order", builder, move |ctx| {
            let mut state = State::new(ctx, &of_state)?;
            state.panics = true;
            Ok(state)
        });
        assert!(thread.expect("an IoThread").stop().is_err_and(|e| e.to_string().contains("panicked")));
        trace.assert_state_then_context(None);
    });
}

/// The thread goes on for a moment after `spawn_with` has failed.
fn wait_for_the_context(trace: &Trace) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    let is_dropped =
        || trace.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|e| e.what == "context");
    while !is_dropped() && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
}
