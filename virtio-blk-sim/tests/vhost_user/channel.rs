//! The channel of the backend, when the frontend does not read it.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use virtio_blk_sim::vhost_user::{HEADER_SIZE, ProtocolFeatures, Request};

use super::client::{Client, ClientOptions};
use super::server::{Setup, TestServer};
use super::{Watchdog, default_options, driver, exercise};

/// More messages than the socket has room for.
const MANY: usize = 2000;

/// Counts messages until none comes for a while.
fn read_all(channel: &mut UnixStream) -> usize {
    let mut count = 0;
    loop {
        match channel.read_exact(&mut [0; HEADER_SIZE]) {
            Ok(()) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a full channel has no room for is sent when the frontend has read, without another reason.
#[test]
fn a_change_is_sent_when_the_channel_has_room_again() {
    let _watchdog = Watchdog::new("a_change_is_sent_when_the_channel_has_room_again");
    let server = TestServer::new(Setup::default());
    let options = default_options();
    let protocol = options.protocol.map(|protocol| protocol | ProtocolFeatures::BACKEND_REQ);
    let mut client = Client::connect(server.socket(), ClientOptions { protocol, ..options }).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client.frontend().exchange(Request::SetBackendReqFd(theirs.into())).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 20);
    let change = |server: &TestServer| {
        server.ask(|server, _| server.config_changed());
        // The conversation has looked at it, so the next one is not the same news.
        (0..2).for_each(|_| server.ask(|_, _| ()));
    };
    change(&server);
    assert_eq!(read_all(&mut ours), 1);
    for round in 0..3 {
        (0..MANY).for_each(|_| change(&server));
        let turns = |server: &TestServer| server.ask(|_, context| context.stats().turns);
        let before = turns(&server);
        std::thread::sleep(Duration::from_millis(100));
        assert!(turns(&server) - before < 20, "the loop does not sleep while the channel is full");
        exercise(&mut driver, 20);
        // What was in the socket, one message that waited for room, and one for all later changes.
        let count = read_all(&mut ours);
        assert!((3..MANY).contains(&count), "round {round}: the channel was not full: {count}");
        assert_eq!(count, room() + 2, "round {round}");
        change(&server);
        assert_eq!(read_all(&mut ours), 1, "round {round}");
    }
}

/// How many messages a socket has room for.
fn room() -> usize {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (0..).find(|_| std::io::Write::write(&mut &ours, &[0; HEADER_SIZE]).is_err()).map_or(0, |count| {
        drop(theirs);
        count
    })
}
