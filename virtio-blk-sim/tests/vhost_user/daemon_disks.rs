//! Disks that are added, changed and removed while a guest uses another one, or the same.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use virtio_blk_sim::guest::BlkDriver;

use super::client::{Client, ClientOptions};
use super::daemon::{Control, Daemon, text};
use super::process::{Process, injecting};
use super::server::TempPath;
use super::{DEPTH, Watchdog, default_options, driver, exercise, finish};

/// Runs a guest on a disk while `act` does something else. `act` gets the count of the requests
/// that were answered.
fn with_a_busy_guest(daemon: &mut Daemon, id: &str, queues: u16, act: impl FnOnce(&mut Daemon, &AtomicU64)) {
    let mut client =
        Client::connect(daemon.socket(id), ClientOptions { queues, ..default_options() }).unwrap();
    let mut drivers: Vec<BlkDriver> = (0..queues).map(|queue| driver(&mut client, queue)).collect();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for driver in &mut drivers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    exercise(driver, 50);
                    answered.fetch_add(50, Ordering::Relaxed);
                }
            });
        }
        /// Also if `act` panics, or the threads would never end.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        act(daemon, &answered);
    });
}

/// Every request of the guest on A is answered with the right data while other disks come and go.
#[test]
fn a_guest_does_not_notice_that_other_disks_come_and_go() {
    let _watchdog = Watchdog::new("a_guest_does_not_notice_that_other_disks_come_and_go");
    for loops in [0, 2] {
        let mut daemon = Daemon::start(&format!("loops = {loops}"), &[("a", "memory = \"1m\"")]);
        with_a_busy_guest(&mut daemon, "a", 1, |daemon, answered| {
            let mut control = daemon.connect();
            let (image, socket) = (TempPath::image(), TempPath::new("sock"));
            for round in 0..100 {
                let before = answered.load(Ordering::Relaxed);
                let id = format!("b{round}");
                let disk = json!({"id": id, "socket": text(&socket), "image": text(&image), "queues": 3});
                control.execute("add-disk", disk).unwrap();
                if round % 10 == 0 {
                    // With a frontend that is still connected when the disk goes.
                    let mut client = Client::connect(&socket, default_options()).unwrap();
                    exercise(&mut driver(&mut client, 0), 20);
                    control.execute("remove-disk", json!({"id": id})).unwrap();
                    continue;
                }
                let size = 512 * (2048 + round);
                let resized = control.execute("resize-disk", json!({"id": id, "size": size})).unwrap();
                assert_eq!(resized, json!({"sectors": 2048 + round}));
                control.execute("set-limits", json!({"id": id, "iops": round})).unwrap();
                control.execute("remove-disk", json!({"id": id})).unwrap();
                assert!(!socket.as_ref().exists());
                while answered.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
            }
            assert_eq!(control.disk("a")["connected"], json!(true));
            assert_eq!(control.disk("a")["frontends"], json!(1));
        });
        assert_eq!(daemon.terminate().code(), Some(0));
    }
}

/// An image that another process uses is waited for, one second long. Meanwhile the loop has to
/// serve the other disk and the other clients.
#[test]
fn a_disk_that_is_slow_to_open_holds_nobody_up() {
    let _watchdog = Watchdog::new("a_disk_that_is_slow_to_open_holds_nobody_up");
    let (image, by) = (TempPath::image(), TempPath::new("sock"));
    let _owner = Process::start(&by, &image, &[]);
    let mut daemon = Daemon::start("", &[("a", "memory = \"1m\"")]);
    with_a_busy_guest(&mut daemon, "a", 1, |daemon, answered| {
        let socket = text(daemon.socket("b")).to_owned();
        let (mut slow, mut other) = (daemon.connect(), daemon.connect());
        let disk = json!({"id": "b", "socket": socket, "image": text(&image)});
        slow.start("add-disk", disk.clone());
        while other.disk("b")["state"] != json!("being added") {}
        let before = answered.load(Ordering::Relaxed);
        // The id is taken while the disk is being opened.
        let why = other.execute("add-disk", disk).unwrap_err();
        assert_eq!(why, "there is a disk b already");
        let why = other.execute("remove-disk", json!({"id": "b"})).unwrap_err();
        assert_eq!(why, "disk b is being added");
        while answered.load(Ordering::Relaxed) < before + 500 {
            std::thread::yield_now();
        }
        assert_eq!(other.disk("b")["state"], json!("being added"), "the disk was not slow to open");
        let why = slow.outcome().unwrap_err();
        assert!(why.contains("the image is in use: another process writes to it"), "{why}");
        assert!(other.disk("b").is_null(), "the id is free again");
    });
}

/// Commands of many clients for the same few disks, in any order. Whatever each of them gets for an
/// answer, nothing is left behind: no disk, no name in the file system, and no descriptor.
#[test]
fn commands_of_many_clients_leave_nothing_behind() {
    let _watchdog = Watchdog::new("commands_of_many_clients_leave_nothing_behind");
    let mut daemon = Daemon::start("loops = 2", &[("a", "memory = \"1m\"")]);
    let images: Vec<_> = (0..3).map(|_| TempPath::image()).collect();
    let sockets: Vec<_> = (0..3).map(|_| TempPath::new("sock")).collect();
    let process = daemon.process.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    let mut control = daemon.connect();
    // The event loops make some of theirs when they are first needed.
    let disk = json!({"id": "d0", "socket": text(&sockets[0]), "image": text(&images[0])});
    control.execute("add-disk", disk).unwrap();
    control.execute("remove-disk", json!({"id": "d0"})).unwrap();
    let before = descriptors();
    let control_path = &daemon.control;
    std::thread::scope(|scope| {
        for seed in 0..8_u64 {
            let (images, sockets) = (&images, &sockets);
            scope.spawn(move || {
                let mut control = Control::connect(control_path);
                let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut next = |below: u64| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 33) % below
                };
                for _ in 0..60 {
                    let (disk, image) = (next(3) as usize, next(3) as usize);
                    let id = format!("d{disk}");
                    let (command, arguments) = match next(6) {
                        0 | 1 => (
                            "add-disk",
                            json!({"id": id, "socket": text(&sockets[disk]), "image": text(&images[image])}),
                        ),
                        2 => ("remove-disk", json!({"id": id})),
                        3 => ("remove-disk", json!({"id": id, "force": true})),
                        4 => ("resize-disk", json!({"id": id})),
                        _ => ("move-disk", json!({"id": id, "loops": [next(2)]})),
                    };
                    let outcome = control.execute(command, arguments);
                    if let Err(why) = outcome {
                        let known = [
                            "there is",
                            "is being",
                            "have the same",
                            "another server",
                            "is in use",
                            "was removed",
                        ];
                        assert!(known.iter().any(|part| why.contains(part)), "{why}");
                    }
                }
            });
        }
    });
    for id in ["d0", "d1", "d2"] {
        let _ = control.execute("remove-disk", json!({"id": id}));
    }
    assert_eq!(control.execute("list-disks", json!({})).unwrap().as_array().unwrap().len(), 1);
    assert!(!sockets.iter().any(|socket| socket.as_ref().exists()));
    // The clients are gone, which the server notices in a later turn.
    while descriptors() > before {
        std::thread::yield_now();
    }
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 100);
    drop(client);
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn statistics_name_the_disk() {
    let _watchdog = Watchdog::new("statistics_name_the_disk");
    let mut daemon = Daemon::start("stats = 0.01", &[("a", "memory = \"1m\""), ("b", "null = 512")]);
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 100);
    daemon.process.wait_for_line("vhost-user-blk: a: queue 0: ");
    daemon.process.signal(libc::SIGUSR1);
    daemon.process.wait_for_line("vhost-user-blk: a: queue 0: 100 requests, ");
    daemon.process.wait_for_line("vhost-user-blk: 1 disks have no queue that is running");
}

#[test]
fn queues_move_while_a_guest_uses_them() {
    let _watchdog = Watchdog::new("queues_move_while_a_guest_uses_them");
    let image = TempPath::image();
    let keys = format!("image = {:?}\nqueues = 2\nloops = [0, 0]", text(&image));
    let mut daemon = Daemon::start("loops = 3", &[("a", &keys)]);
    with_a_busy_guest(&mut daemon, "a", 2, |daemon, answered| {
        let mut control = daemon.connect();
        for round in 0..100_usize {
            let (before, loops) = (answered.load(Ordering::Relaxed), [round % 3, round / 3 % 3]);
            control.execute("move-disk", json!({"id": "a", "loops": loops})).unwrap();
            assert_eq!(control.disk("a")["loops"], json!(loops));
            while answered.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        }
        let statistics = control.execute("statistics", json!({})).unwrap();
        assert_eq!(statistics[0]["queues"].as_array().unwrap().len(), 2, "{statistics}");
    });
}

#[test]
fn disks_are_placed_by_the_rule_or_by_hand() {
    let _watchdog = Watchdog::new("disks_are_placed_by_the_rule_or_by_hand");
    let disks = [
        ("a", "null = 512\nqueues = 3"),
        ("b", "null = 512\nqueues = 2"),
        ("c", "null = 512\nqueues = 3\nloops = [1, 1]"),
    ];
    for (rule, [a, b, c]) in [
        ("least-queues", [json!([0, 1, 0]), json!([1, 0]), json!([1, 1, 0])]),
        ("round-robin", [json!([0, 1, 0]), json!([0, 1]), json!([1, 1, 0])]),
    ] {
        let daemon = Daemon::start(&format!("loops = 2\nplacement = {rule:?}"), &disks);
        let mut control = daemon.connect();
        assert_eq!(["a", "b", "c"].map(|id| control.disk(id)["loops"].clone()), [a, b, c], "{rule}");
    }
}

/// The limit of a disk counts from the moment when it is set, also for a queue that waits.
#[test]
fn limits_change_while_a_queue_waits() {
    let _watchdog = Watchdog::new("limits_change_while_a_queue_waits");
    for loops in [0, 1] {
        let mut daemon = Daemon::start(&format!("loops = {loops}"), &[("a", "memory = \"1m\"\nbps = 1")]);
        let mut control = daemon.connect();
        let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        let mut finished = Vec::new();
        // The first block of 4096 bytes is a debt of more than an hour.
        (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
        driver.kick().unwrap();
        finish(&mut driver, &mut finished, 1);
        let requests = |control: &mut Control| {
            control.execute("statistics", json!({"id": "a"})).unwrap()[0]["queues"][0]["requests"].clone()
        };
        assert_eq!(requests(&mut control), json!(1));
        control.execute("set-limits", json!({"id": "a", "bps": 0})).unwrap();
        assert_eq!(control.disk("a")["bps"], json!(0));
        finish(&mut driver, &mut finished, DEPTH.into());
        exercise(&mut driver, 200);
        control.execute("set-limits", json!({"id": "a", "bps": 1})).unwrap();
        let before = requests(&mut control).as_u64().unwrap();
        (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
        driver.kick().unwrap();
        finished.clear();
        finish(&mut driver, &mut finished, 1);
        assert_eq!(requests(&mut control), json!(before + 1));
    }
}

#[test]
fn a_new_size_reaches_the_frontend_and_is_an_event() {
    let _watchdog = Watchdog::new("a_new_size_reaches_the_frontend_and_is_an_event");
    let image = TempPath::image();
    let mut daemon = Daemon::start("", &[("a", &format!("image = {:?}", text(&image)))]);
    let (mut control, mut watcher) = (daemon.connect(), daemon.connect());
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    assert_eq!(watcher.event(), ("frontend-connected".to_owned(), json!({"id": "a", "generation": 1})));
    for (command, sectors) in [(json!({"id": "a", "size": "4m"}), 8192_u64), (json!({"id": "a"}), 10_000)] {
        if command.get("size").is_none() {
            let file = std::fs::File::options().write(true).open(&image).unwrap();
            file.set_len(sectors * 512).unwrap();
        }
        control.execute("resize-disk", command).unwrap();
        assert_eq!(
            watcher.event(),
            ("disk-resized".to_owned(), json!({"id": "a", "generation": 1, "sectors": sectors}))
        );
        let capacity = client.frontend().get_config(0, 8).unwrap();
        assert_eq!(u64::from_le_bytes(capacity.try_into().unwrap()), sectors);
    }
    drop(client);
    assert_eq!(watcher.event(), ("frontend-disconnected".to_owned(), json!({"id": "a", "generation": 1})));
}

/// The removal of a disk waits for a flush that the kernel has, and a removal by force does not.
#[test]
fn a_removal_waits_for_requests_unless_it_is_forced() {
    let _watchdog = Watchdog::new("a_removal_waits_for_requests_unless_it_is_forced");
    let Some(command) = injecting("fdatasync:delay_enter=10000000") else { return };
    let (image, other) = (TempPath::image(), TempPath::image());
    let image_of = |path: &TempPath| format!("image = {:?}", text(path));
    let disks = [("a", &*image_of(&image)), ("b", &*image_of(&other))];
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"", &disks);
    let (mut waiting, mut forcing) = (daemon.connect(), daemon.connect());
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    driver.flush(0).unwrap();
    driver.kick().unwrap();
    let drains = |control: &mut Control| {
        control.execute("statistics", json!({"id": "a"})).unwrap()[0]["queues"][0]["drains"].as_u64()
    };
    while drains(&mut forcing) < Some(1) {}
    waiting.start("remove-disk", json!({"id": "a"}));
    while forcing.disk("a")["state"] != json!("being removed") {}
    // The other disk is served meanwhile, and this one is not any more.
    for _ in 0..20 {
        let mut client = Client::connect(daemon.socket("b"), default_options()).unwrap();
        exercise(&mut super::driver(&mut client, 0), 20);
        assert!(std::os::unix::net::UnixStream::connect(daemon.socket("a")).is_err());
    }
    assert_eq!(forcing.disk("a")["state"], json!("being removed"));
    let why = forcing.execute("remove-disk", json!({"id": "a"})).unwrap_err();
    assert_eq!(why, "disk a is being removed already");
    let why = forcing.execute("resize-disk", json!({"id": "a"})).unwrap_err();
    assert_eq!(why, "disk a is being removed");
    forcing.execute("remove-disk", json!({"id": "a", "force": true})).unwrap();
    assert_eq!(waiting.outcome(), Ok(json!({})));
    assert!(forcing.disk("a").is_null());
    assert!(is_held(daemon.process.id()), "the flush has ended, so the removal may have waited for it");
}

/// Whether strace holds a thread of the process, as it does with the flush. It stops each thread
/// for a moment at each call; one that it holds is not even switched to meanwhile.
pub(super) fn is_held(process: u32) -> bool {
    let before = stopped(process);
    std::thread::sleep(Duration::from_millis(50));
    let after = stopped(process);
    before.iter().any(|thread| after.contains(thread))
}

/// The threads that a tracer has stopped, with how often they were switched to.
fn stopped(process: u32) -> Vec<(OsString, Vec<String>)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
    let status = |task: &DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
    let look = |task: DirEntry| {
        let status = status(&task);
        let switches = status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned);
        status.contains("State:\tt").then(|| (task.file_name(), switches.collect()))
    };
    tasks.filter_map(look).collect()
}

#[test]
fn an_image_that_fails_is_an_event() {
    let _watchdog = Watchdog::new("an_image_that_fails_is_an_event");
    let Some(command) = injecting("fdatasync:error=EIO") else { return };
    let image = TempPath::image();
    let keys = format!("image = {:?}", text(&image));
    let mut daemon = Daemon::run(command, "monitor = \"epoll\"\nloops = 1", &[("a", &keys)]);
    let mut control = daemon.connect();
    let mut client = Client::connect(daemon.socket("a"), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    assert_eq!(control.disk("a")["failed"], json!(false));
    driver.flush(0).unwrap();
    driver.kick().unwrap();
    finish(&mut driver, &mut Vec::new(), 1);
    let data = control.wait_for("disk-failed", "a");
    assert_eq!(data["error"], json!("Input/output error (os error 5)"));
    assert_eq!(control.disk("a")["failed"], json!(true));
    // It works again when it is opened again.
    control.execute("remove-disk", json!({"id": "a"})).unwrap();
    let disk = json!({"id": "a", "socket": text(daemon.socket("a")), "image": text(&image)});
    control.execute("add-disk", disk).unwrap();
    assert_eq!(control.disk("a")["failed"], json!(false));
}

/// SIGTERM and quit complete what the device has taken, on all disks.
#[test]
fn the_end_completes_the_requests_of_all_disks() {
    let _watchdog = Watchdog::new("the_end_completes_the_requests_of_all_disks");
    for loops in [0, 2] {
        for quit in [false, true] {
            let images: Vec<_> = (0..4).map(|_| TempPath::image()).collect();
            let keys: Vec<_> = images.iter().map(|image| format!("image = {:?}", text(image))).collect();
            let ids = ["a", "b", "c", "d"];
            let disks: Vec<_> = ids.iter().zip(&keys).map(|(id, keys)| (*id, keys.as_str())).collect();
            let mut daemon = Daemon::start(&format!("loops = {loops}"), &disks);
            let mut control = daemon.connect();
            let mut guests: Vec<_> = ids
                .iter()
                .map(|id| {
                    let mut client = Client::connect(daemon.socket(id), default_options()).unwrap();
                    let mut driver = driver(&mut client, 0);
                    exercise(&mut driver, 100);
                    (client, driver)
                })
                .collect();
            for (_, driver) in &mut guests {
                (0..DEPTH).for_each(|slot| driver.write(slot, 0).unwrap());
                driver.kick().unwrap();
            }
            if quit {
                control.execute("quit", json!({})).unwrap();
                assert_eq!(daemon.process.wait().code(), Some(0));
            } else {
                assert_eq!(daemon.terminate().code(), Some(0));
            }
            for (client, _) in &guests {
                assert_eq!(client.heads_in_flight(), 0);
            }
            assert!(ids.iter().all(|id| !daemon.socket(id).as_ref().exists()));
        }
    }
}

/// The soft limit is raised as far as the disks need, and if the hard limit is too low, the error
/// says how many descriptors are needed.
#[test]
fn descriptors_are_counted_for_all_disks() {
    let _watchdog = Watchdog::new("descriptors_are_counted_for_all_disks");
    let sockets: Vec<_> = (0..40).map(|_| TempPath::new("sock")).collect();
    let file = |disks: usize| -> String {
        let disk = |(index, socket): (usize, &TempPath)| {
            format!("[[disk]]\nid = \"d{index}\"\nsocket = {:?}\nnull = 512\n", text(socket))
        };
        sockets.iter().take(disks).enumerate().map(disk).collect()
    };
    let (config, control) = (TempPath::new("toml"), TempPath::new("ctl"));
    let run = |limit: &str, disks: usize| {
        let text = format!("[daemon]\ncontrol = {:?}\n{}", text(&control), file(disks));
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit}; exec \"$0\" --config \"$1\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_vhost-user-blk")]).arg(config.as_ref());
        Process::run(&mut command, &control, Stdio::piped())
    };
    let mut server = run("-n 500", 40);
    let lines = server.lines_before("ready").expect("500 descriptors are not enough for 40 disks");
    assert_eq!(server.wait().code(), Some(2), "{lines}");
    assert!(lines.contains("with what is there before, need "), "{lines}");
    assert!(lines.contains("but the limit is 500 (RLIMIT_NOFILE); raise it (ulimit -n)"), "{lines}");
    // A soft limit is raised.
    let server = run("-S -n 100", 40);
    server.wait_for_line("ready");
    drop(server);
    // Disks that are added later count, too, and those that are gone do not any more.
    let server = run("-n 200", 2);
    server.wait_for_line("ready");
    let mut client = Control::connect(&control);
    for _ in 0..3 {
        let mut added = 0;
        let why = loop {
            let disk = json!({"id": format!("x{added}"), "socket": text(&sockets[added + 2]), "null": 512, "queues": 2});
            match client.execute("add-disk", disk) {
                Ok(_) => added += 1,
                Err(why) => break why,
            }
        };
        assert!(why.contains("but the limit is 200"), "{why}");
        assert!((2..8).contains(&added), "{added}");
        for index in 0..added {
            client.execute("remove-disk", json!({"id": format!("x{index}")})).unwrap();
        }
    }
}
