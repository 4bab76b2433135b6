//! A future that was spawned, and its result until somebody takes it.
#![expect(unsafe_code, reason = "pins a future that never leaves its allocation")]

use super::join_error::JoinError;
use super::waker_slot::WakerSlot;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

type Payload = Box<dyn Any + Send>;

/// What a poll of a task has led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Pending,
    /// The same, and it is to be polled again: it was woken in the meantime.
    Again,
    /// The task is over. With the payload of a panic that nobody else will hear of.
    Finished(Option<Payload>),
}

/// Where a task is, for a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits to be woken.
    Waiting,
    /// It is to be polled.
    Ready,
    /// It is being polled, or its future dropped.
    Running,
}

/// A task as the loop sees it.
pub(crate) trait Run {
    /// Polls the future. Runs user code, whose panics are caught.
    fn run(&self) -> Outcome;

    /// Ends the task without a result. Drops the future, which may panic. If the future is being
    /// polled further up the stack, it is dropped when that poll returns.
    fn cancel(&self);

    /// `Waiting` or `Running`: who has woken it is not known here. `None` if it is no task of the
    /// user but stands for something else.
    fn standing(&self) -> Option<Standing>;

    /// Returns the waker that the task was polled with, when it is over.
    fn take_waker(&self) -> Option<Waker>;
}

/// A task as whoever waits for its result sees it.
pub(crate) trait Join<T> {
    fn is_finished(&self) -> bool;

    /// Takes the result. If the task is not over, `waker` is woken when it is.
    fn poll_join(&self, waker: &Waker) -> Poll<Result<T, JoinError>>;

    /// The next poll ends the task instead.
    fn request_abort(&self);

    /// Nobody waits any more. Drops the result, if there is one, which may panic.
    fn detach(&self);
}

/// A future and its result.
pub(crate) struct Spawned<F: Future> {
    /// Borrowed while the future is polled or dropped, which is how a second attempt notices.
    body: RefCell<Body<F>>,
    output: Cell<Option<Result<F::Output, JoinError>>>,
    joiner: WakerSlot,
    /// It is to be dropped, or is being dropped, without having finished.
    aborted: Cell<bool>,
    finished: Cell<bool>,
    detached: Cell<bool>,
    /// A nested turn came to it while it was being polled.
    again: Cell<bool>,
}

struct Body<F> {
    /// `None` once the task is over. Pinned.
    future: Option<F>,
    waker: Option<Waker>,
}

impl<F: Future> Spawned<F> {
    pub(crate) fn new(future: F, waker: Waker) -> Rc<Self> {
        Rc::new(Self {
            body: RefCell::new(Body { future: Some(future), waker: Some(waker) }),
            output: Cell::new(None),
            joiner: WakerSlot::default(),
            aborted: Cell::new(false),
            finished: Cell::new(false),
            detached: Cell::new(false),
            again: Cell::new(false),
        })
    }

    /// Drops the future, and leaves the result to whoever waits for it. Returns the payload of a
    /// panic that nobody waits for.
    fn end(
        &self,
        mut future: Pin<&mut Option<F>>,
        mut result: Result<F::Output, JoinError>,
    ) -> Option<Payload> {
        if let Some(payload) = caught(|| future.set(None)) {
            result = match result {
                Err(error) if error.is_panic() => {
                    forget(Some(payload));
                    Err(error)
                }
                other => {
                    forget(caught(|| drop(other)));
                    Err(JoinError::panicked(payload))
                }
            };
        }
        self.finished.set(true);
        if !self.detached.get() {
            self.output.set(Some(result));
            // The waker may be of another executor, and so may panic.
            return caught(|| self.joiner.wake());
        }
        match result {
            Ok(output) => caught(|| drop(output)),
            Err(error) => error.into_panic(),
        }
    }
}

/// Runs code of the user, and returns what it panicked with.
fn caught(step: impl FnOnce()) -> Option<Payload> {
    catch_unwind(AssertUnwindSafe(step)).err()
}

/// Leaves a second panic to the panic hook, which has reported it. Its payload is a user's value
/// and may panic when it is dropped.
fn forget(payload: Option<Payload>) {
    std::mem::forget(payload);
}

impl<F: Future> Run for Spawned<F> {
    fn run(&self) -> Outcome {
        let Ok(mut body) = self.body.try_borrow_mut() else {
            self.again.set(true);
            return Outcome::Pending;
        };
        let Body { future, waker } = &mut *body;
        // SAFETY: the task is in an `Rc`, from which nobody takes it out, and the future is only
        // dropped in its place. So it does not move from here to its end.
        let mut future = unsafe { Pin::new_unchecked(future) };
        let (Some(pinned), Some(waker)) = (future.as_mut().as_pin_mut(), waker) else {
            return Outcome::Finished(None);
        };
        if self.aborted.get() {
            return Outcome::Finished(self.end(future, Err(JoinError::aborted())));
        }
        let polled = catch_unwind(AssertUnwindSafe(|| pinned.poll(&mut Context::from_waker(waker))));
        let result = match polled {
            Ok(Poll::Pending) if self.aborted.get() => Err(JoinError::aborted()),
            Ok(Poll::Pending) if self.again.replace(false) => return Outcome::Again,
            Ok(Poll::Pending) => return Outcome::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(JoinError::panicked(payload)),
        };
        Outcome::Finished(self.end(future, result))
    }

    fn cancel(&self) {
        self.aborted.set(true);
        if let Outcome::Finished(Some(payload)) = self.run() {
            std::panic::resume_unwind(payload);
        }
    }

    fn standing(&self) -> Option<Standing> {
        let is_running = self.body.try_borrow().is_err();
        Some(if is_running { Standing::Running } else { Standing::Waiting })
    }

    fn take_waker(&self) -> Option<Waker> {
        self.body.try_borrow_mut().ok()?.waker.take()
    }
}

impl<F: Future> Join<F::Output> for Spawned<F> {
    fn is_finished(&self) -> bool {
        self.finished.get()
    }

    fn poll_join(&self, waker: &Waker) -> Poll<Result<F::Output, JoinError>> {
        if !self.finished.get() {
            self.joiner.set(waker);
            return Poll::Pending;
        }
        self.joiner.clear();
        match self.output.take() {
            Some(result) => Poll::Ready(result),
            None => panic!("a JoinHandle was polled after it returned the result"),
        }
    }

    fn request_abort(&self) {
        self.aborted.set(true);
    }

    fn detach(&self) {
        self.detached.set(true);
        self.joiner.clear();
        drop(self.output.take());
    }
}
