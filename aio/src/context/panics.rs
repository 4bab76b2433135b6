//! Steps of user code that must all run, whether or not one of them panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Catches panics, and lets the first one go on after the last step.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Runs one step.
    pub(crate) fn catch(&mut self, step: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(step)) {
            self.keep(payload);
        }
    }

    /// Drops values one by one.
    pub(crate) fn drop_each<T>(&mut self, values: impl IntoIterator<Item = T>) {
        values.into_iter().for_each(|value| self.catch(|| drop(value)));
    }

    fn keep(&mut self, payload: Box<dyn Any + Send>) {
        if self.0.is_none() {
            self.0 = Some(payload);
        } else {
            // The panic hook has reported it. The payload is a user's value, too, and may panic
            // when it is dropped.
            std::mem::forget(payload);
        }
    }

    /// Lets the first panic go on. If the thread is unwinding already, a second panic would abort
    /// the process, so it ends here; the panic hook has reported it.
    pub(crate) fn resume(self) {
        match self.0 {
            Some(payload) if std::thread::panicking() => std::mem::forget(payload),
            Some(payload) => resume_unwind(payload),
            None => {}
        }
    }
}

/// Runs the last step of a call that panicked, and lets that panic go on, whatever the step does.
pub(crate) fn resume_after(payload: Box<dyn Any + Send>, step: impl FnOnce()) -> ! {
    if let Err(second) = catch_unwind(AssertUnwindSafe(step)) {
        // As in `Panics::keep`.
        std::mem::forget(second);
    }
    resume_unwind(payload)
}
