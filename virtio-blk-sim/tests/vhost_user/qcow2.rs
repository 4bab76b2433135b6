//! qcow2 images of the program, checked by `qemu-img` after the guest's work. Without `qemu-img`
//! these tests print that they skip.

use std::path::Path;
use std::process::{Command, Output};

use virtio_blk_sim::guest::BlkDriver;
use vm_memory::Bytes;

use super::client::Client;
use super::process::Process;
use super::server::TempPath;
use super::{BLOCK, DEPTH, SECTORS, Watchdog, default_options, driver, exercise, finish};

fn text(path: &TempPath) -> &str {
    path.as_ref().to_str().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `qemu-img`. `None`, after printing the reason, if it is not installed.
fn qemu_img(arguments: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: qemu-img: {error}");
            None
        }
    }
}

/// Makes an image of [`SECTORS`] with these arguments of `qemu-img create`.
fn create(arguments: &[&str]) -> Option<TempPath> {
    let image = TempPath::new("qcow2");
    let size = (SECTORS * 512).to_string();
    let made = qemu_img(&[&["create", "-q", "-f", "qcow2"], arguments, &[text(&image), &size]].concat())?;
    assert!(made.status.success(), "{}", said(&made));
    Some(image)
}

/// The content as a raw file.
fn raw(image: &TempPath) -> Vec<u8> {
    let raw = TempPath::new("img");
    let output = qemu_img(&["convert", "-U", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    std::fs::read(&raw).unwrap()
}

/// Without locks (-U): those of a killed server remain for a moment.
fn check(image: &TempPath) -> Output {
    qemu_img(&["check", "-U", "-f", "qcow2", text(image)]).unwrap()
}

/// Reads the whole disk as the guest.
fn read_all(driver: &mut BlkDriver) -> Vec<u8> {
    let mut content = Vec::new();
    for sector in (0..SECTORS).step_by(BLOCK as usize / 512) {
        driver.read(0, sector).unwrap();
        driver.kick().unwrap();
        let mut finished = Vec::new();
        finish(driver, &mut finished, 1);
        assert_eq!(finished[0].status, 0);
        let mut block = vec![0; BLOCK as usize];
        driver.ports().memory.read_slice(&mut block, driver.data(0)).unwrap();
        content.extend(block);
    }
    content
}

#[test]
fn a_guest_works_on_qcow2_images() {
    let _watchdog = Watchdog::new("a_guest_works_on_qcow2_images");
    let base = TempPath::image();
    std::fs::write(&base, vec![0x5a; (SECTORS * 512) as usize]).unwrap();
    let backing = ["-b", text(&base), "-F", "raw"];
    let temp = std::env::temp_dir();
    let temp = temp.to_str().unwrap();
    for (kind, more) in [
        (&[][..], &[][..]),
        (&["-o", "cluster_size=2M"], &["--monitor", "epoll"]),
        (&["-o", "compat=0.10"], &["--sandbox", "on"]),
        (&["-o", "preallocation=metadata,cluster_size=4k"], &["--sandbox", "on", "--monitor", "poll"]),
        (&["-o", "preallocation=full"], &["--direct"]),
        (&backing, &["--allow-backing", temp, "--sandbox", "on"]),
        (&backing, &["--allow-backing", temp, "--format", "auto", "--threads", "2", "--queues", "2"]),
    ] {
        let Some(image) = create(kind) else { return };
        println!("{kind:?} {more:?}");
        let socket = TempPath::new("sock");
        let format = if more.contains(&"auto") { &[][..] } else { &["--format", "qcow2"] };
        let mut server = Process::start(&socket, &image, &[format, more].concat());
        let mut client = Client::connect(&socket, default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 1000);
        let content = read_all(&mut driver);
        drop(client);
        // The metadata is written at the end, though the guest has flushed nothing.
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        let checked = check(&image);
        assert!(checked.status.success(), "{}", said(&checked));
        assert!(raw(&image) == content);
    }
    assert!(std::fs::read(&base).unwrap().iter().all(|&byte| byte == 0x5a));
}

/// The content of a block after write `number` to it.
fn block(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Carries out writes of these numbers, each to its block, and a flush if wanted.
fn write_all(driver: &mut BlkDriver, numbers: std::ops::Range<u64>, flush: bool) {
    let blocks = SECTORS * 512 / u64::from(BLOCK);
    let mut finished = Vec::new();
    for number in numbers {
        let slot = (number % u64::from(DEPTH)) as u16;
        driver.ports().memory.write_slice(&block(number), driver.data(slot)).unwrap();
        driver.write(slot, number * 7 % blocks * u64::from(BLOCK) / 512).unwrap();
        if slot + 1 == DEPTH {
            driver.kick().unwrap();
            finish(driver, &mut finished, DEPTH.into());
            assert!(finished.drain(..).all(|completion| completion.status == 0));
        }
    }
    if flush {
        driver.flush(0).unwrap();
        driver.kick().unwrap();
        finish(driver, &mut finished, 1);
        assert_eq!(finished[0].status, 0);
    }
}

/// After a kill, each write that was answered is there, flushed or not: the guest goes on with the
/// next server. The image has no errors. It may have clusters that nothing uses, as after a kill of
/// QEMU.
#[test]
fn a_killed_server_loses_nothing_that_was_answered() {
    let _watchdog = Watchdog::new("a_killed_server_loses_nothing_that_was_answered");
    let blocks = SECTORS * 512 / u64::from(BLOCK);
    for (round, cluster) in ["512", "4k", "64k", "2M", "64k", "4k"].into_iter().enumerate() {
        let Some(image) = create(&["-o", &format!("cluster_size={cluster}")]) else { return };
        let monitor = ["io_uring", "epoll"][round % 2];
        let mut last = vec![0; blocks as usize];
        let mut numbers = u64::from(DEPTH)..;
        for kill in 0..4 {
            let socket = TempPath::new("sock");
            let server = Process::start(&socket, &image, &["--format", "qcow2", "--monitor", monitor]);
            let mut client = Client::connect(&socket, default_options()).unwrap();
            let mut driver = driver(&mut client, 0);
            for flush in [kill % 2 == 0, false] {
                let first = numbers.start;
                let batch = first..first + 32 * (kill + 1);
                write_all(&mut driver, batch.clone(), flush);
                numbers.start = batch.end;
                for number in batch {
                    last[(number * 7 % blocks) as usize] = number;
                }
            }
            server.kill();
            let checked = check(&image);
            // 3: leaked clusters, and nothing else.
            assert!(matches!(checked.status.code(), Some(0 | 3)), "{}", said(&checked));
            for (found, &last) in raw(&image).chunks_exact(BLOCK as usize).zip(&last) {
                let expected = if last == 0 { vec![0; BLOCK as usize] } else { block(last) };
                assert!(found == expected, "write {last} is not there");
            }
        }
    }
}

/// Starts a server that must not start. Returns what it prints.
fn refused(image: &TempPath, more: &[&str]) -> String {
    let socket = TempPath::new("sock");
    let mut server = Process::launch(&socket, &["--image".as_ref(), image.as_ref().as_os_str()], more);
    let lines = server.rest_of_lines().join("\n");
    assert_eq!(server.wait().code(), Some(2), "{lines}");
    lines
}

#[test]
fn what_is_not_served_is_refused_with_the_reason() {
    let _watchdog = Watchdog::new("what_is_not_served_is_refused_with_the_reason");
    let plain = TempPath::image();
    let why = refused(&plain, &["--format", "auto"]);
    assert!(why.contains("a writable raw image is not guessed"), "{why}");
    Process::start(&TempPath::new("sock"), &plain, &["--format", "auto", "--read-only"]);
    let why = refused(&plain, &["--format", "qcow2"]);
    assert!(why.contains("this is not a qcow2 image"), "{why}");
    let Some(image) = create(&["-b", text(&plain), "-F", "raw"]) else { return };
    let why = refused(&image, &["--format", "qcow2"]);
    assert!(why.contains("--allow-backing"), "{why}");
    let why = refused(&image, &["--format", "qcow2", "--allow-backing", "/proc"]);
    assert!(why.contains("not inside a directory"), "{why}");
    assert!(refused(&image, &[]).contains("this looks like a qcow2 image"));
    // The backing file is locked as well.
    let temp = std::env::temp_dir();
    let more = ["--format", "qcow2", "--allow-backing", temp.to_str().unwrap()];
    let _server = Process::start(&TempPath::new("sock"), &image, &more);
    let why = refused(&plain, &["--format", "raw"]);
    assert!(why.contains("in use"), "{why}");
    let output = qemu_img(&["resize", "-f", "qcow2", text(&image), "2M"]).unwrap();
    assert!(said(&output).contains("lock"), "{}", said(&output));
    assert!(Path::new(text(&image)).exists());
}

/// The files of a chain are counted when they are known, and given back with the disk.
#[test]
fn the_files_of_a_chain_are_in_the_budget() {
    let _watchdog = Watchdog::new("the_files_of_a_chain_are_in_the_budget");
    let base = TempPath::image();
    let mut chain = vec![];
    let (mut below, mut format) = (base, "raw");
    for _ in 0..20 {
        let Some(above) = create(&["-b", text(&below), "-F", format]) else { return };
        chain.push(std::mem::replace(&mut below, above));
        format = "qcow2";
    }
    let (config, control) = (TempPath::new("toml"), TempPath::new("ctl"));
    let (first, second) = (TempPath::new("sock"), TempPath::new("sock"));
    let file = format!(
        "[daemon]\ncontrol = {:?}\n[[disk]]\nid = \"a\"\nsocket = {:?}\nnull = 512\n",
        text(&control),
        text(&first)
    );
    std::fs::write(&config, file).unwrap();
    let temp = std::env::temp_dir();
    let disk = serde_json::json!({
        "id": "b", "socket": text(&second), "image": text(&below), "format": "qcow2", "allow-backing": [temp],
    });
    // So many that a disk of one file is possible, and then one of 21.
    for (limit, fits) in [(120, false), (160, true)] {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" --config \"$1\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_vhost-user-blk")]).arg(config.as_ref());
        let server = Process::run(&mut command, &control, std::process::Stdio::piped());
        server.wait_for_line("ready");
        let mut client = super::daemon::Control::connect(&control);
        for _ in 0..3 {
            match client.execute("add-disk", disk.clone()) {
                Ok(_) => assert!(fits),
                Err(why) => {
                    assert!(!fits && why.contains(&format!("but the limit is {limit}")), "{why}");
                    assert!(!second.as_ref().exists());
                    continue;
                }
            }
            client.execute("remove-disk", serde_json::json!({"id": "b"})).unwrap();
        }
        let plain = serde_json::json!({"id": "c", "socket": text(&second), "null": 512});
        client.execute("add-disk", plain).unwrap();
    }
}
