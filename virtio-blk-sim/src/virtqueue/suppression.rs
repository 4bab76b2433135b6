//! When to notify the other side: used.flags and avail.flags, or avail_event and used_event.
//!
//! It is the same both ways. The side that wants to be told stores a request in its own ring: a flag, or with
//! EVENT_IDX the index whose passing it wants to hear of. The side that has moved its index loads the request
//! and decides. Each has a full fence between its store and its load; the two fences of a direction are named
//! where they stand.

use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use super::layout::Le16;

/// NO_NOTIFY in used.flags, NO_INTERRUPT in avail.flags.
const NO: u16 = 1;
const _: () = assert!(NO as u32 == VRING_USED_F_NO_NOTIFY && NO as u32 == VRING_AVAIL_F_NO_INTERRUPT);

/// The request of one side, with what was stored last, so that the other's cache line is touched only to
/// change it.
#[derive(Debug)]
pub(super) struct Request {
    event_idx: bool,
    /// `None` until the first store: what a former owner of the ring left there is not known.
    stored: Option<u16>,
}

impl Request {
    pub(super) fn new(event_idx: bool) -> Self {
        Self { event_idx, stored: None }
    }

    /// Asks to be told when the other side's index passes `next`. The caller's fence and its look at the
    /// index follow.
    #[inline]
    pub(super) fn enable(&mut self, next: u16, field: Le16<'_>) {
        self.store(if self.event_idx { next } else { 0 }, field);
    }

    /// Asks not to be told. A hint: the other side may have decided already.
    #[inline]
    pub(super) fn disable(&mut self, index: Le16<'_>, field: Le16<'_>) {
        if !self.event_idx {
            self.store(NO, field);
            return;
        }
        // An event asks for one notification, when the index passes it. Where that has happened no more will
        // come, and a store would only take the cache line from the other side. Else the event is moved to
        // just behind the index, which then has nearly 2^16 to go before it passes.
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

/// Whether the other side wants to be told that an index moved from `old` to `new`, given its request field.
/// The caller's store of the index and its fence go before.
#[inline]
pub(super) fn wanted(event_idx: bool, field: Le16<'_>, old: u16, new: u16) -> bool {
    let field = field.load(Ordering::Relaxed);
    if event_idx { passed(field, old, new) } else { field & NO == 0 }
}

/// Whether moving an index from `old` to `new` passed `event` (virtio 1.2, section 2.7.7.2): whether `event`
/// is one of `old .. new`, modulo 2^16.
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
