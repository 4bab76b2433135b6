//! `--user`, `--group`, `--socket-owner` and `--pid-file`.
#![expect(unsafe_code, reason = "geteuid(2)")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use super::Watchdog;
use super::client::Client;
use super::daemon::text;
use super::process::Process;
use super::server::TempPath;
use super::{default_options, driver, exercise};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-user-blk");

/// Numbers that no account has.
const USER: u32 = 54_321;
const GROUP: u32 = 54_322;

/// Only root can become somebody else.
fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: this needs root");
    }
    root
}

/// A line of /proc/PID/status for each thread of the process, without its name.
fn status(process: u32, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let line = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        line.strip_prefix(':').unwrap().trim().to_owned()
    };
    tasks.map(line).collect()
}

#[test]
fn a_server_becomes_another_user_for_good() {
    let _watchdog = Watchdog::new("a_server_becomes_another_user_for_good");
    if !is_root() {
        return;
    }
    let rows: [(&[&str], u32, u32); 4] = [
        (&["--user", "54321", "--group", "54322"], USER, GROUP),
        (&["--group", "54322"], 0, GROUP),
        (&["--user", "nobody"], 65534, 65534),
        (&["--user", "54321", "--group", "54322", "--sandbox", "on"], USER, GROUP),
    ];
    for (options, uid, gid) in rows {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        // An image that only root may open.
        std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).unwrap();
        // And groups that it has to lose.
        let mut command = Command::new("setpriv");
        command.args(["--groups", "1,2,54323", PROGRAM]).args(options);
        command.args(["--queues", "2", "--threads", "2", "--socket", text(&socket)]);
        command.args(["--image", text(&image)]);
        let mut server = Process::run(&mut command, &socket, Stdio::piped());
        server.wait_for_line("listening on");
        let mut client = Client::connect(&socket, default_options()).unwrap();
        exercise(&mut driver(&mut client, 0), 200);
        let ids = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
        let is_everywhere = |name: &str, wanted: &str| {
            let lines = status(server.id(), name);
            assert!(lines.len() >= 3, "the main thread and two more");
            assert!(lines.iter().all(|line| line == wanted), "{options:?}: {name}: {lines:?}");
        };
        is_everywhere("Uid", &ids(uid));
        is_everywhere("Gid", &ids(gid));
        is_everywhere("Groups", "");
        is_everywhere("NoNewPrivs", "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            is_everywhere(set, "0000000000000000");
        }
        server.signal(libc::SIGHUP);
        server.wait_for_line("the disk now has");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_user_that_is_not_there_changes_nothing() {
    let _watchdog = Watchdog::new("a_user_that_is_not_there_changes_nothing");
    let pid_file = TempPath::new("pid");
    let rows: &[(&[&str], &str)] = &[
        (&["--user", "no such user"], "there is no user no such user"),
        (&["--group", "no such group"], "there is no group no such group"),
        (&["--user", "54321"], "user 54321 has no account; name its group, too"),
        (&["--user", ""], "a name or a number is missing"),
        (&["--user", "4294967295"], "4294967295 is no number of a user or group"),
        (&["--socket-owner", "no such user"], "--socket-owner no such user: there is no user no such user"),
        (&["--socket-owner", ":no such group"], "--socket-owner :no such group: there is no group"),
    ];
    for (options, sentence) in rows {
        let socket = TempPath::new("sock");
        let options = [options, &["--pid-file", text(&pid_file)][..]].concat();
        let mut server = Process::launch(&socket, &["--null".as_ref(), "1m".as_ref()], &options);
        let lines = server.rest_of_lines().join("\n");
        assert_eq!(server.wait().code(), Some(2), "{options:?}: {lines}");
        assert!(lines.contains(sentence), "{options:?}: {lines}");
        assert!(!socket.as_ref().exists() && !pid_file.as_ref().exists());
    }
}

/// Somebody without rights who asks for another user is refused.
#[test]
fn changing_the_user_needs_root() {
    let _watchdog = Watchdog::new("changing_the_user_needs_root");
    if !is_root() {
        return;
    }
    let socket = TempPath::new("sock");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=54321", "--regid=54322", "--clear-groups", PROGRAM]);
    command.args(["--socket", text(&socket), "--null", "1m", "--user", "nobody"]);
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    let lines = server.rest_of_lines().join("\n");
    assert_eq!(server.wait().code(), Some(2), "{lines}");
    assert!(lines.contains("changing the user or group needs root (CAP_SETUID and CAP_SETGID)"), "{lines}");
    assert!(!socket.as_ref().exists());
}

#[test]
fn a_socket_gets_its_owner() {
    let _watchdog = Watchdog::new("a_socket_gets_its_owner");
    if !is_root() {
        return;
    }
    let image = TempPath::image();
    for (owner, uid, gid) in [("54321", USER, 0), (":54322", 0, GROUP), ("nobody:54322", 65534, GROUP)] {
        let socket = TempPath::new("sock");
        let more = ["--socket-owner", owner, "--socket-mode", "660", "--user", "nobody"];
        let mut server = Process::start(&socket, &image, &more);
        let metadata = std::fs::metadata(&socket).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{owner}");
        assert_eq!(server.socket_mode(), 0o660);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_pid_file_lives_as_long_as_the_server() {
    let _watchdog = Watchdog::new("a_pid_file_lives_as_long_as_the_server");
    let (image, pid_file) = (TempPath::image(), TempPath::new("pid"));
    // What a server left that was killed long ago, when another process had the number.
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    let start = |more: &[&str]| {
        let socket = TempPath::new("sock");
        let more = [&["--pid-file", text(&pid_file)][..], more].concat();
        let server = Process::start(&socket, &image, &more);
        (server, socket)
    };
    let read = || std::fs::read_to_string(&pid_file).unwrap();
    for more in [&[][..], &["--sandbox", "on"]] {
        let (mut server, socket) = start(more);
        while read() != format!("{}\n", server.id()) {
            assert!(server.is_alive());
            std::thread::yield_now();
        }
        let other = TempPath::new("sock");
        let mut second =
            Process::launch(&other, &["--null".as_ref(), "1m".as_ref()], &["--pid-file", text(&pid_file)]);
        let lines = second.rest_of_lines().join("\n");
        assert_eq!(second.wait().code(), Some(2), "{lines}");
        assert!(lines.contains(&format!("process {} has it and is alive", server.id())), "{lines}");
        assert_eq!(read(), format!("{}\n", server.id()));
        assert!(Client::connect(&socket, default_options()).is_ok());
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        assert!(!pid_file.as_ref().exists(), "{more:?}");
        // A killed server leaves its file, and the next one replaces it.
        let (server, _socket) = start(more);
        server.kill();
        assert!(pid_file.as_ref().exists());
    }
}

/// The file is removed although the server was root when it made it, or is empty.
#[test]
fn a_pid_file_in_a_directory_of_root_is_emptied() {
    let _watchdog = Watchdog::new("a_pid_file_in_a_directory_of_root_is_emptied");
    if !is_root() {
        return;
    }
    let directory = TempPath::new("d");
    std::fs::create_dir(&directory).unwrap();
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let pid_file = directory.as_ref().join("pid");
    let more = ["--user", "nobody", "--pid-file", text(&pid_file)];
    let mut server = Process::start(&socket, &image, &more);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), "");
    std::fs::remove_dir_all(&directory).unwrap();
}
