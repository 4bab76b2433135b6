//! Which threads run a loop: they must not block.

use std::cell::RefCell;

use aio::{AioContext, Handle};

thread_local! {
    /// A loop of this thread.
    static LOOP: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Notes that this thread runs this loop. One of each thread is known; it is noted again whenever
/// something begins to run on a loop.
pub(crate) fn note(context: &AioContext) {
    // A thread that ends runs none.
    let _ = LOOP.try_with(|known| {
        let is_known = known.borrow().as_ref().is_some_and(Handle::is_alive);
        if !is_known {
            let former = known.replace(Some(context.handle()));
            drop(former);
        }
    });
}

/// Whether this thread runs a loop that was noted and has not ended.
#[cfg(feature = "imago")]
pub(crate) fn is_this() -> bool {
    LOOP.try_with(|known| known.borrow().as_ref().is_some_and(Handle::is_alive)).unwrap_or(false)
}
