//! What takes the CPU away from a measurement: the CPU quota of a cgroup, a hypervisor, a signal
//! that stops the process, a suspended machine, a freezer.
//!
//! The kernel counts all but the last. The counters are read between the samples, so that nothing
//! runs beside a sample. What no counter shows (a frozen cgroup, a paused virtual machine without
//! steal time) makes a gap in the clock: one sample takes much longer than the others of its arm.
//!
//! A disturbed round is left out of the results (see [`super::rounds`]).

mod cgroup;
mod stops;

pub(crate) use stops::install;

use cgroup::Quotas;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::Duration;

/// Why a round was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// The quota of a cgroup was used up.
    Throttled,
    /// The hypervisor ran something else (steal time).
    Stolen,
    /// The process was stopped by a signal, and continued.
    Stopped,
    /// The machine was suspended.
    Suspended,
    /// One sample took much longer than the others of its arm.
    Gap,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Cause::Throttled => "the CPU quota of its cgroup was used up",
            Cause::Stolen => "the hypervisor took CPU time away",
            Cause::Stopped => "a signal stopped the process",
            Cause::Suspended => "the machine was suspended",
            Cause::Gap => "a sample took far longer than the others of its arm",
        })
    }
}

/// The rounds of one campaign that were disturbed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Disturbed {
    pub(crate) campaign: String,
    /// How many rounds there were.
    pub(crate) rounds: usize,
    /// Whether a clean round is left. Otherwise the results include the disturbed ones.
    pub(crate) left_out: bool,
    /// By cause, the numbers of the rounds, from 1.
    pub(crate) causes: BTreeMap<Cause, Vec<usize>>,
}

/// One sentence.
impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers: Vec<usize> = self.causes.values().flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let causes = self.causes.iter().map(|(cause, rounds)| {
            let rounds: Vec<String> = rounds.iter().map(usize::to_string).collect();
            let s = if rounds.len() == 1 { "" } else { "s" };
            format!("{cause} (round{s} {})", rounds.join(", "))
        });
        let causes = causes.collect::<Vec<_>>().join("; ");
        let (some, all, name) = (numbers.len(), self.rounds, &self.campaign);
        if self.left_out {
            write!(f, "{name}: {some} of {all} rounds were disturbed and are left out: {causes}.")
        } else {
            write!(
                f,
                "{name}: {some} of {all} rounds were disturbed, and no clean round is left, so the results include \
                 them: {causes}."
            )
        }
    }
}

/// Looks at the kernel's counters.
#[derive(Debug)]
pub(crate) struct Witness {
    quotas: Quotas,
    /// The CPUs whose steal time counts.
    cpus: Vec<usize>,
    last: Reading,
}

/// The counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at_ns: u64,
    /// How long the machine has been suspended since it was started.
    suspended_ns: u64,
    throttled: u64,
    /// In ticks of 10 ms, over all CPUs.
    stolen: u64,
    stops: u64,
}

/// A shared virtual machine loses a percent or two all the time, and medians bear that. A sample is
/// disturbed if more than this share of the CPUs' time was taken away, and more than one tick,
/// which is how fine the kernel counts.
const STOLEN_SHARE: f64 = 0.1;
const STOLEN_TICKS: u64 = 1;
/// The length of a tick of /proc/stat: USER_HZ is 100 on every architecture of Linux but alpha.
const TICK_NS: u64 = 10_000_000;
/// The difference of two clocks that are read one after the other is not zero.
const CLOCKS_APART_NS: u64 = 1_000_000;

impl Witness {
    /// A witness for a process that runs on `cpus`.
    pub(crate) fn new(cpus: impl Iterator<Item = usize>) -> Self {
        let (quotas, cpus) = (Quotas::of_this_process(), cpus.collect::<Vec<_>>());
        let last = Reading::take(&quotas, &cpus);
        Self { quotas, cpus, last }
    }

    /// Returns what happened since the last call, or since the witness was created.
    pub(crate) fn look(&mut self) -> Vec<Cause> {
        let now = Reading::take(&self.quotas, &self.cpus);
        let causes = now.since(&self.last, self.cpus.len());
        self.last = now;
        causes
    }
}

impl Reading {
    fn take(quotas: &Quotas, cpus: &[usize]) -> Self {
        let at_ns = now_ns(ClockId::Monotonic);
        Self {
            at_ns,
            suspended_ns: now_ns(ClockId::Boottime).saturating_sub(at_ns),
            throttled: quotas.throttled(),
            stolen: stolen(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpus),
            stops: stops::count(),
        }
    }

    fn since(&self, before: &Self, cpus: usize) -> Vec<Cause> {
        let time_ns = self.at_ns.saturating_sub(before.at_ns).saturating_mul(cpus as u64);
        let stolen = self.stolen.saturating_sub(before.stolen);
        let stolen_ns = stolen.saturating_mul(TICK_NS);
        let mut causes = Vec::new();
        if self.throttled > before.throttled {
            causes.push(Cause::Throttled);
        }
        if stolen > STOLEN_TICKS && stolen_ns as f64 > STOLEN_SHARE * time_ns as f64 {
            causes.push(Cause::Stolen);
        }
        if self.stops > before.stops {
            causes.push(Cause::Stopped);
        }
        if self.suspended_ns.saturating_sub(before.suspended_ns) > CLOCKS_APART_NS {
            causes.push(Cause::Suspended);
        }
        causes
    }
}

fn now_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// The steal time of `cpus` in /proc/stat, in ticks: the eighth number of a CPU's line.
fn stolen(stat: &str, cpus: &[usize]) -> u64 {
    let lines = stat.lines().filter_map(|line| {
        let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let cpu: usize = words.next()?.parse().ok()?;
        let ticks = words.nth(7)?.parse::<u64>().ok()?;
        // The line of all CPUs begins with blanks: its first number would pass for a CPU.
        (!line.starts_with("cpu ") && cpus.contains(&cpu)).then_some(ticks)
    });
    lines.fold(0, u64::saturating_add)
}

/// A sample with a gap is more than twice as long as the median of its arm, and longer by this.
const GAP: Duration = Duration::from_millis(50);

/// Returns the indexes of the samples of one arm that took far longer than the others.
pub(crate) fn gaps(times: &[Duration]) -> Vec<usize> {
    let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    let Some(median) = super::statistics::median(&seconds) else { return Vec::new() };
    let limit = (2.0 * median).max(median + GAP.as_secs_f64());
    seconds.iter().enumerate().filter(|(_, time)| **time > limit).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Reading = Reading { at_ns: 0, suspended_ns: 0, throttled: 7, stolen: 100, stops: 2 };

    #[test]
    fn each_counter_has_its_cause() {
        let second = Reading { at_ns: 1_000_000_000, ..CALM };
        let causes = |now: Reading| now.since(&CALM, 2);
        assert_eq!(causes(second), []);
        assert_eq!(causes(Reading { throttled: 8, ..second }), [Cause::Throttled]);
        assert_eq!(causes(Reading { stops: 3, ..second }), [Cause::Stopped]);
        assert_eq!(causes(Reading { suspended_ns: 900_000, ..second }), []);
        assert_eq!(causes(Reading { suspended_ns: 5_000_000_000, ..second }), [Cause::Suspended]);
        // Twenty ticks are a tenth of a second of two CPUs.
        assert_eq!(causes(Reading { stolen: 120, ..second }), []);
        assert_eq!(causes(Reading { stolen: 121, ..second }), [Cause::Stolen]);
        let short = Reading { at_ns: 20_000_000, ..CALM };
        assert_eq!(causes(Reading { stolen: 101, ..short }), [], "one tick");
        assert_eq!(causes(Reading { stolen: 102, ..short }), [Cause::Stolen]);
        assert_eq!(causes(Reading { throttled: 9, stops: 3, ..second }), [Cause::Throttled, Cause::Stopped]);
        // A counter that was replaced (the process was moved to another cgroup) is no disturbance.
        assert_eq!(causes(Reading { throttled: 0, stolen: 0, stops: 0, ..second }), []);
    }

    #[test]
    fn steal_time_is_that_of_the_chosen_cpus() {
        let stat = "cpu  1 2 3 4 5 6 7 1000 9 10\ncpu0 1 2 3 4 5 6 7 30 9 10\ncpu1 1 2 3 4 5 6 7 500 0 0\n\
                    cpu12 1 2 3 4 5 6 7 8 0 0\nintr 1 2 3 4 5 6 7 8 9\n";
        assert_eq!(stolen(stat, &[0]), 30);
        assert_eq!(stolen(stat, &[0, 12]), 38);
        assert_eq!(stolen(stat, &[1, 2]), 500);
        // Before Linux 2.6.11 there is no such column.
        assert_eq!(stolen("cpu0 1 2 3 4 5 6 7\n", &[0]), 0);
        assert_eq!(stolen("", &[0]), 0);
    }

    #[test]
    fn a_gap_is_far_from_the_other_samples() {
        let of_ms =
            |times: &[u64]| gaps(&times.iter().copied().map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(of_ms(&[25, 26, 225, 25, 24, 30]), [2]);
        assert!(of_ms(&[25, 26, 70, 25]).is_empty(), "a busy neighbour");
        assert!(of_ms(&[1_000, 1_900, 1_000]).is_empty(), "not twice as long");
        assert_eq!(of_ms(&[1_000, 2_200, 1_000]), [1]);
        assert!(of_ms(&[500]).is_empty());
        assert!(of_ms(&[]).is_empty());
    }

    #[test]
    fn a_sentence_names_the_rounds_and_the_causes() {
        let causes = BTreeMap::from([(Cause::Throttled, vec![1, 2]), (Cause::Stopped, vec![2])]);
        let mut disturbed =
            Disturbed { campaign: "virtio-blk".to_owned(), rounds: 6, left_out: true, causes };
        assert_eq!(
            disturbed.to_string(),
            "virtio-blk: 2 of 6 rounds were disturbed and are left out: the CPU quota of its cgroup was used up \
             (rounds 1, 2); a signal stopped the process (round 2)."
        );
        disturbed.left_out = false;
        assert!(disturbed.to_string().contains("no clean round is left, so the results include them"));
    }

    #[test]
    fn the_files_of_this_machine_can_be_read() {
        let mut witness = Witness::new(0..2);
        std::thread::sleep(Duration::from_millis(1));
        // Whatever happened: it was not suspended or stopped.
        let causes = witness.look();
        assert!(!causes.contains(&Cause::Suspended) && !causes.contains(&Cause::Gap), "{causes:?}");
        assert!(witness.last.at_ns > 0);
    }
}
