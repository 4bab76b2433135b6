//! The errors that all methods have in common.

use super::method::BoundedMethod;
use std::io;

/// The count has already reached the requested maximum.
pub(super) fn count_too_high(maximum: u64) -> io::Error {
    let why = format!(
        "the count has already reached {maximum}, so this cannot be its maximum; \
         take first, or choose a higher one"
    );
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// The requested maximum is higher than the method supports.
pub(super) fn maximum_too_high(method: BoundedMethod, most: &str) -> io::Error {
    let why = format!("the {method} method supports a maximum of at most {most}");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

pub(super) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the bounded notifier has been stopped")
}
