//! The steps that all frontends of these tests have in common: sharing RAM, starting a queue,
//! ending a session.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use virtio_blk_sim::memory::GuestRam;
use virtio_blk_sim::vhost_user::{Frontend, FrontendError, MemoryRegion, VringAddr};
use virtio_blk_sim::virtqueue::QueueConfig;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// Start of the guest's RAM in the address space of the VMM. An arbitrary value: the backend only
/// subtracts it.
pub(crate) const USER_BASE: u64 = 0x7f00_0000_0000;

/// Shares all RAM regions except those whose start address is in `canaries`. In the file, the
/// canaries are next to the shared regions.
pub(crate) fn share_ram(frontend: &mut Frontend, ram: &GuestRam, canaries: &[u64]) {
    let mut offset = 0;
    let regions = ram.memory().iter().map(|region| {
        let (guest_addr, size) = (region.start_addr().0, region.len());
        let mmap_offset = offset;
        offset += size.next_multiple_of(4096);
        (MemoryRegion { guest_addr, size, user_addr: USER_BASE + guest_addr, mmap_offset }, ram.as_fd())
    });
    let regions: Vec<_> = regions.filter(|(region, _)| !canaries.contains(&region.guest_addr)).collect();
    frontend.set_mem_table(&regions).unwrap();
}

/// A queue to start.
pub(crate) struct Vring<'a> {
    pub(crate) index: u8,
    pub(crate) config: &'a QueueConfig,
    /// Position in the avail ring.
    pub(crate) base: u32,
    pub(crate) kick: BorrowedFd<'a>,
    pub(crate) call: BorrowedFd<'a>,
    pub(crate) error: BorrowedFd<'a>,
}

impl Vring<'_> {
    /// Sets up the queue. It starts with the kick, but without `enable` only in a session without
    /// protocol features.
    pub(crate) fn start(&self, frontend: &mut Frontend, enable: bool) -> Result<(), FrontendError> {
        let (number, config) = (u32::from(self.index), self.config);
        frontend.set_vring_num(number, config.size.into())?;
        frontend.set_vring_base(number, self.base)?;
        frontend.set_vring_addr(VringAddr {
            index: number,
            flags: 0,
            descriptor: USER_BASE + config.desc_table.0,
            used: USER_BASE + config.used_ring.0,
            available: USER_BASE + config.avail_ring.0,
            log: 0,
        })?;
        frontend.set_vring_err(self.index, Some(self.error))?;
        frontend.set_vring_call(self.index, Some(self.call))?;
        frontend.set_vring_kick(self.index, Some(self.kick))?;
        if enable {
            frontend.set_vring_enable(number, true)?;
        }
        Ok(())
    }
}

/// Ends a session at once. Closing the descriptor is not enough: interrupt eventfds keep the socket
/// open too, and so does, for a moment, a child that another test is starting.
pub(crate) fn hang_up(frontend: &Frontend) {
    let socket = frontend.as_fd().try_clone_to_owned().map(UnixStream::from);
    let _ = socket.and_then(|socket| socket.shutdown(Shutdown::Both));
}
