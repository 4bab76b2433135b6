//! Frontends that keep the server busy: it serves them at a bounded rate, and everybody else
//! meanwhile. What counts is how much was served: the times only bound that from above.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use virtio_blk_sim::vhost_user::{Code, Frontend, Header, Throttled};

use super::client::{Client, ClientOptions};
use super::process::Process;
use super::server::{Setup, TempPath, TestServer};
use super::shared_loop::Host;
use super::vring::hang_up;
use super::{Watchdog, default_options, driver, exercise};

/// Messages of a disk with one ring: at once, and in each second. What is heavy counts eight times.
const BURST: u64 = 1_200;
const RATE: u64 = 500;
const HEAVY: u64 = 8;
/// Connections: at once, and in each second.
const CONNECTIONS: u64 = 100;
/// What a turn may handle beyond that, and what was in the socket.
const SLACK: u64 = 32;
/// Longer than the burst of any server takes.
const LONG: Duration = Duration::from_millis(1_500);

fn throttling() -> TestServer {
    TestServer::new(Setup { throttles: true, ..Setup::default() })
}

fn throttled(server: &TestServer) -> Throttled {
    server.ask(|server, _| server.throttled())
}

/// Does something again and again that costs so many tokens each time, and checks that it happens
/// no more often than burst and rate allow. `act` returns how often it has done it.
fn assert_bounded(name: &str, (burst, rate): (u64, u64), cost: u64, mut act: impl FnMut() -> u64) {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < LONG || count * cost < burst {
        count += act();
    }
    let gained = (start.elapsed().as_secs_f64() * rate as f64).ceil() as u64;
    let most = (burst + gained) / cost + SLACK;
    println!("{name}: {count} in {:?}, and {most} are allowed", start.elapsed());
    assert!(count <= most, "{name}: {count} in {:?}, and {most} are allowed", start.elapsed());
}

/// Sends messages without a body, and waits for as many answers.
fn ask_many(frontend: &mut Frontend, count: usize) -> u64 {
    let messages = Header::request(Code::GetFeatures.number(), 0).encode().repeat(count);
    frontend.send_raw(&messages, &[]).unwrap();
    (0..count).for_each(|_| drop(frontend.receive_raw().unwrap()));
    count as u64
}

#[test]
fn a_peer_that_floods_its_socket_is_served_at_a_bounded_rate() {
    let _watchdog = Watchdog::new("a_peer_that_floods_its_socket_is_served_at_a_bounded_rate");
    type Act = fn(&mut Client) -> u64;
    let acts: [(&str, u64, Act); 5] = [
        ("questions", 1, |client| ask_many(client.frontend(), 8)),
        ("requests that are refused", 1, |client| {
            assert!(client.frontend().set_vring_num(0, 7).is_err());
            1
        }),
        ("rings that stop and start", HEAVY, |client| {
            client.frontend().set_vring_enable(0, false).unwrap();
            client.frontend().set_vring_enable(0, true).unwrap();
            2
        }),
        ("rings with another call eventfd", HEAVY, |client| {
            client.frontend().set_vring_call(0, None).unwrap();
            1
        }),
        ("rings that are reset", HEAVY, |client| {
            client.frontend().reset_device().unwrap();
            1
        }),
    ];
    for (name, cost, act) in acts {
        let server = throttling();
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        assert_eq!(throttled(&server), Throttled::default());
        assert_bounded(name, (BURST, RATE), cost, || act(&mut client));
        assert!(throttled(&server).messages > 0, "{name}");
        if cost == 1 {
            // The ring does not wait.
            exercise(&mut driver, 1_000);
        }
    }
}

/// The allowance belongs to the disk, not to the connection.
#[test]
fn a_frontend_that_connects_again_has_no_new_burst() {
    let _watchdog = Watchdog::new("a_frontend_that_connects_again_has_no_new_burst");
    let server = throttling();
    assert_bounded("questions of many frontends", (BURST, RATE), 1, || {
        let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
        let asked = ask_many(&mut frontend, 100);
        hang_up(&frontend);
        asked
    });
}

/// What a frontend has sent before it went is not served: its rings would run meanwhile.
#[test]
fn a_throttled_frontend_that_goes_is_gone() {
    let _watchdog = Watchdog::new("a_throttled_frontend_that_goes_is_gone");
    let server = throttling();
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 50);
    // Half a minute of messages, none of which has an answer.
    let count = (RATE * 30 / HEAVY) as usize;
    let messages = Header::request(Code::SetOwner.number(), 0).encode().repeat(count);
    client.frontend().send_raw(&messages, &[]).unwrap();
    while throttled(&server).messages == 0 {}
    drop(client);
    let went = Instant::now();
    while server.ask(|server, _| server.is_connected() || !server.stats().is_empty()) {
        assert!(went.elapsed() < Duration::from_secs(5), "its ring runs on");
    }
}

/// Bytes that complete no message wake the server, too.
#[test]
fn a_peer_that_sends_single_bytes_is_throttled() {
    let _watchdog = Watchdog::new("a_peer_that_sends_single_bytes_is_throttled");
    let server = throttling();
    let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
    let message = Header::request(Code::GetFeatures.number(), 0).encode();
    let mut sent = 0;
    // Ten times fewer messages than a burst has.
    while throttled(&server).messages == 0 {
        for byte in message {
            frontend.send_raw(&[byte], &[]).unwrap();
            // A turn of its loop.
            server.ask(|_, _| ());
        }
        frontend.receive_raw().unwrap();
        sent += 1;
        assert!(sent < BURST / 2, "{sent} messages in pieces");
    }
}

/// Starts of the device, resumed sessions and questions, one after the other without a pause: more
/// than a frontend has to say in a minute.
#[test]
fn a_frontend_that_follows_the_protocol_is_not_throttled() {
    let _watchdog = Watchdog::new("a_frontend_that_follows_the_protocol_is_not_throttled");
    const QUEUES: u16 = 8;
    let server = TestServer::new(Setup { throttles: true, queues: QUEUES, ..Setup::default() });
    let options = ClientOptions { queues: QUEUES, ..default_options() };
    let mut client = Client::connect(server.socket(), options).unwrap();
    let mut drivers: Vec<_> = (0..QUEUES).map(|queue| driver(&mut client, queue)).collect();
    for _ in 0..2 {
        client.reconnect(server.socket()).unwrap();
        for (queue, driver) in (0..).zip(&mut drivers) {
            driver.set_irq(client.ports(queue).unwrap().irq);
            exercise(driver, 50);
        }
    }
    ask_many(client.frontend(), 500);
    assert_eq!(throttled(&server), Throttled::default());
}

/// Connects, and waits until the server hangs up.
fn connect_in_vain(socket: &TempPath) -> u64 {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(default_options().timeout)).unwrap();
    // A reset if the server closes it with bytes unread.
    assert!(matches!(stream.read(&mut [0]), Ok(0)), "another frontend is connected");
    1
}

#[test]
fn connections_are_accepted_at_a_bounded_rate() {
    let _watchdog = Watchdog::new("connections_are_accepted_at_a_bounded_rate");
    let server = throttling();
    let limits = (CONNECTIONS, CONNECTIONS);
    assert_bounded("sessions", limits, 1, || {
        let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
        frontend.get_features().unwrap();
        hang_up(&frontend);
        1
    });
    assert!(throttled(&server).connections > 0);

    let server = throttling();
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    assert_bounded("a second frontend", limits, 1, || connect_in_vain(server.socket()));
    let throttled = throttled(&server);
    assert!(throttled.connections > 0 && throttled.messages == 0, "{throttled:?}");
    // The first one has lost nothing.
    client.frontend().get_features().unwrap();
    exercise(&mut driver, 1_000);
}

#[test]
fn other_disks_are_served_while_a_frontend_is_throttled() {
    let _watchdog = Watchdog::new("other_disks_are_served_while_a_frontend_is_throttled");
    for elsewhere in [false, true] {
        let host = Host::throttling(2, elsewhere);
        let (mut greedy, mut its_driver) = host.connect(0);
        let mut asked = 0;
        while host.throttled(0).messages == 0 {
            asked += ask_many(greedy.frontend(), 100);
            assert!(asked < 100 * BURST);
        }
        // It sends on, and does not wait for answers.
        let more = Header::request(Code::GetFeatures.number(), 0).encode().repeat(100);
        greedy.frontend().send_raw(&more, &[]).unwrap();
        let before = host.throttled(0).messages;
        for _ in 0..5 {
            let (mut quick, mut quick_driver) = host.connect(1);
            exercise(&mut quick_driver, 100);
            quick.stop(0).unwrap();
            exercise(&mut its_driver, 100);
        }
        assert_eq!(host.throttled(1), Throttled::default(), "after {asked} messages");
        (0..100).for_each(|_| drop(greedy.frontend().receive_raw().unwrap()));
        assert!(host.throttled(0).messages > before);
    }
}

/// Ending a session does not wait for the end of its pause, and neither does the next one.
#[test]
fn a_throttled_frontend_can_be_disconnected() {
    let _watchdog = Watchdog::new("a_throttled_frontend_can_be_disconnected");
    let server = throttling();
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let _driver = driver(&mut client, 0);
    let ask = Header::request(Code::GetFeatures.number(), 0).encode();
    let mut asked = 0;
    while throttled(&server).messages == 0 {
        asked += ask_many(client.frontend(), 100);
        assert!(asked < 100 * BURST);
    }
    client.frontend().send_raw(&ask.repeat(200), &[]).unwrap();
    server.ask(|server, context| server.shut_down(context));
    assert!(!server.ask(|server, _| server.is_connected()));
    // 200 messages are worth 400 ms.
    let mut answered = 0;
    while client.frontend().receive_raw().is_ok() {
        answered += 1;
    }
    assert!(answered < 200, "{answered} messages were answered first");
}

#[test]
fn an_operator_sees_once_that_a_frontend_is_throttled() {
    let _watchdog = Watchdog::new("an_operator_sees_once_that_a_frontend_is_throttled");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::start(&socket, &image, &[]);
    let mut frontend = Frontend::connect(&socket, default_options().timeout).unwrap();
    ask_many(&mut frontend, BURST as usize / 2);
    server.signal(libc::SIGUSR1);
    server.wait_for_line("no queue is running");
    assert_bounded("questions", (BURST, RATE), 1, || ask_many(&mut frontend, 8));
    for _ in 0..CONNECTIONS + 50 {
        connect_in_vain(&socket);
    }
    server.signal(libc::SIGUSR1);
    // The server has seen the signal before the last of these.
    ask_many(&mut frontend, 50);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let lines = server.rest_of_lines();
    for once in ["sends more than 500 messages a second", "more than 100 connections a second", "throttled: "]
    {
        assert_eq!(lines.iter().filter(|line| line.contains(once)).count(), 1, "{once}: {lines:#?}");
    }
    let counted = lines.iter().find(|line| line.contains("throttled: ")).unwrap();
    assert!(!counted.contains(" 0 times"), "{counted}");
}
