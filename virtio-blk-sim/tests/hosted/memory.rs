//! The guest's memory as the device sees it.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use aio::{EventNotifier, Reset};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, FrontendError, MemoryRegion, ProtocolFeatures,
};
use virtio_blk_sim::virtqueue::QueueConfig;
use vm_memory_017::{GuestAddressSpace, GuestMemory};

use super::rig::{Ring, VERSION_1, Vmm, wait_until};
use super::serve;
use super::vring::{USER_BASE, Vring, share_ram};

#[test]
fn a_ring_goes_on_with_another_memory_table() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    for round in 1..4 {
        ring.offer();
        for _ in 0..Ring::SIZE {
            assert_eq!(ring.wait(&ram)[0], 1);
        }
        assert_eq!(echo.state().tables, round);
        // A request of the device may hold the old table.
        let snapshot = echo.state().memory.as_ref().unwrap().memory();
        echo.state().snapshot = Some(snapshot);
        share_ram(&mut vmm.frontend, &ram, &[]);
    }
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), 3 * u32::from(Ring::SIZE));
}

#[test]
fn a_table_that_the_device_refuses_leaves_the_old_one() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    echo.state().refuses_memory = true;
    let region = MemoryRegion { guest_addr: 1 << 40, size: 4096, user_addr: 1 << 41, mmap_offset: 0 };
    let refused = vmm.frontend.set_mem_table(&[(region, ram.as_fd())]);
    assert!(matches!(refused, Err(FrontendError::Refused { .. })));
    ring.offer();
    assert_eq!(ring.wait(&ram)[0], 1);
}

#[test]
fn the_memory_is_taken_away_at_the_end_of_the_session() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let vmm = Vmm::new(&server, &ram, &[]);
    let memory = echo.state().memory.clone().unwrap();
    assert_eq!(memory.memory().num_regions(), 1);
    drop(vmm);
    wait_until("the memory goes", || memory.memory().num_regions() == 0);
}

#[test]
fn memory_that_is_truncated_ends_the_session() {
    let (echo, server) = serve(1);
    let path = std::path::Path::new("/dev/shm").join(format!("hosted-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let size = 1 << 16;
    file.set_len(size).unwrap();

    let mut frontend = Frontend::connect(&server.path, Duration::from_secs(10)).unwrap();
    frontend.set_protocol_features(ProtocolFeatures::REPLY_ACK).unwrap();
    frontend.set_features(VERSION_1 | F_PROTOCOL_FEATURES).unwrap();
    let region = MemoryRegion { guest_addr: 0, size, user_addr: USER_BASE, mmap_offset: 0 };
    frontend.set_mem_table(&[(region, file.as_fd())]).unwrap();
    let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
    let config = QueueConfig::at(GuestAddress(0), 16);
    let (kick_fd, call_fd, error_fd) = (kick.as_fd(), call.as_fd(), error.as_fd());
    Vring { index: 0, config: &config, base: 0, kick: kick_fd, call: call_fd, error: error_fd }
        .start(&mut frontend, true)
        .unwrap();
    wait_until("the first look", || !echo.events().is_empty());
    frontend.get_features().unwrap();
    file.set_len(0).unwrap();
    kick.notify().unwrap();
    wait_until("the error eventfd", || error.test_and_clear().unwrap());
    assert!(matches!(frontend.get_features(), Err(FrontendError::Connection(_))));
}
