//! QEMU's conventions for vhost-user programs (docs/interop/vhost-user.rst and vhost-user.json).

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::client::Client;
use super::process::{Process, leaving_with_us};
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-user-blk");

fn output(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    leaving_with_us(command.args(arguments).stdin(Stdio::null())).output().unwrap()
}

/// The program, started by a shell that passes `fd` as number 7.
fn inheriting(fd: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 7<&0 0</dev/null", PROGRAM]).args(arguments);
    command.stdin(Stdio::from(fd.into()));
    command
}

#[test]
fn the_capabilities_are_those_of_a_block_device() {
    let _watchdog = Watchdog::new("the_capabilities_are_those_of_a_block_device");
    // Other arguments are ignored, also wrong ones.
    let rows: &[&[&str]] = &[
        &["--print-capabilities"],
        &["--print-capabilities", "--socket-path=/nonexistent/s", "--blk-file=/nonexistent/i"],
        &["--fd=3", "--print-capabilities"],
        &["--no-such-option", "--print-capabilities", "x"],
    ];
    for arguments in rows {
        let Output { status, stdout, stderr } = output(arguments);
        assert_eq!((status.code(), &*stderr), (Some(0), &b""[..]), "{arguments:?}");
        let capabilities: Value = serde_json::from_slice(&stdout).unwrap();
        assert_eq!(capabilities, json!({"type": "block", "features": ["read-only", "blk-file"]}));
    }
    assert_eq!(output(&["--", "--print-capabilities"]).status.code(), Some(2));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(PROGRAM).arg("--print-capabilities").stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(1), "stdout takes nothing");
}

/// The description that libvirt reads names the program that the package installs.
#[test]
fn the_description_is_one_of_a_backend() {
    let file = include_str!("../../packaging/50-vhost-user-blk-aio.json");
    let description: Value = serde_json::from_str(file).unwrap();
    let keys: Vec<_> = description.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["binary", "description", "type"]);
    assert_eq!(description["type"], "block");
    assert_eq!(description["binary"], "/usr/bin/vhost-user-blk");
}

#[test]
fn the_names_of_the_conventions_are_those_of_the_same_options() {
    let _watchdog = Watchdog::new("the_names_of_the_conventions_are_those_of_the_same_options");
    let image = TempPath::image();
    for (socket_option, image_option) in [("--socket-path", "--blk-file"), ("--socket", "--image")] {
        let socket = TempPath::new("sock");
        let mut command = Command::new(PROGRAM);
        command.arg(format!("{socket_option}={}", socket.as_ref().display()));
        command.arg(format!("{image_option}={}", image.as_ref().display())).arg("--read-only");
        let server = Process::run(&mut command, &socket, Stdio::piped());
        server.wait_for_line("read-only");
        server.wait_for_line("listening on");
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        driver.read(0, 0).unwrap();
        driver.kick().unwrap();
        super::finish(&mut driver, &mut Vec::new(), 1);
    }
}

#[test]
fn what_contradicts_is_refused() {
    let _watchdog = Watchdog::new("what_contradicts_is_refused");
    let image = TempPath::image();
    let image = format!("--blk-file={}", image.as_ref().display());
    let rows: &[(&[&str], &str)] = &[
        (&["--socket-path=/tmp/s", "--fd=3"], "cannot be used with"),
        (&["--socket-path=/tmp/s", "--socket=/tmp/s"], "cannot be used multiple times"),
        (&[&image], "cannot be used multiple times"),
        (&[], "a frontend needs a way in: give --socket PATH or --fd FDNUM"),
        (&["--fd=99"], "--fd 99: no such descriptor was inherited"),
        (&["--fd=1"], "--fd 1: 0 to 2 are the standard streams"),
        (&["--fd=3", "--socket-mode=666"], "--socket-mode concerns --socket"),
        (&["--socket-path=/tmp/s", "--socket-mode=999"], "write a mode in octal"),
        (&["--socket-path=/tmp/s", "--socket-mode=7777"], "write a mode in octal"),
        (&["--socket-path=/tmp/s", "--socket-owner=:"], "write a user, a user and a group"),
    ];
    for (arguments, sentence) in rows {
        let Output { status, stderr, .. } = output(&[&[&*image], *arguments].concat());
        let lines = String::from_utf8(stderr).unwrap();
        assert!(status.code() == Some(2) && lines.contains(sentence), "{arguments:?}: {lines}");
    }
}

/// The engine is not replaced by another one, and the error comes at once.
#[test]
fn an_engine_that_the_loops_do_not_have_is_refused() {
    let _watchdog = Watchdog::new("an_engine_that_the_loops_do_not_have_is_refused");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let socket_option = format!("--socket-path={}", socket.as_ref().display());
    let image_option = format!("--blk-file={}", image.as_ref().display());
    let arguments = ["--monitor=epoll", "--engine=io_uring", &socket_option, &image_option];
    let Output { status, stderr, .. } = output(&arguments);
    let lines = String::from_utf8(stderr).unwrap();
    let sentence = "engine io_uring: the loops have no ring: monitor epoll (asked for)";
    assert!(status.code() == Some(2) && lines.contains(sentence), "{lines}");
    assert!(!socket.as_ref().exists(), "the socket is left");
}

/// A parent that made the socket hands it over: frontends come one after another, and the name of
/// the socket stays when the server ends, because the parent made it.
#[test]
fn a_listening_descriptor_is_served_again_and_again() {
    let _watchdog = Watchdog::new("a_listening_descriptor_is_served_again_and_again");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let listener = UnixListener::bind(&socket).unwrap();
    let image_option = format!("--blk-file={}", image.as_ref().display());
    let mut command = inheriting(listener, &["--fd=7", &image_option]);
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    for _ in 0..3 {
        let mut client = connect(&socket);
        exercise(&mut driver(&mut client, 0), 100);
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(socket.as_ref().exists());
    // Also the copy of the socket that the test has.
    drop(command);
    assert!(UnixStream::connect(&socket).is_err(), "nobody listens any more");
}

/// Connects as the next frontend. The server refuses it while the last one is being ended.
fn connect(socket: &TempPath) -> Client {
    loop {
        if let Ok(client) = Client::connect(socket, default_options()) {
            return client;
        }
    }
}

/// As libvirt and other management software do it, in another language.
#[test]
fn a_listening_descriptor_of_a_python_parent_is_served() {
    let _watchdog = Watchdog::new("a_listening_descriptor_of_a_python_parent_is_served");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let script = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[2]); s.listen()\n\
        os.set_inheritable(s.fileno(), True)\n\
        os.execv(sys.argv[1], [sys.argv[1], '--fd=%d' % s.fileno()] + sys.argv[3:])";
    let mut command = Command::new("python3");
    command.args(["-c", script, PROGRAM]).arg(socket.as_ref()).arg("--blk-file").arg(image.as_ref());
    let mut server = match command.stdout(Stdio::null()).arg("--read-only").spawn() {
        // Only to see whether there is a Python.
        Ok(mut child) => {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(&socket);
            Process::run(&mut command, &socket, Stdio::piped())
        }
        Err(error) => {
            println!("skipped: python3: {error}");
            return;
        }
    };
    server.wait_for_line("read-only");
    server.wait_for_socket();
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_mode_of_a_socket_is_that_of_the_option() {
    let _watchdog = Watchdog::new("the_mode_of_a_socket_is_that_of_the_option");
    let image = TempPath::image();
    for (mode, wanted) in [(None, 0o600), (Some("660"), 0o660), (Some("0666"), 0o666)] {
        let socket = TempPath::new("sock");
        let mode: Vec<&str> = mode.iter().flat_map(|mode| ["--socket-mode", mode]).collect();
        let server = Process::start(&socket, &image, &mode);
        assert_eq!(server.socket_mode(), wanted, "{mode:?}");
    }
}
