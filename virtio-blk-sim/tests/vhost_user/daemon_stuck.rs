//! Storage, loops and commands that do not come back: what is left must go on, and every wait can
//! be ended.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::client::Client;
use super::daemon::{Control, Daemon, text};
use super::daemon_disks::is_held;
use super::daemon_ends::{flushing, in_time, slow_flushes};
use super::process::injecting;
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise, finish};

/// A change of the owner of a socket takes ten seconds: what `add-disk` does with `socket-owner`.
const SLOW_OWNER: &str = "fchownat:delay_enter=10000000";

/// The arguments of an add-disk that takes ten seconds.
fn slow(daemon: &mut Daemon, id: &str) -> Value {
    let me = rustix::process::getuid().as_raw().to_string();
    json!({"id": id, "socket": text(daemon.socket(id)), "null": 512, "socket-owner": me})
}

/// The loop of one disk is failed by the kernel. Its frontend is informed, the disk is served by
/// the other loop from then on, and so are new disks.
#[test]
fn a_loop_that_ends_is_reported_and_replaced() {
    let _watchdog = Watchdog::new("a_loop_that_ends_is_reported_and_replaced");
    // For each thread by itself: only the loop with the busy guest gets so far.
    let Some(mut command) = injecting("epoll_wait,epoll_pwait,epoll_pwait2:error=EBADF:when=500") else {
        return;
    };
    let metrics = TempPath::new("metrics");
    command.arg("--metrics").arg(metrics.as_ref());
    let disks = [("a", "memory = \"1m\"\nloops = [0]"), ("b", "memory = \"1m\"\nloops = [1]")];
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 2", &disks);
    let mut control = daemon.connect();
    let mut b = Client::connect(daemon.socket("b"), default_options()).unwrap();
    let mut of_b = driver(&mut b, 0);
    let mut a = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut of_a = driver(&mut a, 0);
    let mut finished = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    // One at a time: each kick wakes the loop.
    'busy: for count in 0.. {
        of_a.read(0, 0).unwrap();
        of_a.kick().unwrap();
        while of_a.queue_mut().used_idx() != (count + 1_u64) as u16 {
            let mut socket = [PollFd::new(a.frontend(), PollFlags::RDHUP)];
            if poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1 {
                break 'busy;
            }
            assert!(Instant::now() < deadline, "a guest hangs after {count} requests, and nobody tells it");
        }
        finished.clear();
        finish(&mut of_a, &mut finished, 1);
    }
    assert!(a.take_error(0).unwrap());
    let line = daemon.process.next_line("has ended");
    assert!(line.contains("loop 0 (queue-io-0) has ended: Bad file descriptor (os error 9)"), "{line}");
    daemon.process.wait_for_line("a: closing the frontend's connection: queue 0 does not run any more");
    let data = loop {
        let (name, data) = control.event();
        if name == "loop-ended" {
            break data;
        }
    };
    let error = "Bad file descriptor (os error 9)";
    assert_eq!(data, json!({"loop": 0, "thread": "queue-io-0", "error": error}));
    exercise(&mut of_b, 50);
    // The same disk and new ones.
    drop((a, of_a));
    let mut a = Client::connect(daemon.socket("a"), default_options()).unwrap();
    exercise(&mut driver(&mut a, 0), 50);
    assert_eq!(control.disk("a")["loops"], json!([1]));
    for (id, loops) in [("c", json!([])), ("d", json!([])), ("e", json!([0]))] {
        let keys = json!({"id": id, "socket": text(daemon.socket(id)), "memory": "1m", "loops": loops});
        let added = control.execute("add-disk", keys);
        if id == "e" {
            assert_eq!(added.unwrap_err(), "loop 0 has ended");
            continue;
        }
        assert_eq!(control.disk(id)["loops"], json!([1]));
        let mut client = Client::connect(daemon.socket(id), default_options()).unwrap();
        exercise(&mut driver(&mut client, 0), 50);
    }
    let why = control.execute("move-disk", json!({"id": "a", "loops": [0]})).unwrap_err();
    assert_eq!(why, "loop 0 has ended");
    let mut scraper = UnixStream::connect(&metrics).unwrap();
    scraper.write_all(b"\n").unwrap();
    let mut scraped = String::new();
    scraper.read_to_string(&mut scraped).unwrap();
    for (name, alive) in [("main", 1), ("queue-io-0", 0), ("queue-io-1", 1)] {
        let line = format!("virtio_blk_loop_alive{{loop=\"{name}\"}} {alive}");
        assert!(scraped.contains(&line), "{line}: {scraped}");
    }
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// Commands that wait, and clients that wait for them, keep nobody from looking and from ending it.
#[test]
fn commands_that_wait_leave_room_for_others() {
    let _watchdog = Watchdog::new("commands_that_wait_leave_room_for_others");
    let Some(command) = injecting(SLOW_OWNER) else { return };
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", "memory = \"1m\"")]);
    let mut waiting: Vec<Control> = Vec::new();
    for index in 0..40 {
        let mut control = daemon.connect();
        let disk = slow(&mut daemon, &format!("slow{index}"));
        control.start("add-disk", disk);
        waiting.push(control);
    }
    let mut control = daemon.connect();
    while control.execute("list-disks", json!({})).unwrap().as_array().unwrap().len() < 41 {}
    control.execute("statistics", json!({})).unwrap();
    let (one, more) = (slow(&mut daemon, "more"), 40);
    let why = control.execute("add-disk", one).unwrap_err();
    assert!(why.contains(&format!("{more} commands wait, and no more can")), "{why}");
    // Each of them can be ended.
    for (index, waiting) in waiting.iter_mut().enumerate().take(20) {
        let id = format!("slow{index}");
        control.execute("remove-disk", json!({"id": id, "force": true})).unwrap();
        let why = waiting.outcome().unwrap_err();
        assert_eq!(why, format!("disk {id} was removed while it was being added"));
        assert!(control.disk(&id).is_null());
    }
    assert!(is_held(daemon.process.id()), "the commands have ended by themselves");
    // A client that hangs up waits no more; its command goes on.
    drop(waiting.split_off(20));
    drop(waiting);
    let mut clients: Vec<Control> = (0..15).map(|_| daemon.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.execute("list-disks", json!({})).unwrap());
    assert_eq!(control.disk("slow39")["state"], json!("being added"));
    control.execute("quit", json!({"force": true})).unwrap();
    assert_eq!(daemon.process.wait().code(), Some(1));
}

/// A loop that does not turn has no counters, and the others have theirs.
#[test]
fn statistics_do_not_wait_for_a_loop_that_hangs() {
    let _watchdog = Watchdog::new("statistics_do_not_wait_for_a_loop_that_hangs");
    // For each thread by itself: only the loop with the busy guest gets so far.
    let waits = "epoll_wait,epoll_pwait,epoll_pwait2:delay_enter=8000000:when=500";
    let Some(command) = injecting(waits) else { return };
    let disks = [("a", "memory = \"1m\"\nloops = [0]"), ("b", "memory = \"1m\"\nloops = [1]")];
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 2", &disks);
    let mut control = daemon.connect();
    let mut b = Client::connect(daemon.socket("b"), default_options()).unwrap();
    exercise(&mut driver(&mut b, 0), 50);
    let mut a = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut of_a = driver(&mut a, 0);
    let mut finished = Vec::new();
    let hangs = 'busy: loop {
        let before = of_a.queue_mut().used_idx();
        of_a.read(0, 0).unwrap();
        of_a.kick().unwrap();
        let begin = Instant::now();
        while of_a.queue_mut().used_idx() == before {
            if begin.elapsed() > Duration::from_secs(1) {
                break 'busy begin;
            }
        }
        finished.clear();
        finish(&mut of_a, &mut finished, 1);
    };
    let statistics = control.execute("statistics", json!({})).unwrap();
    assert!(hangs.elapsed() < Duration::from_secs(6), "the loop may turn again");
    let throttled = json!({"messages": 0, "connections": 0});
    let of_a = json!({"id": "a", "frontends": 1, "throttled": throttled, "queues": [], "answered": false});
    assert_eq!(statistics[0], of_a);
    assert_eq!(statistics[1]["queues"].as_array().unwrap().len(), 1);
    assert!(statistics[1]["answered"].is_null());
    control.execute("quit", json!({"force": true})).unwrap();
    assert_eq!(daemon.process.wait().code(), Some(1));
}

/// One disk that goes slowly holds up neither the rest of the file nor the next one.
#[test]
fn a_slow_removal_does_not_hold_up_the_configuration() {
    let _watchdog = Watchdog::new("a_slow_removal_does_not_hold_up_the_configuration");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", &keys), ("b", "memory = \"1m\"")]);
    let mut control = daemon.connect();
    let guest = flushing(&mut daemon, &mut control);
    let (b, c) = (("b", "memory = \"1m\""), ("c", "null = 512"));
    daemon.write("monitor = \"epoll\"", &[b, c, ("e", &keys)]);
    daemon.reload(
        "the configuration was read again: 1 disks added, 0 removed, 0 changed; still being removed: a; to be \
         added after that: e",
    );
    assert!(in_time(&daemon, guest.2), "the flush has ended");
    // What comes after another disk is what the last file says.
    daemon.write("monitor = \"epoll\"", &[("b", "memory = \"1m\"\niops = 1000"), c, ("f", &keys)]);
    daemon.reload("0 disks added, 0 removed, 1 changed; to be added after that: f");
    assert!(in_time(&daemon, guest.2), "the flush has ended");
    assert_eq!(control.disk("b")["iops"], json!(1000));
    daemon.process.wait_for_line("disk f is served now");
    let disks = control.execute("list-disks", json!({})).unwrap();
    let ids: Vec<_> = disks.as_array().unwrap().iter().map(|disk| disk["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["b", "c", "f"]);
    drop(guest);
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// Nor does a disk that changes slowly: its queue waits for a request before it moves.
#[test]
fn a_slow_change_does_not_hold_up_the_configuration() {
    let _watchdog = Watchdog::new("a_slow_change_does_not_hold_up_the_configuration");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = |loops: &str| format!("image = {:?}\nloops = [{loops}]", text(&image));
    let plain = "memory = \"1m\"";
    let of_daemon = "monitor = \"epoll\"\nloops = 2";
    let mut daemon = Daemon::run(command, of_daemon, &[("a", &keys("0")), ("b", plain)]);
    let mut control = daemon.connect();
    let guest = flushing(&mut daemon, &mut control);
    daemon.write(of_daemon, &[("a", &keys("1")), ("b", "memory = \"1m\"\niops = 1000")]);
    daemon.reload(
        "the configuration was read again: 0 disks added, 0 removed, 1 changed; still being changed: a",
    );
    assert!(in_time(&daemon, guest.2), "the flush has ended");
    assert_eq!(control.disk("b")["iops"], json!(1000));
    // Nor does it hold up the next file.
    daemon.write(of_daemon, &[("a", &keys("1")), ("b", plain)]);
    daemon.reload("the configuration was read again: 0 disks added, 0 removed, 1 changed");
    assert!(in_time(&daemon, guest.2), "the flush has ended");
    daemon.process.wait_for_line("disk a is changed now");
    drop(guest);
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// The disk that goes comes back with the next file.
#[test]
fn a_disk_that_is_wanted_again_comes_back() {
    let _watchdog = Watchdog::new("a_disk_that_is_wanted_again_comes_back");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", &keys)]);
    let mut control = daemon.connect();
    let before = control.disk("a")["generation"].as_u64().unwrap();
    let guest = flushing(&mut daemon, &mut control);
    daemon.write("monitor = \"epoll\"", &[]);
    daemon.reload("still being removed: a");
    daemon.write("monitor = \"epoll\"", &[("a", &keys)]);
    daemon.reload("0 disks added, 0 removed, 0 changed; to be added after that: a");
    assert!(in_time(&daemon, guest.2), "the flush has ended");
    daemon.process.wait_for_line("disk a is served now");
    assert!(control.disk("a")["generation"].as_u64().unwrap() > before);
}

/// An end that waits for storage can be forced, by the same means as the end itself.
#[test]
fn an_end_that_waits_can_be_forced() {
    let _watchdog = Watchdog::new("an_end_that_waits_can_be_forced");
    for (first, second) in [("quit", "quit"), ("SIGTERM", "SIGTERM"), ("SIGINT", "quit")] {
        let Some(command) = slow_flushes() else { return };
        let image = TempPath::image();
        let keys = format!("image = {:?}", text(&image));
        let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 1", &[("a", &keys)]);
        let (mut control, mut other) = (daemon.connect(), daemon.connect());
        let guest = flushing(&mut daemon, &mut control);
        let end = |daemon: &Daemon, how: &str, force: bool| match how {
            "quit" => {
                let mut control = daemon.connect();
                control.execute("quit", json!({"force": force})).unwrap();
            }
            "SIGTERM" => daemon.process.signal(libc::SIGTERM),
            _ => daemon.process.signal(libc::SIGINT),
        };
        end(&daemon, first, false);
        while UnixStream::connect(daemon.socket("a")).is_ok() {}
        // A second one that may wait changes nothing, nor does the first signal, and one that comes
        // with it: timeout(1) sends two.
        (0..2).for_each(|_| daemon.process.signal(libc::SIGTERM));
        std::thread::sleep(Duration::from_millis(100));
        daemon.process.signal(libc::SIGINT);
        std::thread::sleep(Duration::from_millis(1100));
        other.execute("quit", json!({})).unwrap();
        assert!(daemon.process.is_alive());
        assert!(in_time(&daemon, guest.2), "the flush has ended");
        end(&daemon, second, true);
        // strace may keep the thread that it holds, and so the process, but the line comes before.
        let begin = Instant::now();
        daemon.process.wait_for_line("ended by force");
        assert!(begin.elapsed() < Duration::from_secs(5), "{first}, then {second}: it waited");
        assert_eq!(daemon.process.wait().code(), Some(1), "{first}, then {second}");
        for path in [daemon.socket("a").as_ref().to_owned(), daemon.control.as_ref().to_owned()] {
            assert!(!path.exists(), "{path:?} is left");
        }
        drop(guest);
    }
}

/// The same if it is not a request that does not come back.
#[test]
fn an_end_that_waits_for_an_image_can_be_forced() {
    let _watchdog = Watchdog::new("an_end_that_waits_for_an_image_can_be_forced");
    let Some(command) = injecting(SLOW_OWNER) else { return };
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &[("a", "memory = \"1m\"")]);
    let mut control = daemon.connect();
    let disk = slow(&mut daemon, "slow");
    control.start("add-disk", disk);
    while !is_held(daemon.process.id()) {}
    daemon.process.signal(libc::SIGTERM);
    while UnixStream::connect(daemon.socket("a")).is_ok() {}
    std::thread::sleep(Duration::from_millis(1200));
    assert!(daemon.process.is_alive());
    daemon.process.signal(libc::SIGTERM);
    let begin = Instant::now();
    daemon.process.wait_for_line("ended by force");
    assert!(begin.elapsed() < Duration::from_secs(5), "it waited");
    assert_eq!(daemon.process.wait().code(), Some(1));
}

/// What happens late to a disk that was removed by force is not taken for what happens to the disk
/// that has its name now.
#[test]
fn events_tell_disks_of_one_name_apart() {
    let _watchdog = Watchdog::new("events_tell_disks_of_one_name_apart");
    let Some(command) = slow_flushes() else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}\nloops = [0]", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 2", &[("a", &keys)]);
    let (mut control, mut moving, mut watcher) = (daemon.connect(), daemon.connect(), daemon.connect());
    let first = control.disk("a")["generation"].as_u64().unwrap();
    let _guest = flushing(&mut daemon, &mut control);
    moving.start("move-disk", json!({"id": "a", "loops": [1]}));
    while control.disk("a")["loops"] != json!([1]) {}
    control.execute("remove-disk", json!({"id": "a", "force": true})).unwrap();
    let again = json!({"id": "a", "socket": text(daemon.socket("a")), "null": 512});
    let second = control.execute("add-disk", again).unwrap()["generation"].as_u64().unwrap();
    assert!(second > first);
    assert_eq!(control.disk("a")["generation"], json!(second));
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let generation = |data: &Value| data["generation"].as_u64().unwrap();
    assert_eq!(generation(&watcher.wait_for("frontend-connected", "a")), first);
    assert_eq!(generation(&watcher.wait_for("disk-removed", "a")), first);
    assert_eq!(generation(&watcher.wait_for("disk-added", "a")), second);
    assert_eq!(generation(&watcher.wait_for("frontend-connected", "a")), second);
    // The flush comes to its end now.
    assert_eq!(generation(&watcher.wait_for("frontend-disconnected", "a")), first);
    assert!(client.frontend().get_features().is_ok());
    drop(client);
    assert_eq!(generation(&watcher.wait_for("frontend-disconnected", "a")), second);
}
