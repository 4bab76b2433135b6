//! What a doorbell costs, counted by strace from outside: GLib's calls and the context's.

use aio::{AioContext, MonitorKind};
use std::collections::HashMap;
use std::process::{Command, Stdio};

/// The calls of a run of the program with `kicks` kicks, by name. `None` if strace does not work.
fn calls(kind: MonitorKind, kicks: u32) -> Option<HashMap<String, u32>> {
    let log = std::env::temp_dir().join(format!("aio-glib-{}-{kind}-{kicks}", std::process::id()));
    let program = env!("CARGO_BIN_EXE_aio-glib");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&log);
    let status = strace
        .args([program, &kind.to_string(), &kicks.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    let counts = text.lines().filter_map(|line| {
        let (calls, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), calls.parse().ok()?))
    });
    status.is_ok_and(|status| status.success()).then(|| counts.collect())
}

#[test]
fn a_doorbell_costs_one_sleep_of_glib_and_what_the_monitor_needs() {
    const MORE: u32 = 400;
    if !Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
    {
        return println!("skipped: strace is not installed, or ptrace(2) is not allowed here");
    }
    for kind in MonitorKind::ALL {
        if let Err(error) = AioContext::builder().embeddable().monitor(kind).build() {
            println!("skipped on {kind}: {error}");
            continue;
        }
        // The difference of two runs is the cost of a doorbell, without that of the start.
        let few = calls(kind, 100).expect("the program succeeds");
        let many = calls(kind, 100 + MORE).expect("the program succeeds");
        let more = |names: &[&str]| {
            let sum = |of: &HashMap<String, u32>| names.iter().filter_map(|name| of.get(*name)).sum::<u32>();
            f64::from(sum(&many).saturating_sub(sum(&few))) / f64::from(MORE)
        };
        // With the monitor poll, ppoll(2) is both GLib's sleep on some systems and the check.
        let polls = more(&["poll", "ppoll"]);
        let epolls = more(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
        let (reads, enters) = (more(&["read"]), more(&["io_uring_enter"]));
        println!("{kind}: for each doorbell {polls} polls, {epolls} epolls, {reads} reads, {enters} enters");
        let (most_polls, most_epolls, most_reads) = match kind {
            MonitorKind::Poll => (2.0, 0.0, 1.0),
            MonitorKind::Epoll => (1.0, 1.0, 0.0),
            // A completion may interrupt the sleep, which then begins again.
            _ => (2.0, 0.0, 0.0),
        };
        assert!(more(&["write"]) >= 0.9, "the guest rings by write(2), so this counts");
        assert!(polls >= 0.9 && polls <= most_polls + 0.1, "{kind}: {polls}");
        assert!(epolls <= most_epolls + 0.1, "{kind}: {epolls}");
        assert!(reads <= most_reads + 0.1 && enters <= 0.1, "{kind}: {reads} and {enters}");
    }
}
