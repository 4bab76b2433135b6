//! The end of a disk and of the process while a request takes long.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use virtio_blk_sim::guest::BlkDriver;

use super::client::Client;
use super::daemon::{Control, Daemon, text};
use super::daemon_disks::is_held;
use super::process::injecting;
use super::server::TempPath;
use super::{Watchdog, default_options, driver};

/// How long a flush takes.
const FLUSH: Duration = Duration::from_secs(10);

/// The program, with flushes that take that long. `None` if this machine has no strace(1).
pub(super) fn slow_flushes() -> Option<Command> {
    injecting(&format!("fdatasync:delay_enter={}", FLUSH.as_micros()))
}

/// A frontend of disk A whose flush is in progress, and when it may have begun.
pub(super) fn flushing(daemon: &mut Daemon, control: &mut Control) -> (Client, BlkDriver, Instant) {
    let began = Instant::now();
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    driver.flush(0).unwrap();
    driver.kick().unwrap();
    let drains = |control: &mut Control| {
        control.execute("statistics", json!({"id": "a"})).unwrap()[0]["queues"][0]["drains"].as_u64()
    };
    while drains(control) < Some(1) || !is_held(daemon.process.id()) {}
    (client, driver, began)
}

/// Whether the flush is still in progress. On a machine that is so busy that it may have ended by
/// itself, nothing can be said.
pub(super) fn in_time(daemon: &Daemon, began: Instant) -> bool {
    is_held(daemon.process.id()) || began.elapsed() >= FLUSH
}

/// The requests of a frontend that comes back now would not be completed.
#[test]
fn no_frontend_is_served_while_the_process_ends() {
    let _watchdog = Watchdog::new("no_frontend_is_served_while_the_process_ends");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", &keys), ("b", "memory = \"1m\"")]);
    let mut control = daemon.connect();
    let (_client, _driver, began) = flushing(&mut daemon, &mut control);
    control.execute("quit", json!({})).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while UnixStream::connect(daemon.socket("b")).is_ok() {
        assert!(Instant::now() < deadline, "frontends are accepted until the process ends");
    }
    assert!(in_time(&daemon, began), "the process has ended before");
    assert_eq!(daemon.process.wait().code(), Some(0));
}

/// Another command that waits for the disk does not keep its frontend.
#[test]
fn a_forced_removal_ends_the_session_while_a_queue_moves() {
    let _watchdog = Watchdog::new("a_forced_removal_ends_the_session_while_a_queue_moves");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}\nloops = [0]", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 2", &[("a", &keys)]);
    let (mut control, mut moving) = (daemon.connect(), daemon.connect());
    let (mut client, mut driver, began) = flushing(&mut daemon, &mut control);
    moving.start("move-disk", json!({"id": "a", "loops": [1]}));
    while control.disk("a")["loops"] != json!([1]) {}
    control.execute("remove-disk", json!({"id": "a", "force": true})).unwrap();
    let mut socket = [PollFd::new(client.frontend(), PollFlags::RDHUP)];
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    assert_eq!(poll(&mut socket, Some(&second)).unwrap(), 1, "the frontend of a removed disk is connected");
    let why = moving.outcome().unwrap_err();
    assert_eq!(why, "disk a was removed while it was being moved");
    assert!(in_time(&daemon, began), "the flush has ended, so the removal may have waited for it");
    // When the storage answers again, nothing more is done for this guest.
    driver.read(1, 0).unwrap();
    driver.kick().unwrap();
    while driver.queue_mut().used_idx() == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(driver.queue_mut().used_idx(), 1, "the queue was started again for a disk that was removed");
}

/// Nor does a change of its size that storage does not answer.
#[test]
fn a_forced_removal_ends_a_resize() {
    let _watchdog = Watchdog::new("a_forced_removal_ends_a_resize");
    let Some(command) = injecting("ftruncate:delay_enter=10000000") else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", &keys)]);
    let (mut control, mut resizing) = (daemon.connect(), daemon.connect());
    let began = Instant::now();
    resizing.start("resize-disk", json!({"id": "a", "size": 64 << 20}));
    while !is_held(daemon.process.id()) {}
    control.execute("remove-disk", json!({"id": "a", "force": true})).unwrap();
    let why = resizing.outcome().unwrap_err();
    assert_eq!(why, "disk a was removed while its size was being changed");
    assert!(in_time(&daemon, began), "the image has got its size, so the command may have waited for it");
    control.execute("quit", json!({"force": true})).unwrap();
    assert_eq!(daemon.process.wait().code(), Some(1));
}
