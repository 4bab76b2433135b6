//! What an image is, and who else uses it: other formats, and the locks that QEMU takes.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use virtio_blk_sim::blk::device::Features;
use vm_memory::Bytes;

use super::client::Client;
use super::memory::{answer, post};
use super::process::{Process, injecting, leaving_with_us};
use super::server::TempPath;
use super::{BLOCK, Watchdog, default_options, driver, exercise, options};

/// Runs a program of QEMU. Returns None, after printing the reason, if it is not installed.
fn qemu(program: &str, before: &[&str], image: &TempPath, after: &[&str]) -> Option<Output> {
    match Command::new(program).args(before).arg(image.as_ref()).args(after).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a server that must not start. Returns what it prints.
fn refused(image: &TempPath, more: &[&str]) -> String {
    let socket = TempPath::new("sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.arg("--socket").arg(socket.as_ref()).arg("--image").arg(image.as_ref()).args(more);
    let mut server = Process::run(&mut command, &socket, Stdio::piped());
    let lines = server.rest_of_lines().join("\n");
    assert_eq!(server.wait().code(), Some(2), "{lines}");
    assert!(!socket.as_ref().exists());
    lines
}

fn can_write(image: &TempPath) -> Option<bool> {
    let output = qemu("qemu-io", &["-f", "raw", "-c", "write 0 4k"], image, &[])?;
    Some(output.status.success())
}

#[test]
fn qemu_and_a_second_server_are_refused_while_an_image_is_served() {
    let _watchdog = Watchdog::new("qemu_and_a_second_server_are_refused_while_an_image_is_served");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let info = ["info", "-f", "raw"];
    let mut server = Process::start(&socket, &image, &[]);
    for resized in [false, true] {
        for more in [&[][..], &["--read-only"]] {
            let why = refused(&image, more);
            assert!(why.contains("the image is in use: another process writes to it"), "{why}");
        }
        for command in [&["resize", "-f", "raw"][..], &["convert", "-f", "raw", "-O", "raw"]] {
            // The new size, or the target.
            let last = if command[0] == "resize" { "4M" } else { "/nonexistent/target" };
            let Some(output) = qemu("qemu-img", command, &image, &[last]) else { continue };
            let why = said(&output);
            assert!(!output.status.success() && why.contains("lock"), "{command:?}: {why}");
        }
        // QEMU lets this read a raw disk that a guest writes to, and so does this server.
        if let Some(output) = qemu("qemu-img", &info, &image, &[]) {
            assert!(output.status.success(), "{}", said(&output));
        }
        if let Some(writes) = can_write(&image) {
            assert!(!writes);
        }
        if !resized {
            std::fs::File::options().write(true).open(&image).unwrap().set_len(2 << 20).unwrap();
            server.signal(libc::SIGHUP);
            server.wait_for_line("the disk now has 4096 sectors");
        }
    }
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    if let Some(output) = qemu("qemu-img", &info, &image, &[]) {
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(can_write(&image), Some(true));
    }
}

#[test]
fn a_read_only_image_is_shared_with_readers() {
    let _watchdog = Watchdog::new("a_read_only_image_is_shared_with_readers");
    let (image, sockets) = (TempPath::image(), [(); 2].map(|()| TempPath::new("sock")));
    let _servers = sockets.each_ref().map(|socket| Process::start(socket, &image, &["--read-only"]));
    for socket in &sockets {
        let options = options(super::DEPTH, Features::RO | Features::FLUSH);
        Client::connect(socket, options).unwrap();
    }
    let why = refused(&image, &[]);
    assert!(why.contains("another process uses it and lets nobody write to it"), "{why}");
    if let Some(output) = qemu("qemu-img", &["info", "-f", "raw"], &image, &[]) {
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(can_write(&image), Some(false));
    }
}

/// A program that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts qemu-storage-daemon on an image, and waits until it serves it.
fn storage_daemon(image: &TempPath, socket: &TempPath, write: bool) -> Option<Running> {
    let path = |path: &TempPath| AsRef::<Path>::as_ref(path).display().to_string();
    let (read_only, writable) = if write { ("off", "on") } else { ("on", "off") };
    let disk = format!("driver=file,filename={},node-name=disk,read-only={read_only}", path(image));
    let export = format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable={writable},addr.type=unix,addr.path={}",
        path(socket)
    );
    let mut command = Command::new("qemu-storage-daemon");
    command.args(["--blockdev", &disk, "--export", &export]).stderr(Stdio::piped());
    let mut running = match leaving_with_us(&mut command).spawn() {
        Ok(child) => Running(child),
        Err(error) => {
            println!("skipped: qemu-storage-daemon: {error}");
            return None;
        }
    };
    while !socket.as_ref().exists() && running.0.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Some(running)
}

#[test]
fn qemu_storage_daemon_and_this_server_refuse_each_other() {
    let _watchdog = Watchdog::new("qemu_storage_daemon_and_this_server_refuse_each_other");
    let (image, ours) = (TempPath::image(), TempPath::new("sock"));
    // Its read-only export lets others write, unlike a read-only disk here or in QEMU.
    for (their_writes, our_writes) in [(true, true), (true, false), (false, true), (false, false)] {
        let more: &[&str] = if our_writes { &[] } else { &["--read-only"] };
        let theirs = TempPath::new("sock");
        let Some(mut running) = storage_daemon(&image, &theirs, their_writes) else { return };
        assert!(running.0.try_wait().unwrap().is_none());
        if their_writes {
            let why = refused(&image, more);
            assert!(why.contains("the image is in use: another process"), "{why}");
        } else {
            Process::start(&ours, &image, more);
        }
        drop(running);

        let _server = Process::start(&ours, &image, more);
        let theirs = TempPath::new("sock");
        let mut running = storage_daemon(&image, &theirs, their_writes).unwrap();
        if their_writes {
            let mut why = String::new();
            running.0.stderr.as_mut().unwrap().read_to_string(&mut why).unwrap();
            assert!(!running.0.wait().unwrap().success() && why.contains("lock"), "{why}");
        } else {
            assert!(running.0.try_wait().unwrap().is_none());
        }
    }
}

/// Some network file systems, and gVisor.
#[test]
fn an_image_that_cannot_be_locked_is_served_with_a_warning() {
    let _watchdog = Watchdog::new("an_image_that_cannot_be_locked_is_served_with_a_warning");
    for errno in ["EINVAL", "ENOLCK", "EOPNOTSUPP"] {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let Some(mut command) = injecting(&format!("fcntl:error={errno}")) else { return };
        command.arg("--socket").arg(socket.as_ref()).arg("--image").arg(image.as_ref());
        let server = Process::run(&mut command, &socket, Stdio::piped());
        server.wait_for_line("the image is not locked");
        server.wait_for_line("listening on");
    }
}

#[test]
fn images_of_other_formats_are_served_only_on_request() {
    let _watchdog = Watchdog::new("images_of_other_formats_are_served_only_on_request");
    let mut tried = 0;
    for (format, name, bytes) in [
        ("qcow2", "qcow2", b"QFI\xfb".as_slice()),
        ("vmdk", "VMDK", b"KDMV"),
        ("vhdx", "VHDX", b"vhdxfile"),
        ("vdi", "VDI", b""),
        ("vpc", "VHD", b"conectix"),
        ("qed", "QED", b"QED\0"),
        ("parallels", "Parallels", b"WithouFreSpacExt"),
    ] {
        let image = TempPath::new("img");
        let create = ["create", "-q", "-f", format];
        let made = match Command::new("qemu-img").args(create).arg(image.as_ref()).arg("1M").output() {
            Ok(output) if output.status.success() => true,
            Ok(output) => {
                println!("without qemu-img: {format}: {}", said(&output));
                false
            }
            Err(error) => {
                println!("without qemu-img: {format}: {error}");
                false
            }
        };
        if !made {
            // The header alone, in a file of the smallest size.
            let mut content = bytes.to_vec();
            content.resize(64 << 10, 0);
            if format == "vdi" {
                content[64..68].copy_from_slice(b"\x7f\x10\xda\xbe");
            }
            std::fs::write(&image, content).unwrap();
        }
        for more in [&[][..], &["--read-only"]] {
            let why = refused(&image, more);
            assert!(why.contains(&format!("this looks like a {name} image")), "{why}");
            assert!(why.contains("--format raw"), "{why}");
        }
        let socket = TempPath::new("sock");
        let _server = Process::start(&socket, &image, &["--format", "raw", "--read-only"]);
        tried += 1;
    }
    assert_eq!(tried, 7);
}

/// A guest may write anything to its disk, which stays usable until the server is started again.
#[test]
fn a_header_that_the_guest_writes_is_explained_at_the_next_start() {
    let _watchdog = Watchdog::new("a_header_that_the_guest_writes_is_explained_at_the_next_start");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::start(&socket, &image, &[]);
    let mut client = Client::connect(&socket, default_options()).unwrap();
    let mut guest = driver(&mut client, 0);
    let data = guest.data(1);
    guest.ports().memory.write_slice(b"QFI\xfb", data).unwrap();
    post(&mut guest, 1, 0, data.0, BLOCK);
    assert_eq!(answer(&mut guest), Ok(0));
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(
        refused(&image, &[]).contains("If it is a raw disk to which the guest has written such a header")
    );
    let _server = Process::start(&socket, &image, &["--format", "raw"]);
    exercise(&mut driver(&mut Client::connect(&socket, default_options()).unwrap(), 0), 100);
}
