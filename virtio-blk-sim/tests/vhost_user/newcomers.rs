//! Frontends that come while the rings of the last one are being stopped.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use virtio_blk_sim::blk::backend::{Backend, Delay};
use virtio_blk_sim::vhost_user::Frontend;

use super::client::Client;
use super::server::{Setup, TestServer};
use super::vring::hang_up;
use super::{DEPTH, Watchdog, default_options, driver};

/// Whether the server keeps the connection open for now.
fn is_kept(mut stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    !matches!(stream.read(&mut [0]), Ok(0))
}

/// Each that waits has a descriptor, of which one is counted for each disk. It is the first of
/// those that are still there.
#[test]
fn one_frontend_waits_for_the_end_of_another() {
    let _watchdog = Watchdog::new("one_frontend_waits_for_the_end_of_another");
    let backend = Backend::Delay(Delay { latency: Duration::from_secs(4), spin: false });
    let server = TestServer::new(Setup { backend, ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let drains =
        || -> u64 { server.ask(|server, _| server.stats().iter().map(|(_, stats)| stats.drains).sum()) };
    while drains() == 0 {}
    let before = drains();
    (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
    driver.kick().unwrap();
    while drains() == before {}
    hang_up(client.frontend());
    let connect = || UnixStream::connect(server.socket()).unwrap();
    let first = connect();
    server.ask(|_, _| ());
    let others: Vec<_> = (0..10).map(|_| connect()).collect();
    let kept = others.iter().filter(|other| is_kept(other)).count();
    assert_eq!(kept, 0, "they take descriptors that nobody has counted");
    // One that goes away makes room.
    drop(first);
    let second = connect();
    assert!(is_kept(&second));
    assert!(server.ask(|server, _| server.sessions()) == 1, "the first session has ended");
    // It is served in the end.
    let mut frontend = Frontend::from_stream(second, Duration::from_secs(20));
    frontend.get_features().unwrap();
    assert_eq!(driver.queue_mut().used_idx(), DEPTH, "the writes in flight are complete");
}
