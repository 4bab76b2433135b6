//! Where the status of a chain goes that cannot be served.
//!
//! A device such as a disk reports a status in the last device-writable byte of a chain. A driver
//! that gets a chain back without a status may take what is in that byte from earlier for the
//! status, so the byte is looked for even if the rest of the chain is malformed.

use vm_memory::GuestMemoryBackend;

use super::layout::{Descriptor, MAX_CHAIN, Rings};
use super::segment::Segments;
use super::translate::Translator;

/// Returns the guest address of the last device-writable byte of the chain `head`, as far as it can
/// be told. The address is not checked: it may be outside guest memory.
///
/// The descriptors are read again, and the guest may have changed them meanwhile. So the result is
/// only an address that the guest marked as writable at some time.
pub(super) fn last_writable<M: GuestMemoryBackend + 'static>(
    rings: &Rings<M>,
    tables: &mut Translator<M>,
    entry: &mut Segments,
    has_indirect: bool,
    head: u16,
) -> Option<u64> {
    let mut last = None;
    let table = follow(|index| rings.descriptor(index), head, rings.size(), &mut last)?;
    match table {
        None => last,
        Some(table) if has_indirect => in_table(table, tables, entry).or(last),
        Some(_) => None,
    }
}

/// Like [`last_writable`], in an indirect table. If the descriptors in it cannot be followed to
/// their end, the last entry of the table is taken for it: no known driver puts it elsewhere.
fn in_table<M: GuestMemoryBackend + 'static>(
    at: Descriptor,
    tables: &mut Translator<M>,
    entry: &mut Segments,
) -> Option<u64> {
    let mut read = |index: u32| -> Option<Descriptor> {
        let addr = at.addr.checked_add(Descriptor::BYTES as u64 * u64::from(index))?;
        entry.clear();
        tables.translate(addr, Descriptor::BYTES as u32, |segment| entry.push(segment)).ok()?;
        entry.array(0).map(Descriptor::from_bytes)
    };
    let entries = at.len / Descriptor::BYTES as u32;
    let mut last = None;
    if entries <= MAX_CHAIN.into() {
        let steps = entries as u16;
        let inside = |index: u16| if u32::from(index) < entries { read(index.into()) } else { None };
        if let Some(None) = follow(inside, 0, steps, &mut last) {
            return last;
        }
    }
    let end = read(entries.checked_sub(1)?)?;
    if end.has(Descriptor::NEXT) || end.has(Descriptor::INDIRECT) { None } else { last_byte(&end) }
}

/// Follows the descriptors from `index` on, for at most `steps` of them, and remembers the last
/// writable byte in `last`. Returns `None` if the chain does not end, and else the descriptor of
/// the indirect table that it ends with, if there is one.
fn follow(
    mut read: impl FnMut(u16) -> Option<Descriptor>,
    mut index: u16,
    steps: u16,
    last: &mut Option<u64>,
) -> Option<Option<Descriptor>> {
    for _ in 0..steps {
        let descriptor = read(index)?;
        if descriptor.has(Descriptor::INDIRECT) {
            return Some(Some(descriptor));
        }
        *last = last_byte(&descriptor).or(*last);
        if !descriptor.has(Descriptor::NEXT) {
            return Some(None);
        }
        index = descriptor.next;
    }
    None
}

/// Returns the address of the last byte of a descriptor's buffer, if the device may write it.
fn last_byte(descriptor: &Descriptor) -> Option<u64> {
    let offset = u64::from(descriptor.len).checked_sub(1)?;
    if descriptor.has(Descriptor::WRITE) { descriptor.addr.checked_add(offset) } else { None }
}
