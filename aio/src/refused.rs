//! An error that gives back the value it came with.

use std::fmt;
use std::io;

/// A call that was refused: why, and the value that was passed in, unharmed.
///
/// Converts to an [`io::Error`], so `?` works in a function that returns [`io::Result`], and drops
/// the value there.
///
/// ```
/// use aio::{AioContext, Interest, Refused};
/// # fn main() -> std::io::Result<()> {
/// let ctx = AioContext::new()?;
/// let file = std::fs::File::open("/dev/null")?; // always ready, so no handler can wait for it
/// let Err(Refused { error, value: (file, _callback) }) =
///     ctx.add_fd(file, Interest::READABLE, |_, _| ())
/// else {
///     unreachable!()
/// };
/// assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
/// drop(file); // it was not closed
/// # Ok(())
/// # }
/// ```
pub struct Refused<T> {
    /// The reason.
    pub error: io::Error,
    /// The callback, device, descriptor or buffers that were passed in.
    pub value: T,
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for Refused<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<Refused<T>> for io::Error {
    fn from(refused: Refused<T>) -> Self {
        refused.error
    }
}
