//! Turns of a context, by itself or by an outer loop.

use super::os;
use aio::{AioContext, Embedded};
use std::cell::Cell;
use std::io;

thread_local! {
    /// Whether the turns of this thread are made by an outer loop.
    static IS_EMBEDDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test whose turns an outer loop makes, or not.
pub(crate) fn with_outer_loop(is_embedded: bool, test: impl FnOnce()) {
    let before = IS_EMBEDDED.replace(is_embedded);
    test();
    IS_EMBEDDED.set(before);
}

/// One turn. Inside a callback of an outer loop's turn, the context makes it by itself.
pub(super) fn turn(ctx: &AioContext, blocking: bool) -> io::Result<bool> {
    if !IS_EMBEDDED.get() {
        return ctx.poll(blocking);
    }
    let embedded = match Embedded::new(ctx) {
        Err(e) if e.error.kind() == io::ErrorKind::ResourceBusy => return ctx.poll(blocking),
        embedded => embedded?,
    };
    let prepared = embedded.prepare()?;
    if blocking {
        os::poll_readable(&embedded, prepared.timeout());
    }
    Ok(embedded.check()? && embedded.dispatch()?)
}
