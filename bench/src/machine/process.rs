//! A server's process, observed from outside: its id, its CPU time, and how often it slept.
#![expect(unsafe_code, reason = "SO_PEERCRED, clock_getcpuclockid(3) and clock_gettime(2) fill C structures")]

use crate::error::reason;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use std::{fs, io, mem, thread};

/// The time between two readings; if they are equal, the process sleeps. Shorter than any sample.
const SETTLING: Duration = Duration::from_micros(200);
/// The number of readings after which a server that never sleeps is read anyway.
const PATIENCE: usize = 25;

/// The largest process id (PID_MAX_LIMIT of Linux). The id of a CPU clock has room for 29 bits: a
/// larger number would be the clock of another process.
pub(crate) const MOST_PID: libc::pid_t = 1 << 22;

/// A process of this PID namespace.
#[derive(Debug)]
pub(crate) struct Process {
    pid: libc::pid_t,
    clock: libc::clockid_t,
}

/// The usage of a process: all its threads together, in case of the CPU time also those that have
/// ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    /// How often one of its threads slept (voluntary context switches).
    pub(crate) sleeps: u64,
}

/// The process that listened on the other end's socket, or created the pair (unix(7), SO_PEERCRED).
/// If it forked later, the server may be another process.
pub(crate) fn peer(socket: impl AsFd) -> io::Result<libc::pid_t> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = mem::size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: `credentials` is ours and has the `len` bytes that the call may fill.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(credentials.pid),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Process {
    /// The process `pid`. The error is the reason why it cannot be watched.
    pub(crate) fn new(pid: libc::pid_t) -> Result<Self, String> {
        if pid <= 0 {
            // SO_PEERCRED of a process in another PID namespace.
            return Err("the kernel does not say which process it is; name it by --pid".to_owned());
        }
        if pid > MOST_PID {
            return Err(format!("no process has the id {pid}; the largest is {MOST_PID}"));
        }
        let mut clock = 0;
        // SAFETY: `clock` is ours and is written by the call.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if error != 0 {
            let why = reason(&io::Error::from_raw_os_error(error));
            return Err(format!("the CPU time of process {pid} cannot be read: {why}"));
        }
        let process = Self { pid, clock };
        match process.usage() {
            Ok(_) => Ok(process),
            Err(error) => Err(format!("process {pid} cannot be watched: {}", reason(&error))),
        }
    }

    pub(crate) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// The CPUs that its main thread may run on.
    pub(crate) fn cpus(&self) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        field(&status, "Cpus_allowed_list").map(str::to_owned)
    }

    /// Waits until the process sleeps and returns its usage. The kernel updates the CPU time of
    /// another process at every tick while it runs, and exactly when it sleeps. Blocks for a
    /// moment.
    pub(crate) fn settled(&self) -> io::Result<Usage> {
        let mut last = self.usage()?;
        for _ in 0..PATIENCE {
            thread::sleep(SETTLING);
            let now = self.usage()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    fn usage(&self) -> io::Result<Usage> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is ours and is filled by the call.
        if unsafe { libc::clock_gettime(self.clock, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Usage {
            // A CPU clock starts at zero and never goes back.
            cpu_ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
            sleeps: self.sleeps()?,
        })
    }

    fn sleeps(&self) -> io::Result<u64> {
        Ok(self.statuses()?.iter().map(|status| count(status, "voluntary_ctxt_switches")).sum())
    }

    /// The memory that only this process has, in bytes (smaps_rollup of proc_pid_smaps(5)): what it
    /// maps from others, such as guest memory, does not count. Nor does what the kernel keeps for
    /// it.
    pub(crate) fn private_bytes(&self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let kib = |name| {
            let words = field(&rollup, name).and_then(|value| value.split_whitespace().next());
            words.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        };
        Ok(1024 * (kib("Private_Clean") + kib("Private_Dirty")))
    }

    /// Its threads, as they are now.
    pub(crate) fn threads(&self) -> io::Result<Vec<Thread>> {
        let thread = |status: &String| Thread {
            id: count(status, "Pid"),
            name: field(status, "Name").unwrap_or_default().to_owned(),
            switches: count(status, "voluntary_ctxt_switches") + count(status, "nonvoluntary_ctxt_switches"),
        };
        Ok(self.statuses()?.iter().map(thread).collect())
    }

    /// Each thread's /proc/PID/task/TID/status.
    fn statuses(&self) -> io::Result<Vec<String>> {
        let mut statuses = Vec::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end meanwhile; then its counts are lost.
            statuses.extend(fs::read_to_string(thread?.path().join("status")));
        }
        Ok(statuses)
    }
}

/// A thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Context switches of both kinds: to wait, or because other threads were scheduled.
    pub(crate) switches: u64,
}

impl Usage {
    /// The usage since `before`. `sleeps` may decrease because a thread has ended; then it is 0.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}

/// The number on a line of /proc/PID/status.
fn count(status: &str, name: &str) -> u64 {
    field(status, name).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The value of a line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio, id};
    use std::time::Instant;

    #[test]
    fn the_peer_of_a_socket_is_whoever_made_it() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer(&ours).unwrap() as u32, id());
        let path = std::env::temp_dir().join(format!("bench-peer-{}", id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(peer(&client).unwrap() as u32, id());
        drop(listener);
        fs::remove_file(&path).unwrap();
        assert!(peer(fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn another_process_is_watched() {
        // It sleeps in read(2) until its input ends.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::new(child.id() as libc::pid_t).unwrap();
        let mut usage = process.settled().unwrap();
        assert!(usage.cpu_ns > 0);
        assert!(process.cpus().is_some());
        // A program that is being loaded sleeps for its pages, too. It is idle when no other sleep
        // follows.
        let deadline = Instant::now() + Duration::from_secs(60);
        let again = loop {
            let again = process.settled().unwrap();
            if again.since(usage) == (Usage { cpu_ns: 0, sleeps: 0 }) {
                break again;
            }
            assert!(Instant::now() < deadline, "cat comes to no rest: {usage:?}, then {again:?}");
            usage = again;
        };
        let threads = process.threads().unwrap();
        assert_eq!((threads.len(), threads[0].name.as_str()), (1, "cat"));
        assert_eq!(threads[0].id, u64::from(child.id()));
        assert!(threads[0].switches >= again.sleeps, "{threads:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(process.settled().is_err(), "it is gone");
    }

    #[test]
    fn a_missing_process_is_reported_in_one_sentence() {
        assert!(Process::new(0).unwrap_err().contains("--pid"));
        // pid_max is at most this, and ids are below it.
        assert!(Process::new(MOST_PID).unwrap_err().contains("cannot be read"));
        assert!(Process::new(i32::MAX).unwrap_err().contains("no process has"));
    }

    #[test]
    fn fields_of_a_status_are_found_by_their_whole_name() {
        let status = "Name:\tx: y\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t12\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some("12"));
        assert_eq!(field(status, "Cpus_allowed_list"), None);
    }
}
