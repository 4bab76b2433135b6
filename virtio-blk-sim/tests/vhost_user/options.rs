//! The command line: what has no effect is refused with one sentence, and the rest works together.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use virtio_blk_sim::blk::backend::FileImage;

use super::client::{Client, ClientOptions};
use super::process::{Process, inheriting};
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise};

fn program(socket: &TempPath, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.arg("--socket").arg(socket.as_ref()).args(arguments);
    command
}

/// Starts the program. Returns what it prints if it ends with status 2, and None if it listens.
fn refused(mut command: Command, socket: &TempPath) -> Option<String> {
    let mut server = Process::run(&mut command, socket, Stdio::piped());
    if let Some(lines) = server.lines_before("listening on") {
        assert_eq!(server.wait().code(), Some(2), "{command:?}: {lines}");
        assert!(!socket.as_ref().exists(), "{command:?}");
        return Some(lines);
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0), "{command:?}");
    None
}

#[test]
fn what_cannot_be_done_is_refused_with_a_sentence() {
    let _watchdog = Watchdog::new("what_cannot_be_done_is_refused_with_a_sentence");
    let odd = TempPath::zeroes(512 * 2049);
    let odd = odd.as_ref().to_str().unwrap();
    let rows: &[(&[&str], &str)] = &[
        (&["--image", odd, "--block-size", "4096"], "cannot have blocks of 4096 bytes"),
        (&["--null", "1m", "--block-size", "1024"], "use 512 or 4096"),
        (&["--null", "4608", "--block-size", "4096"], "cannot have blocks of 4096 bytes"),
        (&["--null", "1m", "--direct"], "--direct concerns an image, and there is no --image"),
        (&["--memory", "1m", "--direct"], "--direct concerns an image, and there is no --image"),
        (&["--null", "1m", "--format", "raw"], "--format concerns an image, and there is no --image"),
        (&["--image", odd, "--format", "vmdk"], "the format of an image is raw, qcow2 or auto"),
        (&["--image", odd, "--format", "qcow2"], "this is not a qcow2 image"),
        (&["--image", odd, "--format", "auto"], "a writable raw image is not guessed"),
        (&["--null", "1m", "--allow-backing", "/"], "--allow-backing concerns an image"),
        (&["--null", "1000"], "--null 1000: a disk consists of whole sectors of 512 bytes"),
        (&["--memory", "100"], "--memory 100: a disk consists of whole sectors"),
        (&["--memory", "0"], "--memory 0: a disk has at least one sector"),
        (&["--null", "9999999t"], "write a size"),
        (&["--null", "1m", "--iops", "0"], "--iops"),
        (&["--null", "1m", "--bps", "0"], "a limit of 0 would stop the disk"),
        (&["--null", "1m", "--stats", "0"], "at least 0.001"),
        (&["--null", "1m", "--stats", "nan"], "at least 0.001"),
        (&["--null", "1m", "--queues", "0"], "--queues"),
        (&["--null", "1m", "--queue-size", "100"], "the queue size is 100"),
        (&["--null", "1m", "--threads", "2"], "--threads 2: more threads than queues (1)"),
        (&["--null", "1m", "--mapping", "0"], "--mapping concerns I/O threads"),
        (&["--null", "1m", "--threads", "0", "--mapping", "0"], "--mapping concerns I/O threads"),
        (&["--null", "1m", "--threads", "1", "--mapping", "0,0"], "--mapping has 2 entries"),
        (&["--null", "1m", "--threads", "1", "--mapping", "1"], "there is no thread 1, only 0 to 0"),
        (&["--null", "1m", "--threads", "2", "--queues", "2", "--mapping", "0,0"], "thread 1 has no queue"),
        (&["--null", "1m", "--monitor", "poll", "--reset", "edge"], "ppoll(2) has no edges"),
        (&["--null", "1m", "--monitor", "epoll", "--reset", "ring-read"], "io_uring monitor"),
        (&["--null", "1m", "--serial", "more than twenty characters"], "--serial"),
        (&["--null", "1m", "--serial", "\u{e9}"], "--serial"),
        (&["--null", "1m", "--sandbox", "yes"], "use on or off"),
        (&["--null", "1m", "--fd", "3"], "cannot be used with"),
        (&["--null", "1m", "--memory", "1m"], "cannot be used with"),
        (&["--image", "/nonexistent/disk"], "/nonexistent/disk: no such file"),
    ];
    for (arguments, sentence) in rows {
        let socket = TempPath::new("sock");
        let lines = refused(program(&socket, arguments), &socket);
        let lines = lines.unwrap_or_else(|| panic!("{arguments:?} was accepted"));
        assert!(lines.contains(sentence), "{arguments:?}: {lines}");
    }
}

/// Each option with each other one.
#[test]
fn every_pair_of_options_works_or_is_refused() {
    let _watchdog = Watchdog::new("every_pair_of_options_works_or_is_refused");
    let image = TempPath::image();
    let path = format!("--image={}", image.as_ref().display());
    let direct_works = FileImage::open(&image, false, true).is_ok();
    let all = [
        path.as_str(),
        "--null=1m",
        "--memory=1m",
        "--direct",
        "--format=raw",
        "--read-only",
        "--serial=x",
        "--block-size=4096",
        "--queues=2",
        "--queue-size=128",
        "--monitor=epoll",
        "--reset=classic",
        "--busy-poll=100",
        "--linger=0",
        "--threads=1",
        "--mapping=0",
        "--iops=100",
        "--bps=1m",
        "--stats=1",
        "--sandbox=on",
    ];
    let disks = &all[..3];
    let mut count = 0;
    for (index, first) in all.iter().enumerate() {
        for second in &all[index + 1..] {
            let has = |option: &str| [first, second].iter().any(|given| given.starts_with(option));
            if has("--direct") && !direct_works {
                continue;
            }
            let mut arguments = vec![*first, *second];
            let of_disks = arguments.iter().filter(|given| disks.contains(given)).count();
            if of_disks == 0 {
                arguments.push(&path);
            }
            let no_image = has("--null") || has("--memory");
            let wrong = of_disks == 2
                || no_image && (has("--direct") || has("--format"))
                || has("--mapping") && !has("--threads");
            let socket = TempPath::new("sock");
            let lines = refused(program(&socket, &arguments), &socket);
            assert_eq!(lines.is_some(), wrong, "{arguments:?}: {lines:?}");
            count += 1;
        }
    }
    println!("{count} pairs");
}

#[test]
fn inherited_descriptors_are_checked() {
    let _watchdog = Watchdog::new("inherited_descriptors_are_checked");
    let image = TempPath::image();
    let pair = || UnixDatagram::pair().unwrap().0;
    let (stream, _peer) = UnixStream::pair().unwrap();
    let rows: [(&str, OwnedFd, &str); 4] = [
        ("0", pair().into(), "--fd 0: 0 to 2 are the standard streams"),
        ("3", pair().into(), "--fd 3: not a Unix stream socket that listens or is connected"),
        // Numbers that the program itself would use for what it opens.
        ("4", stream.try_clone().unwrap().into(), "--fd 4: no such descriptor was inherited (Bad file"),
        ("-1", stream.into(), "--fd -1: no such descriptor was inherited (Bad file"),
    ];
    for (number, fd, sentence) in rows {
        let output = inheriting(fd, &[&format!("--fd={number}")], &image).output().unwrap();
        let lines = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{number}: {lines}");
        assert!(lines.contains(sentence), "{number}: {lines}");
    }
}

#[test]
fn a_limit_on_descriptors_is_found_at_the_start() {
    let _watchdog = Watchdog::new("a_limit_on_descriptors_is_found_at_the_start");
    let image = TempPath::image();
    for monitor in ["epoll", "poll", "io_uring"] {
        let limited = |limit: u64, soft: bool, socket: &TempPath| {
            let disk = ["--image", image.as_ref().to_str().unwrap(), "--queues", "8", "--monitor", monitor];
            let program = program(socket, &disk);
            let mut command = Command::new("sh");
            let kind = if soft { "-S " } else { "" };
            let script = format!("ulimit {kind}-n {limit}; exec \"$0\" \"$@\"");
            command.args(["-c", &script]).arg(program.get_program()).args(program.get_args());
            command
        };
        let socket = TempPath::new("sock");
        let lines = refused(limited(30, false, &socket), &socket).expect("30 descriptors are not enough");
        let (_, rest) = lines.split_once("8 queues need ").expect(&lines);
        let needed: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        assert!(lines.contains("but the limit is 30 (RLIMIT_NOFILE)"), "{lines}");
        assert!(refused(limited(needed - 1, false, &socket), &socket).is_some(), "{needed}");
        // With as many as that, and with a soft limit that the program may raise.
        for (limit, soft) in [(needed, false), (30, true)] {
            let server = Process::run(&mut limited(limit, soft, &socket), &socket, Stdio::piped());
            server.wait_for_line("listening on");
            let options = ClientOptions { queues: 8, ..default_options() };
            for _ in 0..3 {
                let mut client = Client::connect(&socket, options.clone()).unwrap();
                let mut drivers: Vec<_> = (0..8).map(|queue| driver(&mut client, queue)).collect();
                // Refused, and all the same accepted for a moment.
                drop(UnixStream::connect(&socket).unwrap());
                drivers.iter_mut().for_each(|driver| drop(exercise(driver, 50)));
            }
        }
    }
}

#[test]
fn an_image_that_became_too_small_keeps_its_size() {
    let _watchdog = Watchdog::new("an_image_that_became_too_small_keeps_its_size");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let server = Process::start(&socket, &image, &["--block-size", "4096"]);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for (size, sentence) in [
        (0, "the disk size is unchanged: 0 bytes are less than one block"),
        (511, "the disk size is unchanged: 511 bytes are less than one block"),
        (4096 + 512, "the disk size is unchanged: a disk of 9 sectors"),
        (8192, "the disk now has 16 sectors"),
    ] {
        file.set_len(size).unwrap();
        server.signal(libc::SIGHUP);
        server.wait_for_line(sentence);
    }
}
