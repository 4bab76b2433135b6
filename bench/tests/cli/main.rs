//! Tests of the binary as a user or a script sees it: exit codes, messages, output streams, JSON,
//! Ctrl-C.

mod disturbed;
mod refused;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use support::{Directory, bench};

fn run(arguments: &[&str]) -> Output {
    bench(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The shortest possible run: one round of one-millisecond samples.
const SHORT: [&str; 3] = ["eventfd", "--rounds=1", "--runtime=1ms"];

#[test]
fn wrong_use_is_one_sentence_on_stderr_and_exit_code_2() {
    let directory = Directory::new("wrong");
    let missing = format!("--json={}", directory.file("missing/out.json"));
    let is_directory = format!("--json={}", directory.path().display());
    let same_json = format!("--json={}", directory.file("same"));
    let same_html = format!("--html={}", directory.file("./same"));
    const OTHERS: &str =
        concat!("--baseline=", env!("CARGO_MANIFEST_DIR"), "/src/one_percent/golden/first.json");
    let cases: &[(&[&str], &str)] = &[
        (&["nonsense"], "unrecognized subcommand 'nonsense'"),
        (&["eventfd", "--quik"], "did you mean '--quick'?"),
        (&["eventfd", "extra"], "unexpected argument 'extra'"),
        (&["eventfd", "--rounds=0"], "must be 1 to 10000"),
        (&["eventfd", "--rounds=many"], "must be 1 to 10000"),
        (&["eventfd", "--runtime=0"], "must be 1ms to 3600s"),
        (&["eventfd", "--runtime=3600", "--rounds=10000"], "hours; lower --rounds or --runtime"),
        (&["eventfd", "--pin=0"], "write two CPU numbers"),
        (&["eventfd", "--pin=0,99999"], "CPU 99999 is not among those that this process may use"),
        (&["eventfd", &missing], "cannot write there: No such file or directory"),
        (&["eventfd", &is_directory], "this is a directory; name a file"),
        (&["eventfd", "--json=/dev/null"], "this is not a regular file; write - for stdout"),
        (&["eventfd", "--html=/dev/null"], "--html /dev/null: this is not a regular file"),
        (&["eventfd", "--baseline=/nonexistent"], "--baseline /nonexistent: No such file or directory"),
        (&["eventfd", "--baseline=/proc/self/cmdline"], "this is not a report of bench --json"),
        (&["eventfd", OTHERS], "one report is of bench one-percent, the other of bench eventfd"),
        (&["eventfd", &same_json, &same_html], "--json and --html name the same file; give each its own"),
        (&["eventfd", "--json=-", "--html", "-"], "--json and --html name the same file"),
        (&["eventfd", "--json=-", "--csv=-"], "--json and --csv name the same file"),
        (&["eventfd", "--precision=x"], "write a percentage from 0 to 1000"),
        (&["eventfd", "--time=0"], "must be 1s to 86400s"),
        (&["report"], "were not provided"),
        (&["report", "/nonexistent"], "FILE.json /nonexistent: No such file or directory"),
        (&["eventfd", "--threshold=-1"], "write a percentage from 0 to 1000"),
        (&["compare", "/nonexistent"], "were not provided"),
        (&["one-percent", "--quick", "--full"], "cannot be used with"),
        (
            &["one-percent", "--kernel-lab=/nonexistent"],
            "--kernel-lab /nonexistent: No such file or directory",
        ),
        (&["one-percent", "--dir=/nonexistent"], "--dir /nonexistent: cannot make a file there"),
    ];
    for (arguments, part) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        // Ignore the warning that is printed when the machine is busy.
        let stderr = text(&output.stderr);
        let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("bench: warning: ")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("bench: ") && lines[0].contains(part), "{stderr}");
    }
}

#[test]
fn help_version_and_lists_go_to_stdout() {
    for (arguments, part) in [
        (&["--help"][..], "Exit codes"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["eventfd", "--help"], "--rounds"),
        (&["list"], "io_uring/ring-read-multishot"),
        (&["list"], "write + epoll_wait edge, no read"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(part), "{arguments:?}");
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn results_go_to_stdout_and_progress_to_stderr() {
    let output = run(&SHORT);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    for part in [
        "kernel       Linux ",
        "Per operation, one thread",
        "Per round trip, two threads",
        "A read(2) of an eventfd costs ",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    // One round is too few for a comparison, and the output must state that.
    assert!(stdout.contains("inconclusive (1 of 6 rounds)"), "{stdout}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("one thread: warm-up: ") && stderr.contains("two threads: rounds: "), "{stderr}");
    assert!(!stdout.contains("warm-up"));
    // Neither stream is a terminal, so there are no colours.
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'));
}

#[test]
fn no_color_is_respected_and_a_pipe_has_no_colour_anyway() {
    for value in ["", "1"] {
        let output = bench(&["list"]).env("NO_COLOR", value).env("TERM", "xterm").output().unwrap();
        assert!(!text(&output.stdout).contains('\x1b'));
    }
}

#[test]
fn the_json_report_has_its_fields_and_appears_whole() {
    let directory = Directory::new("json");
    let path = directory.file("it's out.json");
    let argument = format!("--json={path}");
    let output = run(&[&SHORT[..], &[argument.as_str()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(entries(&directory), ["it's out.json"]);

    let json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((json["schema"].as_str(), json["benchmark"].as_str()), (Some("bench/2"), Some("eventfd")));
    assert_eq!(json["complete"], true);
    assert!(json["command"].as_str().unwrap().contains(r"it'\''s out.json"), "{}", json["command"]);
    for field in
        ["date", "kernel", "cpus_online", "cpus_allowed", "bench_version", "noise", "warnings", "mitigations"]
    {
        assert!(json["environment"].get(field).is_some(), "{field}");
    }
    let results = json["results"].as_array().unwrap();
    assert!(results.len() >= 13 + 9);
    for result in results {
        assert!(result["group"].is_string() && result["case"].is_string());
        match result["status"].as_str().unwrap() {
            "measured" => {
                let metrics = result["metrics"].as_object().unwrap();
                assert!(metrics.contains_key("time_ns") || metrics.contains_key("round_trip_ns"));
                for metric in metrics.values() {
                    assert!(metric["median"].is_f64() && metric["values"].as_array().unwrap().len() == 1);
                }
            }
            "unavailable" => assert!(result["reason"].is_string()),
            status => panic!("{status}"),
        }
    }
    let read = results.iter().find(|result| result["case"] == "read, counter set").unwrap();
    assert_eq!(read["metrics"]["syscalls"]["median"], 1.0);
    // The conclusions on the screen are also in the file.
    let sentence = json["conclusions"][0].as_str().unwrap();
    assert!(text(&output.stdout).contains(sentence));
}

#[test]
fn a_report_is_a_page_and_markdown_and_a_baseline() {
    let directory = Directory::new("page");
    let (json, page) = (directory.file("a.json"), directory.file("a.html"));
    let output = run(&[&SHORT[..], &["--json", &json, "--html", &page, "--markdown"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let markdown = text(&output.stdout);
    assert!(markdown.starts_with("### bench eventfd") && markdown.contains("| time, ns |"), "{markdown}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("A read(2) of an eventfd costs "));
    assert!(html.len() < 1 << 20 && html.contains("<h2>How to repeat it</h2>"));

    // A saved report is drawn again as the same page, and its text is the answer.
    let again = directory.file("again.html");
    let report = run(&["report", &json, "--html", &again]);
    assert_eq!(report.status.code(), Some(0), "{}", text(&report.stderr));
    assert!(
        text(&report.stdout)
            .starts_with("What does a read(2) of an eventfd cost, and what is saved without it?\n")
    );
    assert_eq!(fs::read_to_string(&again).unwrap(), html);
    let to_stdout = run(&["report", &json, "--html=-"]);
    assert_eq!((text(&to_stdout.stdout), text(&to_stdout.stderr)), (html.as_str(), text(&report.stdout)));
    let markdown_again = run(&["report", &json, "--markdown"]);
    assert_eq!(text(&markdown_again.stdout), markdown);

    // The same report is not worse than itself. One round is too few for a comparison.
    let same = run(&["compare", &json, &json, "--html", &page]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
    assert!(text(&same.stdout).contains("0 of ") && text(&same.stdout).contains("undecided"));
    assert!(fs::read_to_string(&page).unwrap().contains("<h2>Against an earlier run</h2>"));
    let baseline = run(&[&SHORT[..], &["--baseline", &json]].concat());
    assert_eq!(baseline.status.code(), Some(0), "{}", text(&baseline.stderr));
    assert!(text(&baseline.stdout).contains("After against before, one thread"));

    // Six rounds in which everything took three times as long.
    let mut report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let mut write = |name: &str, factor: f64| {
        for result in report["results"].as_array_mut().unwrap() {
            for metric in result["metrics"].as_object_mut().unwrap().values_mut() {
                let median = metric["median"].as_f64().unwrap();
                metric["values"] = vec![median * factor; 6].into();
            }
        }
        let path = directory.file(name);
        fs::write(&path, report.to_string()).unwrap();
        path
    };
    let (fast, slow) = (write("fast.json", 1.0), write("slow.json", 3.0));
    let worse = run(&["compare", &fast, &slow]);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stdout));
    assert!(text(&worse.stdout).contains("worse by more than 5.00%: "), "{}", text(&worse.stdout));
    assert_eq!(run(&["compare", &fast, &slow, "--threshold=250"]).status.code(), Some(0));
    assert_eq!(run(&["compare", &slow, &fast]).status.code(), Some(0));
}

#[test]
fn every_sample_is_in_the_csv_and_every_latency_in_the_json() {
    let directory = Directory::new("csv");
    let (csv, json) = (directory.file("a.csv"), directory.file("a.json"));
    let arms = ["--arms=epoll/classic,epoll/edge", "--rounds=2", "--runtime=2ms"];
    let output = run(&[&arms[..], &["--csv", &csv, "--json", &json]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let csv = fs::read_to_string(&csv).unwrap();
    let mut lines = csv.split_terminator("\r\n");
    assert_eq!(lines.next(), Some("benchmark,group,case,round,visit,left_out,metric,unit,value"));
    let samples =
        |case: &str| csv.lines().filter(|line| line.contains(case) && line.contains(",iops,")).count();
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let rows = report["results"].as_array().unwrap();
    for row in rows.iter().filter(|row| row["case"].as_str().unwrap().starts_with("epoll/")) {
        let rounds = row["rounds"].as_array().unwrap().len();
        let left_out = row["left_out"]["rounds"].as_array().unwrap().len();
        assert_eq!(rounds, row["metrics"]["iops"]["values"].as_array().unwrap().len(), "{row}");
        // Two visits in each round, at one or two places.
        let places = rows.iter().filter(|other| other["case"] == row["case"]).count();
        assert_eq!(samples(row["case"].as_str().unwrap()), 2 * (rounds + left_out) * places, "{csv}");
        assert!(row["latency"].as_str().unwrap().starts_with("HISTFAAA"), "{row}");
    }
}

#[test]
fn a_run_that_is_worse_than_its_baseline_is_exit_code_1() {
    let directory = Directory::new("regression");
    let json = directory.file("a.json");
    let six = ["eventfd", "--rounds=6", "--runtime=1ms"];
    let output = run(&[&six[..], &["--json", &json]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    // A baseline in which everything took a thousandth of the time, and one in which it took a
    // thousand times as long.
    for (factor, code) in [(0.001, 1), (1000.0, 0)] {
        let mut past = report.clone();
        for result in past["results"].as_array_mut().unwrap() {
            for (name, metric) in result["metrics"].as_object_mut().unwrap() {
                let values = metric["values"].as_array_mut().unwrap();
                for value in values.iter_mut().filter(|_| name.ends_with("_ns")) {
                    *value = (value.as_f64().unwrap() * factor).into();
                }
            }
        }
        fs::write(&json, past.to_string()).unwrap();
        let output = run(&[&six[..], &["--baseline", &json]].concat());
        assert_eq!(output.status.code(), Some(code), "{factor}: {}", text(&output.stderr));
    }
}

/// Waits until the process has written a line to stderr that starts with `start`, and returns the
/// rest of stderr.
fn stderr_from(child: &mut Child, start: &str) -> BufReader<ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(start) {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "bench ended before '{start}'");
    }
    stderr
}

#[test]
fn results_are_not_lost_when_the_comparison_or_a_file_fails() {
    let directory = Directory::new("kept");
    let (baseline, page) = (directory.file("empty.json"), directory.file("out.html"));
    let empty = r#"{"schema":"bench/1","benchmark":"eventfd","command":"","workload":null,"complete":true,
        "environment":{},"conclusions":[],"results":[]}"#;
    fs::write(&baseline, empty).unwrap();
    let output = run(&[&SHORT[..], &["--baseline", &baseline, "--html", &page]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).ends_with("so there is nothing to compare\n"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Per operation, one thread"), "{}", text(&output.stdout));
    assert!(fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));

    // The directory of the JSON file disappears during the run.
    let gone = Directory::new("gone");
    let json = gone.file("out.json");
    let arguments = [&SHORT[..], &["--json", &json, "--html", &page]].concat();
    let mut child = bench(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = stderr_from(&mut child, "one thread: warm-up");
    fs::remove_file(&page).unwrap();
    drop(gone);
    let (mut stdout, mut errors) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{errors}");
    let sentence = format!("bench: --json {json}: cannot write: No such file or directory\n");
    assert!(errors.ends_with(&sentence), "{errors}");
    assert!(stdout.contains("Per operation, one thread") && fs::exists(&page).unwrap(), "{stdout}");
}

/// The names in a directory.
fn entries(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_report_on_stdout_is_alone_there() {
    let directory = Directory::new("stdout");
    let run = |arguments: &[&str]| {
        let output = bench(arguments).current_dir(directory.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        (text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (json, errors) = run(&[&SHORT[..], &["--json", "-"]].concat());
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["complete"], true);
    assert!(errors.contains("Per operation, one thread"), "{errors}");
    assert!(errors.contains(report["conclusions"][0].as_str().unwrap()), "{errors}");

    let page = |page: &str| page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n");
    let (html, errors) = run(&[&SHORT[..], &["--html", "-", "--json", "a.json", "--markdown"]].concat());
    assert!(page(&html), "{html}");
    assert!(errors.contains("### bench eventfd"), "{errors}");
    let (html, errors) = run(&["compare", "a.json", "a.json", "--html=-"]);
    assert!(page(&html), "{html}");
    assert!(errors.contains("0 of "), "{errors}");
    assert_eq!(entries(&directory), ["a.json"]);
}

#[test]
fn a_report_does_not_replace_the_file_that_stdout_goes_to() {
    let directory = Directory::new("redirected");
    let (path, link) = (directory.file("out"), directory.file("link"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link] {
        let stdout = fs::File::create(&path).unwrap();
        let output = bench(&[&SHORT[..], &["--json", name]].concat()).stdout(stdout).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let sentence = format!("bench: --json {name}: stdout goes to this file; write - for stdout\n");
        assert_eq!(text(&output.stderr), sentence);
    }
}

#[test]
fn a_signal_leaves_no_file_behind() {
    for signal in ["TERM", "KILL", "INT"] {
        let directory = Directory::new("signal");
        let place = directory.path().to_str().unwrap();
        let json = directory.file("out.json");
        let arguments = ["one-percent", "--rounds=1", "--runtime=2ms", "--dir", place, "--json", &json];
        let mut child = bench(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Wait until the disk image is open; at first it is being written.
        let descriptors = format!("/proc/{}/fd", child.id());
        let image_is_open = || {
            let links = fs::read_dir(&descriptors).unwrap().flatten();
            let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
            targets.any(|target| target.starts_with(place))
        };
        while !image_is_open() {
            assert!(child.try_wait().unwrap().is_none(), "bench ended without an image");
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let ended = child.wait().unwrap();
        if signal == "INT" {
            assert_eq!((ended.code(), entries(&directory)), (Some(130), vec!["out.json".to_owned()]));
        } else {
            assert_eq!((ended.code(), entries(&directory)), (None, Vec::new()), "{signal}");
        }
    }
}

#[test]
fn one_percent_measures_its_cells_and_prints_conclusions() {
    let directory = Directory::new("one-percent");
    let json = directory.file("out.json");
    let output = run(&[
        "one-percent",
        "--rounds=1",
        "--runtime=2ms",
        "--dir",
        directory.path().to_str().unwrap(),
        "--json",
        &json,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(
        (report["benchmark"].as_str(), report["complete"].as_bool()),
        (Some("one-percent"), Some(true))
    );
    let results = report["results"].as_array().unwrap();
    let reads = |group: &str, case: &str| {
        let row = results.iter().find(|row| {
            row["group"].as_str().unwrap().starts_with(group)
                && row["case"] == case
                && row["status"] == "measured"
        });
        row.map(|row| row["metrics"]["reads_per_wakeup"]["median"].as_f64().unwrap())
    };
    assert!(reads("epoll, spin 100us, iodepth 1 on one CPU", "epoll/classic").unwrap() > 0.5);
    assert_eq!(reads("epoll, spin 100us, iodepth 1 on one CPU", "epoll/edge"), Some(0.0));
    assert!(reads("epoll, spin 100us, iodepth 1 on one CPU", "epoll/classic + a read").is_some());
    assert_eq!(entries(&directory), ["out.json"]);
    assert!(text(&output.stdout).contains("What leaving out the read(2) saves of an iteration"));
    assert!(text(&output.stdout).contains(report["conclusions"][0].as_str().unwrap()));
}

#[test]
fn a_pin_runs_on_those_cpus_only() {
    let list = run(&[&SHORT[..], &["--pin=0,99999"]].concat());
    let allowed = text(&list.stderr).lines().last().unwrap().to_owned();
    // The error message names the allowed CPUs: "... may use (0-1)".
    let first: String =
        allowed.rsplit('(').next().unwrap().chars().take_while(char::is_ascii_digit).collect();
    let pin = format!("--pin={first},{first}");
    let output = run(&[&SHORT[..], &[pin.as_str()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(
        stdout.contains(&format!("two threads, one CPU ({first})")) && !stdout.contains("two CPUs"),
        "{stdout}"
    );
}

#[test]
fn ctrl_c_prints_the_finished_results() {
    let directory = Directory::new("interrupt");
    let path = directory.file("out.json");
    // Long enough to be still running on any machine. It is stopped as soon as its rounds begin.
    let arguments = ["eventfd", "--rounds=1000", "--runtime=1ms", "--json", &path];
    let mut child = bench(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _stderr = stderr_from(&mut child, "one thread: rounds");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(stdout.contains("Stopped by Ctrl-C"), "{stdout}");
    assert!(stdout.contains("stopped before its first sample"), "{stdout}");
    let json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(json["complete"], false);
    let last = json["results"].as_array().unwrap().last().unwrap();
    assert_eq!(last["status"], "interrupted");
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    let mut child = bench(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = bench(&["list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "bench: cannot write to stdout: No space left on device\n");
}

#[test]
fn an_unusable_kvm_is_one_sentence_and_exit_code_3() {
    for (device, part) in [
        ("/nonexistent/kvm", "/nonexistent/kvm cannot be opened: No such file or directory"),
        ("/dev/null", "/dev/null is not a usable KVM device"),
    ] {
        let device = format!("--kvm-device={device}");
        for arguments in [&["--guest=kvm", &device][..], &["virtio-blk", "--guest=kvm", &device]] {
            let output = run(arguments);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}");
            assert_eq!(text(&output.stdout), "", "{arguments:?}");
            let stderr = text(&output.stderr);
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            assert!(stderr.starts_with("bench: --guest kvm: ") && stderr.contains(part), "{stderr}");
        }
        // Without --guest=kvm the device is not needed.
        let thread = ["--rounds=1", "--runtime=1ms", "--arms=epoll/edge", &device];
        assert_eq!(run(&thread).status.code(), Some(0));
    }
}

#[test]
fn a_guest_of_kvm_measures_the_same_and_its_exits() {
    let directory = Directory::new("kvm");
    let path = directory.file("out.json");
    let measure = |guest: &str| {
        let guest = format!("--guest={guest}");
        let arguments =
            ["--rounds=1", "--runtime=5ms", "--arms=epoll/classic,epoll/edge", &guest, "--json", &path];
        let output = run(&arguments);
        let json = || serde_json::from_str::<Value>(&fs::read_to_string(&path).unwrap()).unwrap();
        match output.status.code() {
            Some(0) => Some((text(&output.stdout).to_owned(), json())),
            Some(3) if guest == "--guest=kvm" => {
                eprintln!("skipped: {}", text(&output.stderr));
                None
            }
            code => panic!("{code:?}: {}", text(&output.stderr)),
        }
    };
    let Some((stdout, kvm)) = measure("kvm") else { return };
    let (thread_stdout, thread) = measure("thread").unwrap();
    let rows = |json: &Value| -> Vec<Value> {
        let rows = json["results"].as_array().unwrap().iter();
        rows.filter(|row| row["case"].as_str().unwrap().starts_with("epoll/")).cloned().collect()
    };
    let arms = |json: &Value| -> Vec<(String, Vec<String>)> {
        let names = |row: &Value| row["metrics"].as_object().unwrap().keys().cloned().collect();
        rows(json).iter().map(|row| (row["case"].to_string(), names(row))).collect()
    };
    for row in rows(&kvm) {
        let reads = row["metrics"]["reads"]["median"].as_f64().unwrap();
        assert_eq!(reads > 0.0, row["case"] == "epoll/classic", "{row}");
        match row["metrics"]["vm_exits"]["median"].as_f64() {
            Some(exits) => assert!(exits > 0.0, "{row}"),
            None => eprintln!("skipped: this kernel has no KVM statistics"),
        }
    }
    // The same arms with the same metrics, and one more.
    let mut more = arms(&kvm);
    more.iter_mut().for_each(|(_, names)| names.retain(|name| name != "vm_exits"));
    assert_eq!(more, arms(&thread));
    assert!(!arms(&thread).is_empty() && !thread_stdout.contains("vm exits"), "{thread_stdout}");
    assert!(stdout.contains("guest KVM (kicks by PIO, interrupts by MSI)"), "{stdout}");
    // The first conclusion reports whether the times are meaningful.
    let said = kvm["conclusions"][0].as_str().unwrap();
    assert!(
        said.contains("KVM interprets the guest") || said.contains("The processor runs the guest"),
        "{said}"
    );
}

/// Returns the JSON report of a run that must succeed.
fn report_of(name: &str, arguments: &[&str]) -> Value {
    let directory = Directory::new(name);
    let json = directory.file("out.json");
    let output = bench(arguments).args(["--json", &json]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
}

/// Returns the median of a metric of the first row with this case whose group starts with `group`.
#[cfg(feature = "peers")]
fn median_of(report: &Value, group: &str, case: &str, metric: &str) -> Option<f64> {
    let rows = report["results"].as_array()?.iter();
    let row = rows
        .into_iter()
        .find(|row| row["group"].as_str().is_some_and(|it| it.starts_with(group)) && row["case"] == case)?;
    row["metrics"][metric]["median"].as_f64()
}

#[test]
fn scale_reports_every_size_with_its_memory_and_fairness() {
    let report = report_of("scale", &["scale", "--rounds=1", "--runtime=1ms"]);
    assert_eq!(report["benchmark"], "scale");
    let rows = report["results"].as_array().unwrap();
    let measured = |row: &&Value| row["status"] == "measured";
    let of_disks = |row: &&Value| row["group"].as_str().unwrap().starts_with("disks in one process");
    let disks: Vec<_> = rows.iter().filter(of_disks).collect();
    assert_eq!(disks.len(), 9, "three numbers of disks, and six neighbours");
    for row in disks.iter().copied().filter(measured) {
        assert!(row["metrics"]["p99_us"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    let of_churn =
        |row: &&Value| row["group"].as_str().unwrap().starts_with("a busy disk while others change");
    let churn: Vec<_> = rows.iter().filter(of_churn).collect();
    assert_eq!(churn.len(), 4, "what a client of the control socket does beside a busy disk");
    for row in churn.iter().copied().filter(measured) {
        assert!(row["metrics"]["max_us"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    for row in rows.iter().filter(measured).filter(|row| !of_disks(row) && !of_churn(row)) {
        let metrics = &row["metrics"];
        let memory = if row["group"].as_str().unwrap().starts_with("notifiers") {
            "handler_bytes"
        } else {
            assert!(metrics["latency_max_over_median"]["median"].as_f64().unwrap() >= 1.0, "{row}");
            "device_bytes"
        };
        assert!(metrics["time_ns"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert!(metrics[memory]["unit"] == "bytes" || cfg!(not(target_env = "gnu")), "{row}");
    }
    let of_epoll = |row: &&Value| row["group"].as_str().unwrap().contains("epoll/edge");
    assert!(
        rows.iter().filter(of_epoll).filter(measured).count() >= 15,
        "too few rows; is 'ulimit -n' too low?"
    );
}

#[cfg(feature = "peers")]
#[test]
fn a_name_that_matches_no_work_or_no_peer_is_refused() {
    for option in ["--work", "--peer"] {
        let output = run(&["loops", option, "typo"]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
        let part = format!("bench: {option} matches none of '");
        assert!(text(&output.stderr).contains(&part), "{}", text(&output.stderr));
    }
}

#[cfg(feature = "peers")]
#[test]
fn system_calls_of_every_loop_are_counted_from_outside() {
    let report =
        report_of("loops", &["loops", "--rounds=1", "--runtime=1ms", "--work=100 notifiers, 1 rung"]);
    assert_eq!(report["benchmark"], "loops");
    let calls = |case| median_of(&report, "100 notifiers, 1 rung", case, "syscalls");
    if calls("raw epoll, unread").is_none() {
        eprintln!("skipped: ptrace(2) is not allowed here");
        return;
    }
    // A write and a wait, and a read in the arms that read.
    for case in ["raw epoll, unread", "aio epoll/edge", "mio, unread", "eventp, unread"] {
        assert_eq!(calls(case), Some(2.0), "{case}");
    }
    for case in ["raw epoll, read", "aio epoll/classic", "mio", "eventp", "event-manager"] {
        assert_eq!(calls(case), Some(3.0), "{case}");
    }
}
