//! The errors that all methods have in common.

use super::method::BoundedMethod;
use std::io;

/// The count has reached what is to be its maximum.
pub(super) fn count_too_high(maximum: u64) -> io::Error {
    let why =
        format!("the count has reached {maximum}, so that cannot be its maximum; take first, or choose more");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A maximum that the method cannot keep.
pub(super) fn maximum_too_high(method: BoundedMethod, most: &str) -> io::Error {
    let why = format!("the {method} method keeps a maximum of {most} at most");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the bounded notifier has been stopped")
}
