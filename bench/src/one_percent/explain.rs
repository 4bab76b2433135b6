//! Why a cell saved more or less than the read(2) that it left out. Rules over what was counted, the most telling first; what no
//! rule covers is said to be unexplained.

use super::model::{Outcome, Verdict};
use crate::arm::Monitor;
use crate::report::number::{fixed, signed};

/// Counts per request that differ by less are the same.
const SAME: f64 = 0.03;

/// `None` for a cell that needs no explanation.
pub(crate) fn explain(outcome: &Outcome) -> Option<String> {
    let verdict = outcome.verdict().filter(|verdict| !verdict.agrees())?;
    let autoreset = outcome.autoreset?;
    let (classic, count) = (outcome.classic, |count: f64| fixed(count, 2));
    let kicks = autoreset.kicks - classic.kicks;
    if kicks.abs() > SAME * classic.kicks.max(1.0) {
        return Some(format!(
            "the guest kicked {} times a request and not {}, so the device woke at other moments: not the same work with \
             a read less",
            count(autoreset.kicks),
            count(classic.kicks)
        ));
    }
    let others = (classic.syscalls - autoreset.syscalls) - outcome.reads_saved();
    if others.abs() > SAME {
        let saved = if others > 0.0 { "saved too" } else { "made more" };
        return Some(format!(
            "{} system calls a request that are no reads were {saved}: the loop slept {} often",
            count(others.abs()),
            if others > 0.0 { "less" } else { "more" }
        ));
    }
    match (outcome.cpu_verdict(), verdict) {
        (Some(cpu), _) if cpu.agrees() => Some(
            "the device's CPU time agrees with the prediction, so the rest is between the threads, where nobody reads: \
             how long waking and sleeping took"
                .to_owned(),
        ),
        (Some(Verdict::More), Verdict::More) => Some(match outcome.cell.monitor {
            Monitor::IoUring => "the device's CPU time says so too: multishot POLL_ADD also saves arming the one-shot \
                                 poll anew for each doorbell, and a second read in a row, by which t_read is measured, \
                                 finds the kernel's code warm"
                .to_owned(),
            Monitor::Epoll => "the device's CPU time says so too: an edge also saves what a level costs, a second look \
                               at the descriptor in the next epoll_pwait2, and a second read in a row, by which t_read \
                               is measured, finds the kernel's code warm"
                .to_owned(),
            Monitor::Poll => "the device's CPU time says so too: a second read in a row, by which t_read is measured, \
                              finds the kernel's code warm"
                .to_owned(),
        }),
        _ => {
            let gap = outcome.cpu_saved_ns?.median - outcome.cpu_predicted_ns?.median;
            Some(format!(
                "not by what was counted: the system calls are those that the read leaves, and the device's CPU time is {} \
                 ns a request from the prediction",
                signed(gap)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_percent::model::outcomes;
    use crate::one_percent::model::tests::cell;

    /// A cell that saved more than predicted, with `syscalls` a request in the arm that does not read (2 are left by the read).
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
        assert!(why(2.01).starts_with("the device's CPU time says so too"), "{}", why(2.01));
    }

    #[test]
    fn what_was_predicted_needs_no_explanation() {
        assert_eq!(explain(&outcomes(&cell("null", 4_000.0, 200.0))[0]), None);
    }
}
