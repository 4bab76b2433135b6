//! What an idle server does while its guest is attached: no thread of it should run.

use crate::campaign::Watch;
use crate::machine::process::{Process, Thread};
use crate::measure::Measured;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The time for what follows the last request: a window of busy polling, a thread that cleans up.
const SETTLING: Duration = Duration::from_millis(100);
/// How quickly Ctrl-C is noticed.
const SLICE: Duration = Duration::from_millis(100);

/// What an idle server did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Idle {
    pub(crate) wakeups_per_s: f64,
    pub(crate) cpu_ns_per_s: f64,
    /// The threads that ran, and how often.
    pub(crate) woken: Vec<(String, u64)>,
}

/// Watches all idle processes for `time`. `None` if it was interrupted. An error has the index of
/// the process that could not be watched. Blocks.
pub(crate) fn watch(
    processes: &[&Process],
    time: Duration,
    watch: &mut impl Watch,
) -> Result<Option<Vec<Idle>>, (usize, io::Error)> {
    if !pause(SETTLING, watch) {
        return Ok(None);
    }
    let read = |(index, process): (usize, &&Process)| Reading::of(process).map_err(|error| (index, error));
    let before = processes.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    if !pause(time, watch) {
        return Ok(None);
    }
    let after = processes.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(after.into_iter().zip(before).map(|(after, before)| after.since(before)).collect()))
}

/// Sleeps for `time`. Returns false if it was interrupted.
fn pause(time: Duration, watch: &impl Watch) -> bool {
    let end = Instant::now() + time;
    while !watch.stopped() {
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return true,
            left => sleep(left.min(SLICE)),
        }
    }
    false
}

/// A process at one time.
#[derive(Debug)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
    threads: Vec<Thread>,
}

impl Reading {
    fn of(process: &Process) -> io::Result<Self> {
        let cpu_ns = process.settled()?.cpu_ns;
        Ok(Self { at: Instant::now(), cpu_ns, threads: process.threads()? })
    }

    fn since(self, before: Self) -> Idle {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
        let woken = woken(&before.threads, &self.threads);
        Idle {
            wakeups_per_s: woken.iter().map(|(_, times)| times).sum::<u64>() as f64 / seconds,
            cpu_ns_per_s: self.cpu_ns.saturating_sub(before.cpu_ns) as f64 / seconds,
            woken,
        }
    }
}

/// The threads that ran between two readings, and how often. A thread that wakes up leaves its CPU
/// at least once; one that was created or ended meanwhile has run at least once.
fn woken(before: &[Thread], after: &[Thread]) -> Vec<(String, u64)> {
    let find = |threads: &[Thread], id| threads.iter().find(|thread| thread.id == id).cloned();
    let ran = after.iter().map(|thread| match find(before, thread.id) {
        Some(earlier) => (thread.name.clone(), thread.switches.saturating_sub(earlier.switches)),
        None => (thread.name.clone(), thread.switches.max(1)),
    });
    let gone = before.iter().filter(|thread| find(after, thread.id).is_none());
    let gone = gone.map(|thread| (thread.name.clone(), 1));
    ran.chain(gone).filter(|(_, times)| *times > 0).collect()
}

impl Idle {
    /// The metrics of the server's row: measured once, so they have one value and no comparison.
    pub(crate) fn metrics(&self) -> Vec<Measured> {
        vec![
            Measured::once("idle_wakeups_per_s", "1/s", self.wakeups_per_s),
            Measured::once("idle_cpu_ns_per_s", "ns/s", self.cpu_ns_per_s),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::StepsLeft;
    use std::process::{Command, Stdio};

    fn thread(id: u64, name: &str, switches: u64) -> Thread {
        Thread { id, name: name.to_owned(), switches }
    }

    #[test]
    fn threads_that_ran_are_named() {
        let before = [thread(1, "main", 7), thread(2, "asleep", 9), thread(3, "ends", 4)];
        let after = [thread(1, "main", 10), thread(2, "asleep", 9), thread(4, "begins", 0)];
        let named = |name: &str, times| (name.to_owned(), times);
        assert_eq!(woken(&before, &after), [named("main", 3), named("begins", 1), named("ends", 1)]);
        assert_eq!(woken(&before, &before), []);
    }

    #[test]
    fn sleeping_waking_and_spinning_processes_are_distinguished() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap()
        };
        // All of them end with their input or soon after.
        let wakes = "while sleep 0.01; do :; done";
        let mut children = [shell("read line"), shell(wakes), shell("while :; do :; done")];
        let processes = children.each_ref().map(|child| Process::new(child.id() as i32).unwrap());
        let mut watching = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
        let seen = watch(&processes.each_ref(), Duration::from_millis(500), &mut watching);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let seen = seen.unwrap().unwrap();
        let [asleep, awake, busy] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(*asleep, Idle { wakeups_per_s: 0.0, cpu_ns_per_s: 0.0, woken: Vec::new() });
        assert!(asleep.wakeups_per_s.is_sign_positive(), "no sum of no floats, which is -0.0");
        assert!(awake.wakeups_per_s > 0.0 && awake.cpu_ns_per_s > 0.0, "{awake:?}");
        assert!(awake.woken.iter().all(|(name, times)| name == "sh" && *times > 0), "{awake:?}");
        assert!(busy.cpu_ns_per_s > awake.cpu_ns_per_s, "{busy:?}");
    }

    #[test]
    fn ctrl_c_ends_the_watch_and_a_missing_process_is_named_by_its_index() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::new(child.id() as i32).unwrap();
        let mut stopped = StepsLeft::default();
        assert_eq!(watch(&[&process], Duration::from_secs(3600), &mut stopped).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut watching = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
        assert_eq!(watch(&[&process], Duration::ZERO, &mut watching).unwrap_err().0, 0);
    }
}
