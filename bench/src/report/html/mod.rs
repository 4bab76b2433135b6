//! A report as an HTML page: one file that loads nothing else, for the screen, mail, and paper.
//! Made from the JSON report, so both always agree.
//!
//! The first screen has the question, the answer, the verdict and one picture. Everything else is
//! folded below it.

mod charts;
mod curve;
mod dots;
mod glossary;
mod latency;
mod method;
mod rounds;
mod scale;
mod svg;
mod tables;

use crate::measure::Verdict;
use crate::report::answer::{self, Answer};
use crate::report::compared::Compared;
use crate::report::number::number;
use crate::report::one_percent::{Cell, Outcome, asked, lab, outcomes, reference};
use crate::report::saved::{Document, Entry};
use curve::Size;
use std::fmt::Write as _;
use svg::escape;

const STYLE: &str = include_str!("style.css");

/// The widths of the first picture: for a wide screen and for a narrow one.
const WIDE: f64 = 860.0;
const NARROW: f64 = svg::WIDTH;

/// Renders the page, with the comparison if there is one.
pub(crate) fn render(document: &Document, compared: Option<&Compared>) -> String {
    let cells = outcomes(&document.results);
    let answer = answer::of(document);
    let mut body = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "<h1>{}</h1><p class=\"answer\">{}</p>{}",
        escape(answer.question),
        escape(&answer.sentence),
        verdict(&answer)
    );
    if !document.complete {
        body.push_str("<p class=\"bad\">Stopped by Ctrl-C: the tables contain the finished samples.</p>");
    }
    body.push_str(&picture(document, &cells));
    let _ = write!(body, "<p class=\"note\">{}</p>", escape(&byline(document)));
    if let Some(compared) = compared {
        tables::baseline(&mut body, compared);
    }
    let folded = folded(document, &cells);
    let links = folded.iter().map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>"));
    let _ = write!(body, "<nav>{}</nav>", links.collect::<Vec<_>>().join(" \u{b7} "));
    for (id, title, inside) in folded {
        let _ = write!(body, "<details id=\"{id}\"><summary><h2>{title}</h2></summary>{inside}</details>");
    }
    let title = escape(&format!("bench {}: {}", document.benchmark, fact(document, "kernel")));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body>\
         </html>\n"
    )
}

/// The verdict of the comparison that was asked about, or how often there was which.
fn verdict(answer: &Answer) -> String {
    let chips = answer.verdicts.iter().map(|(verdict, count)| {
        let class = match verdict {
            Verdict::Saves => "good",
            Verdict::Costs => "bad",
            Verdict::NoDifferenceSeen | Verdict::Inconclusive => "dim",
        };
        let times =
            if answer.verdicts.len() == 1 && *count == 1 { String::new() } else { format!(": {count}") };
        format!("<span class=\"chip {class}\" title=\"{}\">{verdict}{times}</span>", escape(method::RULE))
    });
    let chips: Vec<String> = chips.collect();
    if chips.is_empty() {
        String::new()
    } else {
        format!("<p class=\"verdict\">Verdict: {}</p>", chips.join(" "))
    }
}

/// The one picture of the first screen.
fn picture(document: &Document, cells: &[Outcome]) -> String {
    let both = |draw: &dyn Fn(f64) -> Option<String>| match (draw(WIDE), draw(NARROW)) {
        (Some(wide), Some(narrow)) => {
            format!("<div class=\"wide\">{wide}</div><div class=\"narrow\">{narrow}</div>")
        }
        _ => String::new(),
    };
    if !cells.is_empty() {
        let draw = |width| {
            let height = if width < WIDE { 360.0 } else { 400.0 };
            Some(curve::render(cells, Size { width, height })).filter(|drawing| !drawing.is_empty())
        };
        return both(&draw) + curve::NOTE;
    }
    if document.benchmark == "loops" {
        return both(&|width| dots::render(document, width)) + dots::NOTE;
    }
    let first = document.groups().find_map(charts::changes).unwrap_or_default();
    if first.is_empty() { first } else { format!("<div class=\"first\">{first}</div>") }
}

/// The parts below the first screen: id, title, and what is inside.
fn folded(document: &Document, cells: &[Outcome]) -> Vec<(&'static str, &'static str, String)> {
    let mut parts: Vec<(&'static str, &'static str, String)> = Vec::new();
    let sentences: String =
        document.conclusions.iter().map(|sentence| format!("<li>{}</li>", escape(sentence))).collect();
    parts.push((
        "words",
        "In words",
        if sentences.is_empty() { sentences } else { format!("<ul>{sentences}</ul>") },
    ));
    if !cells.is_empty() {
        parts.push((
            "cells",
            "What is saved in each cell",
            tables::cells(cells, &lab::savings(&document.results)),
        ));
    }
    // Of many cells, those that the answer is about.
    let chosen: Vec<String> = asked(cells).into_iter().chain(reference(cells)).map(Outcome::name).collect();
    let is_shown = |group: &&[Entry]| {
        let name = group.first().map_or("", |entry| entry.group.as_str());
        cells.is_empty() || Cell::parse(name).is_none() || chosen.iter().any(|chosen| chosen == name)
    };
    type Chart = fn(&[Entry]) -> Option<String>;
    for (id, title, note, chart, all) in [
        (
            "changes",
            "Against the baseline, with intervals",
            "The median of paired differences and its 95% interval. Filled marks save (green) or cost (red) or show no \
             difference (grey); a hollow mark is inconclusive.",
            charts::changes as Chart,
            true,
        ),
        (
            "latency",
            "Latency",
            "Every bucket of the histograms; in older reports, points at the quantiles that were kept.",
            latency::figures,
            false,
        ),
        ("rounds", "Every round", "A dot is a round, the line is the median.", rounds::figure_of, true),
        ("calls", "System calls", "Counted in the device's thread, by kind.", charts::syscalls, true),
    ] {
        let groups = document.groups().filter(|group| all || is_shown(group));
        let figures: String = groups.filter_map(chart).collect();
        if !figures.is_empty() {
            parts.push((
                id,
                title,
                format!("<p class=\"note\">{note}</p><div class=\"charts\">{figures}</div>"),
            ));
        }
    }
    let numbers: String = document.groups().map(tables::numbers).collect();
    parts.push((
        "numbers",
        "Every number",
        format!(
            "<p class=\"note\">Medians over the rounds. In brackets: the median of paired differences against the baseline, \
             which is not the difference of the medians; a question mark where it is inconclusive. The verdicts of each table hold together (false discovery rate 5%).</p>\
             <div class=\"tables\">{numbers}</div>"
        ),
    ));
    parts.push(("method", "Method", method::render(document)));
    parts.push(("glossary", "Glossary", glossary::list()));
    parts.push(("machine", "Measured on", machine(document)));
    parts.push(("repeat", "How to repeat it", format!("<pre>{}</pre>", escape(&document.command))));
    parts.retain(|(.., inside)| !inside.is_empty());
    parts
}

/// A fact of the environment.
fn fact<'a>(document: &'a Document, name: &str) -> &'a str {
    document.environment.get(name).and_then(|value| value.as_str()).unwrap_or("unknown")
}

/// The facts about the machine that matter for the answer.
fn byline(document: &Document) -> String {
    let machine = document.environment.get("virtualisation").and_then(|value| value.as_str());
    let machine = machine.map(|machine| format!(", {machine}")).unwrap_or_default();
    format!("Measured on {}, {}{machine}.", fact(document, "kernel"), fact(document, "cpu_model"))
}

/// The facts that are looked for first; the others follow by name.
const FACTS: [&str; 7] =
    ["date", "kernel", "cpu_model", "virtualisation", "cpus_online", "cpus_allowed", "bench_version"];

/// The environment.
fn machine(document: &Document) -> String {
    let mut body = "<dl>".to_owned();
    if let Some(workload) = &document.workload {
        let _ = write!(body, "<dt>workload</dt><dd>{}</dd>", escape(workload));
    }
    let mut facts: Vec<_> = document.environment.iter().filter(|(name, _)| *name != "command").collect();
    facts.sort_by_key(|(name, _)| FACTS.iter().position(|first| first == name).unwrap_or(FACTS.len()));
    for (name, value) in facts {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(list) => {
                let list: Vec<String> = list
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect();
                if list.is_empty() { "none".to_owned() } else { list.join("; ") }
            }
            other => match other.get("spread").and_then(serde_json::Value::as_f64) {
                Some(spread) => {
                    format!("{}% from quick to slow runs of one busy loop", number(spread * 100.0))
                }
                None => other.to_string(),
            },
        };
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(&name.replace('_', " ")), escape(&text));
    }
    body + "</dl>"
}

#[cfg(test)]
mod tests;
