//! Many frontends, one after the other, at one server: each is served, and nothing is left of any.

use std::fs;
use std::time::{Duration, Instant};

use super::client::{Client, ClientOptions};
use super::process::Process;
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise};

/// Sessions of the test; so many with RECONNECTS=1000.
const SESSIONS: usize = 48;
/// The requests of a session, whose data is verified.
const REQUESTS: u64 = 20;
const QUEUES: u16 = 2;
/// How much more memory the second half of the sessions may leave than the first: what an allocator
/// does in any program. In 1,000 sessions, a leak of 200 bytes in each is more.
const SLACK_KIB: usize = 96;

/// What the server holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// What each descriptor refers to, without its inode.
    descriptors: Vec<String>,
    threads: usize,
    mappings: usize,
}

impl Held {
    fn by(server: u32) -> Self {
        let proc = format!("/proc/{server}");
        let mut descriptors: Vec<_> = fs::read_dir(format!("{proc}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.to_string_lossy().split('[').next().unwrap_or_default().to_owned())
            .collect();
        descriptors.sort();
        // Without the workers of io_uring (iou-wrk), which the kernel makes and ends as it likes.
        let threads = fs::read_dir(format!("{proc}/task"))
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|name| !name.starts_with("iou-"))
            .count();
        // The heap may be split into more or fewer mappings.
        let maps = fs::read_to_string(format!("{proc}/maps")).unwrap();
        let mappings = maps.lines().filter(|line| line.contains('/')).count();
        Self { descriptors, threads, mappings }
    }
}

/// Anonymous memory of a process, in KiB.
fn anonymous_kib(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One session, which ends in one of three ways.
fn session(socket: &TempPath, number: usize) {
    let mut client = Client::connect(socket, ClientOptions { queues: QUEUES, ..default_options() }).unwrap();
    let mut drivers = [0, 1].map(|queue| driver(&mut client, queue));
    drivers.iter_mut().for_each(|driver| drop(exercise(driver, REQUESTS)));
    match number % 3 {
        // The guest shuts down.
        0 => {
            for queue in 0..QUEUES {
                client.stop(queue).unwrap();
            }
        }
        // It is gone in the middle of its requests.
        1 => {
            for driver in &mut drivers {
                (0..8).for_each(|slot| driver.read(slot, 0).unwrap());
                driver.kick().unwrap();
            }
        }
        // The VMM resumes the session, with the same in-flight region.
        _ => {
            client.reconnect(socket).unwrap();
            for (queue, driver) in (0..).zip(&mut drivers) {
                driver.set_irq(client.ports(queue).unwrap().irq);
                exercise(driver, REQUESTS);
            }
        }
    }
}

#[test]
fn a_server_keeps_nothing_of_its_frontends() {
    let asked = std::env::var("RECONNECTS").ok();
    let sessions = asked.map_or(SESSIONS, |number| number.parse().expect("RECONNECTS is a number"));
    // The watchdog is for the short form; a long run has the timeouts of the client.
    let _watchdog = (sessions <= SESSIONS).then(|| Watchdog::new("a_server_keeps_nothing_of_its_frontends"));
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let server = Process::start(&socket, &image, &["--queues", "2", "--threads", "2"]);
    let nobody = Held::by(server.id());
    let mut before = 0;
    let start = Instant::now();
    for number in 0..sessions {
        session(&socket, number);
        if number == sessions / 2 {
            before = anonymous_kib(server.id());
        }
        if number % 100 == 99 || number + 1 == sessions {
            // The server closes what the last session had, a moment after the hang-up.
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut held = Held::by(server.id());
            while held != nobody && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
                held = Held::by(server.id());
            }
            assert_eq!(held, nobody, "after {} sessions", number + 1);
        }
    }
    let after = anonymous_kib(server.id());
    println!(
        "{sessions} sessions, a third of them resumed, in {:.1} s: {} descriptors, {} threads and {} mappings \
         of files before and after; {before} KiB of memory after half of them, {after} KiB at the end",
        start.elapsed().as_secs_f64(),
        nobody.descriptors.len(),
        nobody.threads,
        nobody.mappings,
    );
    assert!(after <= before + SLACK_KIB, "{before} KiB of memory after half of them, {after} KiB at the end");
}
