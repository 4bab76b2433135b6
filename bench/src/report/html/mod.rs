//! A report as a page: one file that loads nothing, to look at, to send, to print. Made from the JSON report, so it says what that
//! says.

mod charts;
mod curve;
mod scale;
mod svg;

use super::number::{fixed, number, percent, range, signed};
use super::saved::{Document, Entry, metric_names};
use crate::compare::Compared;
use crate::measure::Verdict;
use crate::one_percent::model::{self, Outcome};
use crate::one_percent::words;
use std::fmt::Write as _;
use svg::escape;

const STYLE: &str = include_str!("style.css");

/// The whole page, and what is known about a baseline.
pub(crate) fn render(document: &Document, compared: Option<&Compared>) -> String {
    let outcomes = model::outcomes(&document.results);
    let mut body = String::new();
    let mut sentences = document.conclusions.iter();
    let answer = sentences.next().map_or("Nothing was concluded.", String::as_str);
    let title = format!("bench {}", document.benchmark);
    // Writing to a String cannot fail.
    let _ = write!(body, "<h1>{}</h1><p class=\"answer\">{}</p>", escape(&title), escape(answer));
    if !document.complete {
        body.push_str("<p class=\"bad\">Stopped by Ctrl-C: the tables hold what was finished.</p>");
    }
    if let Some(compared) = compared {
        baseline(&mut body, compared);
    }
    if !outcomes.is_empty() {
        body.push_str("<h2>What is saved, and of what</h2>");
        body.push_str(&curve::render(&outcomes));
        body.push_str(&cells(&outcomes));
    }
    let rest: String = sentences.map(|sentence| format!("<li>{}</li>", escape(sentence))).collect();
    if !rest.is_empty() {
        let _ = write!(body, "<h2>In words</h2><ul>{rest}</ul>");
    }
    let draw =
        |chart: fn(&[Entry]) -> Option<String>| document.groups().filter_map(chart).collect::<String>();
    for (heading, chart) in [
        ("Against the baseline, with intervals", charts::changes as fn(&[Entry]) -> Option<String>),
        ("System calls", charts::syscalls),
        ("Latency", charts::latency),
    ] {
        let figures = draw(chart);
        if !figures.is_empty() {
            let _ = write!(body, "<h2>{heading}</h2><div class=\"charts\">{figures}</div>");
        }
    }
    body.push_str("<h2>Every number</h2><p class=\"note\">Medians over the rounds; in brackets the median of the paired \
                   differences from the baseline, coloured where its 95% interval excludes zero.</p>");
    for group in document.groups() {
        body.push_str(&table(group));
    }
    environment(&mut body, document);
    let title = escape(&title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src \
         'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

/// The table of `bench one-percent`.
fn cells(outcomes: &[Outcome]) -> String {
    let row = |outcome: &Outcome| {
        let share =
            |estimate: Option<crate::measure::Estimate>| estimate.map(words::estimate).unwrap_or_default();
        let verdict = match (outcome.verdict(), &outcome.obstacle) {
            (Some(verdict), _) => {
                format!(
                    "<td class=\"words{}\">{}</td>",
                    if verdict.agrees() { " good" } else { "" },
                    verdict.word()
                )
            }
            (None, Some(why)) => format!("<td class=\"remark\">not measured: {}</td>", escape(why)),
            (None, None) => "<td></td>".to_owned(),
        };
        let cpu = outcome.cpu_saved_ns.zip(outcome.cpu_predicted_ns);
        let cpu = cpu.map(|(saved, predicted)| {
            format!("{} ({} predicted)", signed(saved.median), signed(predicted.median))
        });
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>{verdict}<td>{}</td></tr>",
            escape(&outcome.short_name()),
            number(outcome.iteration_us),
            escape(&outcome.read_words()),
            fixed(outcome.reads_saved(), 2),
            outcome.predicted.map(|predicted| words::share(predicted.median)).unwrap_or_default(),
            share(outcome.saved),
            cpu.unwrap_or_default(),
        )
    };
    let rows: String = outcomes.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr><th>loop, disk, place</th><th>t_iter<br>us</th><th>t_read<br>ns</th><th>reads\
         <br>saved</th><th>predicted</th><th>saved, with its 95% interval</th><th class=\"words\">prediction</th>\
         <th>device CPU saved<br>ns</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// All metrics of a group's rows.
fn table(group: &[Entry]) -> String {
    let names = metric_names(group);
    let heading = |(name, unit): &(&str, &str)| format!("<th>{}<br>{}</th>", escape(name), escape(unit));
    let row = |entry: &Entry| {
        if let Some(why) = entry.missing() {
            return format!(
                "<tr><td>{}</td><td class=\"remark\" colspan=\"{}\">{}</td></tr>",
                escape(&entry.case),
                names.len().max(1),
                escape(&why)
            );
        }
        let cell = |(name, _): &(&str, &str)| {
            let median = entry.median(name).map(number).unwrap_or_default();
            let versus = entry.versus(name).map(|versus| {
                let class = match versus.verdict {
                    Verdict::Faster => " class=\"good\"",
                    Verdict::Slower => " class=\"bad\"",
                    Verdict::NoDetectableDifference => "",
                };
                let title =
                    versus.difference.interval.map(|interval| range(interval, signed)).unwrap_or_default();
                let change = match versus.ratio {
                    Some(ratio) => percent(ratio.median),
                    None => signed(versus.difference.median),
                };
                format!(" <span{class} title=\"{}\">({change})</span>", escape(&title))
            });
            format!("<td>{median}{}</td>", versus.unwrap_or_default())
        };
        format!("<tr><td>{}</td>{}</tr>", escape(&entry.case), names.iter().map(cell).collect::<String>())
    };
    format!(
        "<div class=\"scroll\"><table><caption>{}</caption><thead><tr><th>case</th>{}</tr></thead><tbody>{}</tbody></table></div>",
        escape(group.first().map_or("", |entry| &entry.group)),
        names.iter().map(heading).collect::<String>(),
        group.iter().map(row).collect::<String>()
    )
}

fn baseline(body: &mut String, compared: &Compared) {
    let _ = write!(body, "<h2>Against an earlier run</h2><p>{}</p>", escape(&compared.sentence()));
    let rows: String = compared
        .changes
        .iter()
        .filter(|change| change.judgement.is_change())
        .map(|change| {
            let class = if change.judgement.to_string() == "worse" { "bad" } else { "good" };
            format!(
                "<tr><td>{}, {}</td><td>{}</td><td>{}</td><td>{}</td><td>{} {}</td><td class=\"words {class}\">{}</td></tr>",
                escape(&change.group),
                escape(&change.case),
                escape(&change.metric),
                number(change.before),
                number(change.after),
                escape(&change.words()),
                escape(&change.interval()),
                change.judgement
            )
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(
            body,
            "<div class=\"scroll\"><table><thead><tr><th>arm</th><th>metric</th><th>before</th><th>after</th><th>change</th>\
             <th></th></tr></thead><tbody>{rows}</tbody></table></div>"
        );
    }
}

/// Where it was measured, and how to do it again.
fn environment(body: &mut String, document: &Document) {
    let _ = write!(body, "<h2>To repeat it</h2><pre>{}</pre>", escape(&document.command));
    body.push_str("<h2>Measured on</h2><dl>");
    if let Some(workload) = &document.workload {
        let _ = write!(body, "<dt>workload</dt><dd>{}</dd>", escape(workload));
    }
    for (name, value) in document.environment.iter().filter(|(name, _)| *name != "command") {
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
                Some(spread) => format!("{}%", number(spread * 100.0)),
                None => other.to_string(),
            },
        };
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(&name.replace('_', " ")), escape(&text));
    }
    body.push_str("</dl>");
}

#[cfg(test)]
mod tests;
