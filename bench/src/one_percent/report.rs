//! The tables of `bench one-percent`. Pure functions of the outcomes.

use crate::measure::Estimate;
use crate::report::number::{fixed, number, range, signed};
use crate::report::one_percent::{Outcome, Prediction, Savings, WITH_LEVEL, is_the_level, share};
use crate::report::rows;
use crate::report::saved::obstacle;
use crate::report::table::{Cell, Column, Table, Tint};

/// One table with what was saved, and one with what was counted.
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
        Column::text("verdict"),
        Column::text("prediction"),
    ];
    let mut table = Table::new(
        "What leaving out the read(2) saves of an iteration, per request\n\
         (saved: median of paired differences; ~: t_read from the loop's simplest cell)",
        &columns,
    );
    for outcome in outcomes {
        let measured = match (outcome.saved, &outcome.obstacle) {
            (Some(saved), _) => {
                let interval = saved.interval.map(|interval| range(interval, share)).unwrap_or_default();
                vec![
                    share(saved.median).into(),
                    interval.into(),
                    outcome.verdict().map(rows::word).unwrap_or_default(),
                    word(outcome.prediction(), is_the_level(outcome)),
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

/// How a saving compares with its prediction, in words and colour.
fn word(prediction: Option<Prediction>, is_the_level: bool) -> Cell {
    match prediction {
        None => Cell::default(),
        Some(Prediction::More) if is_the_level => Cell::tinted(WITH_LEVEL, Tint::Bold),
        Some(one @ (Prediction::More | Prediction::Less)) => Cell::tinted(one.word(), Tint::Bold),
        Some(one) => one.word().into(),
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
        "The same in the device's CPU time and by count, per request (~: level from the loop's simplest cell)"
    } else {
        "The same in the device's CPU time and by count, per request (~: level from the loop's simplest cell; instructions: \
         the kernel lab's count for one read, times the reads saved)"
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
                word(outcome.cpu_prediction(), outcome.cpu_is_with_level())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::one_percent::outcomes;
    use crate::report::one_percent::samples::{cell_with_level, lab_savings, more};

    #[test]
    fn every_number_is_in_its_column() {
        let text = tables(&more(), &[lab_savings()], false);
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
        // There is no column for the lab without its file.
        assert!(!tables(&more(), &[], false).contains("instructions"));
    }

    #[test]
    fn no_results_print_a_sentence() {
        assert_eq!(tables(&[], &[], false), "Nothing was measured.\n");
    }
}
