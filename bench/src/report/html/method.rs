//! How the numbers of a page were made, in words.

use super::svg::escape;
use crate::report::saved::Document;

/// The rule of the verdicts, in short.
pub(super) const RULE: &str = "Asked about: an effect of 1%. Saves, costs: the 95% interval excludes zero and is no wider than 1%, or all of \
    it is beyond 1%. No difference that could be seen: zero is inside, and the interval is no wider than 1%. Otherwise \
    inconclusive.";

/// The page's method.
pub(super) fn render(document: &Document) -> String {
    let rounds = document.results.iter().map(|entry| entry.rounds.len()).max().unwrap_or(0);
    let rounds = if rounds > 0 { format!(" Here up to {rounds} rounds count.") } else { String::new() };
    let dates = document.environment.get("date").and_then(|date| date.as_str());
    let date = dates.map(|date| format!(" It was made on {}.", escape(date))).unwrap_or_default();
    format!(
        "<ul><li>The arms take turns in rounds, forwards and backwards, so that a drift of the machine affects all alike. The \
         value of an arm in a round is the mean of its two samples.{rounds}</li>\
         <li>A round that something from outside has disturbed (a CPU quota, steal time, a stop, a gap in the clock) is left \
         out, marked and counted. Outliers are marked, counted, and kept.</li>\
         <li>Two arms are compared round by round. A result is the median of paired differences, with a 95% bootstrap \
         interval. That is not the difference of the medians, which may have another sign.</li>\
         <li>The verdict: {}</li>\
         <li>The verdicts of a table hold together: of those that say saves or costs, at most 5% are expected to be wrong (the \
         false discovery rate by Benjamini and Hochberg). An interval that excludes zero may therefore be inconclusive.</li>\
         <li>The loop counts its own system calls. Latencies are kept in histograms with three digits (HdrHistogram).</li>\
         <li>The question comes from two mails: \u{201c}[RFC] eventfd: add EFD_AUTORESET flag\u{201d} (2020) and \u{201c}[RFC PATCH v5 \
         0/2] eventfd: add configurable maximum counter value for flow control\u{201d}.</li>\
         <li>This page shows a report of bench --json.{date} <code>bench report FILE.json --html PAGE</code> draws it again.</li></ul>",
        escape(RULE)
    )
}
