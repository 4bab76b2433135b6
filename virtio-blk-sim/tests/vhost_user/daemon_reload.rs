//! SIGHUP with a configuration file.

use serde_json::{Value, json};

use super::client::Client;
use super::daemon::{Daemon, text};
use super::process::Process;
use super::server::TempPath;
use super::{Watchdog, default_options, driver, exercise};

fn ids(daemon: &Daemon) -> Vec<String> {
    let disks = daemon.connect().execute("list-disks", json!({})).unwrap();
    disks.as_array().unwrap().iter().map(|disk| disk["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_has_changed_in_the_file_is_done() {
    let _watchdog = Watchdog::new("what_has_changed_in_the_file_is_done");
    let (image, other) = (TempPath::image(), TempPath::image());
    let of = |image: &TempPath, more: &str| format!("image = {:?}\n{more}", text(image));
    let daemon_keys = "loops = 2";
    let plain = of(&image, "");
    let mut daemon = Daemon::start(daemon_keys, &[("a", &plain), ("b", "null = \"1m\"")]);
    let mut control = daemon.connect();
    let from_control = text(daemon.socket("z")).to_owned();
    let disk = json!({"id": "z", "socket": from_control, "null": 512});
    control.execute("add-disk", disk).unwrap();
    // A guest on the disk that stays.
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 100);

    daemon.reload("the configuration was read again: 0 disks added, 0 removed, 0 changed");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(512 * 3000).unwrap();
    let (limited, new) = (of(&image, "iops = 100000\nbps = \"1g\"\nloops = [1]"), of(&other, "queues = 2"));
    daemon.write(daemon_keys, &[("a", &limited), ("c", &new), ("d", "memory = \"1m\"")]);
    daemon.reload("the configuration was read again: 2 disks added, 1 removed, 1 changed");
    assert_eq!(ids(&daemon), ["a", "c", "d", "z"]);
    let a = control.disk("a");
    assert_eq!((&a["sectors"], &a["iops"], &a["bps"]), (&json!(3000), &json!(100_000), &json!(1_u64 << 30)));
    assert_eq!((&a["loops"], &a["connected"]), (&json!([1]), &json!(true)));
    exercise(&mut driver, 100);

    // Another disk takes the image and the socket of one that goes.
    let socket = text(daemon.socket("c")).to_owned();
    let (control_path, a_socket) = (text(&daemon.control).to_owned(), text(daemon.socket("a")).to_owned());
    let file = format!(
        "[daemon]\ncontrol = {control_path:?}\n{daemon_keys}\n[[disk]]\nid = \"a\"\nsocket = {a_socket:?}\n{plain}\n\
         [[disk]]\nid = \"e\"\nsocket = {socket:?}\n{new}\n"
    );
    std::fs::write(&daemon.config, file).unwrap();
    daemon.reload("the configuration was read again: 1 disks added, 2 removed, 1 changed");
    assert_eq!(ids(&daemon), ["a", "e", "z"]);
    assert_eq!(control.disk("a")["iops"], json!(0));
    let mut other = Client::connect(&socket, default_options()).unwrap();
    exercise(&mut super::driver(&mut other, 0), 100);
    exercise(&mut driver, 100);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_bad_file_changes_nothing() {
    let _watchdog = Watchdog::new("a_bad_file_changes_nothing");
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::start("", &[("a", &keys), ("b", "null = \"1m\"")]);
    let mut control = daemon.connect();
    control.execute("add-disk", json!({"id": "z", "socket": text(daemon.socket("z")), "null": 512})).unwrap();
    let before = control.execute("list-disks", json!({})).unwrap();
    let new = ("c", "null = \"2m\"");
    let limited = format!("{keys}\niops = 5");
    let missing = ("d", "image = \"/nonexistent/x\"");
    let same = ("d", &*keys);
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let rows: &[Row<'_>] = &[
        ("", &[new, ("a", "nonsense = 1")], "FILE:11:1: unknown field `nonsense`"),
        ("loops = 1", &[("a", &limited)], "FILE: [daemon] has changed, and that needs a new start"),
        ("", &[new, ("a", &limited), missing], "disk d: /nonexistent/x: no such file"),
        ("", &[new, ("a", &limited), same], "disk d and disk a (FILE:8:1) have the same image"),
        ("", &[("a", "null = \"1m\"")], "FILE:4:1: disk a: image cannot change while the disk is served"),
        ("", &[new, ("a", &limited), ("b", "null = \"1m\"\nqueues = 2")], "disk b: queues cannot change"),
        ("", &[new, ("z", "null = 512")], "disk z was added with a command; remove it first"),
    ];
    for (daemon_keys, disks, error) in rows {
        daemon.write(daemon_keys, disks);
        let error = error.replace("FILE", text(&daemon.config));
        daemon.process.signal(libc::SIGHUP);
        let line = daemon.process.next_line("the configuration");
        assert!(
            line.contains("the configuration is unchanged: ") && line.contains(&error),
            "{error}: {line}"
        );
        let now: Value = control.execute("list-disks", json!({})).unwrap();
        assert_eq!(now, before, "{error}");
        assert!(!daemon.socket("c").as_ref().exists());
    }
    std::fs::remove_file(&daemon.config).unwrap();
    daemon.reload("the configuration is unchanged: ");
    assert_eq!(control.execute("list-disks", json!({})).unwrap(), before);
    daemon.write("", &[("a", &keys), ("b", "null = \"1m\""), new]);
    daemon.reload("the configuration was read again: 1 disks added, 0 removed, 0 changed");
}

/// A signal that comes while the file is being read is not lost.
#[test]
fn a_signal_during_a_reload_reads_the_file_once_more() {
    let _watchdog = Watchdog::new("a_signal_during_a_reload_reads_the_file_once_more");
    let (image, by) = (TempPath::image(), TempPath::new("sock"));
    let _owner = Process::start(&by, &image, &[]);
    let slow = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::start("", &[("a", "null = 512")]);
    let mut control = daemon.connect();
    // An image in use is waited for, one second long.
    daemon.write("", &[("a", "null = 512"), ("slow", &slow)]);
    daemon.process.signal(libc::SIGHUP);
    while control.disk("slow")["state"] != json!("being added") {}
    daemon.write("", &[("a", "null = 512"), ("b", "null = 512")]);
    daemon.reload("the configuration is unchanged: ");
    daemon.process.wait_for_line("the configuration was read again: 1 disks added, 0 removed, 0 changed");
    assert_eq!(ids(&daemon), ["a", "b"]);
}

#[test]
fn many_signals_end_with_the_last_file() {
    let _watchdog = Watchdog::new("many_signals_end_with_the_last_file");
    let mut daemon = Daemon::start("", &[("a", "null = 512")]);
    for round in 0..30 {
        let id = format!("b{round}");
        daemon.write("", &[("a", "null = 512"), (&id, "null = 512")]);
        daemon.process.signal(libc::SIGHUP);
        daemon.process.signal(libc::SIGHUP);
    }
    while ids(&daemon) != ["a", "b29"] {
        std::thread::yield_now();
    }
    assert_eq!(daemon.terminate().code(), Some(0));
}
