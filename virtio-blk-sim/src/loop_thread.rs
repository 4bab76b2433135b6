//! Which threads run a loop: they must not block.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use aio::AioContext;

thread_local! {
    /// Lives as long as a loop of this thread.
    static LOOP: RefCell<Weak<()>> = const { RefCell::new(Weak::new()) };
}

/// Notes that this thread runs this loop. One of each thread is known; it is noted again whenever
/// something begins to run on a loop.
pub(crate) fn note(context: &AioContext) {
    // A thread that ends runs none.
    let _ = LOOP.try_with(|known| {
        if known.borrow().strong_count() > 0 {
            return;
        }
        let alive = Rc::new(());
        known.replace(Rc::downgrade(&alive));
        // The loop drops its tasks at its end.
        let task = context.spawn(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(task);
    });
}

/// Whether this thread runs a loop that was noted and has not ended.
#[cfg(feature = "imago")]
pub(crate) fn is_this() -> bool {
    LOOP.try_with(|known| known.borrow().strong_count() > 0).unwrap_or(false)
}
