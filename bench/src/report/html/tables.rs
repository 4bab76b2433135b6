//! The tables of a page.

use super::glossary::title as meaning;
use super::svg::escape;
use crate::measure::Verdict;
use crate::report::compared::Compared;
use crate::report::metric::heading;
use crate::report::number::{number, percent, range, signed};
use crate::report::one_percent::{Line, Outcome, Savings};
use crate::report::saved::{Entry, metric_names};
use std::fmt::Write as _;

/// With more metrics than this, and fewer cases than that, the metrics are rows: the table then
/// fits on a screen and on paper.
const MANY_METRICS: usize = 6;
const MANY_CASES: usize = 9;

/// A table that scrolls by itself if it is wider than the screen. `inside` is its markup.
fn scrolled(name: &str, class: &str, inside: &str) -> String {
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"{class}\">{inside}</table></div>",
        escape(name)
    )
}

/// A heading and its unit in a second line.
fn head((name, unit): (String, Option<&str>)) -> String {
    let unit = unit.map(|unit| format!("<br>{}", escape(unit))).unwrap_or_default();
    format!("<th scope=\"col\">{}{unit}</th>", escape(&name))
}

/// The table of `bench one-percent`.
pub(super) fn cells(outcomes: &[Outcome], lab: &[Savings]) -> String {
    let row = |outcome: &Outcome| {
        let line = Line::of(outcome, lab);
        let class = match outcome.verdict() {
            Some(Verdict::Saves) => "good",
            Some(Verdict::Costs) => "bad",
            _ => "",
        };
        let cpu = if line.cpu_predicted_ns.is_empty() {
            line.cpu_saved_ns
        } else {
            format!("{}<br>predicted {}", line.cpu_saved_ns, line.cpu_predicted_ns)
        };
        let level =
            if line.level_ns.is_empty() { line.level_ns } else { format!("<br>level {}", line.level_ns) };
        let more = if lab.is_empty() { String::new() } else { format!("<td>{}</td>", line.instructions) };
        let verdict = if line.is_measured {
            format!(
                "<td class=\"words {class}\">{}</td><td class=\"words\">{}</td>",
                escape(&line.verdict),
                line.prediction
            )
        } else {
            format!("<td class=\"remark\" colspan=\"2\">{}</td>", escape(&line.verdict))
        };
        format!(
            "<tr><th scope=\"row\"{}>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{verdict}<td>{cpu}{level}</td><td>{}</td>{more}</tr>",
            meaning(&line.name),
            escape(&line.name),
            line.iteration_us,
            escape(&line.read_ns),
            line.reads,
            line.predicted,
            line.saved,
            line.syscalls,
        )
    };
    let rows: String = outcomes.iter().map(row).collect();
    let more = if lab.is_empty() { "" } else { "<th scope=\"col\">instructions<br>saved (lab)</th>" };
    let inside = format!(
        "<thead><tr><th scope=\"col\">loop, disk, place</th><th scope=\"col\">t_iter<br>us</th><th scope=\"col\">t_read<br>ns</th>\
         <th scope=\"col\">read(2)<br>per request</th><th scope=\"col\">predicted<br>of t_iter</th>\
         <th scope=\"col\">saved of t_iter<br>(95% interval)</th><th scope=\"col\" class=\"words\">verdict</th><th scope=\"col\" class=\"words\">prediction</th>\
         <th scope=\"col\">device CPU saved<br>per request, ns</th><th scope=\"col\">system calls<br>per request</th>{more}</tr>\
         </thead><tbody>{rows}</tbody>"
    );
    let note = if lab.is_empty() {
        ""
    } else {
        " Instructions: the kernel lab's count for one read(2) of that loop, times the reads that are saved here."
    };
    format!(
        "{}<p class=\"note\">Saved: the median of paired differences. t_iter: of the classic loop. ~: t_read or level from the loop's simplest cell, because in \
         this cell it was below the noise or was not measured. Level: the additional cost per request of watching the doorbell \
         level-triggered instead of edge-triggered, without the read itself. Counts: with the read(2) to without.{note}</p>",
        scrolled("What is saved in each cell", "cells", &inside)
    )
}

/// A number of one arm with its change against the baseline: the median of paired differences.
fn cell(entry: &Entry, name: &str) -> String {
    let median = entry.median(name).map(number).unwrap_or_default();
    let versus = entry.versus(name).map(|versus| {
        let change = match versus.ratio {
            Some(ratio) => percent(ratio.median),
            None => signed(versus.difference.median),
        };
        let interval = match versus.ratio {
            Some(ratio) => ratio.interval.map(|interval| range(interval, percent)),
            None => versus.difference.interval.map(|interval| range(interval, signed)),
        };
        let interval = interval.map(|interval| format!(", {interval}")).unwrap_or_default();
        match versus.verdict {
            Verdict::Saves => format!(" <span class=\"good\">({change})</span>"),
            Verdict::Costs => format!(" <span class=\"bad\">({change})</span>"),
            Verdict::NoDifferenceSeen => format!(" <span>({change})</span>"),
            Verdict::Inconclusive => {
                format!(" <span class=\"dim\" title=\"inconclusive: {change}{interval}\">(?)</span>")
            }
        }
    });
    format!("<td>{median}{}</td>", versus.unwrap_or_default())
}

/// The metrics that have the same median in all arms, with it. With one arm there are none.
fn same<'a>(measured: &[&'a Entry], names: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str, String)> {
    let shown = |entry: &Entry, name: &str| entry.median(name).map(number);
    let all = names.iter().filter_map(|&(name, unit)| {
        let first = shown(measured.first()?, name)?;
        let is_same = measured.iter().all(|entry| shown(entry, name).as_ref() == Some(&first));
        (is_same && measured.len() > 1).then_some((name, unit, first))
    });
    all.collect()
}

/// All metrics of a group's rows. Those that are the same in all of them are in a line below.
pub(super) fn numbers(group: &[Entry]) -> String {
    let title = group.first().map_or("", |entry| &entry.group);
    let caption = format!("<caption{}>{}</caption>", meaning(title), escape(title));
    let measured: Vec<&Entry> = group.iter().filter(|entry| entry.missing().is_none()).collect();
    let all = metric_names(group);
    let same = same(&measured, &all);
    let names: Vec<(&str, &str)> =
        all.into_iter().filter(|(name, _)| !same.iter().any(|(other, ..)| other == name)).collect();
    let words = |(name, unit): (&str, &str)| {
        let (words, unit) = heading(name, unit);
        words + &unit.map(|unit| format!(", {unit}")).unwrap_or_default()
    };
    let folded: Vec<String> =
        same.iter().map(|(name, unit, value)| format!("{} {value}", words((name, unit)))).collect();
    let folded = if folded.is_empty() {
        String::new()
    } else {
        format!("<p class=\"note\">The same in all arms: {}.</p>", escape(&folded.join("; ")))
    };
    if names.len() > MANY_METRICS && measured.len() < MANY_CASES {
        let heads: String = measured.iter().map(|entry| head((entry.case.clone(), None))).collect();
        let rows: String = names
            .iter()
            .map(|(name, unit)| {
                let cells: String = measured.iter().map(|entry| cell(entry, name)).collect();
                format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(&words((name, unit))))
            })
            .collect();
        let missing: String = group
            .iter()
            .filter_map(|entry| {
                let why = entry.missing()?;
                Some(format!("<p class=\"note\">{}: {}</p>", escape(&entry.case), escape(&why)))
            })
            .collect();
        let inside = format!(
            "{caption}<thead><tr><th scope=\"col\">median</th>{heads}</tr></thead><tbody>{rows}</tbody>"
        );
        return format!("<div>{}{folded}{missing}</div>", scrolled(title, "", &inside));
    }
    let row = |entry: &Entry| {
        let cells = match entry.missing() {
            Some(why) => {
                format!("<td class=\"remark\" colspan=\"{}\">{}</td>", names.len().max(1), escape(&why))
            }
            None => names.iter().map(|(name, _)| cell(entry, name)).collect(),
        };
        format!("<tr><th scope=\"row\"{}>{}</th>{cells}</tr>", meaning(&entry.case), escape(&entry.case))
    };
    let heads: String = names.iter().map(|(name, unit)| head(heading(name, unit))).collect();
    let rows: String = group.iter().map(row).collect();
    let inside =
        format!("{caption}<thead><tr><th scope=\"col\">case</th>{heads}</tr></thead><tbody>{rows}</tbody>");
    format!("<div>{}{folded}</div>", scrolled(title, "", &inside))
}

/// The metrics that have changed since an earlier run.
pub(super) fn baseline(body: &mut String, compared: &Compared) {
    // Writing to a String cannot fail.
    let _ = write!(body, "<h2>Against an earlier run</h2><p>{}</p>", escape(&compared.sentence()));
    let changes = compared.changes.iter().filter(|change| change.judgement.is_change());
    let rows: String = changes
        .map(|change| {
            let class = if change.judgement.is_worse() { "bad" } else { "good" };
            let interval = change.interval();
            let interval = if interval.is_empty() { interval } else { format!("({interval})") };
            format!(
                "<tr><th scope=\"row\">{}, {}</th><td>{}</td><td>{}</td><td>{}</td><td>{} {}</td><td class=\"words {class}\">{}</td>\
                 </tr>",
                escape(&change.group),
                escape(&change.case),
                escape(&change.metric),
                number(change.before),
                number(change.after),
                escape(&change.words()),
                escape(&interval),
                change.judgement
            )
        })
        .collect();
    if !rows.is_empty() {
        let inside = format!(
            "<thead><tr><th scope=\"col\">arm</th><th scope=\"col\">metric</th><th scope=\"col\">before</th>\
             <th scope=\"col\">after</th><th scope=\"col\">change (95% interval)</th><th scope=\"col\" class=\"words\">judgement\
             </th></tr></thead><tbody>{rows}</tbody>"
        );
        body.push_str(&scrolled("Against an earlier run", "", &inside));
    }
}
