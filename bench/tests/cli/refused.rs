//! System calls that are refused, by a sandbox or for want of descriptors: an error soon, with its
//! reason, and never success without results.

use crate::support::bench;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A sample that hangs ends after 30 seconds; an error is noticed at once.
const SOON: Duration = Duration::from_secs(20);

/// Runs bench under strace(1), where the calls fail from the `from`th of each thread on. `None`,
/// and a message, where strace cannot do that.
fn refused(call: &str, errno: &str, from: u32, arguments: &[&str]) -> Option<Output> {
    let trace = |call: &str, errno: &str, from: u32| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
        strace.arg("-e").arg(format!("inject={call}:error={errno}:when={from}+")).stdin(Stdio::null());
        strace
    };
    if !trace("getppid", "EPERM", 1).arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no strace here that can inject errors");
        return None;
    }
    let begin = Instant::now();
    let plain = bench(arguments);
    let output = trace(call, errno, from).arg(plain.get_program()).args(plain.get_args()).output().unwrap();
    assert!(begin.elapsed() < SOON, "{call}: it took {:?}", begin.elapsed());
    Some(output)
}

#[test]
fn a_loop_that_fails_ends_the_sample_at_once() {
    for (call, from, arm) in [
        ("ppoll", 3, "poll/classic"),
        ("epoll_wait", 12, "epoll/edge"),
        ("io_uring_enter", 40, "io_uring/edge"),
    ] {
        let arguments = ["virtio-blk", "--quick", "--rounds", "1", "--arms", arm];
        let Some(output) = refused(call, "EFAULT", from, &arguments) else { return };
        let errors = String::from_utf8(output.stderr).unwrap();
        if output.status.code() == Some(3) {
            println!("skipped: {errors}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{call}: {errors}");
        let last = errors.lines().last().unwrap_or_default();
        assert_eq!(last, format!("bench: {arm}: the event loop failed: Bad address"));
    }
}

#[test]
fn without_eventfds_there_is_no_success() {
    let words = "Too many open files";
    for (arguments, words) in [
        (&["eventfd", "--quick"][..], words),
        (&["virtio-blk", "--quick"], words),
        (&["flow-control", "--quick"], words),
        (&["scale", "--quick"], "raise 'ulimit -n'"),
    ] {
        let Some(output) = refused("eventfd2", "EMFILE", 1, arguments) else { return };
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_ne!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        let last = errors.lines().last().unwrap_or_default();
        assert!(last.starts_with("bench: ") && last.contains(words), "{arguments:?}: {errors}");
    }
}
