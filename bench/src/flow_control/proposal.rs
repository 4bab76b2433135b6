//! The proposal's figures (cover letter of v5, 4-core x86_64), and the criteria by which ours
//! reproduce them: the shape must be the same, not the absolute times.

use crate::report::number::{fixed, number};

/// Bench 1: wcpu_ms, rcpu_ms, EAGAIN, writes, reads.
pub(super) const BURST_UNLIMITED: [f64; 5] = [5002.0, 132.0, 0.0, 6_517_388.0, 4506.0];
pub(super) const BURST_10: [f64; 5] = [133.0, 150.0, 0.0, 40_456.0, 4496.0];
/// Bench 2, from the write: p99, p999, max in us.
pub(super) const TAIL_UNLIMITED: [f64; 3] = [141_218.0, 142_477.0, 142_588.0];
pub(super) const TAIL_10: [f64; 3] = [1719.0, 2378.0, 2381.0];
/// Bench 3: writes, reads, avg_batch.
pub(super) const COALESCING_UNLIMITED: [f64; 3] = [10_000.0, 79.0, 126.6];
pub(super) const COALESCING_10: [f64; 3] = [10_000.0, 1121.0, 8.9];

/// The claim for bench 1: the writer's CPU time drops by more than this share.
const CPU_DROP: f64 = 0.97;
/// The claim for bench 2: the ratio of the two p999, within a factor of 2.
const TAIL_RATIO: f64 = TAIL_UNLIMITED[1] / TAIL_10[1];
const TAIL_FACTOR: f64 = 2.0;
/// For the bounded batch: `maximum - 1`, less because the last batch is not full.
const BATCH_TOLERANCE: f64 = 0.2;

/// A figure of the proposal and ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judged {
    pub(super) figure: &'static str,
    pub(super) proposal: String,
    pub(super) ours: String,
    /// The error is the reason why it is not reproduced.
    pub(super) verdict: Result<(), String>,
}

impl Judged {
    fn new(figure: &'static str, proposal: String, ours: String, verdict: Result<(), String>) -> Self {
        Self { figure, proposal, ours, verdict }
    }

    /// Returns "reproduced", or the reason why not.
    pub(super) fn words(&self) -> String {
        match &self.verdict {
            Ok(()) => "reproduced".to_owned(),
            Err(why) => format!("not reproduced: {why}"),
        }
    }
}

fn verdict(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}

/// Bench 1: the writer's CPU time.
pub(super) fn cpu(unlimited_ms: f64, bounded_ms: f64) -> Judged {
    let drop = |unlimited: f64, bounded: f64| 1.0 - bounded / unlimited;
    let text = |unlimited, bounded| {
        format!(
            "{} -> {} ms, -{}%",
            number(unlimited),
            number(bounded),
            fixed(100.0 * drop(unlimited, bounded), 1)
        )
    };
    let good = drop(unlimited_ms, bounded_ms) > CPU_DROP;
    let why = || {
        let share = 100.0 * bounded_ms / unlimited_ms;
        format!(
            "the bounded writer takes {}% of the unbounded writer's CPU time; less than 3% was expected",
            fixed(share, 1)
        )
    };
    let proposal = text(BURST_UNLIMITED[0], BURST_10[0]);
    Judged::new("writer CPU, bench 1", proposal, text(unlimited_ms, bounded_ms), verdict(good, why))
}

/// Bench 1: a blocking writer never gets EAGAIN.
pub(super) fn eagain(bounded: f64) -> Judged {
    let why = || "a blocking writer got EAGAIN".to_owned();
    Judged::new("EAGAIN, bench 1", number(BURST_10[2]), number(bounded), verdict(bounded == 0.0, why))
}

/// Bench 1: the number of events that the reader finds when it wakes up.
pub(super) fn burst_batch(writes: f64, reads: f64, maximum: u64) -> Judged {
    let proposal = BURST_10[3] / BURST_10[4];
    batch("writes per read, bench 1", proposal, writes / reads, maximum)
}

/// Bench 3: the average batch.
pub(super) fn coalescing_batch(avg_batch: f64, maximum: u64) -> Judged {
    batch("bounded batch, bench 3", COALESCING_10[2], avg_batch, maximum)
}

fn batch(figure: &'static str, proposal: f64, ours: f64, maximum: u64) -> Judged {
    let full = (maximum - 1) as f64;
    let good = ours <= full + BATCH_TOLERANCE && (ours - proposal).abs() <= BATCH_TOLERANCE;
    let why = || match ours > full {
        true => format!("the count exceeds maximum - 1 = {full}"),
        false => format!(
            "batches are not full: the reader finds {} of {full} events, because it reads before \
             the writer has filled the counter again",
            fixed(ours, 2)
        ),
    };
    Judged::new(figure, fixed(proposal, 2), fixed(ours, 2), verdict(good, why))
}

/// Bench 3: the batch without a maximum, which depends on the cost of a write.
pub(super) fn unlimited_batch(avg_batch: f64) -> Judged {
    let proposal = COALESCING_UNLIMITED[2];
    let good = (proposal / 2.0..=proposal * 2.0).contains(&avg_batch);
    let why = || {
        // A batch consists of what is written while the reader works on the previous one.
        let ns = |batch: f64| number(125_000.0 / batch);
        format!(
            "the length of 10,000 writes depends on the cost of a write, {} ns here and {} ns in the proposal",
            ns(avg_batch),
            ns(proposal)
        )
    };
    Judged::new("unlimited batch, bench 3", fixed(proposal, 1), fixed(avg_batch, 1), verdict(good, why))
}

/// Bench 2: the ratio of the two p999, from the write.
pub(super) fn tail(unlimited_us: f64, bounded_us: f64) -> Judged {
    let ratio = unlimited_us / bounded_us;
    let good = (TAIL_RATIO / TAIL_FACTOR..=TAIL_RATIO * TAIL_FACTOR).contains(&ratio);
    let text = |unlimited: f64, bounded: f64| {
        let ms = |us: f64| number(us / 1000.0);
        format!("{} -> {} ms, {}x", ms(unlimited), ms(bounded), number(unlimited / bounded))
    };
    let why = || {
        // Find which of the two values differs more from the proposal's.
        let off = |ours: f64, theirs: f64| (ours / theirs).ln().abs();
        let which = if off(unlimited_us, TAIL_UNLIMITED[1]) > off(bounded_us, TAIL_10[1]) {
            ("unlimited", unlimited_us, TAIL_UNLIMITED[1])
        } else {
            ("bounded", bounded_us, TAIL_10[1])
        };
        let times = number(which.1 / which.2);
        format!(
            "the ratio is not between 30 and 120, mainly because the {} value is {times} times that of the proposal",
            which.0
        )
    };
    let proposal = text(TAIL_UNLIMITED[1], TAIL_10[1]);
    Judged::new("p999 from the write, bench 2", proposal, text(unlimited_us, bounded_us), verdict(good, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proposals_own_figures_reproduce_it() {
        let judged = [
            cpu(BURST_UNLIMITED[0], BURST_10[0]),
            eagain(0.0),
            burst_batch(BURST_10[3], BURST_10[4], 10),
            coalescing_batch(COALESCING_10[2], 10),
            unlimited_batch(COALESCING_UNLIMITED[2]),
            tail(TAIL_UNLIMITED[1], TAIL_10[1]),
        ];
        for judged in judged {
            assert_eq!(judged.words(), "reproduced", "{judged:?}");
            assert_eq!(judged.proposal, judged.ours, "{judged:?}");
        }
    }

    #[test]
    fn the_limits_are_where_they_should_be() {
        assert!(cpu(1000.0, 29.9).verdict.is_ok() && cpu(1000.0, 30.1).verdict.is_err());
        assert!(tail(121.0, 1.0).verdict.is_err() && tail(119.0, 1.0).verdict.is_ok());
        assert!(tail(29.0, 1.0).verdict.is_err() && tail(31.0, 1.0).verdict.is_ok());
        assert!(coalescing_batch(9.0, 10).verdict.is_ok() && coalescing_batch(8.6, 10).verdict.is_err());
        assert!(coalescing_batch(9.3, 10).verdict.is_err());
        assert!(unlimited_batch(64.0).verdict.is_ok() && unlimited_batch(62.0).verdict.is_err());
        assert!(eagain(1.0).verdict.is_err());
    }

    #[test]
    fn a_figure_that_is_not_reproduced_reports_the_reason() {
        assert_eq!(
            cpu(5000.0, 500.0).words(),
            "not reproduced: the bounded writer takes 10.0% of the unbounded writer's CPU time; less than 3% was expected"
        );
        assert_eq!(
            tail(142_000.0, 600.0).words(),
            "not reproduced: the ratio is not between 30 and 120, mainly because the bounded value is 0.25 times that of the proposal"
        );
        assert_eq!(
            unlimited_batch(500.0).words(),
            "not reproduced: the length of 10,000 writes depends on the cost of a write, 250 ns here and 987 ns in the proposal"
        );
        assert!(coalescing_batch(9.5, 10).words().contains("exceeds maximum - 1 = 9"));
        assert!(coalescing_batch(5.0, 10).words().contains("finds 5.00 of 9"));
    }
}
