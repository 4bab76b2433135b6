//! Identifies the object of a kernel event.
//!
//! A token is stored in `epoll_event.data` and `io_uring_sqe.user_data`. It contains a slot, the
//! kind of object in it, and a version that is unique among all objects that have used the slot.
//! Descriptor numbers and addresses are never used as identity, so an event for a removed object is
//! recognised, dropped and counted.

/// What a token identifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A handler: readiness of its descriptor.
    Handler,
    /// A READ of an eventfd that the io_uring monitor keeps in flight.
    Read,
    /// An operation that a user submitted.
    Operation,
    /// A cancellation by the monitor itself. Its completion is ignored.
    Internal,
}

/// Slot (28 bits), kind (4 bits), version (32 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

const SLOT_BITS: u32 = 28;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

impl Token {
    /// The highest number of slots of one kind.
    pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

    pub(crate) fn new(kind: Kind, slot: usize, version: u32) -> Self {
        debug_assert!(slot < Self::MAX_SLOTS);
        Self(u64::from(version) << 32 | (kind as u64) << SLOT_BITS | slot as u64 & SLOT_MASK)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 & SLOT_MASK) as usize
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0 >> SLOT_BITS & 0xf {
            0 => Kind::Handler,
            1 => Kind::Read,
            2 => Kind::Operation,
            _ => Kind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        for kind in [Kind::Handler, Kind::Read, Kind::Operation, Kind::Internal] {
            let token = Token::new(kind, Token::MAX_SLOTS - 1, u32::MAX);
            assert_eq!((token.kind(), token.slot()), (kind, Token::MAX_SLOTS - 1));
            assert_eq!(Token::from_bits(token.bits()), token);
        }
        assert_ne!(Token::new(Kind::Handler, 7, 1), Token::new(Kind::Handler, 7, 2));
    }
}
