//! Why a cell saved more or less than the read(2) that it left out. The rules look at the counts,
//! the most important one first. What no rule covers is reported as unexplained.

use super::figures::nanoseconds;
use super::model::{Outcome, Prediction};
use crate::arm::Monitor;
use crate::measure::Estimate;
use crate::report::number::{fixed, signed};

/// Smaller differences between counts per request are ignored.
const SAME: f64 = 0.03;

/// Why t_read, measured with a second read, may be less than the cost of the only read. Used if the
/// arm that shows it was not measured.
const WARM: &str =
    "t_read is measured with a second read in a row, when the kernel's code is already in the CPU's caches";

/// Why a cell is not as predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cause {
    /// The work was different: the guest kicked more or less often.
    Kicks,
    /// This many system calls fewer, besides the reads.
    Calls(f64),
    /// The device's CPU time is as predicted.
    BetweenThreads,
    /// The interval of the device's CPU time is too wide to tell.
    CpuInconclusive,
    /// Read and level triggering together explain the saving.
    Level(Estimate),
    /// They explain it only if t_read is taken from the edge-triggered arms of the simplest cell,
    /// not from a second read.
    LevelAndOwnRead(Estimate, Estimate),
    /// They do not explain it: this much of the device's CPU time per request remains.
    MoreThanLevel(Estimate, f64),
    /// More of the device's CPU time was saved than predicted. The cost of level triggering was not
    /// measured, or this loop has none.
    LevelUnknown,
    /// The distance of the device's CPU time from the prediction.
    Unknown(f64),
}

/// `None` for a cell that needs no explanation.
fn cause(outcome: &Outcome) -> Option<Cause> {
    let verdict = outcome.prediction()?;
    if !matches!(verdict, Prediction::More | Prediction::Less) {
        return None;
    }
    let (classic, autoreset) = (outcome.classic, outcome.autoreset?);
    let kicks = autoreset.kicks - classic.kicks;
    if kicks.abs() > SAME * classic.kicks.max(1.0) {
        return Some(Cause::Kicks);
    }
    let others = (classic.syscalls - autoreset.syscalls) - outcome.reads_saved();
    if others.abs() > SAME {
        return Some(Cause::Calls(others));
    }
    let cpu = outcome.cpu_prediction();
    if cpu.is_some_and(Prediction::agrees) {
        return Some(Cause::BetweenThreads);
    }
    if cpu == Some(Prediction::Inconclusive) {
        return Some(Cause::CpuInconclusive);
    }
    let (saved, predicted) = (outcome.cpu_saved_ns?.median, outcome.cpu_predicted_ns?.median);
    if (cpu, verdict) != (Some(Prediction::More), Prediction::More) {
        return Some(Cause::Unknown(saved - predicted));
    }
    let (Some(level_ns), Some(both)) = (outcome.level_ns, outcome.cpu_with_level_ns()) else {
        return Some(Cause::LevelUnknown);
    };
    if outcome.cpu_is_with_level() {
        return Some(Cause::Level(level_ns));
    }
    let rest_ns = saved - both.median;
    let own_read_ns = outcome.own_read_ns.filter(|_| rest_ns > 0.0 && outcome.cpu_agrees_by_edges());
    Some(match own_read_ns {
        Some(own_read_ns) => Cause::LevelAndOwnRead(level_ns, own_read_ns),
        None => Cause::MoreThanLevel(level_ns, rest_ns),
    })
}

/// Returns true if a cell saved more than predicted because of level triggering.
pub(crate) fn is_the_level(outcome: &Outcome) -> bool {
    matches!(cause(outcome), Some(Cause::Level(_)))
}

/// What remains of a cell's saving without read and level, in nanoseconds of the device's CPU time.
pub(crate) fn unexplained_ns(outcome: &Outcome) -> Option<f64> {
    match cause(outcome)? {
        Cause::MoreThanLevel(_, rest_ns) => Some(rest_ns),
        _ => None,
    }
}

/// The explanation of a cell, without the final full stop. `None` for a cell that needs none.
pub(crate) fn explain(outcome: &Outcome) -> Option<String> {
    let count = |count: f64| fixed(count, 2);
    let level = |level_ns| {
        format!(
            "level triggering ({}): with the same reads, the edge-triggered loop takes {} less per doorbell",
            of_a_level(outcome.cell.monitor),
            nanoseconds(level_ns)
        )
    };
    Some(match cause(outcome)? {
        Cause::Kicks => format!(
            "The guest kicked {} times per request instead of {}, so the device woke up at other times: the work was not \
             the same",
            count(outcome.autoreset?.kicks),
            count(outcome.classic.kicks)
        ),
        Cause::Calls(others) => format!(
            "{} system calls per request other than reads were {}: the loop slept {} often",
            count(others.abs()),
            if others > 0.0 { "saved too" } else { "added" },
            if others > 0.0 { "less" } else { "more" }
        ),
        Cause::BetweenThreads => {
            "The device's CPU time agrees with the prediction. The difference is in the time between the threads: how long \
             it took to wake up and to go to sleep"
                .to_owned()
        }
        Cause::CpuInconclusive => {
            "The interval of the device's CPU time is too wide to confirm or refute it".to_owned()
        }
        Cause::Level(level_ns) => {
            format!("The device's CPU time confirms this. The reason is {}", level(level_ns))
        }
        Cause::LevelAndOwnRead(level_ns, own_read_ns) => format!(
            "The device's CPU time confirms this. A part of it is {}. The rest is the read: the only read of the simplest \
             iteration takes {}, and a second read, with which t_read is measured, takes less",
            level(level_ns),
            nanoseconds(own_read_ns)
        ),
        Cause::MoreThanLevel(level_ns, rest_ns) if rest_ns > 0.0 => format!(
            "The device's CPU time confirms this. A part of it is {}. The rest is unexplained. The cost of level triggering \
             was measured only in the simplest iteration, where the kernel's code is already in the CPU's caches",
            level(level_ns)
        ),
        Cause::MoreThanLevel(level_ns, _) => format!(
            "The device's CPU time confirms this, but the saving is smaller than the read plus {}. The reason is unknown",
            level(level_ns)
        ),
        Cause::LevelUnknown => match outcome.cell.monitor {
            Monitor::Poll => format!("The device's CPU time confirms this: {WARM}"),
            monitor => format!(
                "The device's CPU time confirms this: an edge also saves the cost of level triggering ({}), which was not \
                 measured here, and {WARM}",
                of_a_level(monitor)
            ),
        },
        Cause::Unknown(gap) => format!(
            "The counts do not explain it: the system calls are as expected without the read, but the device's CPU time \
             differs from the prediction by {} ns per request",
            signed(gap)
        ),
    })
}

/// What a loop does for a level-triggered descriptor and not for an edge-triggered one. epoll puts
/// a level-triggered descriptor back on the ready list when it reports it (ep_send_events() in
/// fs/eventpoll.c), and the next wait checks whether it is still ready. A one-shot POLL_ADD ends
/// with its completion (io_uring_enter(2)).
pub(crate) fn of_a_level(monitor: Monitor) -> &'static str {
    match monitor {
        Monitor::Poll => "nothing",
        Monitor::Epoll => "a second check of the descriptor in the next epoll_wait",
        Monitor::IoUring => "arming the one-shot POLL_ADD again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::one_percent::model::outcomes;
    use crate::report::one_percent::model::tests::{cell, cell_with_level};

    /// A cell that saved more than predicted, with `syscalls` per request in the arm that does not
    /// read (2 remain without the read).
    fn why(syscalls: f64) -> String {
        let mut entries = cell("null", 4_000.0, 500.0);
        entries[2].metrics.get_mut("syscalls").unwrap().summary.median = syscalls;
        explain(&outcomes(&entries)[0]).unwrap()
    }

    #[test]
    fn more_or_fewer_system_calls_show_how_often_the_loop_slept() {
        assert_eq!(
            why(1.5),
            "0.50 system calls per request other than reads were saved too: the loop slept less often"
        );
        assert_eq!(
            why(2.5),
            "0.50 system calls per request other than reads were added: the loop slept more often"
        );
        assert!(why(2.01).starts_with("The device's CPU time confirms this"), "{}", why(2.01));
    }

    /// A cell that saved `saved_ns`, beside one in which the read takes `own_ns` and level
    /// triggering 100.
    fn beside_a_level(own_ns: f64, saved_ns: f64) -> Outcome {
        let entries =
            [cell_with_level("null", 4_000.0, own_ns, 100.0), cell("spin 10us", 14_000.0, saved_ns)];
        outcomes(&entries.concat()).swap_remove(1)
    }

    #[test]
    fn read_and_level_together_explain_a_larger_saving() {
        let cell = beside_a_level(200.0, 300.0);
        assert!(is_the_level(&cell) && unexplained_ns(&cell).is_none());
        let why = explain(&cell).unwrap();
        assert!(
            why.starts_with(
                "The device's CPU time confirms this. The reason is level triggering (a second check"
            ),
            "{why}"
        );
        assert!(
            why.contains("with the same reads, the edge-triggered loop takes 100 ns (9")
                && why.ends_with(") less per doorbell"),
            "{why}"
        );
    }

    #[test]
    fn a_saving_beyond_read_and_level_is_unexplained() {
        let cell = beside_a_level(200.0, 500.0);
        assert!(!is_the_level(&cell) && (unexplained_ns(&cell).unwrap() - 200.0).abs() < 2.0);
        let why = explain(&cell).unwrap();
        assert!(
            why.contains("A part of it is level triggering") && why.contains("The rest is unexplained"),
            "{why}"
        );
        // Also if the only read costs less than a second one.
        let cell = beside_a_level(150.0, 250.0);
        assert!(!is_the_level(&cell) && (unexplained_ns(&cell).unwrap() + 50.0).abs() < 2.0);
        assert!(
            explain(&cell)
                .unwrap()
                .contains("is smaller than the read plus level triggering (a second check"),
            "{cell:?}"
        );
    }

    #[test]
    fn an_only_read_that_costs_more_than_a_second_one_is_recognized() {
        let cell = beside_a_level(300.0, 400.0);
        assert!(!is_the_level(&cell) && unexplained_ns(&cell).is_none());
        let why = explain(&cell).unwrap();
        assert!(why.contains("the only read of the simplest iteration takes 300 ns (29"), "{why}");
        // Neither estimate of the read explains this saving.
        assert!(unexplained_ns(&beside_a_level(300.0, 350.0)).is_some());
    }

    #[test]
    fn a_level_that_was_not_measured_is_reported_as_such() {
        let why = |monitor: &str| {
            let mut entries = cell("null", 4_000.0, 500.0);
            for entry in &mut entries {
                entry.group = entry.group.replace("epoll", monitor);
                entry.case = entry.case.replace("epoll", monitor).replace("poll/edge", "poll/kernel-flag");
            }
            explain(&outcomes(&entries)[0]).unwrap()
        };
        assert!(why("io_uring").contains("arming the one-shot POLL_ADD again), which was not measured here"));
        assert!(!why("poll").contains("level") && why("poll").ends_with("in the CPU's caches"));
    }

    #[test]
    fn a_saving_as_predicted_needs_no_explanation() {
        assert_eq!(explain(&outcomes(&cell("null", 4_000.0, 200.0))[0]), None);
    }
}
