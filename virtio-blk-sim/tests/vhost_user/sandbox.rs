//! With `--sandbox on` the server must do everything that it does without, for every monitor and
//! every disk.
#![expect(unsafe_code, reason = "flock(2) of a directory")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use aio::{AioContext, Method, MonitorKind, Reset};
use virtio_blk_sim::blk::backend::FileImage;
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::vhost_user::{
    BackendRequest, F_PROTOCOL_FEATURES, Frontend, FrontendError, ProtocolFeatures,
};
use vm_memory::Bytes;

use super::client::{Client, ClientOptions};
use super::memory::{answer, post};
use super::process::{Process, inheriting};
use super::server::TempPath;
use super::{BLOCK, SECTORS, Watchdog, default_options, driver, exercise, finish};

/// The reset methods and their names on the command line.
const RESETS: [(&str, Reset); 6] = [
    ("classic", Reset::Classic),
    ("autoreset", Reset::Autoreset),
    ("edge", Reset::AutoresetBy(Method::Edge)),
    ("ring-read", Reset::AutoresetBy(Method::RingRead)),
    ("ring-read-multishot", Reset::AutoresetBy(Method::RingReadMultishot)),
    ("kernel-flag", Reset::AutoresetBy(Method::KernelFlag)),
];

/// The kind of disk that a server serves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disk {
    Null,
    Memory,
    Image,
    Direct,
}

impl Disk {
    fn is_image(self) -> bool {
        matches!(self, Self::Image | Self::Direct)
    }
}

/// Returns true if this machine supports the combination; prints the reason if not.
fn is_there(kind: MonitorKind, reset: Reset, name: &str) -> bool {
    match AioContext::builder().monitor(kind).reset(reset).build() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {kind} with {name}: {error}");
            false
        }
    }
}

/// Checks in /proc that every thread of the server has a filter and no_new_privs. Returns the
/// number of threads.
fn restricted_threads(server: &Process) -> io::Result<usize> {
    let mut count = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", server.id()))? {
        match std::fs::read_to_string(task?.path().join("status")) {
            Ok(status) => {
                let has = |line| status.lines().any(|found| found == line);
                assert!(has("NoNewPrivs:\t1") && has("Seccomp:\t2"), "{status}");
                count += 1;
            }
            // The thread has ended meanwhile.
            Err(error)
                if error.raw_os_error() == Some(libc::ESRCH) || error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Connects a client with `queues` queues that can receive size changes and send discards.
fn connect(socket: &TempPath, queues: u16) -> Client {
    let options = default_options();
    let features = options.features | Features::DISCARD | Features::WRITE_ZEROES;
    let protocol = options.protocol.map(|protocol| protocol | ProtocolFeatures::BACKEND_REQ);
    let mut client =
        Client::connect(socket, ClientOptions { features, protocol, queues, ..options }).unwrap();
    client.frontend().open_backend_channel().unwrap();
    client
}

/// Sends every kind of request.
fn use_disk(driver: &mut BlkDriver) {
    exercise(driver, 200);
    driver.flush(0).unwrap();
    driver.kick().unwrap();
    finish(driver, &mut Vec::new(), 1);
    // A transfer whose buffer is not aligned for direct I/O.
    let data = driver.data(1);
    post(driver, 1, 0, data.0 + 8, BLOCK - 512);
    assert_eq!(answer(driver), Ok(0));
    // Discard, write zeroes, and write zeroes with unmap, all of the first block.
    for (kind, flags) in [(11, 0_u32), (13, 0), (13, 1)] {
        let memory = driver.ports().memory.clone();
        memory.write_obj(0_u64, data).unwrap();
        memory.write_obj(8_u32, GuestAddress(data.0 + 8)).unwrap();
        memory.write_obj(flags, GuestAddress(data.0 + 12)).unwrap();
        post(driver, kind, 0, data.0, 16);
        assert_eq!(answer(driver), Ok(0), "kind {kind}");
    }
}

/// Runs a server from start to exit.
fn live(disk: Disk, queues: u16, more: &[&str]) {
    println!("--- {disk:?}, {queues} queues, {more:?}");
    let (socket, image, number) = (TempPath::new("sock"), TempPath::image(), queues.to_string());
    let size = (SECTORS * 512).to_string();
    let of_disk: &[&OsStr] = match disk {
        Disk::Null => &["--null".as_ref(), size.as_ref()],
        Disk::Memory => &["--memory".as_ref(), size.as_ref()],
        Disk::Image => &["--image".as_ref(), image.as_ref().as_ref()],
        Disk::Direct => &["--image".as_ref(), image.as_ref().as_ref(), "--direct".as_ref()],
    };
    let all = [more, &["--sandbox", "on", "--queues", &number]].concat();
    let mut server = Process::launch(&socket, of_disk, &all);
    server.wait_for_line("sandbox: no_new_privs, seccomp (");
    server.wait_for_line("listening on");
    let at_first = restricted_threads(&server).unwrap();

    let mut client = connect(&socket, queues);
    // The null disk stores nothing, so reads cannot be verified.
    let use_all = |client: &mut Client| {
        for queue in 0..queues {
            let mut driver = driver(client, queue);
            if disk == Disk::Null {
                driver.read(0, 0).unwrap();
                driver.kick().unwrap();
                finish(&mut driver, &mut Vec::new(), 1);
            } else {
                use_disk(&mut driver);
            }
        }
    };
    use_all(&mut client);
    assert!(restricted_threads(&server).unwrap() >= at_first);
    let second = Frontend::connect(&socket, default_options().timeout).unwrap().get_features();
    assert!(matches!(second, Err(FrontendError::Connection(_))), "{second:?}");
    server.signal(libc::SIGUSR1);
    server.wait_for_line("queue 0: ");
    server.signal(libc::SIGSTOP);
    server.signal(libc::SIGCONT);
    client.frontend().reset_device().unwrap();
    let bits = client.features().bits() | F_PROTOCOL_FEATURES;
    client.frontend().set_features(bits).unwrap();
    use_all(&mut client);

    if disk.is_image() {
        // The server uses its open descriptor; the old name no longer exists.
        let elsewhere = TempPath::new("moved");
        std::fs::rename(&image, &elsewhere).unwrap();
        File::options().write(true).open(&elsewhere).unwrap().set_len(SECTORS * 1024).unwrap();
        server.signal(libc::SIGHUP);
        let request = client.frontend().wait_backend_request().unwrap();
        assert!(matches!(request, BackendRequest::ConfigChange), "{request:?}");
        assert_eq!(client.frontend().get_config(0, 8).unwrap(), (SECTORS * 2).to_le_bytes());
    } else {
        server.signal(libc::SIGHUP);
        server.wait_for_line("only the size of a raw image can change");
    }
    lose_memory(&mut client);
    drop(client);

    let mut client = connect(&socket, queues);
    use_all(&mut client);
    assert!(restricted_threads(&server).unwrap() >= at_first);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!socket.as_ref().exists(), "the socket's name is removed");
}

/// Truncates the file that backs the rings of queue 0 while it runs. The server gets SIGBUS and
/// ends the session.
fn lose_memory(client: &mut Client) {
    client.stop(0).unwrap();
    let (path, all) = (TempPath::new("ram"), client.region());
    std::fs::write(&path, vec![0; all.size as usize]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    client.frontend().set_mem_table(&[(all, file.as_fd())]).unwrap();
    client.start(0).unwrap();
    file.set_len(0).unwrap();
    client.ports(0).unwrap().kick.notify().unwrap();
    while client.frontend().get_features().is_ok() {
        std::thread::yield_now();
    }
}

/// Tests queues on the server's own loop and on I/O threads.
fn live_with(monitor: MonitorKind) {
    let kind = monitor.to_string();
    let image = TempPath::image();
    for disk in [Disk::Null, Disk::Memory, Disk::Image, Disk::Direct] {
        if disk == Disk::Direct
            && let Err(error) = FileImage::open(&image, false, true)
        {
            println!("skipped: {error}");
            continue;
        }
        live(disk, 1, &["--monitor", &kind, "--stats", "0.01", "--iops", "100000"]);
        live(disk, 2, &["--monitor", &kind, "--threads", "2", "--busy-poll", "20000"]);
    }
    for (name, _) in RESETS.into_iter().filter(|&(name, reset)| is_there(monitor, reset, name)) {
        live(Disk::Image, 2, &["--monitor", &kind, "--reset", name, "--threads", "1"]);
    }
}

#[test]
fn a_restricted_server_on_poll_does_all_its_work() {
    let _watchdog = Watchdog::new("a_restricted_server_on_poll_does_all_its_work");
    live_with(MonitorKind::Poll);
}

#[test]
fn a_restricted_server_on_epoll_does_all_its_work() {
    let _watchdog = Watchdog::new("a_restricted_server_on_epoll_does_all_its_work");
    live_with(MonitorKind::Epoll);
}

#[test]
fn a_restricted_server_on_io_uring_does_all_its_work() {
    let _watchdog = Watchdog::new("a_restricted_server_on_io_uring_does_all_its_work");
    if is_there(MonitorKind::IoUring, Reset::Classic, "classic") {
        live_with(MonitorKind::IoUring);
    }
}

/// In this case there is no socket to remove.
#[test]
fn a_restricted_server_serves_a_frontend_that_it_inherits() {
    let _watchdog = Watchdog::new("a_restricted_server_serves_a_frontend_that_it_inherits");
    let image = TempPath::image();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = inheriting(theirs, &["--fd", "3", "--sandbox", "on"], &image).spawn().unwrap();
    let frontend = Frontend::from_stream(ours, default_options().timeout);
    let mut client = Client::over(frontend, default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 200);
    drop(client);
    let outcome = server.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
}

/// The directory's lock is held by another server while this one ends, which then waits for it.
#[test]
fn a_restricted_server_waits_for_the_lock_of_the_directory() {
    let _watchdog = Watchdog::new("a_restricted_server_waits_for_the_lock_of_the_directory");
    let (directory, image) = (TempPath::new("dir"), TempPath::image());
    std::fs::create_dir(&directory).unwrap();
    let socket = directory.inside("vm.sock");
    let mut server = Process::start(&socket, &image, &["--sandbox", "on"]);
    let lock = File::open(&directory).unwrap();
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    server.signal(libc::SIGTERM);
    let outcome = server.wait();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    drop((server, socket));
    std::fs::remove_dir(&directory).unwrap();
}
