//! What a descriptor is ready for, what a handler asks to hear about, and how a monitor watches.

use std::ops::{BitOr, BitOrAssign};

/// What an fd handler is called for: a set, joined with `|`. Errors and hang-ups are always
/// reported, as by poll(2).
///
/// ```
/// use aio::Interest;
/// let both = Interest::READABLE | Interest::WRITABLE;
/// assert!(both.contains(Interest::READABLE));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// Only errors and hang-ups. A handler with this interest is off, but stays registered.
    pub const NONE: Self = Self(0);
    /// POLLIN: data to read, a connection to accept, or the end of the stream.
    pub const READABLE: Self = Self(Readiness::IN.0);
    /// POLLOUT: room to write, or a connection that was made.
    pub const WRITABLE: Self = Self(Readiness::OUT.0);

    /// Returns true if all of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The events of poll(2). epoll uses the same values.
    pub(crate) fn poll_events(self) -> u32 {
        self.0.into()
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// Why an fd handler is called: what of its [`Interest`] the descriptor is ready for, and errors
/// and hang-ups. True when the kernel was asked; a callback that ran in between may have changed
/// it, so use non-blocking descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readiness(u8);

impl Readiness {
    pub(crate) const EMPTY: Self = Self(0);
    // The values of poll(2), so that translating is masking.
    pub(crate) const IN: Self = Self(libc::POLLIN as u8);
    pub(crate) const OUT: Self = Self(libc::POLLOUT as u8);
    pub(crate) const ERROR: Self = Self(libc::POLLERR as u8);
    pub(crate) const HANG_UP: Self = Self(libc::POLLHUP as u8);
    /// Busy polling found work in memory; the descriptor itself was not reported. This bit is not
    /// one of those that [`Self::from_poll`] keeps.
    pub(crate) const POLLED: Self = Self(0x80);

    /// Returns true if a read would not block: data, the end of the stream, or a pending error.
    pub const fn is_readable(self) -> bool {
        self.0 & (Self::IN.0 | Self::HANG_UP.0 | Self::ERROR.0) != 0
    }

    /// Returns true if a write would not block: there is room, or a pending error.
    pub const fn is_writable(self) -> bool {
        self.0 & (Self::OUT.0 | Self::ERROR.0) != 0
    }

    /// POLLERR or POLLNVAL: get the error from SO_ERROR, or from the next read or write.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR.0 != 0
    }

    /// POLLHUP: the other end was closed, of a stream in both directions. What it sent before can
    /// still be read.
    pub const fn is_hang_up(self) -> bool {
        self.0 & Self::HANG_UP.0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// From the `revents` of poll(2). epoll and POLL_ADD use the same values.
    #[inline]
    pub(crate) const fn from_poll(events: u32) -> Self {
        const KEPT: u8 = Readiness::IN.0 | Readiness::OUT.0 | Readiness::ERROR.0 | Readiness::HANG_UP.0;
        let invalid = if events & libc::POLLNVAL as u32 != 0 { Self::ERROR.0 } else { 0 };
        Self(events as u8 & KEPT | invalid)
    }

    /// The part that a handler with this interest gets: errors and hang-ups always, the rest if
    /// it asked for it.
    pub(crate) fn masked(self, interest: Interest) -> Self {
        Self(self.0 & (interest.0 | Self::ERROR.0 | Self::HANG_UP.0))
    }
}

/// How a monitor watches a descriptor. `Level` is only for handlers that clear the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Report it in every turn in which it is ready.
    Level(Interest),
    /// Report each new write once.
    Edge,
    /// Keep a READ of the eventfd in flight and report its completion.
    RingRead,
    /// The same with one multishot read.
    RingReadMultishot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interests_add_up() {
        let mut interest = Interest::NONE;
        interest |= Interest::READABLE;
        assert!(interest.contains(Interest::READABLE) && !interest.contains(Interest::WRITABLE));
        interest |= Interest::WRITABLE;
        assert_eq!(interest, Interest::READABLE | Interest::WRITABLE);
    }
}
