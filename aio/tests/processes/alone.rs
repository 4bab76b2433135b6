//! Processes: one for each test, and its children.
#![expect(unsafe_code, reason = "fork(2), kill(2), setrlimit(2)")]

use crate::support::guarded;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

const ALONE: &str = "AIO_TEST_ALONE";

/// Runs the test of this name in a process of its own.
pub(crate) fn alone(name: &'static str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return guarded(name, test);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    eprint!("{stderr}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{}\n{stdout}", output.status);
}

/// A forked child.
pub(crate) struct Child(libc::pid_t);

impl Child {
    /// Waits for its end. Fails if it panicked, or did not end by itself.
    pub(crate) fn expect_success(self) {
        let mut status = 0;
        // SAFETY: our own child, and a live integer.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!((waited, status), (self.0, 0), "the child failed; see above");
    }
}

/// Runs `work` in a forked child, which ends after it. The child has the calling thread only.
pub(crate) fn fork(work: impl FnOnce()) -> Child {
    // SAFETY: the test's process has no other thread that holds a lock: the guard sleeps.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: a child that hangs ends by SIGALRM.
        unsafe { libc::alarm(30) };
        let result = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends the child without the test harness.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    Child(pid)
}

/// Sends a signal to the parent of this process.
pub(crate) fn signal_parent(signal: libc::c_int) {
    // SAFETY: integers only; the parent is the test's own process.
    let sent = unsafe { libc::kill(libc::getppid(), signal) };
    assert_eq!(sent, 0, "{}", io::Error::last_os_error());
}

/// Runs `work` with this soft limit of descriptors.
pub(crate) fn lower_descriptor_limit(limit: libc::rlim_t, work: impl FnOnce()) {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live rlimit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut old) }, 0);
    set_limit(libc::rlimit { rlim_cur: limit, ..old });
    work();
    set_limit(old);
}

fn set_limit(limit: libc::rlimit) {
    // SAFETY: a live rlimit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
