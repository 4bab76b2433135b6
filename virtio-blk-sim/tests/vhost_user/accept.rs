//! A server that has no descriptor left for another connection.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::client::Client;
use super::process::Process;
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise};

/// Sets the limit on descriptors. `None` is the limit of this process.
fn limit_descriptors(server: &Process, limit: Option<u64>) {
    let ours = rustix::process::getrlimit(Resource::Nofile);
    let new = Rlimit { current: limit.or(ours.current), maximum: ours.maximum };
    prlimit(Pid::from_raw(server.id() as i32), Resource::Nofile, new).unwrap();
}

/// The lowest number that no descriptor of the server has.
fn first_free(server: &Process) -> u64 {
    let open = |number: &u64| std::fs::symlink_metadata(format!("/proc/{}/fd/{number}", server.id())).is_ok();
    (0..).find(|number| !open(number)).unwrap()
}

/// The CPU time that the server has used, in ticks of 10 ms.
fn ticks(server: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).unwrap();
    // The fields after the name: the state is the first, the times are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_server_without_descriptors_rests_and_serves_on() {
    let _watchdog = Watchdog::new("a_server_without_descriptors_rests_and_serves_on");
    for monitor in ["epoll", "poll", "io_uring"] {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let mut server = Process::start(&socket, &image, &["--monitor", monitor]);
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 100);
        limit_descriptors(&server, Some(first_free(&server)));
        let waiting = UnixStream::connect(&socket).unwrap();
        server.wait_for_line("cannot accept connections for now: Too many open files (os error 24)");
        let before = ticks(&server);
        std::thread::sleep(Duration::from_millis(1_200));
        let used = ticks(&server) - before;
        assert!(used < 20, "{monitor}: {used} ticks of CPU time in 1.2 s");
        drop(waiting);
        limit_descriptors(&server, None);
        exercise(&mut driver, 100);
        drop(client);
        exercise(&mut super::driver(&mut Client::connect(&socket, default_options()).unwrap(), 0), 100);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        let said = server.rest_of_lines();
        assert!(!said.iter().any(|line| line.contains("cannot accept")), "{monitor}: {said:?}");
    }
}
