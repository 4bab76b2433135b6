//! IoThread: an OS thread that owns an AioContext and turns it until it is stopped.

use crate::context::{AioContext, Builder, Handle};
use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// A thread with an event loop. Dropping it stops the loop and waits for the thread.
#[must_use = "dropping an IoThread stops it"]
pub struct IoThread {
    handle: Handle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the thread owns. The fields are dropped in this order, also when the thread unwinds.
struct Running<T> {
    _state: T,
    context: AioContext,
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
    /// context. That also holds when a callback panics.
    ///
    /// # Errors
    /// Also what `init` returns, or that it panicked.
    pub fn spawn_with<T>(
        name: &str,
        builder: Builder,
        init: impl FnOnce(&AioContext) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Self> {
        let (ready, started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let prepared = builder.build().and_then(|context| {
                let state = init(&context)?;
                Ok(Running { _state: state, context })
            });
            // A send fails only if the spawning thread died while it waited for this.
            match prepared {
                Ok(running) => {
                    let _ = ready.send(Ok(running.context.handle()));
                    let result = running.context.run();
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
        Ok(Self { handle, thread: Some(thread) })
    }

    /// The handle of its context.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a closure in the loop and waits for what it returns (QEMU's aio_wait_bh_oneshot).
    /// Blocks. Must not be called from this IoThread itself, nor while the loop waits for the
    /// calling thread.
    ///
    /// # Errors
    /// `NotConnected` if the loop ended before it ran the closure.
    pub fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&AioContext) -> R + Send + 'static,
    ) -> io::Result<R> {
        let (done, result) = mpsc::sync_channel(1);
        self.handle.schedule(move |context| {
            let _ = done.send(work(context));
        });
        let ended =
            |_| io::Error::new(io::ErrorKind::NotConnected, "the IoThread ended before it ran the closure");
        result.recv().map_err(ended)
    }

    /// Stops the loop after the turn it is in and waits for the thread.
    ///
    /// # Errors
    /// What ended the loop before it was stopped; a panic of a callback.
    pub fn stop(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.handle.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("a callback of the IoThread panicked")),
            None => Ok(()),
        }
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
        let name = self.thread.as_ref().and_then(|t| t.thread().name());
        f.debug_struct("IoThread").field("name", &name).finish_non_exhaustive()
    }
}
