//! Rounds in which something from outside took the CPU away are marked and left out.

use crate::support::{Directory, bench};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The rows that name `cause` in a report, and the text.
fn causes(json: &str, cause: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let disturbed = report["disturbed"].as_array().unwrap();
    disturbed.iter().filter(|campaign| !campaign["causes"][cause].is_null()).cloned().collect()
}

#[test]
fn a_stop_is_reported_and_its_round_is_left_out() {
    let directory = Directory::new("stopped");
    let (json, html) = (directory.file("out.json"), directory.file("out.html"));
    let arguments =
        ["virtio-blk", "--rounds", "8", "--runtime", "60ms", "--arms", "poll/classic", "--pin", "0,0"];
    let mut child = bench(&[&arguments[..], &["--json", &json, "--html", &html]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(stderr.any(|line| line.unwrap().starts_with("virtio-blk: rounds")));
    sleep(Duration::from_millis(200));
    kill_process(pid, Signal::STOP).unwrap();
    sleep(Duration::from_millis(300));
    kill_process(pid, Signal::CONT).unwrap();
    let errors: Vec<String> = stderr.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors:?}");
    assert!(errors.iter().any(|line| line.starts_with("bench: warning: virtio-blk: ")), "{errors:?}");
    let disturbed = causes(&json, "stopped");
    let [campaign] = disturbed.as_slice() else { panic!("{disturbed:?}") };
    // More rounds make up for those that are left out.
    let rounds = campaign["rounds"].as_u64().unwrap();
    assert!(campaign["campaign"] == "virtio-blk" && rounds > 8, "{campaign}");
    let sentence = "a signal stopped the process (round ";
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(sentence), "{text}");
    assert!(fs::read_to_string(&html).unwrap().contains(sentence));
    // Other causes may have added rounds, and then there may be none left.
    if campaign["left_out"] == true {
        let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        let rows = report["results"].as_array().unwrap();
        let row = rows.iter().find(|row| row["case"] == "poll/classic").unwrap();
        assert!(row["metrics"]["iops"]["n"].as_u64().unwrap() < rounds, "{row}");
    }
}

/// A cgroup with a CPU quota of a tenth of a CPU.
struct Quota(PathBuf);

impl Quota {
    /// `None`, and a message, where this test may not make one.
    fn new() -> Option<Self> {
        let name = format!("bench-test-{}", std::process::id());
        let places = [
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "10000"),
            ("/sys/fs/cgroup/cpu,cpuacct", "cpu.cfs_quota_us", "10000"),
            ("/sys/fs/cgroup", "cpu.max", "10000 100000"),
        ];
        for (place, file, value) in places {
            let folder = Path::new(place).join(&name);
            if !Path::new(place).is_dir() || fs::create_dir(&folder).is_err() {
                continue;
            }
            let quota = Self(folder);
            // Where there is no such file, a new one cannot be made, either.
            if fs::write(quota.0.join(file), value).is_ok() {
                return Some(quota);
            }
        }
        println!("skipped: no cgroup with a CPU quota can be made here");
        None
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A process leaves its cgroup a moment after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_quota_that_throttles_is_reported() {
    let Some(quota) = Quota::new() else { return };
    let directory = Directory::new("throttled");
    let json = directory.file("out.json");
    let arguments = ["eventfd", "--rounds", "2", "--runtime", "5ms", "--pin", "0,0", "--json", &json];
    let plain = bench(&arguments);
    let procs = quota.0.join("cgroup.procs");
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"echo $$ >"$0" && exec "$@""#]).arg(&procs).arg(plain.get_program());
    let output = shell.args(plain.get_args()).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if errors.contains("cannot create")
        || errors.contains("write error")
        || errors.contains("Invalid argument")
    {
        println!("skipped: a process cannot be moved to a cgroup here: {errors}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let disturbed = causes(&json, "throttled");
    assert!(!disturbed.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("the CPU quota of its cgroup was used up"), "{text}");
}
