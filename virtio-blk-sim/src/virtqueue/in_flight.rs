//! The set of heads that are in flight.

/// One bit per head, and the number of bits that are set.
///
/// A head that the driver makes available twice would be completed twice. The driver would then
/// free the buffers while the device still writes to them for the second chain, so the device must
/// detect this.
#[derive(Debug)]
pub(super) struct InFlight {
    words: Box<[u64]>,
    count: u16,
}

impl InFlight {
    /// An empty set for the heads `0..size`.
    pub(super) fn new(size: u16) -> Self {
        Self { words: vec![0; usize::from(size).div_ceil(64)].into_boxed_slice(), count: 0 }
    }

    #[inline]
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    #[inline]
    pub(super) fn contains(&self, head: u16) -> bool {
        self.words.get(usize::from(head / 64)).is_some_and(|word| word & bit(head) != 0)
    }

    /// Returns false if the head is already in flight or out of range.
    #[inline]
    pub(super) fn insert(&mut self, head: u16) -> bool {
        let Some(word) = self.words.get_mut(usize::from(head / 64)) else {
            return false;
        };
        let fresh = *word & bit(head) == 0;
        *word |= bit(head);
        self.count += u16::from(fresh);
        fresh
    }

    /// Returns false if the head is not in flight.
    #[inline]
    pub(super) fn remove(&mut self, head: u16) -> bool {
        let Some(word) = self.words.get_mut(usize::from(head / 64)) else {
            return false;
        };
        let there = *word & bit(head) != 0;
        *word &= !bit(head);
        self.count -= u16::from(there);
        there
    }
}

#[inline]
fn bit(head: u16) -> u64 {
    1 << (head % 64)
}
