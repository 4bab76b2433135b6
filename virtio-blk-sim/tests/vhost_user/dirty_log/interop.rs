//! The frontend of the vhost crate shares a log.
#![expect(
    unsafe_code,
    reason = "the vhost crate's eventfd type comes from a crate that is not a dependency here; it can be made from a raw fd"
)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use aio::{EventNotifier, Reset};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{F_LOG_ALL, F_PROTOCOL_FEATURES};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::Bytes;

use crate::Watchdog;
use crate::server::{Setup, TestServer};

const RAM: usize = 1 << 20;
const USER: u64 = 0x7000_0000_0000;

#[test]
fn the_vhost_crates_frontend_logs_a_running_ring() {
    let _watchdog = Watchdog::new("the_vhost_crates_frontend_logs_a_running_ring");
    let server = TestServer::new(Setup::default());
    let mut frontend = Frontend::from_stream(UnixStream::connect(server.socket()).unwrap(), 1);
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_ne!(offered & F_LOG_ALL, 0);
    let features = F_PROTOCOL_FEATURES | 1 << 32;
    frontend.set_features(features).unwrap();
    let protocol = VhostUserProtocolFeatures::LOG_SHMFD | VhostUserProtocolFeatures::REPLY_ACK;
    assert!(frontend.get_protocol_features().unwrap().contains(protocol));
    frontend.set_protocol_features(protocol).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);

    let ram = GuestRam::new(RAM).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: RAM as u64,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: ram.as_fd().as_raw_fd(),
    };
    frontend.set_mem_table(&[region]).unwrap();
    let at = |page: u64| GuestAddress(page * 4096);
    let config = QueueConfig {
        size: 16,
        desc_table: at(0),
        avail_ring: at(1),
        used_ring: at(2),
        event_idx: false,
        indirect: false,
    };
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let addresses = |log_addr: Option<u64>| VringConfigData {
        queue_max_size: 16,
        queue_size: 16,
        flags: log_addr.is_some().into(),
        desc_table_addr: USER + config.desc_table.0,
        used_ring_addr: USER + config.used_ring.0,
        avail_ring_addr: USER + config.avail_ring.0,
        log_addr,
    };
    let kick = EventNotifier::new(Reset::Classic).unwrap();
    // SAFETY: the descriptor is a new copy, and into_raw_fd gives up its ownership.
    let event = unsafe { FromRawFd::from_raw_fd(kick.as_fd().try_clone_to_owned().unwrap().into_raw_fd()) };
    frontend.set_vring_num(0, 16).unwrap();
    frontend.set_vring_base(0, 0).unwrap();
    frontend.set_vring_addr(0, &addresses(None)).unwrap();
    frontend.set_vring_kick(0, &event).unwrap();
    frontend.set_vring_enable(0, true).unwrap();

    let log = GuestRam::new(4096).unwrap();
    let area = VhostUserDirtyLogRegion {
        mmap_size: (RAM / 4096 / 8) as u64,
        mmap_offset: 0,
        mmap_handle: log.as_fd().as_raw_fd(),
    };
    let small = VhostUserDirtyLogRegion { mmap_size: 8, ..area };
    assert!(frontend.set_log_base(0, Some(small)).is_err(), "too small");
    assert!(frontend.set_features(features | F_LOG_ALL).is_err());
    frontend.set_log_base(0, Some(area)).unwrap();
    frontend.set_log_fd(kick.as_fd().as_raw_fd()).unwrap();
    frontend.set_features(features | F_LOG_ALL).unwrap();
    frontend.set_vring_addr(0, &addresses(Some(config.used_ring.0))).unwrap();

    // A read of the header at page 16 to page 32, with its status at page 48.
    driver.add(&[(at(16), 16)], &[(at(32), 512), (at(48), 1)]).unwrap().unwrap();
    let _ = driver.publish();
    kick.notify().unwrap();
    while driver.pop_used().unwrap().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(frontend.get_vring_base(0).unwrap(), 1);
    let mut bits = [0_u8; 32];
    log.memory().read_slice(&mut bits, GuestAddress(0)).unwrap();
    let pages: Vec<_> = (0..256).filter(|page| bits[page / 8] & 1 << (page % 8) != 0).collect();
    assert_eq!(pages, [2, 32, 48]);
}
