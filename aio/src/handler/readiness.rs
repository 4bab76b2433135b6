//! What a descriptor is ready for, what a handler wants to hear of, and what a monitor is to do about it.

use std::ops::BitOr;

/// What an fd handler wants to hear of. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// Only errors and hang-ups.
    pub const NONE: Self = Self(0);
    /// Data to read, or the end of the stream.
    pub const READABLE: Self = Self(Readiness::IN.0);
    /// Room to write.
    pub const WRITABLE: Self = Self(Readiness::OUT.0);

    /// True if every bit of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The events of poll(2); epoll's have the same values.
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
    /// Busy polling saw work in memory; the descriptor itself said nothing. Not one of poll(2)'s that [`Self::from_poll`] keeps.
    pub(crate) const POLLED: Self = Self(0x80);

    /// A read would not block: data, the end of the stream, or an error to fetch.
    pub const fn is_readable(self) -> bool {
        self.0 & (Self::IN.0 | Self::HANG_UP.0 | Self::ERROR.0) != 0
    }

    /// A write would not block: there is room, or an error to fetch.
    pub const fn is_writable(self) -> bool {
        self.0 & (Self::OUT.0 | Self::ERROR.0) != 0
    }

    /// POLLERR or POLLNVAL: fetch the error with SO_ERROR or by the next read or write.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR.0 != 0
    }

    /// POLLHUP: the other end has gone.
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

    /// From the `revents` of poll(2); epoll's and POLL_ADD's have the same values.
    #[inline]
    pub(crate) const fn from_poll(events: u32) -> Self {
        const KEPT: u8 = Readiness::IN.0 | Readiness::OUT.0 | Readiness::ERROR.0 | Readiness::HANG_UP.0;
        let invalid = if events & libc::POLLNVAL as u32 != 0 { Self::ERROR.0 } else { 0 };
        Self(events as u8 & KEPT | invalid)
    }

    /// What a handler with this interest is told: errors and hang-ups always, the rest if it asked.
    pub(super) fn masked(self, interest: Interest) -> Self {
        Self(self.0 & (interest.0 | Self::ERROR.0 | Self::HANG_UP.0))
    }
}

/// What a monitor is to do with a descriptor. Only [`Action`]s that clear the condition get `Level`.
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
