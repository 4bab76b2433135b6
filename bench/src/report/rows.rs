//! Tables that have a line for each row of a report.

use super::number::number;
use super::row::Row;
use super::table::{Cell, Column, Table};

/// A metric that is shown: its name, heading and unit.
pub(crate) type Shown = (&'static str, &'static str, &'static str);

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
