//! How the rows of a report compare with their baselines, by ratio.

use super::number::range;
use super::row::Row;
use super::rows::verdict;
use super::table::{Column, Table};
use crate::measure::Comparison;

/// The metrics that are compared, and how a ratio is written.
#[derive(Debug)]
pub(crate) struct Versus {
    /// Metrics, and what they are called.
    pub(crate) metrics: &'static [(&'static str, &'static str)],
    pub(crate) show: fn(f64) -> String,
}

impl Versus {
    /// For each metric of a row its name and the comparison.
    pub(crate) fn of(&self, row: &Row) -> impl Iterator<Item = (&'static str, Comparison)> {
        self.metrics.iter().filter_map(|(name, words)| Some((*words, row.metric(name)?.versus?)))
    }

    /// The interval of a ratio, `-3.0% to -1.0%`.
    pub(crate) fn interval(&self, versus: &Comparison) -> Option<String> {
        versus.ratio?.interval.map(|interval| range(interval, self.show))
    }

    /// A line for each metric of each row that has a baseline. The headings are those of the cases
    /// and of the ratios.
    pub(crate) fn table(&self, title: &str, [case, ratio]: [&'static str; 2], rows: &[Row]) -> Table {
        let columns = [
            Column::text(case),
            Column::text("against"),
            Column::text("of"),
            Column::number(ratio, ""),
            Column::number("95% interval", ""),
            Column::text("verdict"),
        ];
        let mut table = Table::new(title, &columns);
        for row in rows {
            let Some(baseline) = &row.baseline else { continue };
            for (index, (words, versus)) in self.of(row).enumerate() {
                let first = index == 0;
                table.row(vec![
                    if first { row.case.as_str() } else { "" }.into(),
                    if first { baseline.as_str() } else { "" }.into(),
                    words.into(),
                    versus.ratio.map(|ratio| (self.show)(ratio.median)).unwrap_or_default().into(),
                    self.interval(&versus).unwrap_or_default().into(),
                    verdict(&versus),
                ]);
            }
        }
        table
    }
}
