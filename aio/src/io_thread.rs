//! IoThread: an OS thread that owns an AioContext and turns it until it is stopped.

use crate::context::{AioContext, Builder, Handle};
use crate::sys::process::{Process, forked};
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

/// A thread with an event loop, as QEMU's IOThread. Dropping it stops the loop and waits for the
/// thread. May be used in any thread, and shared between threads.
///
/// The loop also ends if a callback panics, or if the kernel fails it. [`is_alive`](Self::is_alive)
/// tells, [`on_exit`](Self::on_exit) reports it, [`failure`](Self::failure) has the reason, and
/// [`stop`](Self::stop) returns the reason.
#[must_use = "dropping an IoThread stops it"]
pub struct IoThread {
    handle: Handle,
    name: String,
    thread: Option<JoinHandle<io::Result<()>>>,
    exit: Arc<Exit>,
    process: Process,
}

/// What the thread owns. The fields are dropped in this order, also when the thread unwinds.
struct Running<T> {
    _panic: NotesPanic,
    _state: T,
    context: AioContext,
    _exit: RunsHooks,
}

type Hook = Box<dyn FnOnce() + Send>;

/// What is known of the end of the loop.
struct Exit {
    /// The hooks to run when the loop has ended. `None` once they were taken.
    hooks: Mutex<Option<Vec<Hook>>>,
    failure: OnceLock<Failure>,
}

/// Why a loop has ended that nobody has stopped.
enum Failure {
    Panic,
    Loop { os_error: Option<i32>, kind: io::ErrorKind, text: String },
}

impl Exit {
    fn new() -> Arc<Self> {
        Arc::new(Self { hooks: Mutex::new(Some(Vec::new())), failure: OnceLock::new() })
    }

    /// Keeps a hook for the end of the loop. It comes back if the loop has ended.
    fn add(&self, hook: Hook) -> Result<(), Hook> {
        match &mut *self.hooks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(hooks) => {
                hooks.push(hook);
                Ok(())
            }
            None => Err(hook),
        }
    }

    fn set_failure(&self, failure: Failure) {
        // There is only one: the loop has ended with the first.
        let _ = self.failure.set(failure);
    }
}

/// Notes that the thread unwinds. Dropped before anything that others can notice.
struct NotesPanic(Arc<Exit>);

impl Drop for NotesPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_failure(Failure::Panic);
        }
    }
}

/// Runs the hooks when it is dropped.
struct RunsHooks(Arc<Exit>);

impl Drop for RunsHooks {
    fn drop(&mut self) {
        let hooks = self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).take();
        for hook in hooks.into_iter().flatten() {
            // One that panics keeps no other from running. The thread may be unwinding already, so
            // the payload is not dropped: its `Drop` may panic, too.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(hook)) {
                std::mem::forget(payload);
            }
        }
    }
}

impl IoThread {
    /// Starts a thread called `name` (its first 15 bytes show in ps and top) and waits until its
    /// loop turns. Blocks for that long.
    ///
    /// # Errors
    /// As for [`Builder::build`], which runs in the new thread, and what pthread_create(3) returns.
    pub fn spawn(name: &str, builder: Builder) -> io::Result<Self> {
        Self::spawn_with(name, builder, |_| Ok(()))
    }

    /// The same, and runs `init` in the new thread first. What it returns, such as the device with
    /// its registrations, is kept until the loop ends, and is dropped in the home thread before the
    /// context. That also holds when a callback panics. For an example, see
    /// [`guide::threads`](crate::guide::threads).
    ///
    /// # Errors
    /// Also what `init` returns, or that it panicked.
    pub fn spawn_with<T>(
        name: &str,
        builder: Builder,
        init: impl FnOnce(&AioContext) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Self> {
        let (ready, started) = mpsc::sync_channel(1);
        let exit = Exit::new();
        let (of_thread, hooks) = (Arc::clone(&exit), RunsHooks(Arc::clone(&exit)));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let prepared = builder.build().and_then(|context| {
                let state = init(&context)?;
                let panic = NotesPanic(Arc::clone(&of_thread));
                Ok(Running { _panic: panic, _state: state, context, _exit: hooks })
            });
            // A send fails only if the spawning thread died while it waited for this.
            match prepared {
                Ok(running) => {
                    let _ = ready.send(Ok(running.context.handle()));
                    let result = running.context.run();
                    if let Err(error) = &result {
                        let (os_error, kind) = (error.raw_os_error(), error.kind());
                        of_thread.set_failure(Failure::Loop { os_error, kind, text: error.to_string() });
                    }
                    drop(running);
                    result
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                    Ok(())
                }
            }
        })?;
        let died = || io::Error::other("the thread ended before its event loop began; init panicked");
        let handle = started.recv().map_err(|_| died())??;
        Ok(Self { handle, name: name.to_owned(), thread: Some(thread), exit, process: Process::current() })
    }

    /// The handle of its context: [`schedule`](Handle::schedule) gives the loop work without
    /// waiting for it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The name of the thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns true while the loop turns. It may end just after that.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Why the loop has ended by itself: the error of the kernel, or one of the kind `Other` if a
    /// callback panicked. `None` while the loop turns, and if it was stopped. It is known before
    /// anything of the loop is dropped, so also in [`on_exit`](Self::on_exit) and to whoever
    /// awaits a task of that loop. Any thread; does not wait. [`stop`](Self::stop) returns the
    /// payload of the panic, too.
    pub fn failure(&self) -> Option<io::Error> {
        Some(match self.exit.failure.get()? {
            Failure::Panic => io::Error::other("a callback panicked"),
            Failure::Loop { os_error: Some(number), .. } => io::Error::from_raw_os_error(*number),
            Failure::Loop { kind, text, .. } => io::Error::new(*kind, text.as_str()),
        })
    }

    /// Runs `hook` when the loop has ended, for whatever reason: it was stopped, it failed, or a
    /// callback panicked. The hook runs in the IoThread, after its state and its context were
    /// dropped; if the loop has ended already, it runs in this call. A panic of a hook is ignored.
    pub fn on_exit(&self, hook: impl FnOnce() + Send + 'static) {
        if let Err(hook) = self.exit.add(Box::new(hook)) {
            hook();
        }
    }

    /// Runs a closure in the loop and waits for what it returns (QEMU's aio_wait_bh_oneshot).
    /// Blocks. Must not be called while the loop waits for the calling thread.
    ///
    /// # Errors
    /// `NotConnected` if the loop ended before it ran the closure, `Deadlock` in the IoThread
    /// itself, which cannot wait for its own next turn, and `Unsupported` in a forked child.
    pub fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&AioContext) -> R + Send + 'static,
    ) -> io::Result<R> {
        if !self.process.is_current() {
            return Err(forked());
        }
        if self.is_this_thread() {
            let why = "run was called in the IoThread itself, which cannot wait for its own next turn; use schedule";
            return Err(io::Error::new(io::ErrorKind::Deadlock, why));
        }
        let (done, result) = mpsc::sync_channel(1);
        self.handle.schedule(move |context| {
            let _ = done.send(work(context));
        });
        let ended =
            |_| io::Error::new(io::ErrorKind::NotConnected, "the IoThread ended before it ran the closure");
        result.recv().map_err(ended)
    }

    /// Stops the loop after the turn it is in and waits for the thread. In the IoThread itself, and
    /// in a forked child, it does not wait.
    ///
    /// # Errors
    /// What ended the loop before it was stopped: the panic of a callback, or an error of the
    /// kernel.
    pub fn stop(mut self) -> Result<(), IoThreadError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), IoThreadError> {
        let is_this_thread = self.is_this_thread();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        if !self.process.is_current() {
            // The thread is the parent's.
            std::mem::forget(thread);
            return Ok(());
        }
        self.handle.stop();
        if is_this_thread {
            // It ends after this turn, and nobody waits for it.
            return Ok(());
        }
        let cause = match thread.join() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Cause::Loop(error),
            Err(payload) => Cause::Panic(Mutex::new(payload)),
        };
        Err(IoThreadError { thread: self.name.clone(), cause })
    }

    fn is_this_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id())
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        // An error of the loop cannot be returned here; `stop` returns it.
        let _ = self.join();
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoThread").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why an [`IoThread`] ended before it was stopped: a callback panicked, or the kernel failed the
/// loop. Returned by [`IoThread::stop`].
///
/// `Display` names the thread and the cause. `source()` is the error of the kernel. Converts to an
/// [`io::Error`] of its kind, or `Other` for a panic.
#[derive(Debug)]
pub struct IoThreadError {
    thread: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Loop(io::Error),
    /// What the panic was raised with. The mutex makes the error `Sync`.
    Panic(Mutex<Box<dyn Any + Send>>),
}

impl IoThreadError {
    /// The name of the thread.
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// The payload of the panic, for `std::panic::resume_unwind`; `None` if it was no panic.
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        match self.cause {
            Cause::Panic(payload) => Some(payload.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Cause::Loop(_) => None,
        }
    }
}

impl fmt::Display for IoThreadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.thread;
        let payload = match &self.cause {
            Cause::Loop(error) => return write!(f, "the loop of IoThread '{name}' failed: {error}"),
            Cause::Panic(payload) => payload.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        match text {
            Some(text) => write!(f, "a callback of IoThread '{name}' panicked: {text}"),
            None => write!(f, "a callback of IoThread '{name}' panicked"),
        }
    }
}

impl std::error::Error for IoThreadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Loop(error) => Some(error),
            Cause::Panic(_) => None,
        }
    }
}

impl From<IoThreadError> for io::Error {
    fn from(error: IoThreadError) -> Self {
        let kind = match &error.cause {
            Cause::Loop(error) => error.kind(),
            Cause::Panic(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
