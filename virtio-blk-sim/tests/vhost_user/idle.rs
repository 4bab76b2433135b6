//! A server whose guest is idle must be idle too: none of its threads may be scheduled.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use virtio_blk_sim::guest::BlkDriver;

use super::client::Client;
use super::process::{Process, leaving_with_us};
use super::server::TempPath;
use super::transfer::monitors;
use super::{Watchdog, default_options, driver, exercise};

/// Returns the context switches of each thread, by thread id and name: one per time that it ran.
/// Skips io_uring workers, which the kernel wakes every five seconds to check whether they are
/// still needed (io_wq_worker, WORKER_IDLE_TIMEOUT).
fn switches(process: u32) -> BTreeMap<String, u64> {
    let mut switches = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        // A thread that has just ended; the comparison will notice that it is missing.
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name} in {status}")).trim()
        };
        if !field("Name").starts_with("iou-wrk-") {
            let [voluntary, involuntary] = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
                .map(|name| field(name).parse::<u64>().unwrap());
            switches.insert(format!("{} {}", field("Pid"), field("Name")), voluntary + involuntary);
        }
    }
    switches
}

/// A process that sleeps until its input ends. If it was woken, all processes were, for example
/// because a cgroup or the machine was frozen and thawed.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(leaving_with_us(&mut Command::new("cat")).stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server and its guest, which stays attached as long as this exists.
struct Attached {
    name: String,
    server: Process,
    _guest: (BlkDriver, Client, TempPath, TempPath),
}

impl Attached {
    /// Starts a server and has it serve a few requests.
    fn new(arguments: &[&str]) -> Self {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let server = Process::start(&socket, &image, arguments);
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 200);
        Self { name: arguments.join(" "), server, _guest: (driver, client, socket, image) }
    }
}

#[test]
fn no_thread_of_an_idle_server_is_scheduled() {
    let _watchdog = Watchdog::new("no_thread_of_an_idle_server_is_scheduled");
    let sleeper = Sleeper::new();
    let mut servers = Vec::new();
    for monitor in monitors().iter().map(ToString::to_string) {
        for busy_poll in ["0", "32768"] {
            servers.push(Attached::new(&["--monitor", &monitor, "--busy-poll", busy_poll]));
            // With the queue on an I/O thread.
            let arguments = ["--monitor", &monitor, "--busy-poll", busy_poll, "--threads", "1"];
            servers.push(Attached::new(&arguments));
        }
    }
    let ids: Vec<u32> = servers.iter().map(|attached| attached.server.id()).collect();
    let read = || -> Vec<_> { ids.iter().copied().map(switches).collect() };

    // Wait for the work after the last request: one more turn of the loop, and a busy-polling
    // window.
    let mut before = read();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = read();
        if std::mem::replace(&mut before, now) == before {
            break;
        }
    }
    let undisturbed = (0..10).any(|_| {
        let asleep = switches(sleeper.0.id());
        before = read();
        std::thread::sleep(Duration::from_secs(1));
        let after = read();
        if switches(sleeper.0.id()) != asleep {
            println!("all processes were woken; trying again");
            return false;
        }
        for ((attached, before), after) in servers.iter().zip(&before).zip(&after) {
            assert_eq!(before, after, "context switches of vhost-user-blk {} in a second", attached.name);
        }
        true
    });
    assert!(undisturbed, "on this machine no process sleeps for a whole second");
}
