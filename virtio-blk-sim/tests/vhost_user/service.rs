//! The program as a service: sockets and notifications of a service manager (sd_listen_fds(3),
//! sd_notify(3)), which a test plays.
#![expect(
    unsafe_code,
    reason = "dup2(2) between fork and exec; ptrace(2): a thread of the program stops while the others run"
)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Watchdog;
use super::client::Client;
use super::daemon::{Control, text};
use super::process::Process;
use super::server::TempPath;
use super::{default_options, driver, exercise};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-user-blk");

/// The service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    path: TempPath,
}

impl Manager {
    fn new() -> Self {
        let path = TempPath::new("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        Self { socket, path }
    }

    fn message(&self) -> String {
        let mut buffer = [0; 4096];
        let size = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..size].to_vec()).unwrap()
    }

    /// The next message that is not one of the watchdog.
    fn state(&self) -> String {
        std::iter::repeat_with(|| self.message()).find(|message| message != "WATCHDOG=1").unwrap()
    }

    /// Whether a message comes within `time`.
    fn hears_within(&self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let told = self.socket.recv(&mut [0; 64]).is_ok();
        self.socket.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        told
    }

    /// Takes what has come so far.
    fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 64]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// The program as a service manager starts it: with these sockets from descriptor 3 on, and their
/// names. A shell sets LISTEN_PID, because only the process itself knows its number.
fn activated(sockets: &[(&UnixListener, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", PROGRAM]).args(arguments);
    let names: Vec<_> = sockets.iter().map(|(_, name)| *name).collect();
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let descriptors: Vec<_> = sockets.iter().map(|(socket, _)| socket.as_raw_fd()).collect();
    let pass = move || {
        for (fd, number) in descriptors.iter().zip(3..) {
            // SAFETY: takes integers. Nothing of the shell has these numbers yet.
            if unsafe { libc::dup2(*fd, number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: makes system calls that are safe after fork(2), and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, pass) };
    command
}

/// The same socket with a number that is none of those of a service manager.
fn numbered_high(socket: impl AsRawFd) -> UnixListener {
    // SAFETY: takes integers.
    let copy = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 50) };
    assert!(copy >= 50);
    // SAFETY: the kernel has just returned this descriptor.
    unsafe { FromRawFd::from_raw_fd(copy) }
}

fn inheritable(path: &Path) -> UnixListener {
    numbered_high(UnixListener::bind(path).unwrap())
}

fn connect(socket: impl AsRef<Path> + Copy) -> Client {
    let connected = |_| Client::connect(socket, default_options()).ok();
    (0..1000).find_map(connected).expect("the server takes a frontend")
}

#[test]
fn a_socket_of_the_service_manager_is_served() {
    let _watchdog = Watchdog::new("a_socket_of_the_service_manager_is_served");
    let (socket, image, manager) = (TempPath::new("sock"), TempPath::image(), Manager::new());
    let listener = inheritable(socket.as_ref());
    let arguments = ["--image", text(&image), "--threads", "1"];
    let mut command = activated(&[(&listener, "vhost-user-blk@vm1.socket")], &arguments);
    command.env("NOTIFY_SOCKET", manager.path.as_ref());
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    assert_eq!(manager.message(), "READY=1\nSTATUS=serving 1 disk");
    for _ in 0..2 {
        exercise(&mut driver(&mut connect(&socket), 0), 100);
    }
    server.signal(libc::SIGHUP);
    let reloading = manager.message();
    let lines: Vec<_> = reloading.lines().collect();
    assert_eq!(lines[0], "RELOADING=1");
    let time: u64 = lines[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!(time > 0 && time <= uptime_us());
    assert_eq!(manager.message(), "READY=1\nSTATUS=serving 1 disk");
    server.signal(libc::SIGTERM);
    assert!(manager.message().starts_with("STOPPING=1\n"));
    assert_eq!(server.wait().code(), Some(0));
    assert!(socket.as_ref().exists(), "its name belongs to the service manager");
}

fn uptime_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) }, 0);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

#[test]
fn sockets_find_their_disks_by_name() {
    let _watchdog = Watchdog::new("sockets_find_their_disks_by_name");
    let (config, control, manager) = (TempPath::new("toml"), TempPath::new("ctl"), Manager::new());
    let sockets: Vec<_> = (0..3).map(|_| TempPath::new("sock")).collect();
    let listeners: Vec<_> = sockets.iter().map(|socket| inheritable(socket.as_ref())).collect();
    let image = TempPath::image();
    let disks = |more: &str| {
        format!("[daemon]\ncontrol = {:?}\n[[disk]]\nid = \"b\"\nnull = \"2m\"\n{more}", text(&control))
    };
    let a = format!("[[disk]]\nid = \"a\"\nimage = {:?}\n", text(&image));
    std::fs::write(&config, disks(&a)).unwrap();
    let named: Vec<_> = listeners.iter().zip(["a", "b", "later"]).collect();
    let mut command = activated(&named, &["--config", text(&config)]);
    command.env("NOTIFY_SOCKET", manager.path.as_ref());
    let mut server = Process::run(&mut command, &control, Stdio::piped());
    server.wait_for_line("a socket was inherited for disk \"later\"");
    assert_eq!(manager.message(), "READY=1\nSTATUS=serving 2 disks");
    exercise(&mut driver(&mut connect(&sockets[0]), 0), 100);
    let mut client = connect(&sockets[1]);
    assert_eq!(client.frontend().get_config(0, 8).unwrap(), 4096_u64.to_le_bytes());

    // A disk that comes later finds its socket, also one that went before.
    let later = format!("{a}[[disk]]\nid = \"later\"\nmemory = \"1m\"\n");
    let steps = [("", "READY=1\nSTATUS=serving 1 disk"), (&later, "READY=1\nSTATUS=serving 3 disks")];
    for (more, ready) in steps {
        std::fs::write(&config, disks(more)).unwrap();
        server.signal(libc::SIGHUP);
        assert!(manager.message().starts_with("RELOADING=1\n"));
        assert_eq!(manager.message(), ready);
    }
    for socket in [&sockets[0], &sockets[2]] {
        exercise(&mut driver(&mut connect(socket), 0), 100);
    }
    let mut control = Control::connect(&control);
    control.execute("remove-disk", json!({"id": "later"})).unwrap();
    assert_eq!(manager.message(), "STATUS=serving 2 disks");
    let wrong = control.execute("add-disk", json!({"id": "x", "null": 512})).unwrap_err();
    assert_eq!(wrong, "disk x needs a socket");
    let twice = json!({"id": "later", "null": 512, "socket": "/tmp/x"});
    assert!(control.execute("add-disk", twice).unwrap_err().contains("leave one of them out"));
    control.execute("add-disk", json!({"id": "later", "null": 512})).unwrap();
    assert_eq!(manager.message(), "STATUS=serving 3 disks");
    server.signal(libc::SIGTERM);
    assert!(manager.message().starts_with("STOPPING=1\n"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sockets_that_do_not_fit_are_refused() {
    let _watchdog = Watchdog::new("sockets_that_do_not_fit_are_refused");
    let (socket, other) = (TempPath::new("sock"), TempPath::new("sock"));
    let (one, two) = (inheritable(socket.as_ref()), inheritable(other.as_ref()));
    // SAFETY: takes integers.
    let idle = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(idle >= 0);
    // SAFETY: the kernel has just returned this descriptor.
    let idle = numbered_high(unsafe { OwnedFd::from_raw_fd(idle) });
    let config = TempPath::new("toml");
    std::fs::write(&config, "[[disk]]\nid = \"a\"\nsocket = \"/tmp/x\"\nnull = 512\n").unwrap();
    let config = ["--config", text(&config)];
    type Row<'a> = (&'a [(&'a UnixListener, &'a str)], &'a [&'a str], &'a str);
    let rows: &[Row<'_>] = &[
        (&[(&idle, "x")], &["--null", "1m"], "LISTEN_FDS: not a Unix stream socket that listens or is"),
        (&[(&one, "x"), (&two, "y")], &["--null", "1m"], "LISTEN_FDS: 2 sockets, but the disk"),
        (&[(&one, "x")], &["--null", "1m", "--socket", "/tmp/x"], "LISTEN_FDS gives this process a socket"),
        (&[(&one, "x")], &["--null", "1m", "--fd", "3"], "and so does --fd; use one of them"),
        (&[(&one, "a")], &config, "disk a has a socket, and inherited one of this name"),
        (&[(&one, "b"), (&two, "b")], &config, "there are two of this name"),
        (&[(&one, "b:c")], &config, "LISTEN_FDS: invalid LISTEN_FDNAMES"),
    ];
    for (sockets, arguments, sentence) in rows {
        let mut server = Process::run(&mut activated(sockets, arguments), &socket, Stdio::piped());
        let lines = server.rest_of_lines().join("\n");
        assert_eq!(server.wait().code(), Some(2), "{arguments:?}: {lines}");
        assert!(lines.contains(sentence), "{arguments:?}: {lines}");
    }
}

/// The sockets of another process are not taken: LISTEN_PID says whose they are.
#[test]
fn sockets_for_another_process_are_left_alone() {
    let _watchdog = Watchdog::new("sockets_for_another_process_are_left_alone");
    let socket = TempPath::new("sock");
    let mut command = Command::new(PROGRAM);
    command.args(["--null", "1m", "--socket", text(&socket)]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "x");
    let server = Process::run(&mut command, &socket, Stdio::piped());
    server.wait_for_line("listening on");
}

#[test]
fn the_sandbox_lets_the_notifications_through() {
    let _watchdog = Watchdog::new("the_sandbox_lets_the_notifications_through");
    let (socket, image, manager) = (TempPath::new("sock"), TempPath::image(), Manager::new());
    let mut command = Command::new(PROGRAM);
    command.args(["--socket", text(&socket), "--image", text(&image), "--sandbox", "on"]);
    command.env("NOTIFY_SOCKET", manager.path.as_ref()).env("WATCHDOG_USEC", "20000");
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    assert_eq!(manager.message(), "READY=1\nSTATUS=serving 1 disk");
    (0..3).for_each(|_| assert_eq!(manager.message(), "WATCHDOG=1"));
    server.signal(libc::SIGHUP);
    assert!(manager.state().starts_with("RELOADING=1\n"));
    assert!(manager.state().starts_with("READY=1\n"));
    server.signal(libc::SIGTERM);
    assert!(manager.state().starts_with("STOPPING=1\n"));
    assert_eq!(server.wait().code(), Some(0));
}

/// A service manager that is behind does not hold the server up, and hears that it is ready later.
#[test]
fn a_service_manager_that_does_not_read_costs_nothing() {
    let _watchdog = Watchdog::new("a_service_manager_that_does_not_read_costs_nothing");
    let (socket, image, manager) = (TempPath::new("sock"), TempPath::image(), Manager::new());
    let noise = UnixDatagram::unbound().unwrap();
    noise.set_nonblocking(true).unwrap();
    while noise.send_to(b"noise", &manager.path).is_ok() {}
    let mut command = Command::new(PROGRAM);
    command.args(["--socket", text(&socket), "--image", text(&image)]);
    command.env("NOTIFY_SOCKET", manager.path.as_ref());
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    server.wait_for_line("listening on");
    exercise(&mut driver(&mut connect(&socket), 0), 100);
    let next = || std::iter::repeat_with(|| manager.message()).find(|message| message != "noise").unwrap();
    assert_eq!(next(), "READY=1\nSTATUS=serving 1 disk");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_bad_notify_socket_is_reported_and_the_disk_is_served() {
    let _watchdog = Watchdog::new("a_bad_notify_socket_is_reported_and_the_disk_is_served");
    for address in ["/nonexistent/notify", "vsock:2:1234", "@vhost-user-blk no such name"] {
        let socket = TempPath::new("sock");
        let mut command = Command::new(PROGRAM);
        command.args(["--socket", text(&socket), "--null", "1m"]).env("NOTIFY_SOCKET", address);
        let server = Process::run(&mut command, &socket, Stdio::piped());
        server.wait_for_line(&format!("the service manager is not notified: NOTIFY_SOCKET {address}: "));
        server.wait_for_line("listening on");
    }
}

/// The ids of the threads of a process whose names begin with `name`.
fn threads_of(process: u32, name: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir(PathBuf::from(format!("/proc/{process}/task"))).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let is_named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap().starts_with(name);
    let id = |task: PathBuf| task.file_name().unwrap().to_str().unwrap().parse().unwrap();
    tasks.filter(is_named).map(id).collect()
}

/// A thread of another process that is stopped until this is dropped.
struct Stopped(i32);

impl Stopped {
    /// Stops a thread, if ptrace(2) is allowed here.
    fn thread(id: i32) -> Option<Self> {
        // SAFETY: takes integers; PTRACE_SEIZE uses neither address nor data.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, id, 0, 0) } < 0 {
            println!("skipped: ptrace(2): {}", std::io::Error::last_os_error());
            return None;
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, id, 0, 0) }, 0);
        // SAFETY: no status is asked for.
        assert_eq!(unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::__WALL) }, id);
        Some(Self(id))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: takes integers.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

/// The watchdog is fed only while every loop turns.
#[test]
fn a_loop_that_hangs_lets_the_watchdog_fire() {
    let _watchdog = Watchdog::new("a_loop_that_hangs_lets_the_watchdog_fire");
    let (socket, image, manager) = (TempPath::new("sock"), TempPath::image(), Manager::new());
    let mut command = Command::new(PROGRAM);
    command.args(["--socket", text(&socket), "--image", text(&image), "--queues", "3", "--threads", "3"]);
    let time = Duration::from_millis(200);
    command.env("NOTIFY_SOCKET", manager.path.as_ref());
    command.env("WATCHDOG_USEC", time.as_micros().to_string());
    let server = Process::run(&mut command, &socket, Stdio::piped());
    assert!(manager.message().starts_with("READY=1\n"));
    assert_eq!(manager.message(), "WATCHDOG=1", "at once");
    let start = Instant::now();
    (0..4).for_each(|_| assert_eq!(manager.message(), "WATCHDOG=1"));
    assert!(start.elapsed() >= time * 2 - time / 2, "each half of the time: {:?}", start.elapsed());
    let main = server.id() as i32;
    let mut threads = threads_of(server.id(), "queue-io");
    assert_eq!(threads.len(), 3);
    threads.push(main);
    for thread in threads {
        let Some(stopped) = Stopped::thread(thread) else { return };
        // One report may be under way.
        manager.drain();
        manager.hears_within(time);
        assert!(!manager.hears_within(time * 3), "thread {thread} hangs, and nobody notices");
        drop(stopped);
        assert_eq!(manager.message(), "WATCHDOG=1", "it goes on");
    }
}

/// WATCHDOG_PID says whose watchdog it is.
#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let _watchdog = Watchdog::new("the_watchdog_of_another_process_is_not_fed");
    let (socket, manager) = (TempPath::new("sock"), Manager::new());
    for (process, time) in [("1", "1000"), ("", "0"), ("", "x")] {
        let mut command = Command::new(PROGRAM);
        command.args(["--socket", text(&socket), "--null", "1m"]).env("NOTIFY_SOCKET", manager.path.as_ref());
        command.env("WATCHDOG_USEC", time);
        if !process.is_empty() {
            command.env("WATCHDOG_PID", process);
        }
        let mut server = Process::run(&mut command, &socket, Stdio::piped());
        assert!(manager.message().starts_with("READY=1\n"));
        assert!(!manager.hears_within(Duration::from_millis(100)));
        server.signal(libc::SIGTERM);
        assert!(manager.message().starts_with("STOPPING=1\n"));
        server.wait();
    }
}
