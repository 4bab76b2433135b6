//! The tables of `bench one-percent`. Pure functions of the outcomes.

use super::lab::Savings;
use super::model::{Outcome, Verdict};
use super::words::share;
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
                vec![share(saved.median).into(), interval.into(), word(outcome.verdict())]
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

/// The verdict in words and colour.
fn word(verdict: Option<Verdict>) -> Cell {
    match verdict {
        None => "too few rounds".into(),
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
        Column::number("CPU", "predicted, ns"),
        Column::number("CPU", "saved, ns"),
        Column::number("", "95% interval"),
        Column::text("prediction"),
    ];
    if !lab.is_empty() {
        columns.push(Column::number("instructions", "saved"));
    }
    let mut table = Table::new("The same in the device's CPU time and by count, per request", &columns);
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
            nanoseconds(outcome.cpu_saved_ns).into(),
            interval.map(|interval| range(interval, signed)).unwrap_or_default().into(),
            if outcome.cpu_saved_ns.is_some() { word(outcome.cpu_verdict()) } else { "".into() },
        ];
        if !lab.is_empty() {
            cells.push(Savings::of(outcome, lab).map(number).unwrap_or_default().into());
        }
        table.row(cells);
    }
    table
}
