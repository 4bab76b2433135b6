//! What the functions of the GSource do, without GLib.

use aio::{AioContext, Embedded, Prepared};
use std::cell::Cell;
use std::io;
use std::rc::Rc;

type OnError = Box<dyn FnOnce(io::Error)>;

/// The context, and what one function of the source leaves for the next.
pub(crate) struct Turn {
    embedded: Embedded<Rc<AioContext>>,
    prepared: Cell<Option<Prepared>>,
    failed: Cell<Option<io::Error>>,
    on_error: Cell<Option<OnError>>,
}

/// What `prepare` tells GLib.
pub(crate) enum Sleep {
    /// Poll for so many milliseconds at most; -1: without limit.
    Ms(i32),
    /// Something failed: dispatch, which reports it.
    Failed,
}

impl Turn {
    pub(crate) fn new(embedded: Embedded<Rc<AioContext>>, on_error: OnError) -> Self {
        Self {
            embedded,
            prepared: Cell::default(),
            failed: Cell::default(),
            on_error: Cell::new(Some(on_error)),
        }
    }

    pub(crate) fn embedded(&self) -> &Embedded<Rc<AioContext>> {
        &self.embedded
    }

    /// A source that its prepare function calls ready is dispatched without its check function.
    /// The kernel must be asked in each turn, or descriptors starve beside a bottom half that
    /// schedules itself. So a context that is ready only asks GLib not to sleep.
    pub(crate) fn prepare(&self) -> Sleep {
        match self.embedded.prepare() {
            Ok(prepared) => {
                self.prepared.set(Some(prepared));
                Sleep::Ms(prepared.timeout().map_or(-1, |timeout| {
                    i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
                }))
            }
            Err(error) => {
                self.failed.set(Some(error));
                Sleep::Failed
            }
        }
    }

    /// Returns true if the source has to be dispatched.
    pub(crate) fn check(&self, is_readable: bool) -> bool {
        if !is_readable && !self.is_due() {
            return false;
        }
        self.embedded.check().unwrap_or_else(|error| {
            self.failed.set(Some(error));
            true
        })
    }

    /// Returns false if the source has to be removed.
    pub(crate) fn dispatch(&self) -> bool {
        let done = match self.failed.take() {
            Some(error) => Err(error),
            None => self.embedded.dispatch(),
        };
        match (done, self.on_error.take()) {
            (Ok(_), on_error) => {
                self.on_error.set(on_error);
                true
            }
            (Err(error), on_error) => {
                if let Some(on_error) = on_error {
                    on_error(error);
                }
                false
            }
        }
    }

    fn is_due(&self) -> bool {
        self.prepared.get().is_none_or(|prepared| {
            prepared.ready_now || prepared.deadline_ns.is_some_and(|at_ns| at_ns <= self.embedded.now_ns())
        })
    }
}

#[test]
fn an_error_is_reported_once_and_removes_the_source() {
    let context = Rc::new(AioContext::builder().embeddable().build().unwrap());
    let errors = Rc::new(Cell::new(0));
    let reported = Rc::clone(&errors);
    let on_error = Box::new(move |_| reported.set(reported.get() + 1));
    let turn = Turn::new(Embedded::new(context).unwrap(), on_error);
    assert!(turn.dispatch(), "no error, and the hook is still there");
    turn.failed.set(Some(io::ErrorKind::OutOfMemory.into()));
    assert!(!turn.dispatch());
    assert_eq!(errors.get(), 1);
}
