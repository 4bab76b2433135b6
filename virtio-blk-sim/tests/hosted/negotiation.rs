//! Features, the configuration space, reset, and the socket for requests of the device.

use vhost_016::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use virtio_blk_sim::memory::GuestRam;
use virtio_blk_sim::vhost_user::{F_PROTOCOL_FEATURES, Frontend, FrontendError, ProtocolFeatures, Served};

use super::device::{Echo, FEATURES};
use super::rig::{Ring, TestServer, VERSION_1, Vmm};
use super::{hosted, nothing, serve};

fn frontend(server: &TestServer) -> Frontend {
    Frontend::connect(&server.path, std::time::Duration::from_secs(10)).unwrap()
}

#[test]
fn what_the_server_cannot_serve_is_not_offered() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let offered = vmm.frontend.get_features().unwrap();
    let (log_all, packed) = (1 << 26, 1 << 34);
    assert_eq!(offered, FEATURES & !log_all & !packed);
    for refused in [log_all, packed, 1 << 6] {
        let set = vmm.frontend.set_features(VERSION_1 | refused);
        assert!(matches!(set, Err(FrontendError::Refused { .. })), "{refused:#x}");
    }
    vmm.frontend.set_features(VERSION_1 | F_PROTOCOL_FEATURES | 1 << 5).unwrap();
    assert_eq!(echo.state().acked, [VERSION_1 | F_PROTOCOL_FEATURES | 1 << 5]);
    assert!(!echo.state().event_idx);
    vmm.frontend.set_features(offered).unwrap();
    assert!(echo.state().event_idx);
}

#[test]
fn protocol_features_are_those_that_device_and_server_have() {
    let mut echo = Echo::new(1, &[1]);
    echo.protocol = Protocol::MQ | Protocol::INFLIGHT_SHMFD | Protocol::LOG_SHMFD | Protocol::SHMEM;
    let (echo, device) = hosted(echo);
    let server = TestServer::new(Served::new(device), 0, nothing);
    let mut frontend = frontend(&server);
    assert_eq!(frontend.get_protocol_features().unwrap(), ProtocolFeatures::MQ);
    // A device that has no configuration space is not asked for it.
    assert_eq!(frontend.get_config(0, 4).unwrap(), [0; 4]);
    assert_eq!(echo.state().config_reads, 0);
}

#[test]
fn the_configuration_space_is_the_devices() {
    let (echo, server) = serve(1);
    echo.state().config = vec![1, 2, 3, 4];
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    assert_eq!(vmm.frontend.get_config(1, 5).unwrap(), [2, 3, 4, 0, 0]);
    vmm.frontend.set_config(2, &[7]).unwrap();
    assert!(matches!(vmm.frontend.set_config(3, &[7, 7]), Err(FrontendError::Refused { .. })));
    assert_eq!(echo.state().config, [1, 2, 7, 4]);
}

#[test]
fn a_reset_reaches_the_device_and_a_new_session_is_none() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    for session in 1..3 {
        let mut vmm = Vmm::new(&server, &ram, &[]);
        let mut ring = Ring::new(&mut vmm, &ram, 0);
        ring.offer();
        assert_eq!(ring.wait(&ram)[0], 1);
        assert_eq!(echo.state().resets, session - 1);
        vmm.frontend.reset_device().unwrap();
        assert_eq!(echo.state().resets, session);
    }
}

#[test]
fn the_socket_for_requests_of_the_device_belongs_to_the_device() {
    let (echo, server) = serve(1);
    let ram = GuestRam::new(Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(&server, &ram, &[]);
    vmm.frontend.open_backend_channel().unwrap();
    assert!(echo.state().channel.take().is_some());
    // Nobody else has it: it is closed now.
    assert!(matches!(vmm.frontend.wait_backend_request(), Err(FrontendError::Connection(_))));
}
