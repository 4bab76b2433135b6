//! Two reports of one benchmark, arm by arm: is the second worse than the first?
//!
//! The rounds of two runs were not taken together, so nothing can be paired by round: each side is
//! resampled on its own. What a machine does differently from one run to the next is not in any
//! interval; the threshold is for that.

mod judgement;

use super::markdown;
use super::number::{number, percent, range};
use super::saved::{Document, Entry, metric_names};
use super::table::{Cell, Column, Table, Tint};
use crate::error::Error;
use judgement::{Judgement, Times};
use std::fmt::Write as _;

/// Which metrics are compared, and the threshold.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// As a share of one.
    pub(crate) threshold: f64,
    /// None means all but the outer quantiles.
    pub(crate) metrics: Vec<String>,
}

/// Two reports, compared.
#[derive(Debug, Clone)]
pub(crate) struct Compared {
    pub(crate) changes: Vec<Change>,
    /// Arms that only one of the two has measured.
    unmatched: Vec<String>,
    threshold: f64,
}

/// One metric of one arm in both.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) group: String,
    pub(crate) case: String,
    pub(crate) metric: String,
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) times: Times,
    pub(crate) judgement: Judgement,
}

/// A usage error if a report is not of this benchmark.
pub(crate) fn same_benchmark(before: &Document, benchmark: &str) -> Result<(), Error> {
    if before.benchmark == benchmark {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "one report is of bench {}, the other of bench {benchmark}: compare two of the same",
        before.benchmark
    )))
}

/// Compares `after` with `before`. A usage error if they have nothing in common.
pub(crate) fn documents(before: &Document, after: &Document, limits: &Limits) -> Result<Compared, Error> {
    same_benchmark(before, &after.benchmark)?;
    let find = |document: &'_ Document, entry: &Entry| -> Option<usize> {
        let same = |other: &Entry| (&other.group, &other.case) == (&entry.group, &entry.case);
        document.results.iter().position(|other| same(other) && !other.metrics.is_empty())
    };
    let mut changes = Vec::new();
    let mut unmatched = Vec::new();
    for entry in after.results.iter().filter(|entry| !entry.metrics.is_empty()) {
        match find(before, entry) {
            Some(index) => changes.extend(arm(&before.results[index], entry, limits)),
            None => unmatched.push(format!("{}, {} (only after)", entry.group, entry.case)),
        }
    }
    for entry in before.results.iter().filter(|entry| !entry.metrics.is_empty()) {
        if find(after, entry).is_none() {
            unmatched.push(format!("{}, {} (only before)", entry.group, entry.case));
        }
    }
    if changes.is_empty() {
        let message = "the two reports have no arm and metric in common, so there is nothing to compare";
        return Err(Error::Usage(message.to_owned()));
    }
    Ok(Compared { changes, unmatched, threshold: limits.threshold })
}

/// Other quantiles depend more on the machine than on the program.
fn by_default(name: &str) -> bool {
    let quantile = name.strip_prefix('p').and_then(|rest| rest.strip_suffix("_us"));
    quantile.is_none_or(|digits| ["50", "99"].contains(&digits))
}

fn arm(before: &Entry, after: &Entry, limits: &Limits) -> Vec<Change> {
    let wanted = |name: &str| match limits.metrics.as_slice() {
        [] => by_default(name),
        some => some.iter().any(|metric| metric == name),
    };
    let names = metric_names(std::slice::from_ref(after)).into_iter().filter(|(name, _)| wanted(name));
    let changes = names.filter_map(|(name, _)| {
        let (old, new) = (before.metrics.get(name)?, after.metrics.get(name)?);
        let times = Times::of(&old.values, &new.values)?;
        Some(Change {
            group: after.group.clone(),
            case: after.case.clone(),
            metric: name.to_owned(),
            before: old.summary.median,
            after: new.summary.median,
            judgement: times.judge(new.better, limits.threshold),
            times,
        })
    });
    changes.collect()
}

impl Change {
    /// The change in words: `+3.0%`, or the difference where the baseline is nothing.
    pub(crate) fn words(&self) -> String {
        self.times.words()
    }

    pub(crate) fn interval(&self) -> String {
        self.times.interval().map(|interval| range(interval, percent)).unwrap_or_default()
    }
}

impl Compared {
    /// 1 if something got worse by more than the threshold.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::from(self.count(Judgement::Worse) > 0)
    }

    fn count(&self, judgement: Judgement) -> usize {
        self.changes.iter().filter(|change| change.judgement == judgement).count()
    }

    /// The result in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let threshold = format!("{}%", number(self.threshold * 100.0));
        let worst = self.changes.iter().filter(|change| change.judgement == Judgement::Worse);
        let details: Vec<String> = worst
            .take(3)
            .map(|change| format!("{} of {} ({})", change.metric, change.case, change.words()))
            .collect();
        let details = if details.is_empty() { String::new() } else { format!(": {}", details.join(", ")) };
        format!(
            "{} of {} metrics are worse by more than {threshold}{details}; {} are better by more, {} within it, {} undecided.",
            self.count(Judgement::Worse),
            self.changes.len(),
            self.count(Judgement::Better),
            self.count(Judgement::Same),
            self.count(Judgement::Unclear),
        )
    }

    /// Tables, one for each group, and the sentence.
    pub(crate) fn text(&self, colour: bool) -> String {
        let columns = [
            Column::text("arm"),
            Column::text("metric"),
            Column::number("before", ""),
            Column::number("after", ""),
            Column::number("change", ""),
            Column::number("95% interval", ""),
            Column::text("judgement"),
        ];
        let mut text = String::new();
        for group in self.changes.chunk_by(|a, b| a.group == b.group) {
            let name = group.first().map_or("", |change| change.group.as_str());
            let mut table = Table::new(format!("After against before, {name}"), &columns);
            let mut last = "";
            for change in group {
                let arm = if change.case == last { "" } else { change.case.as_str() };
                last = &change.case;
                let judgement = match change.judgement {
                    Judgement::Worse => Cell::tinted("worse", Tint::Red),
                    Judgement::Better => Cell::tinted("better", Tint::Green),
                    other => other.to_string().into(),
                };
                table.row(vec![
                    arm.into(),
                    change.metric.as_str().into(),
                    number(change.before).into(),
                    number(change.after).into(),
                    change.words().into(),
                    change.interval().into(),
                    judgement,
                ]);
            }
            text.push_str(&table.render(colour));
            text.push('\n');
        }
        for arm in &self.unmatched {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Not compared: {arm}.");
        }
        text.push_str(&self.sentence());
        text.push('\n');
        text
    }

    /// The same as Markdown, without metrics that have not changed.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### Against the baseline\n\n{}\n", markdown::escape(&self.sentence()));
        let row = |change: &Change| {
            vec![
                markdown::escape(&format!("{}, {}", change.group, change.case)),
                markdown::escape(&change.metric),
                number(change.before),
                number(change.after),
                change.words(),
                change.interval(),
                change.judgement.to_string(),
            ]
        };
        let changed = self.changes.iter().filter(|change| change.judgement.is_change());
        let rows: Vec<_> = changed.map(row).collect();
        if !rows.is_empty() {
            let text_of = |heading: &str| (heading.to_owned(), false);
            let number_of = |heading: &str| (heading.to_owned(), true);
            let headings = [
                text_of("arm"),
                text_of("metric"),
                number_of("before"),
                number_of("after"),
                number_of("change"),
                number_of("95% interval"),
                text_of(""),
            ];
            text += &format!("\n{}", markdown::table(&headings, &rows));
        }
        text
    }
}

#[cfg(test)]
mod tests;
