//! What a ring has to finish before it stops, and where it starts again. The disk is slow, so that
//! requests are in flight.

use std::os::fd::AsFd;
use std::time::Duration;

use virtio_blk_sim::blk::backend::{Backend, Delay};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::queue::Irqfd;
use virtio_blk_sim::vhost_user::{Code, F_PROTOCOL_FEATURES, Header, ProtocolFeatures};

use super::client::{Client, ClientOptions};
use super::server::{Setup, TestServer};
use super::vring::hang_up;
use super::{DEPTH, Watchdog, default_options, driver, exercise, finish, options};

/// A server whose requests take 50 ms.
fn slow_server(threads: usize) -> TestServer {
    let backend = Backend::Delay(Delay { latency: Duration::from_millis(50), spin: false });
    TestServer::new(Setup { backend, threads, ..Setup::default() })
}

fn drains(server: &TestServer) -> u64 {
    server.ask(|server, _| server.stats().iter().map(|(_, stats)| stats.drains).sum())
}

/// Submits requests, and returns when the device has taken all of them.
fn in_flight(server: &TestServer, driver: &mut BlkDriver) {
    (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
    // Wait for the look at the ring that its start causes, so that the next one is caused by the
    // kick.
    while drains(server) == 0 {}
    let before = drains(server);
    driver.kick().unwrap();
    while drains(server) == before {}
}

#[test]
fn requests_in_flight_complete_before_a_ring_stops() {
    let _watchdog = Watchdog::new("requests_in_flight_complete_before_a_ring_stops");
    for threads in [0, 1] {
        let server = slow_server(threads);
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        in_flight(&server, &mut driver);
        assert_eq!(client.stop(0).unwrap(), DEPTH);
        let mut finished = Vec::new();
        driver.reap(&mut finished).unwrap();
        assert_eq!(finished.len(), usize::from(DEPTH), "{threads} threads");
    }
}

/// Otherwise the next frontend could read data that the previous frontend's writes have not reached
/// yet.
#[test]
fn requests_in_flight_complete_before_the_next_frontend_is_served() {
    let _watchdog = Watchdog::new("requests_in_flight_complete_before_the_next_frontend_is_served");
    for threads in [0, 1] {
        let server = slow_server(threads);
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        in_flight(&server, &mut driver);
        hang_up(client.frontend());
        server.wait_disconnected();
        assert_eq!(driver.queue_mut().used_idx(), DEPTH, "{threads} threads");
    }
}

/// While the server waits for its rings, the frontend's next message must not make the loop spin.
#[test]
fn a_waiting_message_does_not_make_the_loop_spin() {
    let _watchdog = Watchdog::new("a_waiting_message_does_not_make_the_loop_spin");
    let server = slow_server(0);
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    in_flight(&server, &mut driver);
    let turns = |server: &TestServer| server.ask(|_, context| context.stats().turns);
    let before = turns(&server);
    let ask = |code: Code, body: &[u8]| {
        [Header::request(code.number(), body.len() as u32).encode().as_slice(), body].concat()
    };
    let messages = [ask(Code::GetVringBase, &[0; 8]), ask(Code::GetFeatures, &[])].concat();
    client.frontend().send_raw(&messages, &[]).unwrap();
    let answers = [(); 2].map(|()| client.frontend().receive_raw().unwrap().header.request);
    assert_eq!(answers, [Code::GetVringBase.number(), Code::GetFeatures.number()]);
    let turns = turns(&server) - before;
    assert!(turns < 50, "{turns} turns of the loop");
}

#[test]
fn a_stopped_ring_runs_again_when_it_gets_another_kick_and_not_before() {
    let _watchdog = Watchdog::new("a_stopped_ring_runs_again_when_it_gets_another_kick_and_not_before");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 100);
    client.stop(0).unwrap();
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    let (region, file) = (client.region(), client.ram().file().try_clone().unwrap());
    // Each of these messages starts all rings that are ready.
    client.frontend().set_mem_table(&[(region, file.as_fd())]).unwrap();
    client.frontend().set_vring_enable(0, false).unwrap();
    client.frontend().set_vring_enable(0, true).unwrap();
    assert_eq!(server.ask(|server, _| server.stats()), []);
    assert!(!driver.queue_mut().has_used());
    client.start(0).unwrap();
    finish(&mut driver, &mut Vec::new(), 1);
}

/// Without an in-flight region, requests that the frontend skips with SET_VRING_BASE are not
/// completed, but the used ring continues without a gap.
#[test]
fn the_used_ring_continues_where_the_guest_expects_it() {
    let _watchdog = Watchdog::new("the_used_ring_continues_where_the_guest_expects_it");
    let server = TestServer::new(Setup::default());
    let protocol = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIG;
    let options = ClientOptions { protocol: Some(protocol), ..default_options() };
    let mut client = Client::connect(server.socket(), options).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 10);
    assert_eq!(client.stop(0).unwrap(), 10);
    (0..4).for_each(|slot| driver.read(slot, 0).unwrap());
    driver.kick().unwrap();
    client.set_base(0, 12);
    client.start(0).unwrap();
    let mut finished = Vec::new();
    finish(&mut driver, &mut finished, 2);
    assert_eq!(finished.iter().map(|completion| completion.slot).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((driver.queue_mut().used_idx(), client.stop(0).unwrap()), (12, 14));
}

#[test]
fn a_reset_device_is_in_its_initial_state() {
    let _watchdog = Watchdog::new("a_reset_device_is_in_its_initial_state");
    let server = TestServer::new(Setup::default());
    let options = options(DEPTH, Features::FLUSH | Features::CONFIG_WCE);
    let mut client = Client::connect(server.socket(), options).unwrap();
    client.frontend().set_config(32, &[0]).unwrap();
    assert_eq!(client.frontend().get_config(32, 1).unwrap(), [0], "write-through");
    client.frontend().reset_device().unwrap();
    assert_eq!(client.frontend().get_config(32, 1).unwrap(), [1], "write-back");
    let bits = client.features().bits() | F_PROTOCOL_FEATURES;
    client.frontend().set_features(bits).unwrap();
    exercise(&mut driver(&mut client, 0), 100);
}

/// A running ring gets another call eventfd. Interrupts that may be lost with the old one, and all
/// later ones, arrive at the new one.
#[test]
fn a_running_ring_signals_its_new_call_eventfd() {
    let _watchdog = Watchdog::new("a_running_ring_signals_its_new_call_eventfd");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 100);
        let peer = client.frontend().as_fd().try_clone_to_owned().unwrap();
        let line = Irqfd::of_peer(peer).unwrap();
        client.frontend().set_vring_call(0, Some(line.as_fd())).unwrap();
        driver.set_irq(line);
        // The new eventfd is signalled at once.
        driver.wait().unwrap();
        exercise(&mut driver, 100);
    }
}

/// The previous server or session may have published a completion and ended before it sent the
/// interrupt.
#[test]
fn a_ring_that_is_resumed_interrupts_once() {
    let _watchdog = Watchdog::new("a_ring_that_is_resumed_interrupts_once");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 10);
    client.frontend().set_vring_call(0, None).unwrap();
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    while driver.queue_mut().used_idx() != 11 {}
    client.reconnect(server.socket()).unwrap();
    driver.set_irq(client.ports(0).unwrap().irq);
    driver.wait().unwrap();
    let mut finished = Vec::new();
    driver.reap(&mut finished).unwrap();
    assert_eq!(finished.len(), 1);
}
