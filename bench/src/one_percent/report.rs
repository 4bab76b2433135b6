//! The tables of `bench one-percent`. Pure functions of the outcomes.

use super::explain::is_the_level;
use super::lab::Savings;
use super::model::{Outcome, Verdict};
use super::words::{estimate, share};
use crate::measure::Estimate;
use crate::report::number::{fixed, number, range, signed};
use crate::report::saved::obstacle;
use crate::report::table::{Cell, Column, Table, Tint};

/// What was saved, and in a second table what was counted.
pub(super) fn tables(outcomes: &[Outcome], lab: &[Savings], colour: bool) -> String {
    if outcomes.is_empty() {
        return "Nothing was measured.\n".to_owned();
    }
    format!("{}\n{}", saved(outcomes).render(colour), counted(outcomes, lab).render(colour))
}

fn saved(outcomes: &[Outcome]) -> Table {
    let columns = [
        Column::text("loop, disk"),
        Column::number("t_iter", "us"),
        Column::number("t_read", "ns, in place"),
        Column::number("reads", "saved"),
        Column::number("predicted", "of t_iter"),
        Column::number("saved", "of t_iter"),
        Column::number("", "95% interval"),
        Column::text("prediction"),
    ];
    let mut table = Table::new(
        "What doing without the read(2) saves of an iteration, per request (~: t_read of the loop's simplest cell)",
        &columns,
    );
    for outcome in outcomes {
        let measured = match (outcome.saved, &outcome.obstacle) {
            (Some(saved), _) => {
                let interval = saved.interval.map(|interval| range(interval, share)).unwrap_or_default();
                vec![
                    share(saved.median).into(),
                    interval.into(),
                    word(outcome.verdict(), is_the_level(outcome)),
                ]
            }
            (None, Some(why)) => {
                vec![
                    "".into(),
                    "".into(),
                    Cell::tinted(format!("not measured: {}", obstacle(why)), Tint::Dim),
                ]
            }
            (None, None) => vec!["".into(), "".into(), Cell::tinted("not measured", Tint::Dim)],
        };
        let predicted = outcome.predicted.map(|predicted| share(predicted.median)).unwrap_or_default();
        let cells = [
            outcome.short_name().into(),
            number(outcome.iteration_us).into(),
            outcome.read_words().into(),
            fixed(outcome.reads_saved(), 2).into(),
            predicted.into(),
        ];
        table.row(cells.into_iter().chain(measured).collect());
    }
    table
}

/// A cell that saved as much more as the level costs.
const WITH_LEVEL: &str = "more: the level";

/// The verdict in words and colour.
fn word(verdict: Option<Verdict>, is_the_level: bool) -> Cell {
    match verdict {
        None => "too few rounds".into(),
        Some(Verdict::More) if is_the_level => Cell::tinted(WITH_LEVEL, Tint::Bold),
        Some(verdict @ (Verdict::More | Verdict::Less)) => Cell::tinted(verdict.word(), Tint::Bold),
        Some(verdict @ Verdict::Reproduced) => Cell::tinted(verdict.word(), Tint::Green),
        Some(verdict) => verdict.word().into(),
    }
}

fn counted(outcomes: &[Outcome], lab: &[Savings]) -> Table {
    let mut columns = vec![
        Column::text("loop, disk"),
        Column::number("read(2)", "classic"),
        Column::number("read(2)", "without"),
        Column::number("syscalls", "classic"),
        Column::number("syscalls", "without"),
        Column::number("t_read", "CPU, ns"),
        Column::number("level", "CPU, ns"),
        Column::number("saved", "CPU, ns"),
        Column::number("", "95% interval"),
        Column::text("prediction"),
    ];
    if !lab.is_empty() {
        columns.push(Column::number("instructions", "saved"));
    }
    let title = if lab.is_empty() {
        "The same in the device's CPU time and by count, per request (~: the level of the loop's simplest cell)"
    } else {
        "The same in the device's CPU time and by count, per request (~: the level of the loop's simplest cell; instructions: \
         the kernel lab's for one read, times the reads saved)"
    };
    let mut table = Table::new(title, &columns);
    for outcome in outcomes {
        let count = |value: Option<f64>| Cell::from(value.map(|value| fixed(value, 2)).unwrap_or_default());
        let nanoseconds =
            |estimate: Option<Estimate>| estimate.map(|ns| signed(ns.median)).unwrap_or_default();
        let interval = outcome.cpu_saved_ns.and_then(|saved| saved.interval);
        let mut cells = vec![
            outcome.short_name().into(),
            count(Some(outcome.classic.reads)),
            count(outcome.autoreset.map(|counts| counts.reads)),
            count(Some(outcome.classic.syscalls)),
            count(outcome.autoreset.map(|counts| counts.syscalls)),
            nanoseconds(outcome.cpu_predicted_ns).into(),
            outcome.level_words().into(),
            nanoseconds(outcome.cpu_saved_ns).into(),
            interval.map(|interval| range(interval, signed)).unwrap_or_default().into(),
            if outcome.cpu_saved_ns.is_some() {
                word(outcome.cpu_verdict(), outcome.cpu_is_with_level())
            } else {
                "".into()
            },
        ];
        if !lab.is_empty() {
            cells.push(Savings::of(outcome, lab).map(number).unwrap_or_default().into());
        }
        table.row(cells);
    }
    table
}

/// What a page and Markdown say of one cell, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) iteration_us: String,
    pub(crate) read_ns: String,
    /// Per request, with the read(2) to without.
    pub(crate) reads: String,
    pub(crate) predicted: String,
    pub(crate) saved: String,
    /// Of the prediction, or why there is none.
    pub(crate) verdict: String,
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
        let verdict = match (outcome.saved, outcome.verdict(), &outcome.obstacle) {
            (Some(_), Some(_), _) if is_the_level(outcome) => WITH_LEVEL.to_owned(),
            (Some(_), Some(verdict), _) => verdict.word().to_owned(),
            (Some(_), None, _) => "too few rounds".to_owned(),
            (None, _, Some(why)) => format!("not measured: {}", obstacle(why)),
            (None, _, None) => "not measured".to_owned(),
        };
        let signed_estimate = |estimate: Estimate| {
            let interval = estimate.interval.map(|interval| format!(" ({})", range(interval, signed)));
            format!("{}{}", signed(estimate.median), interval.unwrap_or_default())
        };
        let cpu_verdict = outcome.cpu_verdict().map(|verdict| {
            let word = match verdict {
                _ if verdict.agrees() => "agrees",
                _ if outcome.cpu_is_with_level() => WITH_LEVEL,
                _ => verdict.word(),
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
            agrees: outcome.verdict().is_some_and(Verdict::agrees),
            is_measured: outcome.saved.is_some(),
            cpu_saved_ns: outcome.cpu_saved_ns.map(signed_estimate).unwrap_or_default(),
            cpu_predicted_ns: outcome
                .cpu_saved_ns
                .and(outcome.cpu_predicted_ns)
                .map(|predicted| format!("{}{}", signed(predicted.median), cpu_verdict.unwrap_or_default()))
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
    use crate::one_percent::model::outcomes;
    use crate::one_percent::model::tests::{cell, cell_with_level};

    /// A read takes 200 ns of 4 us and of 2 us of CPU; without it 400 ns are saved. Every number is another.
    fn more() -> Vec<Outcome> {
        let mut entries = cell("null", 4_000.0, 400.0);
        entries[2].metrics.get_mut("syscalls").unwrap().summary.median = 1.75;
        outcomes(&entries)
    }

    fn savings() -> Savings {
        let (monitor, reset) = ("epoll".to_owned(), "edge".to_owned());
        Savings { kernel: "stock".to_owned(), monitor, reset, classic: 9_000.0, autoreset: 8_500.0 }
    }

    #[test]
    fn every_number_is_in_its_column() {
        let text = tables(&more(), &[savings()], false);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| {
                Some(line.strip_prefix("epoll, null on one CPU (0) ")?.split_whitespace().collect())
            })
            .collect();
        let [saved, counted] = rows.as_slice() else { panic!("{text}") };
        assert_eq!(saved[..5], ["4.00", "200", "1.00", "5.0%", "10.0%"], "{text}");
        assert_eq!(saved[saved.len() - 1], "more");
        assert_eq!(counted[..6], ["1.00", "0.00", "3.00", "1.75", "+200", "+400"], "{text}");
        let text = tables(&outcomes(&cell_with_level("null", 4_000.0, 200.0, 90.0)), &[], false);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("epoll, null")).collect();
        assert_eq!(
            lines[1].split_whitespace().skip(10).take(3).collect::<Vec<_>>(),
            ["+200", "+90.0", "+290"],
            "{text}"
        );
        assert!(lines.iter().all(|line| line.ends_with("  more: the level")), "{text}");
        assert_eq!(counted[counted.len() - 2..], ["more", "500"], "{text}");
        // Without a lab's file there is no column for it.
        assert!(!tables(&more(), &[], false).contains("instructions"));
    }

    #[test]
    fn a_line_says_the_same() {
        let line = Line::of(&more()[0], &[savings()]);
        assert_eq!((line.name.as_str(), line.iteration_us.as_str()), ("epoll, null on one CPU (0)", "4.00"));
        assert_eq!((line.read_ns.as_str(), line.reads.as_str()), ("200", "1.00 to 0.00"));
        assert_eq!((line.syscalls.as_str(), line.instructions.as_str()), ("3.00 to 1.75", "500"));
        assert_eq!((line.predicted.as_str(), line.verdict.as_str()), ("5.0%", "more"));
        assert!(line.saved.starts_with("10.0% (") && line.cpu_saved_ns.starts_with("+400 (+39"), "{line:?}");
        assert_eq!(
            (line.cpu_predicted_ns.as_str(), line.agrees, line.is_measured),
            ("+200: more", false, true)
        );

        let level = Line::of(&outcomes(&cell_with_level("null", 4_000.0, 200.0, 90.0))[0], &[]);
        assert_eq!((level.level_ns.as_str(), level.verdict.as_str()), ("+90.0", "more: the level"));
        assert_eq!((level.cpu_predicted_ns.as_str(), level.agrees), ("+200: more: the level", false));
        assert!(line.level_ns.is_empty());

        let agreed = Line::of(&outcomes(&cell("null", 4_000.0, 200.0))[0], &[]);
        assert_eq!(
            (agreed.verdict.as_str(), agreed.cpu_predicted_ns.as_str()),
            ("reproduced", "+200: agrees")
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

    #[test]
    fn nothing_measured_is_said() {
        assert_eq!(tables(&[], &[], false), "Nothing was measured.\n");
    }
}
