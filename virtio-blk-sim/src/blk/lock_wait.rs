//! A queue that waits until its image is locked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, Timer};

use super::backend::FileImage;

/// How often a queue that waits tries to lock the image. (A lock that blocks would need a thread.)
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The wait of one queue. Dropping it ends the wait, and does not unlock the image.
pub(super) struct LockWait {
    is_over: Rc<Cell<bool>>,
    _timer: Option<Rc<Timer>>,
}

impl LockWait {
    /// Locks the image, now or as soon as it is free; then calls `locked`, unless it is locked when
    /// this returns. `log` gets a line if the queue has to wait.
    pub(super) fn begin(
        context: &AioContext,
        image: Arc<FileImage>,
        log: impl Fn(std::fmt::Arguments<'_>),
        locked: impl Fn() + 'static,
    ) -> Self {
        let is_over = Rc::new(Cell::new(true));
        let Err(error) = image.try_lock() else {
            return Self { is_over, _timer: None };
        };
        is_over.set(false);
        log(format_args!("a queue waits for the image: {error}"));
        let own: Rc<RefCell<std::rc::Weak<Timer>>> = Rc::default();
        let (handle, over) = (Rc::clone(&own), Rc::clone(&is_over));
        let timer = Rc::new(context.timer(move |_| {
            if image.try_lock().is_ok() {
                over.set(true);
                return locked();
            }
            let timer = handle.borrow().upgrade();
            if let Some(timer) = timer {
                timer.arm_after(TRY_AGAIN);
            }
        }));
        own.replace(Rc::downgrade(&timer));
        timer.arm_after(TRY_AGAIN);
        Self { is_over, _timer: Some(timer) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

impl std::fmt::Debug for LockWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockWait").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
