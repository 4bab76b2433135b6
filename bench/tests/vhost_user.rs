//! `bench vhost-user` as a script uses it: two servers, one interleaved run, one JSON file.

mod support;

use aio::{AioContext, IoThread};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio, id};
use support::{Directory, bench};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::vhost_user::{Loops, Served, Server};

/// Starts a server in this process with a disk in memory.
fn serve(path: impl AsRef<Path>) -> IoThread {
    const SECTORS: u64 = 8192;
    let listener = UnixListener::bind(path).unwrap();
    let listen = move |context: &AioContext| {
        let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
        let disk = Disk::new(device, Backend::memory(SECTORS)?);
        Server::new(Served::new(disk), Loops::own()).listen(context, listener)
    };
    IoThread::spawn_with("server", AioContext::builder(), listen).unwrap()
}

fn vhost_user(arguments: &[&str]) -> Output {
    bench(&[&["vhost-user"], arguments].concat()).output().unwrap()
}

#[test]
fn two_servers_are_the_arms_of_one_run() {
    let directory = Directory::new("vhost-user-two");
    let (first, second, json) =
        (directory.file("first.sock"), directory.file("second.sock"), directory.file("out.json"));
    let _servers = [serve(&first), serve(&second)];
    let named = format!("renamed={second}");
    let arguments =
        ["--socket", &first, "--socket", &named, "--json", &json, "--rounds", "6", "--runtime", "3ms"];
    let more = ["--rw", "randrw", "--verify", "--iodepth", "4", "--client", "sleeping", "--idle", "20ms"];
    let output = vhost_user(&[&arguments[..], &more].concat());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        [
            "Per request, sleeping client on CPU ",
            "Ratios, the median over the rounds",
            "Idle, a guest attached"
        ]
        .iter()
        .all(|title| text.contains(title)),
        "{text}"
    );
    assert!(text.contains(&format!("renamed is process {}", id())), "{text}");

    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&report["benchmark"], &report["complete"]), (&"vhost-user".into(), &true.into()));
    let rows = report["results"].as_array().unwrap();
    let cases: Vec<(&str, &Value)> =
        rows.iter().map(|row| (row["case"].as_str().unwrap(), &row["baseline"])).collect();
    assert_eq!(cases, [("first", &Value::Null), ("renamed", &"first".into())]);
    // A disturbed round is left out, and made up for if not too many are.
    let calm = report["disturbed"].as_array().unwrap().is_empty();
    let n = rows[0]["metrics"]["iops"]["n"].as_u64().unwrap();
    assert!(n == 6 || !calm, "{report}");
    for row in rows {
        for metric in
            ["iops", "p50_us", "p99_us", "p999_us", "device_cpu_ns", "kicks", "interrupts", "sleeps"]
        {
            let metric = &row["metrics"][metric];
            assert_eq!(
                (&metric["n"], metric["values"].as_array().map(Vec::len)),
                (&n.into(), Some(n as usize)),
                "{row}"
            );
            assert_eq!(metric["versus"].is_null(), row["baseline"].is_null(), "{row}");
        }
        for metric in ["idle_wakeups_per_s", "idle_cpu_ns_per_s"] {
            let metric = &row["metrics"][metric];
            assert_eq!((&metric["n"], &metric["versus"]), (&1.into(), &Value::Null), "{row}");
        }
    }
    let versus = &rows[1]["metrics"]["iops"]["versus"];
    assert_eq!(versus["pairs"], n);
    assert!(n < 6 || versus["ratio"]["interval"]["low"].as_f64().unwrap() > 0.0, "{versus}");
}

#[test]
fn a_server_that_ends_while_it_is_idle_does_not_cost_the_results() {
    let directory = Directory::new("vhost-user-idle");
    let socket = directory.file("server.sock");
    let _server = serve(&socket);
    // Stands for the server's process, and ends when the rounds are over.
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = process.id().to_string();
    let arguments = ["vhost-user", "--socket", &socket, "--pid", &pid, "--rounds", "1", "--runtime", "1ms"];
    let mut child = bench(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(stderr.any(|line| line.unwrap().starts_with("vhost-user: idle")));
    process.kill().unwrap();
    process.wait().unwrap();
    let errors: Vec<String> = stderr.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Per request, sleeping client on CPU "), "{text}");
    assert!(
        text.contains("The idle servers were not measured. server: the server's process cannot"),
        "{text}"
    );
    assert!(!text.contains("os error"), "{text}");
}

#[test]
fn errors_are_one_sentence() {
    let directory = Directory::new("vhost-user-wrong");
    let socket = directory.file("server.sock");
    let _server = serve(&socket);
    let nobody = directory.file("nobody.sock");
    for (arguments, code, words) in [
        (&["--socket", &nobody][..], 1, "cannot connect to the vhost-user socket"),
        (&[], 2, "--socket"),
        (&["--socket", &socket, "--bs", "4m"], 2, "multiple of 512 up to 1m"),
        (&["--socket", &socket, "--bs", "1m", "--iodepth", "8"], 2, "fewer than --iodepth 8"),
        // pid_max is at most this value, and process ids are below it.
        (&["--socket", &socket, "--pid", "4194304"], 1, "CPU time of process 4194304 cannot be read"),
    ] {
        let output = vhost_user(&[arguments, &["--rounds", "1", "--runtime", "1ms"]].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        let last = errors.lines().last().unwrap_or_default();
        assert!(last.starts_with("bench: ") && last.contains(words), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}
