//! The log can fail, and nothing else does: a guest keeps its disk whatever stderr is. What the
//! backend fails to do reaches the log.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Write, pipe};
use std::process::{Command, Stdio};

use virtio_blk_sim::vhost_user::{Code, FrontendError};

use super::client::Client;
use super::memory::{answer, post};
use super::process::Process;
use super::server::TempPath;
use super::{BLOCK, SECTORS, Watchdog, default_options, driver, exercise};

const IOERR: u8 = 1;

fn program(socket: &TempPath, image: &TempPath, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.arg("--socket").arg(socket.as_ref()).arg("--image").arg(image.as_ref()).args(more);
    command
}

/// A pipe that takes no more, and that nobody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    loop {
        match writer.write(&[b'x'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// Starts the program with this stderr, has it write lines of every kind, and exits it.
fn serve_with(stderr: impl Into<Stdio>, then: impl FnOnce()) {
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::run(&mut program(&socket, &image, &["--stats", "0.01"]), &socket, stderr);
    server.wait_for_socket();
    then();
    let mut client = Client::connect(&socket, default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    for round in 0..3 {
        server.signal(libc::SIGUSR1);
        server.signal(libc::SIGHUP);
        let refused = client.frontend().set_vring_enable(77, true);
        assert!(matches!(refused, Err(FrontendError::Refused { .. })), "{refused:?}");
        exercise(&mut driver, 100);
        assert!(server.is_alive(), "round {round}");
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_guest_keeps_its_disk_when_stderr_is_full() {
    let _watchdog = Watchdog::new("a_guest_keeps_its_disk_when_stderr_is_full");
    serve_with(File::options().write(true).open("/dev/full").unwrap(), || ());
}

#[test]
fn a_guest_keeps_its_disk_when_nobody_reads_stderr() {
    let _watchdog = Watchdog::new("a_guest_keeps_its_disk_when_nobody_reads_stderr");
    let (reader, writer) = full_pipe();
    serve_with(writer, || ());
    drop(reader);
}

#[test]
fn a_guest_keeps_its_disk_when_the_reader_of_stderr_has_ended() {
    let _watchdog = Watchdog::new("a_guest_keeps_its_disk_when_the_reader_of_stderr_has_ended");
    let (reader, writer) = pipe().unwrap();
    serve_with(writer, move || drop(reader));
}

#[test]
fn a_frontend_cannot_flood_the_log() {
    let _watchdog = Watchdog::new("a_frontend_cannot_flood_the_log");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::start(&socket, &image, &[]);
    let mut client = Client::connect(&socket, default_options()).unwrap();
    for _ in 0..200 {
        assert!(client.frontend().set_vring_enable(77, true).is_err());
    }
    // Sessions that end with a message that is too large.
    for _ in 0..50 {
        drop(client);
        client = Client::connect(&socket, default_options()).unwrap();
        let header =
            virtio_blk_sim::vhost_user::Header::request(Code::SetVringNum.number(), 1 << 20).encode();
        client.frontend().send_raw(&header, &[]).unwrap();
        assert!(client.frontend().receive_raw().is_err());
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let lines = server.rest_of_lines();
    let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("refused"), 10, "{lines:#?}");
    assert_eq!(count("closing the frontend's connection"), 10, "{lines:#?}");
    // 190 refusals and 40 sessions.
    assert_eq!(count("(230 lines of the log were left out"), 1, "{lines:#?}");
}

#[test]
fn errors_of_the_image_reach_the_log_with_sector_and_reason() {
    let _watchdog = Watchdog::new("errors_of_the_image_reach_the_log_with_sector_and_reason");
    for monitor in ["epoll", "poll", "io_uring"] {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let mut server = Process::start(&socket, &image, &["--monitor", monitor]);
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 100);
        File::options().write(true).open(&image).unwrap().set_len(512 * 512).unwrap();
        for _ in 0..100 {
            let data = driver.data(1).0;
            post(&mut driver, 0, 1024, data, BLOCK);
            assert_eq!(answer(&mut driver), Ok(IOERR), "{monitor}");
        }
        let data = driver.data(1).0;
        post(&mut driver, 0, 0, data, BLOCK);
        assert_eq!(answer(&mut driver), Ok(0), "{monitor}");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        let lines = server.rest_of_lines();
        let said = "a read of 4096 bytes at sector 1024 failed: the image is shorter than the disk";
        assert_eq!(lines.iter().filter(|line| line.contains(said)).count(), 10, "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("(90 lines of the log were left out")), "{lines:#?}");
    }
}

/// Beyond RLIMIT_FSIZE a process gets SIGXFSZ, which would end it.
#[test]
fn a_write_beyond_the_limit_on_the_file_size_fails_and_the_server_lives() {
    let _watchdog = Watchdog::new("a_write_beyond_the_limit_on_the_file_size_fails_and_the_server_lives");
    for monitor in ["epoll", "poll", "io_uring"] {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let program = program(&socket, &image, &["--monitor", monitor]);
        let mut command = Command::new("sh");
        // In units of 512 bytes: half of the disk.
        let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", SECTORS / 2);
        command.args(["-c", &script]).arg(program.get_program()).args(program.get_args());
        let mut server = Process::run(&mut command, &socket, Stdio::piped());
        server.wait_for_line("listening on");
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        let data = driver.data(1).0;
        for (sector, status) in [(SECTORS / 2, IOERR), (0, 0), (SECTORS / 2, IOERR)] {
            post(&mut driver, 1, sector, data, BLOCK);
            assert_eq!(answer(&mut driver), Ok(status), "{monitor}, sector {sector}");
        }
        server.wait_for_line("a write of 4096 bytes at sector 1024 failed: File too large (os error 27)");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}
