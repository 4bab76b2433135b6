//! What a descriptor is ready for, what a handler asks to hear about, and how a monitor watches.

use std::ops::BitOr;

/// What an fd handler is called for. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// Only errors and hang-ups.
    pub const NONE: Self = Self(0);
    /// Data to read, or the end of the stream.
    pub const READABLE: Self = Self(Readiness::IN.0);
    /// Room to write.
    pub const WRITABLE: Self = Self(Readiness::OUT.0);

    /// Returns true if every bit of `other` is in `self`.
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

/// Why an fd handler is called.
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

    /// POLLHUP: the other end was closed.
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
