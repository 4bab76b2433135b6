//! Uses the frontend of the vhost crate (used by cloud-hypervisor and others) as an independent
//! peer.
#![expect(
    unsafe_code,
    reason = "the vhost crate's eventfd type comes from a crate that is not a dependency here; it can be made from a raw fd"
)]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{
    Frontend as VhostFrontend, FrontendReqHandler, HandlerResult, VhostUserFrontend,
    VhostUserFrontendReqHandlerMut,
};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};

use super::backend::{FEATURES, PROTOCOL, QUEUES, SLOTS, TestBackend};
use super::*;
use crate::memory::GuestRam;

#[derive(Default)]
struct ConfigChanges(u32);

impl VhostUserFrontendReqHandlerMut for ConfigChanges {
    fn handle_config_change(&mut self) -> HandlerResult<u64> {
        self.0 += 1;
        Ok(0)
    }
}

fn info(region: MemoryRegion, file: &GuestRam) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.guest_addr,
        memory_size: region.size,
        userspace_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
        mmap_handle: file.as_fd().as_raw_fd(),
    }
}

/// The whole protocol in the order in which a VMM uses it, with every request acknowledged.
#[test]
fn a_vmm_sets_up_and_tears_down_a_device() {
    let (stream, backend) = TestBackend::spawn();
    let mut frontend = VhostFrontend::from_stream(stream, QUEUES);
    let ram = GuestRam::new(1 << 20).unwrap();

    frontend.set_owner().unwrap();
    assert_eq!(frontend.get_features().unwrap(), FEATURES);
    let offered = frontend.get_protocol_features().unwrap();
    assert_eq!(offered.bits(), PROTOCOL.bits());
    frontend.set_protocol_features(offered).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(FEATURES).unwrap();
    assert_eq!(frontend.get_queue_num().unwrap(), QUEUES);
    assert_eq!(frontend.get_max_mem_slots().unwrap(), SLOTS);

    let (config, data) = frontend.get_config(1, 3, VhostUserConfigFlags::empty(), &[0; 3]).unwrap();
    assert_eq!(({ config.offset }, { config.size }, data.as_slice()), (1, 3, [2, 3, 4].as_slice()));
    frontend.set_config(2, VhostUserConfigFlags::WRITABLE, &[0xee]).unwrap();
    let (_, data) = frontend.get_config(0, 4, VhostUserConfigFlags::WRITABLE, &[0; 4]).unwrap();
    assert_eq!(data, [1, 2, 0xee, 4]);

    frontend.set_mem_table(&[info(region(0), &ram), info(region(1), &ram)]).unwrap();
    frontend.add_mem_region(&info(region(2), &ram)).unwrap();
    frontend.remove_mem_region(&info(region(2), &ram)).unwrap();

    let wanted = VhostUserInflight { num_queues: 2, queue_size: 256, ..VhostUserInflight::default() };
    let (inflight, file) = frontend.get_inflight_fd(&wanted).unwrap();
    assert_eq!((inflight.mmap_size, inflight.num_queues, inflight.queue_size), (8192, 2, 256));
    assert_eq!(file.metadata().unwrap().len(), 8192);
    frontend.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();

    let changes = Arc::new(Mutex::new(ConfigChanges::default()));
    let mut handler = FrontendReqHandler::new(Arc::clone(&changes)).unwrap();
    handler.set_reply_ack_flag(true);
    // The handler returns only the number of its descriptor, and keeps the descriptor open.
    struct Number(i32);
    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> i32 {
            self.0
        }
    }
    frontend.set_backend_request_fd(&Number(handler.get_tx_raw_fd())).unwrap();

    let canary = Canary::new();
    // SAFETY: the descriptor is open, and into_raw_fd gives up its ownership.
    let event = unsafe { FromRawFd::from_raw_fd(canary.fd().into_raw_fd()) };
    for index in 0..2 {
        frontend.set_vring_num(index, 256).unwrap();
        frontend.set_vring_base(index, 7).unwrap();
        let config = VringConfigData {
            queue_max_size: 256,
            queue_size: 256,
            flags: 0,
            desc_table_addr: 0x1000,
            used_ring_addr: 0x2000,
            avail_ring_addr: 0x3000,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_kick(index, &event).unwrap();
        frontend.set_vring_call(index, &event).unwrap();
        frontend.set_vring_err(index, &event).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }
    assert!(frontend.set_vring_num(0, 4096).is_err(), "the backend refuses, and the session continues");
    frontend.set_vring_enable(1, false).unwrap();
    assert_eq!(frontend.get_vring_base(1).unwrap(), 1001);

    // The reset is acknowledged only after the backend's own request was acknowledged.
    let answering = std::thread::spawn(move || handler.handle_request().unwrap());
    frontend.reset_device().unwrap();
    answering.join().unwrap();
    assert_eq!(changes.lock().unwrap().0, 1);
    let log = GuestRam::new(1 << 16).unwrap();
    let area =
        VhostUserDirtyLogRegion { mmap_size: 4096, mmap_offset: 8192, mmap_handle: log.as_fd().as_raw_fd() };
    frontend.set_log_base(0, Some(area)).unwrap();
    frontend.set_log_fd(AsRawFd::as_raw_fd(&event)).unwrap();
    frontend.reset_owner().unwrap();
    assert_eq!(frontend.get_features().unwrap(), FEATURES);

    drop(frontend);
    let told = backend.join().unwrap();
    assert_eq!(told.acks, [Ack { request: 2, ok: true }]);
    assert!(
        matches!(told.errors.as_slice(), [MessageError::Unsupported { request: 8 }]),
        "{:?}",
        told.errors
    );
    let mut requests = told.requests.iter();
    let mut next = || requests.next().unwrap();
    assert!(matches!(next(), Request::SetOwner));
    assert!(matches!(next(), Request::SetProtocolFeatures(features) if *features == PROTOCOL));
    assert!(matches!(next(), Request::SetFeatures(FEATURES)));
    assert!(
        matches!(next(), Request::SetConfig(ConfigData { offset: 2, flags: 1, data }) if *data == [0xee])
    );
    assert!(
        matches!(next(), Request::SetMemTable(table) if table.iter().map(|(r, _)| *r).eq([region(0), region(1)]))
    );
    assert!(matches!(next(), Request::AddMemReg(r, _) if *r == region(2)));
    assert!(matches!(next(), Request::RemMemReg(r) if *r == region(2)));
    assert!(matches!(
        next(),
        Request::SetInflightFd(
            Inflight { mmap_size: 8192, mmap_offset: 0, num_queues: 2, queue_size: 256 },
            _
        )
    ));
    assert!(matches!(next(), Request::SetBackendReqFd(_)));
    for queue in 0..2 {
        assert!(matches!(next(), Request::SetVringNum(VringState { index, num: 256 }) if *index == queue));
        assert!(matches!(next(), Request::SetVringBase(VringState { index, num: 7 }) if *index == queue));
        let expected =
            VringAddr { index: queue, flags: 0, descriptor: 0x1000, used: 0x2000, available: 0x3000, log: 0 };
        assert!(matches!(next(), Request::SetVringAddr(addr) if *addr == expected));
        assert!(
            matches!(next(), Request::SetVringKick(VringFd { index, fd: Some(_) }) if u32::from(*index) == queue)
        );
        assert!(
            matches!(next(), Request::SetVringCall(VringFd { index, fd: Some(_) }) if u32::from(*index) == queue)
        );
        assert!(
            matches!(next(), Request::SetVringErr(VringFd { index, fd: Some(_) }) if u32::from(*index) == queue)
        );
        assert!(matches!(next(), Request::SetVringEnable { index, enable: true } if *index == queue));
    }
    assert!(matches!(next(), Request::SetVringEnable { index: 1, enable: false }));
    assert!(matches!(next(), Request::ResetDevice));
    assert!(matches!(next(), Request::SetLogBase(LogArea { mmap_size: 4096, mmap_offset: 8192 }, _)));
    assert!(matches!(next(), Request::SetLogFd(_)));
    assert!(matches!(next(), Request::ResetOwner));
    assert!(requests.next().is_none());
    drop((told, event));
    canary.assert_all_closed();
}

/// A frontend without REPLY_ACK sends requests and does not wait for acknowledgements.
#[test]
fn nothing_is_acknowledged_unless_reply_ack_is_negotiated() {
    let (stream, backend) = TestBackend::spawn();
    let mut frontend = VhostFrontend::from_stream(stream, QUEUES);
    frontend.get_features().unwrap();
    let offered = frontend.get_protocol_features().unwrap();
    frontend.set_protocol_features(offered & !VhostUserProtocolFeatures::REPLY_ACK).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_owner().unwrap();
    frontend.set_features(FEATURES).unwrap();
    frontend.set_vring_num(0, 4096).unwrap();
    // The frontend would mistake an unwanted acknowledgement for this reply.
    assert_eq!(frontend.get_queue_num().unwrap(), QUEUES);
    drop(frontend);
    let told = backend.join().unwrap();
    assert_eq!(told.errors, [MessageError::Unsupported { request: 8 }]);
}
