//! What is registered with a ring: files, buffers, and groups of buffers to choose from.
//!
//! The tables of files and of buffers are made when the first one is registered.
#![expect(unsafe_code, reason = "registers memory, which its owner keeps until it is unregistered")]

use super::reads::COUNTER_GROUP;
use crate::sys::buffer_ring::BufferRing;
use crate::sys::fd::descriptor_limit;
use crate::sys::uring::Ring;
use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;

/// Slots of a table of files or buffers.
const SLOTS: u32 = 1024;
/// More groups than anybody needs; their numbers are below that of the ring's own group.
const GROUPS: u32 = 1 << 15;

#[derive(Debug, Default)]
pub(crate) struct Tables {
    files: RefCell<Option<Slots>>,
    buffers: RefCell<Option<Slots>>,
    groups: RefCell<Slots>,
}

/// Which slots of a table are free.
#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// This one and all behind it were never used.
    next: u32,
    size: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self::new(GROUPS)
    }
}

impl Slots {
    fn new(size: u32) -> Self {
        Self { free: Vec::new(), next: 0, size }
    }

    fn take(&mut self, what: &str) -> io::Result<u32> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.next >= self.size {
            let why = format!("all {} slots for {what} of this ring are taken", self.size);
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Runs `fill` for a slot, which is taken if that succeeds.
    fn fill(&mut self, what: &str, fill: impl FnOnce(u32) -> io::Result<()>) -> io::Result<u32> {
        let slot = self.take(what)?;
        fill(slot).inspect_err(|_| self.free.push(slot))?;
        Ok(slot)
    }
}

/// Makes a table at its first use.
fn made(
    table: &mut Option<Slots>,
    size: u32,
    make: impl FnOnce(u32) -> io::Result<()>,
) -> io::Result<&mut Slots> {
    if table.is_none() {
        make(size).map_err(too_old)?;
    }
    Ok(table.get_or_insert_with(|| Slots::new(size)))
}

fn too_old(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(libc::EINVAL) => {
            let why = "registered files and buffers, and groups of buffers, need Linux 5.19";
            io::Error::new(io::ErrorKind::Unsupported, why)
        }
        _ => e,
    }
}

impl Tables {
    /// Registers a file and returns its slot.
    pub(super) fn add_file(&self, ring: &Ring, fd: RawFd) -> io::Result<u32> {
        let mut table = self.files.borrow_mut();
        // The kernel allows no more than this process may have descriptors.
        let size = u32::try_from(descriptor_limit()?).unwrap_or(SLOTS).min(SLOTS);
        let slots = made(&mut table, size, |size| ring.make_file_table(size))?;
        slots.fill("files", |slot| ring.set_file(slot, fd))
    }

    /// Empties a slot. If that fails, it is not used again.
    pub(super) fn remove_file(&self, ring: &Ring, slot: u32) {
        if let Some(slots) = &mut *self.files.borrow_mut()
            && ring.set_file(slot, -1).is_ok()
        {
            slots.free.push(slot);
        }
    }

    /// Registers memory and returns its slot.
    ///
    /// # Safety
    /// The memory must stay valid until `remove_buffer`, and until the operations that name the
    /// slot have completed.
    pub(super) unsafe fn add_buffer(&self, ring: &Ring, start: *const u8, len: usize) -> io::Result<u16> {
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer without bytes"));
        }
        let mut table = self.buffers.borrow_mut();
        let slots = made(&mut table, SLOTS, |size| ring.make_buffer_table(size))?;
        // SAFETY: the caller's promise.
        let slot = slots.fill("buffers", |slot| unsafe { ring.set_buffer(slot, start, len) })?;
        // Below `SLOTS`.
        Ok(slot as u16)
    }

    /// As `remove_file`.
    pub(super) fn remove_buffer(&self, ring: &Ring, slot: u16) {
        let slot = u32::from(slot);
        if let Some(slots) = &mut *self.buffers.borrow_mut()
            // SAFETY: no memory.
            && unsafe { ring.set_buffer(slot, std::ptr::null(), 0) }.is_ok()
        {
            slots.free.push(slot);
        }
    }

    /// Makes a group of buffers and lets the kernel choose from it.
    ///
    /// # Safety
    /// The buffers must live until `remove_group` returned true, or until the kernel has completed
    /// every operation that selects from the group and the ring takes no more.
    pub(super) unsafe fn add_group(&self, ring: &Ring, entries: u16, size: u32) -> io::Result<BufferRing> {
        let mut groups = self.groups.borrow_mut();
        let slot = groups.take("groups of buffers")?;
        let provided = BufferRing::new(group_in(slot), entries, size).and_then(|buffers| {
            // SAFETY: the caller's promise.
            unsafe { ring.provide(&buffers) }.map_err(too_old)?;
            Ok(buffers)
        });
        provided.inspect_err(|_| groups.free.push(slot))
    }

    /// Ends the kernel's use of a group, of which nothing is in flight. Returns false if the kernel
    /// refuses: it keeps the buffers.
    pub(super) fn remove_group(&self, ring: &Ring, group: u16) -> bool {
        let is_withdrawn = ring.withdraw(group).is_ok();
        if is_withdrawn {
            self.groups.borrow_mut().free.push(slot_of(group));
        }
        is_withdrawn
    }
}

/// The number of the group in a slot, counted down from the ring's own.
fn group_in(slot: u32) -> u16 {
    COUNTER_GROUP - 1 - slot.min(GROUPS) as u16
}

fn slot_of(group: u16) -> u32 {
    u32::from(COUNTER_GROUP - 1 - group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::uring::RingSetup;

    #[test]
    fn a_slot_is_given_again_when_it_is_free() {
        let mut slots = Slots::new(2);
        assert_eq!([(); 2].map(|()| slots.take("files").unwrap()), [0, 1]);
        let full = slots.take("files").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(full.to_string().contains("all 2 slots for files"), "{full}");
        slots.free.push(0);
        let refused = slots.fill("files", |_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(slots.take("files").unwrap(), 0, "a slot that could not be filled is free");
    }

    #[test]
    fn the_number_of_a_group_is_given_again() {
        let Ok(ring) = Ring::new(4, RingSetup::Plain, false) else { return println!("skipped: no io_uring") };
        let tables = Tables::default();
        for _ in 0..3 {
            // SAFETY: withdrawn before it is freed.
            let Ok(buffers) = (unsafe { tables.add_group(&ring, 1, 8) }) else {
                return println!("skipped: no provided buffers");
            };
            assert!(tables.remove_group(&ring, buffers.group()));
            // SAFETY: it is refused.
            let refused = unsafe { tables.add_group(&ring, 0, 8) }.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(tables.groups.borrow().next, 1, "one number is enough");
    }

    #[test]
    fn groups_have_numbers_of_their_own() {
        for slot in [0, 1, GROUPS - 1] {
            assert_eq!(slot_of(group_in(slot)), slot);
            assert_ne!(group_in(slot), COUNTER_GROUP);
        }
    }
}
