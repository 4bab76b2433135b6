//! The loop's counters, confirmed by strace(1), and what KVM does without any system call.
//!
//! An example is run twice, with different numbers of turns; the two runs differ only in the turns,
//! so every system call of the turns is accounted for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

type Counts = BTreeMap<String, u64>;

/// An example, which `cargo test` builds beside the tests. `None`, with a message, if it was not
/// built.
fn example(name: &str) -> Option<PathBuf> {
    // target/<profile>/deps/cost-<hash>
    let test = std::env::current_exe().unwrap();
    let path = test.parent()?.parent()?.join("examples").join(name);
    if !path.exists() {
        println!(
            "skipped: no {}; `cargo build -p aio-context --example {name}` makes it, as does a full `cargo test`",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// Runs an example under strace. Returns what it printed and what strace counted; `None`, with a
/// message, if strace is not there or may not trace, or if the example reports that this machine
/// lacks `feature`.
fn traced(name: &str, args: &[&str], feature: &str) -> Option<(Counts, Counts)> {
    let what = format!("{name} {}", args.join(" "));
    let file = format!("aio-{}-{}", std::process::id(), what.replace(' ', "-"));
    let summary = std::env::temp_dir().join(file);
    let strace = |program: &PathBuf, args: &[&str]| {
        Command::new("strace").args(["-f", "-c", "-o"]).arg(&summary).arg(program).args(args).output()
    };
    let example = example(name)?;
    let works = strace(&PathBuf::from("true"), &[]);
    let _ = std::fs::remove_file(&summary);
    if !works.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: strace is not installed, or may not trace here: {works:?}");
        return None;
    }
    let output = strace(&example, args).unwrap();
    let table = std::fs::read_to_string(&summary).unwrap();
    let _ = std::fs::remove_file(&summary);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains(feature), "{what}: {why}");
        println!("skipped: {what}: {why}");
        return None;
    }
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed.lines().filter_map(|line| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    // % time, seconds, usecs/call, calls, [errors], syscall
    let table = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let calls = columns.get(3)?.parse().ok()?;
        Some(((*columns.last()?).to_owned(), calls)).filter(|(name, _)| name != "total")
    });
    Some((printed.collect(), table.collect()))
}

/// The difference of `more` and `less`; zeros are left out.
fn difference(more: &Counts, less: &Counts) -> Counts {
    let get = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0);
    let names = more.keys().chain(less.keys());
    names
        .map(|name| (name.clone(), get(more, name).wrapping_sub(get(less, name))))
        .filter(|(_, calls)| *calls != 0)
        .collect()
}

/// Compares `TURNS` turns: all system calls of the process, and what the loop counted. `waits`: the
/// names that the monitor's call may have on one kernel and another.
fn check(monitor: &str, reset: &str, waits: &[&str], reads: u64) {
    const TURNS: u64 = 300;
    let run = |turns: u64| traced("notifier_turns", &[monitor, reset, &turns.to_string()], "io_uring");
    let (Some((less, traced_less)), Some((more, traced_more))) = (run(100), run(100 + TURNS)) else {
        return;
    };
    let seen = difference(&traced_more, &traced_less);
    println!("{monitor} {reset}: {seen:?} in {TURNS} turns");
    let wait = waits.iter().find(|name| seen.contains_key(**name));
    let wait = *wait.unwrap_or_else(|| panic!("{monitor} {reset}: none of {waits:?}"));
    // The write is the ring of the example itself.
    let mut expected = vec![(wait, TURNS), ("write", TURNS)];
    if reads != 0 {
        expected.push(("read", reads * TURNS));
    }
    let expected: Counts = expected.into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
    assert_eq!(seen, expected, "{monitor} {reset}: from outside");

    let said = difference(&more, &less);
    let counter = |name: &str| said.get(name).copied().unwrap_or(0);
    let enter = wait == "io_uring_enter";
    assert_eq!(
        (counter("turns"), counter("syscalls_wait"), counter("syscalls_enter"), counter("syscalls_read"),),
        (
            TURNS,
            if enter { 0 } else { seen[wait] },
            if enter { seen[wait] } else { 0 },
            seen.get("read").copied().unwrap_or(0),
        ),
        "{monitor} {reset}: from inside"
    );
}

/// Since Linux 5.11; before it on most machines; before it where there is no epoll_wait.
const EPOLL: &[&str] = &["epoll_pwait2", "epoll_wait", "epoll_pwait"];

#[test]
fn ppoll_classic() {
    check("poll", "classic", &["ppoll"], 1);
}

#[test]
fn epoll_classic() {
    check("epoll", "classic", EPOLL, 1);
}

#[test]
fn epoll_autoreset() {
    check("epoll", "autoreset", EPOLL, 0);
}

#[test]
fn io_uring_classic() {
    check("io_uring", "classic", &["io_uring_enter"], 1);
}

#[test]
fn io_uring_autoreset() {
    check("io_uring", "autoreset", &["io_uring_enter"], 0);
}

#[test]
fn io_uring_ring_read() {
    check("io_uring", "ring-read", &["io_uring_enter"], 0);
}

/// A kick is an OUT of the guest and an interrupt is a write(2) of the device; for neither does
/// KVM_RUN return, and nobody reads an eventfd.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_guest_kicks_and_is_interrupted_without_ioctl_or_read() {
    const QUESTIONS: u64 = 300;
    let run = |questions: u64| traced("smallest_vmm", &[&questions.to_string()], "/dev/kvm");
    let (Some((_, less)), Some((_, more))) = (run(100), run(100 + QUESTIONS)) else { return };
    let seen = difference(&more, &less);
    println!("smallest_vmm: {seen:?} for {QUESTIONS} questions");
    for call in ["ioctl", "read", "readv", "pread64"] {
        assert_eq!(seen.get(call), None, "{call}: {seen:?}");
    }
    // The last write may be the one that wakes the loop to stop it, if it sleeps.
    let writes = seen.get("write").copied().unwrap_or(0);
    assert!(writes.abs_diff(QUESTIONS) <= 1, "{seen:?}");
}
