//! Tables that have a line for each row of a report, and their cells.

use super::number::{fixed, number, percent, range, signed};
use super::row::Row;
use super::table::{Cell, Column, Table, Tint};
use crate::measure::{Comparison, Interval, MIN_VALUES, Verdict};

/// A metric that is shown: its name, heading and unit.
pub(crate) type Shown = (&'static str, &'static str, &'static str);

/// The rows of each group, in their order.
pub(crate) fn groups(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    rows.chunk_by(|a, b| a.group == b.group)
}

/// The group of these rows.
pub(crate) fn group_name(rows: &[Row]) -> &str {
    rows.first().map_or("", |row| row.group.as_str())
}

/// A table for each group.
pub(crate) fn tables(rows: &[Row], colour: bool, table: impl Fn(&[Row]) -> Table) -> String {
    groups(rows).map(|rows| table(rows).render(colour)).collect::<Vec<_>>().join("\n")
}

/// A line for each of `rows`, with the medians of `metrics`. `case` is the heading of the cases.
pub(crate) fn medians(
    title: impl Into<String>,
    case: &'static str,
    metrics: &[Shown],
    rows: &[Row],
) -> Table {
    let mut columns = vec![Column::text(case)];
    columns.extend(metrics.iter().map(|(_, heading, unit)| Column::number(heading, unit)));
    table(title, &columns, rows, |row| metrics.iter().map(|(name, ..)| median(row, name)).collect())
}

/// A line for each of `rows`: its case and its `cells`, or why it has none.
pub(crate) fn table(
    title: impl Into<String>,
    columns: &[Column],
    rows: &[Row],
    cells: impl Fn(&Row) -> Vec<Cell>,
) -> Table {
    let mut table = Table::new(title, columns);
    for row in rows {
        match &row.result {
            Ok(_) => table.row([Cell::from(row.case.as_str())].into_iter().chain(cells(row)).collect()),
            Err(why) => table.remark(row.case.as_str(), why.to_string()),
        }
    }
    table
}

/// The median of a metric; an empty cell where the row has no such metric.
pub(crate) fn median(row: &Row, metric: &str) -> Cell {
    row.median(metric).map(number).unwrap_or_default().into()
}

/// The same with so many decimals.
pub(crate) fn median_fixed(row: &Row, metric: &str, decimals: usize) -> Cell {
    row.median(metric).map(|value| fixed(value, decimals)).unwrap_or_default().into()
}

/// The median absolute deviation of a metric.
pub(crate) fn mad(row: &Row, metric: &str) -> Cell {
    row.metric(metric).map(|measured| number(measured.summary.mad)).unwrap_or_default().into()
}

/// Both ends of an interval, or nothing without one.
pub(crate) fn interval(interval: Option<Interval>, format: impl Fn(f64) -> String) -> Cell {
    interval.map(|interval| range(interval, format)).unwrap_or_default().into()
}

/// A metric against its baseline: difference, interval, change, verdict. Empty without a baseline.
pub(crate) fn difference(row: &Row, metric: &str) -> [Cell; 4] {
    let Some(versus) = row.metric(metric).and_then(|measured| measured.versus) else {
        return Default::default();
    };
    [
        signed(versus.difference.median).into(),
        interval(versus.difference.interval, signed),
        versus.ratio.map(|ratio| percent(ratio.median)).unwrap_or_default().into(),
        verdict(&versus),
    ]
}

/// The verdict in its colour, and why there is none where there are too few rounds.
pub(crate) fn verdict(versus: &Comparison) -> Cell {
    if versus.pairs < MIN_VALUES {
        return format!("{} ({} of {MIN_VALUES} rounds)", versus.verdict, versus.pairs).into();
    }
    word(versus.verdict)
}

/// A verdict in its colour.
pub(crate) fn word(verdict: Verdict) -> Cell {
    match verdict {
        Verdict::Saves => Cell::tinted(verdict.to_string(), Tint::Green),
        Verdict::Costs => Cell::tinted(verdict.to_string(), Tint::Red),
        Verdict::NoDifferenceSeen => verdict.to_string().into(),
        Verdict::Inconclusive => Cell::tinted(verdict.to_string(), Tint::Dim),
    }
}
