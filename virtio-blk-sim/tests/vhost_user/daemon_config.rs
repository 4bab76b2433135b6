//! The configuration file: every mistake is one line with its place, and nothing is served.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::Watchdog;
use super::daemon::{Daemon, refused, text};
use super::process::Process;
use super::server::TempPath;

#[test]
fn each_key_can_be_wrong() {
    let _watchdog = Watchdog::new("each_key_can_be_wrong");
    let daemon: &[(&str, &str)] = &[
        ("lops = 2", "2:1: unknown field `lops`, expected one of `loops`, `placement`, `control`"),
        ("loops = -1", "2:9: invalid value: integer `-1`"),
        ("loops = 257", "2:9: write a number from 0 to 256"),
        ("loops = true", "2:9: invalid type: boolean `true`, expected a string or a number"),
        ("placement = \"best\"", "2:13: use least-queues or round-robin"),
        ("control = 5.5.5", "2:"),
        ("control = \"\"", "2:11: write a path"),
        ("control = \"/x\\u0007\"", "2:11: write a path, without control characters"),
        ("monitor = \"select\"", "2:11: use poll, epoll or io_uring"),
        ("reset = \"never\"", "2:9: use classic, autoreset, edge"),
        ("busy-poll = -1", "2:13: invalid value: integer `-1`, expected u64"),
        ("busy_poll = 1", "2:1: unknown field `busy_poll`"),
        ("linger = \"long\"", "2:10: invalid type: string \"long\""),
        ("stats = 0", "2:9: write a number of seconds, at least 0.001"),
        ("stats = nan", "2:9: write a number of seconds"),
        ("pid-file = \"\"", "2:12: write a path"),
        ("user = 0.5", "2:8: invalid type: floating point `0.5`, expected a string"),
        ("user = \"no such user\"", " there is no user no such user"),
        ("loops = 1\nloops = 2", "3:1: duplicate key"),
        ("loops = ", "2:"),
        ("loops = 1\n[[disks]]", "3:3: unknown field `disks`, expected `daemon` or `disk`"),
    ];
    for (line, error) in daemon {
        let lines = refused(&format!("[daemon]\n{line}\n"));
        assert!(lines.contains(&format!("vhost-user-blk: FILE:{error}")), "{line}: {lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
    }
    let disk: &[(&str, &str)] = &[
        ("sokcet = \"s\"", "6:1: unknown field `sokcet`, expected one of `id`, `socket`, `socket-mode`"),
        ("id = \"x y\"", "6:1: duplicate key"),
        ("socket-mode = \"888\"", "6:15: write a mode in octal, such as 660"),
        ("socket-owner = \"u:\"", "6:16: write a user, a user and a group, or a group"),
        ("image = 5", "1:1: disk x has more than one of image, null and memory"),
        ("image = true", "6:9: invalid type: boolean `true`"),
        ("format = \"vmdk\"", "6:10: vmdk: the format of an image is raw, qcow2 or auto"),
        ("null = \"1x\"", "6:8: write a size such as 4096, 64k"),
        ("null = -5", "6:8: invalid value: integer `-5`"),
        ("memory = \"1m\"\nnull = 4096", "1:1: disk x has more than one of image, null and memory"),
        ("read-only = 1", "6:13: invalid type: integer `1`, expected a boolean"),
        ("serial = 5", "6:10: invalid type: integer `5`, expected a string"),
        ("block-size = 1024", "6:14: use 512 or 4096"),
        ("queues = 0", "6:10: write a number from 1 to 256"),
        ("queues = 257", "6:10: write a number from 1 to 256"),
        ("queue-size = 70000", "6:14: invalid value: integer `70000`, expected u16"),
        ("direct = \"yes\"", "6:10: invalid type: string \"yes\", expected a boolean"),
        ("loops = 0", "6:9: invalid type: integer `0`, expected a sequence"),
        ("iops = \"many\"", "6:8: write a number of requests per second"),
        ("bps = \"1x\"", "6:7: write a size"),
        // What is found when the whole disk is known.
        ("direct = true", "1:1: direct concerns an image, and there is no image"),
        ("format = \"raw\"", "1:1: format concerns an image, and there is no image"),
        ("loops = [0]", "1:1: loops concerns I/O threads, and there are none: give loops in [daemon]"),
        // What is found when it is opened.
        ("serial = \"more than twenty characters\"", "1:1: disk x: serial: the serial number has 27"),
        ("queue-size = 100", "1:1: disk x: the queue size is 100"),
    ];
    let socket = TempPath::new("sock");
    for (line, error) in disk {
        let has_content = ["null", "memory = \"1m\"\nnull"].iter().any(|key| line.starts_with(key));
        let content = if has_content { "\n" } else { "memory = \"1m\"\n" };
        let file = format!("[[disk]]\nid = \"x\"\nsocket = {:?}\n{content}\n{line}\n", text(&socket));
        let lines = refused(&file);
        assert!(lines.contains(&format!("vhost-user-blk: FILE:{error}")), "{line}: {lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(!socket.as_ref().exists());
    }
    for (file, error) in [
        ("[[disk]]\n", "1:1: a disk needs an id"),
        ("[[disk]]\nid = \"a b\"\n", "2:6: an id has 1 to 64 characters"),
        ("[[disk]]\nid = \"a\"\nnull = 512\n", "1:1: disk a needs a socket"),
        ("[[disk]]\nid = \"a\"\nsocket = \"s\"\n", "1:1: disk a needs an image, null or memory"),
        (
            "[[disk]]\nid = \"a\"\nsocket = \"/nonexistent/s\"\nnull = 512\n",
            "1:1: disk a: socket /nonexistent/s",
        ),
        ("disk = 5\n", "1:8: invalid type: integer `5`"),
        ("\u{feff}[daemon\n", "1:"),
    ] {
        let lines = refused(file);
        assert!(lines.contains(&format!("FILE:{error}")), "{file}: {lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let _watchdog = Watchdog::new("a_file_that_cannot_be_read_is_an_error");
    let (missing, binary) = (TempPath::new("toml"), TempPath::new("toml"));
    std::fs::write(&binary, b"\xff\xfe").unwrap();
    for (path, error) in [
        (text(&missing), "No such file"),
        (text(&binary), "UTF-8"),
        ("/", "a configuration is a regular file"),
        ("/dev/zero", "a configuration is a regular file"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
        let output = command.args(["--config", path]).output().unwrap();
        let lines = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{path}: {lines}");
        assert!(lines.contains(path) && lines.contains(error), "{path}: {lines}");
    }
}

/// Two disks that use the same thing are an error that names both, however they name it.
#[test]
fn conflicts_name_both_disks() {
    let _watchdog = Watchdog::new("conflicts_name_both_disks");
    let (image, link, hard) = (TempPath::image(), TempPath::new("img"), TempPath::new("img"));
    symlink(&image, &link).unwrap();
    std::fs::hard_link(&image, &hard).unwrap();
    let (one, other) = (TempPath::new("sock"), TempPath::new("sock"));
    let same_place = std::env::temp_dir().join(".").join(one.as_ref().file_name().unwrap());
    let (image, link, hard, one, other) = (text(&image), text(&link), text(&hard), text(&one), text(&other));
    let disk = |id: &str, socket: &str, content: &str| {
        format!("[[disk]]\nid = {id:?}\nsocket = {socket:?}\n{content}\n")
    };
    let of = |path: &str| format!("image = {path:?}");
    let null = "null = \"1m\"";
    for (first, second, error) in [
        (disk("a", one, null), disk("a", other, null), "disk a and disk a (FILE:1:1) have the same id"),
        (disk("a", one, null), disk("b", one, null), "disk b and disk a (FILE:1:1) have the same socket"),
        (
            disk("a", one, null),
            disk("b", text(&same_place), null),
            "disk b and disk a (FILE:1:1) have the same socket",
        ),
        (
            disk("a", one, &of(image)),
            disk("b", other, &of(image)),
            "disk b and disk a (FILE:1:1) have the same image",
        ),
        (disk("a", one, &of(image)), disk("b", other, &of(link)), "have the same image"),
        (disk("a", one, &of(hard)), disk("b", other, &of(link)), "have the same image"),
        (
            disk("a", one, &format!("{}\nread-only = true", of(image))),
            disk("b", other, &of(image)),
            "have the same image",
        ),
    ] {
        let lines = refused(&format!("{first}{second}"));
        assert!(lines.contains("vhost-user-blk: FILE:5:1: ") || lines.contains("FILE:6:1: "), "{lines}");
        assert!(lines.contains(error), "{error}: {lines}");
    }
    // An image that nobody writes to may be shared.
    let shared = format!("{}\nread-only = true", of(image));
    let daemon = Daemon::start("", &[("a", &shared), ("b", &shared)]);
    drop(daemon);
}

/// If one disk of many cannot be opened, none is served.
#[test]
fn a_disk_that_cannot_be_opened_fails_the_start() {
    let _watchdog = Watchdog::new("a_disk_that_cannot_be_opened_fails_the_start");
    let (one, other, odd) = (TempPath::new("sock"), TempPath::new("sock"), TempPath::zeroes(512 * 2049));
    let good = format!("[[disk]]\nid = \"a\"\nsocket = {:?}\nmemory = \"1m\"\n", text(&one));
    let taken = TempPath::image();
    let (by, _server) = (TempPath::new("sock"), ());
    let _server = Process::start(&by, &taken, &[]);
    let there = TempPath::zeroes(10);
    for (keys, error) in [
        (
            format!("socket = {:?}\nimage = \"/nonexistent/disk\"", text(&other)),
            "disk b: /nonexistent/disk: no such file",
        ),
        (
            format!("socket = {:?}\nimage = {:?}\nblock-size = 4096", text(&other), text(&odd)),
            "disk b: a disk of 2049 sectors of 512 bytes cannot have blocks of 4096 bytes",
        ),
        (
            format!("socket = {:?}\nimage = {:?}", text(&other), text(&taken)),
            "the image is in use: another process writes to it",
        ),
        (format!("socket = {:?}\nnull = 512", text(&there)), "something that is no socket is there"),
        (format!("socket = {:?}\nnull = 512", text(&by)), "another server listens there"),
    ] {
        let lines = refused(&format!("{good}[[disk]]\nid = \"b\"\n{keys}\n"));
        assert!(lines.contains("vhost-user-blk: FILE:5:1: disk b: "), "{lines}");
        assert!(lines.contains(error), "{error}: {lines}");
        assert!(!one.as_ref().exists() && !other.as_ref().exists(), "{error}");
    }
}

#[test]
fn options_that_have_no_effect_with_a_file_are_refused() {
    let _watchdog = Watchdog::new("options_that_have_no_effect_with_a_file_are_refused");
    let config = TempPath::new("toml");
    std::fs::write(&config, "").unwrap();
    let socket = TempPath::new("sock");
    let control = format!("--control={}", text(&socket));
    for (more, error) in [
        ("--read-only", "--read-only has no effect with --config: write it into the file"),
        ("--queues=2", "--queues has no effect"),
        ("--queue-size=128", "--queue-size has no effect"),
        ("--mapping=0", "--mapping has no effect"),
        ("--threads=2", "--threads has no effect"),
        ("--busy-poll=5", "--busy-poll has no effect"),
        ("--monitor=epoll", "--monitor has no effect"),
        ("--stats=1", "--stats has no effect"),
        (&control, "--control has no effect"),
        ("--null=1m", "cannot be used with"),
        ("--socket=s", "cannot be used with"),
        ("--fd=3", "cannot be used with"),
        ("--sandbox=on", "--sandbox on forbids opening files, and with --config disks are opened later"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
        let output = command.arg("--config").arg(config.as_ref()).arg(more).output().unwrap();
        let lines = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more}: {lines}");
        assert!(lines.contains(error), "{more}: {lines}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.arg("--socket").arg(socket.as_ref()).args(["--null=1m", "--sandbox=on", "--control=c"]);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    assert!(lines.contains("--sandbox on forbids opening files, and with --control disks"), "{lines}");
}
