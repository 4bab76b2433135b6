//! What the session hears of the end of a loop that runs rings of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The rings of a session whose loop has ended while they ran. Added by that loop's thread, and
/// found by the task of the session.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rings: Vec<Loss>,
    task: Option<Waker>,
}

/// A ring whose loop has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) ring: u16,
    /// The name of the thread that ran it.
    pub(super) thread: String,
}

impl Losses {
    /// Adds a ring, and wakes the task of its session. Any thread.
    pub(super) fn add(&self, loss: Loss) {
        let task = {
            let mut state = self.lock();
            state.rings.push(loss);
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Returns those that were added since the last call.
    pub(super) fn take(&self) -> Vec<Loss> {
        std::mem::take(&mut self.lock().rings)
    }

    /// Ready if there are any. Only one task may wait for that.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Outside of the lock: a waker may do anything.
        let waker = cx.waker().clone();
        let (former, poll) = {
            let mut state = self.lock();
            match state.rings.is_empty() {
                true => (state.task.replace(waker), Poll::Pending),
                false => (Some(waker), Poll::Ready(())),
            }
        };
        drop(former);
        poll
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
