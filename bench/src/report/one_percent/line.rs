//! One cell as a line of a table.

use super::explain::is_the_level;
use super::figures::{estimate, share};
use super::lab::Savings;
use super::model::{Outcome, Prediction};
use crate::measure::Estimate;
use crate::report::number::{fixed, number, range, signed};
use crate::report::saved::obstacle;

/// In place of "more" for a cell that saved as much more as level triggering costs.
pub(crate) const WITH_LEVEL: &str = "more: the level";

/// The texts of one cell on the page and in Markdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) iteration_us: String,
    pub(crate) read_ns: String,
    /// Per request: with the read(2) "to" without.
    pub(crate) reads: String,
    pub(crate) predicted: String,
    pub(crate) saved: String,
    /// One of the four words, or why there is none.
    pub(crate) verdict: String,
    /// How the saving compares with its prediction.
    pub(crate) prediction: String,
    pub(crate) agrees: bool,
    pub(crate) is_measured: bool,
    pub(crate) cpu_saved_ns: String,
    pub(crate) cpu_predicted_ns: String,
    pub(crate) level_ns: String,
    pub(crate) syscalls: String,
    pub(crate) instructions: String,
}

impl Line {
    pub(crate) fn of(outcome: &Outcome, lab: &[Savings]) -> Self {
        let verdict = match (outcome.verdict(), &outcome.obstacle) {
            (Some(verdict), _) => verdict.to_string(),
            (None, Some(why)) => format!("not measured: {}", obstacle(why)),
            (None, None) => "not measured".to_owned(),
        };
        let prediction = match outcome.prediction() {
            Some(_) if is_the_level(outcome) => WITH_LEVEL,
            Some(prediction) => prediction.word(),
            None => "",
        };
        let signed_estimate = |estimate: Estimate| {
            let interval = estimate.interval.map(|interval| format!(" ({})", range(interval, signed)));
            format!("{}{}", signed(estimate.median), interval.unwrap_or_default())
        };
        let cpu_prediction = outcome.cpu_prediction().map(|prediction| {
            let word = match prediction {
                Prediction::Agrees => "agrees",
                _ if outcome.cpu_is_with_level() => WITH_LEVEL,
                _ => prediction.word(),
            };
            format!(": {word}")
        });
        let counts = |classic: f64, without: Option<f64>| match without {
            Some(without) => format!("{} to {}", fixed(classic, 2), fixed(without, 2)),
            None => fixed(classic, 2),
        };
        let (classic, without) = (outcome.classic, outcome.autoreset);
        Self {
            name: outcome.short_name(),
            iteration_us: number(outcome.iteration_us),
            read_ns: outcome.read_words(),
            reads: counts(classic.reads, without.map(|counts| counts.reads)),
            predicted: outcome.predicted.map(|predicted| share(predicted.median)).unwrap_or_default(),
            saved: outcome.saved.map(estimate).unwrap_or_default(),
            verdict,
            prediction: prediction.to_owned(),
            agrees: outcome.prediction().is_some_and(Prediction::agrees),
            is_measured: outcome.saved.is_some(),
            cpu_saved_ns: outcome.cpu_saved_ns.map(signed_estimate).unwrap_or_default(),
            cpu_predicted_ns: outcome
                .cpu_saved_ns
                .and(outcome.cpu_predicted_ns)
                .map(|predicted| {
                    format!("{}{}", signed(predicted.median), cpu_prediction.unwrap_or_default())
                })
                .unwrap_or_default(),
            level_ns: outcome.level_words(),
            syscalls: counts(classic.syscalls, without.map(|counts| counts.syscalls)),
            instructions: Savings::of(outcome, lab).map(number).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::one_percent::model::outcomes;
    use crate::report::one_percent::model::tests::{cell, cell_with_level, lab_savings, more};

    #[test]
    fn a_line_says_the_same() {
        let line = Line::of(&more()[0], &[lab_savings()]);
        assert_eq!((line.name.as_str(), line.iteration_us.as_str()), ("epoll, null on one CPU (0)", "4.00"));
        assert_eq!((line.read_ns.as_str(), line.reads.as_str()), ("200", "1.00 to 0.00"));
        assert_eq!((line.syscalls.as_str(), line.instructions.as_str()), ("3.00 to 1.75", "500"));
        assert_eq!((line.predicted.as_str(), line.prediction.as_str()), ("5.0%", "more"));
        assert_eq!(line.verdict, "saves");
        assert!(line.saved.starts_with("10.0% (") && line.cpu_saved_ns.starts_with("+400 (+39"), "{line:?}");
        assert_eq!(
            (line.cpu_predicted_ns.as_str(), line.agrees, line.is_measured),
            ("+200: more", false, true)
        );

        let level = Line::of(&outcomes(&cell_with_level("null", 4_000.0, 200.0, 90.0))[0], &[]);
        assert_eq!((level.level_ns.as_str(), level.prediction.as_str()), ("+90.0", "more: the level"));
        assert_eq!((level.cpu_predicted_ns.as_str(), level.agrees), ("+200: more: the level", false));
        assert!(line.level_ns.is_empty());

        let agreed = Line::of(&outcomes(&cell("null", 4_000.0, 200.0))[0], &[]);
        assert_eq!(
            (agreed.prediction.as_str(), agreed.cpu_predicted_ns.as_str()),
            ("as predicted", "+200: agrees")
        );
        assert!(agreed.agrees && agreed.instructions.is_empty());

        let mut entries = cell("null", 4_000.0, 200.0);
        entries[2].metrics.clear();
        entries[2].reason = Some("no such kernel; ask for another".to_owned());
        let cannot = Line::of(&outcomes(&entries)[0], &[]);
        assert_eq!((cannot.verdict.as_str(), cannot.is_measured), ("not measured: no such kernel", false));
        assert_eq!(
            (cannot.reads.as_str(), cannot.saved.as_str(), cannot.cpu_predicted_ns.as_str()),
            ("1.00", "", "")
        );
    }
}
