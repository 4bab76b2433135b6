//! Why a cell saved more or less than the read(2) that it left out: rules over what was counted,
//! the most important first. What no rule covers is reported as unexplained.

use super::figures::nanoseconds;
use super::model::{Outcome, Verdict};
use crate::arm::Monitor;
use crate::measure::Estimate;
use crate::report::number::{fixed, signed};

/// Smaller differences between counts per request are ignored.
const SAME: f64 = 0.03;

/// Why t_read, measured by a second read, may be less than the cost of the only read. Used if the
/// arm that would tell was not measured.
const WARM: &str = "a second read in a row, by which t_read is measured, finds the kernel's code warm";

/// Why a cell is not as predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cause {
    /// The work was different: the guest kicked more or less often.
    Kicks,
    /// This many system calls fewer, besides the reads.
    Calls(f64),
    /// The device's CPU time is as predicted.
    BetweenThreads,
    /// Read and level triggering together explain the saving.
    Level(Estimate),
    /// They do if t_read is taken from the edge-triggered arms of the simplest cell, and not from a
    /// second read.
    LevelAndOwnRead(Estimate, Estimate),
    /// They do not: this much of the device's CPU time per request remains.
    MoreThanLevel(Estimate, f64),
    /// More of the device's CPU time was saved, and the cost of level triggering was not measured,
    /// or there is none.
    LevelUnknown,
    /// The distance of the device's CPU time from the prediction.
    Unknown(f64),
}

/// `None` for a cell that needs no explanation.
fn cause(outcome: &Outcome) -> Option<Cause> {
    let verdict = outcome.verdict().filter(|verdict| !verdict.agrees())?;
    let (classic, autoreset) = (outcome.classic, outcome.autoreset?);
    let kicks = autoreset.kicks - classic.kicks;
    if kicks.abs() > SAME * classic.kicks.max(1.0) {
        return Some(Cause::Kicks);
    }
    let others = (classic.syscalls - autoreset.syscalls) - outcome.reads_saved();
    if others.abs() > SAME {
        return Some(Cause::Calls(others));
    }
    let cpu = outcome.cpu_verdict();
    if cpu.is_some_and(Verdict::agrees) {
        return Some(Cause::BetweenThreads);
    }
    let (saved, predicted) = (outcome.cpu_saved_ns?.median, outcome.cpu_predicted_ns?.median);
    if (cpu, verdict) != (Some(Verdict::More), Verdict::More) {
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

/// `None` for a cell that needs no explanation.
pub(crate) fn explain(outcome: &Outcome) -> Option<String> {
    let count = |count: f64| fixed(count, 2);
    let level = |level_ns| {
        format!(
            "the level, {}: the same loop, edge-triggered and with the read, takes {} less per doorbell",
            of_a_level(outcome.cell.monitor),
            nanoseconds(level_ns)
        )
    };
    Some(match cause(outcome)? {
        Cause::Kicks => format!(
            "the guest kicked {} times a request and not {}, so the device woke at other moments: not the same work with \
             a read less",
            count(outcome.autoreset?.kicks),
            count(outcome.classic.kicks)
        ),
        Cause::Calls(others) => format!(
            "{} system calls a request that are no reads were {}: the loop slept {} often",
            count(others.abs()),
            if others > 0.0 { "saved too" } else { "made more" },
            if others > 0.0 { "less" } else { "more" }
        ),
        Cause::BetweenThreads => {
            "the device's CPU time agrees with the prediction, so the rest is between the threads, where nobody reads: \
             how long waking and sleeping took"
                .to_owned()
        }
        Cause::Level(level_ns) => {
            format!("the device's CPU time confirms it, and the reason is {}", level(level_ns))
        }
        Cause::LevelAndOwnRead(level_ns, own_read_ns) => format!(
            "the device's CPU time confirms it, and a part of it is {}. The rest is the read: the only one of the simplest \
             iteration takes {}, and a second one, by which t_read is measured, took less",
            level(level_ns),
            nanoseconds(own_read_ns)
        ),
        Cause::MoreThanLevel(level_ns, rest_ns) if rest_ns > 0.0 => format!(
            "the device's CPU time confirms it, and a part of it is {}. The rest is unexplained; the level is known from \
             the simplest iteration alone, which finds the kernel's code warm",
            level(level_ns)
        ),
        Cause::MoreThanLevel(level_ns, _) => format!(
            "the device's CPU time confirms it, but it is less than the read and {}. The reason is unknown",
            level(level_ns)
        ),
        Cause::LevelUnknown => match outcome.cell.monitor {
            Monitor::Poll => format!("the device's CPU time confirms it: {WARM}"),
            monitor => format!(
                "the device's CPU time confirms it: an edge also saves what a level costs, {}, which was not measured here, and \
                 {WARM}",
                of_a_level(monitor)
            ),
        },
        Cause::Unknown(gap) => format!(
            "not by what was counted: the system calls are those that the read leaves, and the device's CPU time is {} ns a \
             request from the prediction",
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
        Monitor::Epoll => "a second look at the descriptor in the next epoll_wait",
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
    fn a_system_call_more_or_less_says_how_often_the_loop_slept() {
        assert_eq!(
            why(1.5),
            "0.50 system calls a request that are no reads were saved too: the loop slept less often"
        );
        assert_eq!(
            why(2.5),
            "0.50 system calls a request that are no reads were made more: the loop slept more often"
        );
        assert!(why(2.01).starts_with("the device's CPU time confirms it"), "{}", why(2.01));
    }

    /// A cell that saved `saved_ns`, beside one in which the read takes `own_ns` and level
    /// triggering 100.
    fn beside_a_level(own_ns: f64, saved_ns: f64) -> Outcome {
        let entries =
            [cell_with_level("null", 4_000.0, own_ns, 100.0), cell("spin 10us", 14_000.0, saved_ns)];
        outcomes(&entries.concat()).swap_remove(1)
    }

    #[test]
    fn what_read_and_level_take_is_the_level() {
        let cell = beside_a_level(200.0, 300.0);
        assert!(is_the_level(&cell) && unexplained_ns(&cell).is_none());
        let why = explain(&cell).unwrap();
        assert!(
            why.starts_with("the device's CPU time confirms it, and the reason is the level, a second look"),
            "{why}"
        );
        assert!(
            why.contains("with the read, takes 100 ns (9") && why.ends_with(") less per doorbell"),
            "{why}"
        );
    }

    #[test]
    fn what_read_and_level_do_not_take_is_said_to_be_left() {
        let cell = beside_a_level(200.0, 500.0);
        assert!(!is_the_level(&cell) && (unexplained_ns(&cell).unwrap() - 200.0).abs() < 2.0);
        let why = explain(&cell).unwrap();
        assert!(
            why.contains("a part of it is the level") && why.contains("The rest is unexplained"),
            "{why}"
        );
        // Also if the only read costs less than a second one.
        let cell = beside_a_level(150.0, 250.0);
        assert!(!is_the_level(&cell) && (unexplained_ns(&cell).unwrap() + 50.0).abs() < 2.0);
        assert!(
            explain(&cell).unwrap().contains("it is less than the read and the level, a second look"),
            "{cell:?}"
        );
    }

    #[test]
    fn edges_show_that_a_read_costs_more_alone_than_as_a_second_one() {
        let cell = beside_a_level(300.0, 400.0);
        assert!(!is_the_level(&cell) && unexplained_ns(&cell).is_none());
        let why = explain(&cell).unwrap();
        assert!(why.contains("the only one of the simplest iteration takes 300 ns (29"), "{why}");
        // Neither the one nor the other.
        assert!(unexplained_ns(&beside_a_level(300.0, 350.0)).is_some());
    }

    #[test]
    fn a_level_that_was_not_measured_is_not_said_to_be_known() {
        let why = |monitor: &str| {
            let mut entries = cell("null", 4_000.0, 500.0);
            for entry in &mut entries {
                entry.group = entry.group.replace("epoll", monitor);
                entry.case = entry.case.replace("epoll", monitor).replace("poll/edge", "poll/kernel-flag");
            }
            explain(&outcomes(&entries)[0]).unwrap()
        };
        assert!(why("io_uring").contains("arming the one-shot POLL_ADD again, which was not measured here"));
        assert!(!why("poll").contains("level") && why("poll").ends_with("finds the kernel's code warm"));
    }

    #[test]
    fn what_was_predicted_needs_no_explanation() {
        assert_eq!(explain(&outcomes(&cell("null", 4_000.0, 200.0))[0]), None);
    }
}
