//! What the tasks of an executor tell each other in the work that is measured. It is the same for
//! all executors, so that only their own costs differ.

use super::work::{Seen, ring};
use std::future::{Future, poll_fn};
use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The main task's waker, and the number of handlers that it waits for.
#[derive(Clone, Default)]
pub(super) struct Main(Arc<Mutex<(Option<Waker>, u64)>>);

impl Main {
    /// Wakes it if that was the last handler it waits for.
    pub(super) fn tell(&self, seen: &Seen) {
        if let Ok(mut main) = self.0.lock()
            && seen.get() >= main.1
            && let Some(waker) = main.0.take()
        {
            waker.wake();
        }
    }

    /// Waits until `target` handlers have run.
    pub(super) async fn wait(&self, seen: &Seen, target: u64) {
        poll_fn(|context: &mut Context<'_>| {
            if seen.get() >= target {
                return Poll::Ready(());
            }
            if let Ok(mut main) = self.0.lock() {
                *main = (Some(context.waker().clone()), target);
            }
            Poll::Pending
        })
        .await;
    }
}

/// A flag that one task waits for. Any thread may set it.
#[derive(Clone, Default)]
pub(super) struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

impl Signal {
    /// Sets the flag and wakes the task that waits.
    #[inline]
    pub(super) fn set(&self) {
        if let Ok(mut state) = self.0.lock() {
            state.0 = true;
            let waiting = state.1.take();
            // A waker may run code of its executor, which must not find the lock taken.
            drop(state);
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }

    /// Waits until the flag is set, and clears it.
    pub(super) async fn wait(&self) {
        poll_fn(|context: &mut Context<'_>| {
            let Ok(mut state) = self.0.lock() else { return Poll::Pending };
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A task that waits for its signal again and again.
pub(super) async fn answer_signal(signal: Signal, main: Main, seen: Seen) {
    loop {
        signal.wait().await;
        seen.one_more();
        main.tell(&seen);
    }
}

/// Awaits a future, and signals an eventfd after its first poll, if it has to wait.
pub(super) async fn ring_once_pending<T>(fd: RawFd, future: impl Future<Output = T>) -> T {
    let (mut future, mut rung) = (pin!(future), false);
    poll_fn(|context: &mut Context<'_>| {
        let polled = future.as_mut().poll(context);
        if polled.is_pending() && !std::mem::replace(&mut rung, true) {
            ring(fd);
        }
        polled
    })
    .await
}
