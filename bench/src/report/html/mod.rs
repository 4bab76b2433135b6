//! A report as an HTML page: one file that loads nothing else, for the screen, mail, and paper.
//! Made from the JSON report, so both always agree.

mod charts;
mod curve;
mod scale;
mod svg;
mod tables;

use crate::report::compared::Compared;
use crate::report::number::number;
use crate::report::one_percent::{lab, outcomes};
use crate::report::saved::{Document, Entry};
use std::fmt::Write as _;
use svg::escape;

const STYLE: &str = include_str!("style.css");

/// If the first sentence is longer, only its first part is the answer, and the whole sentence
/// follows below.
const LONGEST_ANSWER: usize = 300;

/// Renders the page, with the comparison if there is one.
pub(crate) fn render(document: &Document, compared: Option<&Compared>) -> String {
    let cells = outcomes(&document.results);
    let mut body = String::new();
    let title = format!("bench {}", document.benchmark);
    let first = document.conclusions.first().map_or("There are no conclusions.", String::as_str);
    let answer = lead(first);
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "<h1>{}</h1><p class=\"answer\">{}</p><p class=\"note\">{}</p>",
        escape(&title),
        escape(&answer),
        escape(&byline(document))
    );
    if !document.complete {
        body.push_str("<p class=\"bad\">Stopped by Ctrl-C: the tables contain the finished samples.</p>");
    }
    if let Some(compared) = compared {
        tables::baseline(&mut body, compared);
    }
    if !cells.is_empty() {
        body.push_str("<h2>What is saved, and of what</h2>");
        body.push_str(&curve::render(&cells));
        body.push_str(&tables::cells(&cells, &lab::savings(&document.results)));
    }
    let said = usize::from(answer == first);
    let rest = document.conclusions.iter().skip(said);
    let rest: String = rest.map(|sentence| format!("<li>{}</li>", escape(sentence))).collect();
    if !rest.is_empty() {
        let _ = write!(body, "<h2>In words</h2><ul>{rest}</ul>");
    }
    type Chart = fn(&[Entry]) -> Option<String>;
    for (heading, note, chart) in [
        (
            "Against the baseline, with intervals",
            "The median of the paired differences and its 95% interval. Green is better, red is worse, and a hollow mark \
             means that the verdict is inconclusive.",
            charts::changes as Chart,
        ),
        ("System calls", "Counted in the device's thread, by kind.", charts::syscalls),
        ("Latency", "Both axes are stretched to show the tail.", charts::latency),
    ] {
        let figures: String = document.groups().filter_map(chart).collect();
        if !figures.is_empty() {
            let _ = write!(
                body,
                "<h2>{heading}</h2><p class=\"note\">{note}</p><div class=\"charts\">{figures}</div>"
            );
        }
    }
    body.push_str(
        "<h2>Every number</h2><p class=\"note\">Medians over the rounds; in brackets the change against the baseline, as the \
         median of paired differences, in bold if its 95% interval excludes zero.</p><div class=\"tables\">",
    );
    for group in document.groups() {
        body.push_str(&tables::numbers(group));
    }
    body.push_str("</div>");
    environment(&mut body, document);
    let title = escape(&format!("{title}: {}", fact(document, "kernel")));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body>\
         </html>\n"
    )
}

/// A sentence, or its first part if it is too long for the answer.
fn lead(sentence: &str) -> String {
    match sentence.split_once("; ") {
        Some((first, _)) if sentence.chars().count() > LONGEST_ANSWER => format!("{first}."),
        _ => sentence.to_owned(),
    }
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

/// The environment and the command.
fn environment(body: &mut String, document: &Document) {
    let _ = write!(body, "<h2>To repeat it</h2><pre>{}</pre>", escape(&document.command));
    body.push_str("<h2>Measured on</h2><dl>");
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
    body.push_str("</dl>");
}

#[cfg(test)]
mod tests;
