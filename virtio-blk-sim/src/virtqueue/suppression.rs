//! Notification suppression: used.flags and avail.flags, or avail_event and used_event (virtio 1.2,
//! sections 2.7.7 and 2.7.10).
//!
//! It works the same in both directions. The side that wants notifications stores a request in its
//! own ring: a flag or, with EVENT_IDX, the index after which it wants one. The side that advances
//! its index loads the request and decides. Each side has a full fence between its store and its
//! load; the comments at these fences name the matching one.

use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use super::layout::Le16;

/// NO_NOTIFY in used.flags, NO_INTERRUPT in avail.flags.
const NO: u16 = 1;
const _: () = assert!(NO as u32 == VRING_USED_F_NO_NOTIFY && NO as u32 == VRING_AVAIL_F_NO_INTERRUPT);

/// The request of one side. It remembers the value stored last, so that the shared cache line is
/// written only when the value changes.
#[derive(Debug)]
pub(super) struct Request {
    event_idx: bool,
    /// `None` until the first store, because the value left by a previous owner of the ring is
    /// unknown.
    stored: Option<u16>,
}

impl Request {
    pub(super) fn new(event_idx: bool) -> Self {
        Self { event_idx, stored: None }
    }

    /// The value stored last.
    pub(super) fn stored(&self) -> Option<u16> {
        self.stored
    }

    /// Asks for a notification when the other side's index passes `next`. The caller then needs a
    /// fence and must check the index.
    #[inline]
    pub(super) fn enable(&mut self, next: u16, field: Le16<'_>) {
        self.store(if self.event_idx { next } else { 0 }, field);
    }

    /// Asks for no notifications. A hint: the other side may already have decided to send one.
    #[inline]
    pub(super) fn disable(&mut self, index: Le16<'_>, field: Le16<'_>) {
        if !self.event_idx {
            self.store(NO, field);
            return;
        }
        // An event asks for one notification, when the index passes it. If the index has already
        // passed it, no more will come, and a store would only cost a cache miss on the other side.
        // Otherwise move the event to just behind the index, which must then advance by nearly 2^16
        // to pass it.
        let index = index.load(Ordering::Relaxed);
        if self.stored.is_none_or(|event| event == index) {
            self.store(index.wrapping_sub(1), field);
        }
    }

    #[inline]
    fn store(&mut self, value: u16, field: Le16<'_>) {
        if self.stored != Some(value) {
            self.stored = Some(value);
            field.store(value, Ordering::Relaxed);
        }
    }
}

/// Returns true if the other side wants a notification after an index moved from `old` to `new`.
/// `field` is its request. The caller must first store the index and execute a fence.
#[inline]
pub(super) fn wanted(event_idx: bool, field: Le16<'_>, old: u16, new: u16) -> bool {
    let field = field.load(Ordering::Relaxed);
    if event_idx { passed(field, old, new) } else { field & NO == 0 }
}

/// Returns true if moving an index from `old` to `new` passed `event`, that is, if `event` is in
/// `old..new` modulo 2^16 (virtio 1.2, section 2.7.7.2).
#[inline]
fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn passed_agrees_with_counting_the_indices_one_by_one() {
        let starts = [0_u16, 1, 255, 32767, 32768, 65533, 65534, 65535];
        for old in starts {
            for moved in 0..6_u16 {
                let new = old.wrapping_add(moved);
                for around in -8..8_i16 {
                    let event = old.wrapping_add_signed(around);
                    let counted = (0..moved).any(|step| old.wrapping_add(step) == event);
                    assert_eq!(passed(event, old, new), counted, "event {event} old {old} new {new}");
                }
            }
        }
    }
}
