//! Events in a session between its first request and its end.

use std::io;
use std::os::fd::AsFd;

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{DriverError, GuestError, run};
use virtio_blk_sim::vhost_user::{
    BackendRequest, F_PROTOCOL_FEATURES, Frontend, FrontendError, ProtocolFeatures,
};

use super::client::{Client, ClientOptions};
use super::process::Process;
use super::server::{Setup, TempPath, TestServer};
use super::{SECTORS, Watchdog, default_options, driver, exercise, finish, workload};

#[test]
fn the_configuration_space_is_read_and_written() {
    let _watchdog = Watchdog::new("the_configuration_space_is_read_and_written");
    let server = TestServer::new(Setup { queues: 3, ..Setup::default() });
    let options = default_options();
    let features = options.features | Features::CONFIG_WCE;
    let mut client = Client::connect(server.socket(), ClientOptions { features, ..options }).unwrap();
    let frontend = client.frontend();
    assert_eq!(frontend.get_config(0, 8).unwrap(), SECTORS.to_le_bytes());
    assert_eq!(frontend.get_config(34, 2).unwrap(), 3_u16.to_le_bytes(), "num_queues");
    assert_eq!(frontend.get_config(32, 1).unwrap(), [1], "write-back");
    frontend.set_config(32, &[0]).unwrap();
    assert_eq!(frontend.get_config(32, 1).unwrap(), [0], "write-through");
    // Writing a read-only field changes nothing.
    frontend.set_config(0, &[0; 8]).unwrap();
    assert_eq!(frontend.get_config(0, 8).unwrap(), SECTORS.to_le_bytes());
    // Bytes after the last field read as zero. Reading past the end of the space is refused.
    assert_eq!(frontend.get_config(200, 56).unwrap(), [0; 56]);
    assert!(matches!(frontend.get_config(200, 57), Err(FrontendError::Refused { .. })));
    // The next session starts with the initial device state.
    drop(client);
    server.wait_disconnected();
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    assert_eq!(client.frontend().get_config(32, 1).unwrap(), [1]);
}

#[test]
fn a_stopped_ring_has_completed_everything_and_continues_at_its_position() {
    let _watchdog = Watchdog::new("a_stopped_ring_has_completed_everything_and_continues_at_its_position");
    let image = TempPath::image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let mut finished = Vec::new();
    for round in 1..=20u16 {
        (0..16).for_each(|slot| driver.read(slot, u64::from(slot) * 8).unwrap());
        driver.kick().unwrap();
        let base = client.stop(0).unwrap();
        driver.reap(&mut finished).unwrap();
        // Requests that the device took have completed; the others wait for the next start.
        let before = finished.len();
        assert_eq!(usize::from(base), (usize::from(round) - 1) * 16 + before, "round {round}");
        client.start(0).unwrap();
        finish(&mut driver, &mut finished, 16);
        assert!(finished.drain(..).all(|completion| completion.status == 0));
    }
    // A disabled ring takes nothing. When it is enabled again, it takes what has waited.
    client.frontend().set_vring_enable(0, false).unwrap();
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    assert!(!driver.queue_mut().has_used());
    client.frontend().set_vring_enable(0, true).unwrap();
    finish(&mut driver, &mut finished, 1);
    exercise(&mut driver, 300);
}

#[test]
fn a_reset_device_can_be_set_up_again() {
    let _watchdog = Watchdog::new("a_reset_device_can_be_set_up_again");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut first = driver(&mut client, 0);
    exercise(&mut first, 100);
    client.frontend().reset_device().unwrap();
    assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
    let bits = client.features().bits() | F_PROTOCOL_FEATURES;
    client.frontend().set_features(bits).unwrap();
    let mut second = driver(&mut client, 0);
    exercise(&mut second, 100);
}

#[test]
fn a_server_outlives_its_frontends() {
    let _watchdog = Watchdog::new("a_server_outlives_its_frontends");
    let server = TestServer::new(Setup::default());
    for session in 1..=5 {
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        exercise(&mut driver(&mut client, 0), 100);
        assert_eq!(server.ask(|server, _| server.sessions()), session);
        drop(client);
        server.wait_disconnected();
    }
    // A guest that loses its session and resumes it.
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    for _ in 0..3 {
        exercise(&mut driver, 100);
        server.ask(|server, context| server.shut_down(context));
        client.reconnect(server.socket()).unwrap();
        driver.set_irq(client.ports(0).unwrap().irq);
    }
    exercise(&mut driver, 100);
}

#[test]
fn a_second_frontend_is_disconnected_and_the_first_works() {
    let _watchdog = Watchdog::new("a_second_frontend_is_disconnected_and_the_first_works");
    let server = TestServer::new(Setup::default());
    let mut first = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut first, 0);
    let guest = std::thread::spawn(move || exercise(&mut driver, 2_000));
    for _ in 0..10 {
        let options = default_options();
        let refused = Frontend::connect(server.socket(), options.timeout).unwrap().get_features();
        assert!(matches!(refused, Err(FrontendError::Connection(_))), "{refused:?}");
    }
    guest.join().unwrap();
    assert_eq!(server.ask(|server, _| server.sessions()), 1);
    drop(first);
    server.wait_disconnected();
    assert!(Client::connect(server.socket(), default_options()).is_ok());
}

#[test]
fn a_resized_disk_is_announced() {
    let _watchdog = Watchdog::new("a_resized_disk_is_announced");
    let server = TestServer::new(Setup::default());
    let options = default_options();
    let protocol = options.protocol.map(|features| features | ProtocolFeatures::BACKEND_REQ);
    let mut client = Client::connect(server.socket(), ClientOptions { protocol, ..options }).unwrap();
    client.frontend().open_backend_channel().unwrap();
    server.ask(|server, _| {
        server.device().device.resize(SECTORS / 2).unwrap();
        server.config_changed();
    });
    let request = client.frontend().wait_backend_request().unwrap();
    assert!(matches!(request, BackendRequest::ConfigChange), "{request:?}");
    assert_eq!(client.frontend().get_config(0, 8).unwrap(), (SECTORS / 2).to_le_bytes());
}

/// The ring's call eventfd is changed while requests are in flight. No interrupt may be lost.
#[test]
fn another_call_eventfd_takes_over_at_once() {
    let _watchdog = Watchdog::new("another_call_eventfd_takes_over_at_once");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let irq = driver.ports().irq.clone();
    let guest = std::thread::spawn(move || exercise(&mut driver, 3_000));
    for _ in 0..50 {
        client.frontend().set_vring_call(0, None).unwrap();
        client.frontend().set_vring_call(0, Some(irq.as_fd())).unwrap();
    }
    guest.join().unwrap();
}

#[test]
fn the_program_serves_prints_statistics_and_exits() {
    let _watchdog = Watchdog::new("the_program_serves_prints_statistics_and_exits");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::start(&socket, &image, &["--queues", "2", "--threads", "2"]);
    assert_eq!(server.socket_mode(), 0o600);
    let mut client = Client::connect(&socket, ClientOptions { queues: 2, ..default_options() }).unwrap();
    let mut drivers = [0, 1].map(|queue| driver(&mut client, queue));
    drivers.iter_mut().for_each(|driver| drop(exercise(driver, 500)));
    server.signal(libc::SIGUSR1);
    server.wait_for_line("queue 0: 500 requests");
    server.wait_for_line("queue 1: 500 requests");

    // SIGTERM during I/O: requests that were taken complete, and the guest notices the disconnect.
    let [mut driver, _] = drivers;
    let guest = std::thread::spawn(move || {
        let outcome = run(&mut driver, &workload(u64::MAX));
        let mut finished = Vec::new();
        driver.reap(&mut finished).unwrap();
        (outcome, finished)
    });
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let (outcome, finished) = guest.join().unwrap();
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionAborted;
    assert!(
        matches!(&outcome, Err(GuestError::Driver(DriverError::Signal(error))) if gone(error)),
        "{outcome:?}"
    );
    assert!(finished.iter().all(|completion| completion.status == 0), "{finished:?}");
    assert!(!socket.as_ref().exists(), "the socket must be removed");
}
