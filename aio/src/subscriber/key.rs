//! The identity of a subscriber.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// A slot of a manager, and a number that no other subscriber of the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) slot: usize,
    number: u64,
}

impl Key {
    /// The key of the next subscriber in this slot.
    pub(super) fn next(slot: usize) -> Self {
        Self { slot, number: next_number() }
    }
}

/// A number that was not returned before in this process.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Only different numbers are needed, in no order. 2^64 of them are never used up.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Identity of a subscriber of the type `S`. Made by [`Subscribers::add`](super::Subscribers::add);
/// may be copied and sent to other threads. Never used again for another subscriber, and unknown to
/// every manager but its own.
pub struct SubscriberId<S> {
    pub(super) key: Key,
    // An id holds no subscriber: it is `Send` and `Copy`, whatever `S` is.
    subscriber: PhantomData<fn() -> S>,
}

impl<S> SubscriberId<S> {
    pub(super) fn new(key: Key) -> Self {
        Self { key, subscriber: PhantomData }
    }
}

impl<S> Clone for SubscriberId<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for SubscriberId<S> {}

impl<S> PartialEq for SubscriberId<S> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<S> Eq for SubscriberId<S> {}

impl<S> Hash for SubscriberId<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl<S> fmt::Debug for SubscriberId<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SubscriberId").field(&self.key.number).finish()
    }
}
