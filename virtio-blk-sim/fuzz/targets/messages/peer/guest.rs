//! The driver of the guest.

use std::os::unix::fs::FileExt;

use virtio_blk_sim::virtqueue::Descriptor;

use super::{Peer, RING, RING_STEP};

impl Peer {
    /// Makes a request available, and kicks if `ring` is set. Ignores memory that is missing.
    pub(super) fn post(&mut self, vring: u8, kind: u8, sector: u8, len: u8, ring: bool) {
        let (file, at) = (&self.files[0], u64::from(vring) * RING_STEP);
        let write = |offset: u64, bytes: &[u8]| {
            let _ = file.write_all_at(bytes, offset);
        };
        let mut idx = [0; 2];
        // A truncated file reads as index 0.
        let _ = file.read_at(&mut idx, at + 0x202);
        let idx = u16::from_le_bytes(idx);
        let slot = u64::from(idx % 4);
        let head = (slot * 3) as u16;
        let (header, data, status) = (0x3000 + 16 * slot, 0x4000 + 0x200 * slot, 0x3f00 + slot);
        write(
            header,
            &[&u32::from(kind % 16).to_le_bytes()[..], &[0; 4], &u64::from(sector).to_le_bytes()].concat(),
        );
        let data_flags = if kind.is_multiple_of(2) { Descriptor::WRITE } else { 0 };
        let chain = [
            Descriptor { addr: header, len: 16, flags: Descriptor::NEXT, next: head + 1 },
            Descriptor {
                addr: data,
                len: if len == 0 { 512 } else { len.into() },
                flags: Descriptor::NEXT | data_flags,
                next: head + 2,
            },
            Descriptor { addr: status, len: 1, flags: Descriptor::WRITE, next: 0 },
        ];
        write(at + 16 * u64::from(head), &chain.map(Descriptor::to_bytes).concat());
        write(at + 0x204 + 2 * u64::from(idx % RING), &head.to_le_bytes());
        write(at + 0x202, &idx.wrapping_add(1).to_le_bytes());
        if ring {
            self.kicks[usize::from(vring)].notify().expect("notifying our own eventfd must work");
        }
    }
}
