//! A report as Markdown (with GitHub's tables), for issues and mail. The tables' columns are
//! padded, so they are readable as plain text, too.

use super::metric::heading;
use super::number::{number, percent, range};
use super::saved::{Document, Entry, metric_names};
use crate::report::one_percent::{Cell, Line, Outcome, lab, outcomes};
use std::fmt::Write as _;

/// The report as text.
pub(crate) fn render(document: &Document) -> String {
    let mut text = format!("### bench {}\n\n", document.benchmark);
    for sentence in &document.conclusions {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "* {}", escape(sentence));
    }
    if !document.complete {
        text.push_str("* Stopped by Ctrl-C: the tables contain the finished samples.\n");
    }
    let found = outcomes(&document.results);
    if !found.is_empty() {
        text.push('\n');
        text.push_str(&cells(&found, &lab::savings(&document.results)));
    }
    for group in document.groups() {
        let name = group.first().map_or("", |entry| &entry.group);
        // The arms of a cell are in the table of all cells already.
        if found.is_empty() || Cell::parse(name).is_none() {
            let _ = write!(text, "\n**{}**\n\n{}", escape(name), numbers(group));
        }
    }
    text.push('\n');
    for line in environment(document) {
        // Indented text is code.
        let _ = writeln!(text, "    {}", line.replace(['\n', '\r'], " "));
    }
    text
}

/// The command, and the important facts about the machine.
fn environment(document: &Document) -> Vec<String> {
    let value = |name: &str| document.environment.get(name).and_then(|value| value.as_str());
    let fact = |name: &str| value(name).unwrap_or("unknown");
    let mut machine = vec![fact("kernel"), fact("cpu_model")];
    machine.extend(value("virtualisation"));
    let cpus = format!("CPUs {}", fact("cpus_allowed"));
    let version = format!("bench {}", fact("bench_version"));
    machine.extend([cpus.as_str(), version.as_str()]);
    // Older reports have no date.
    machine.extend(value("date"));
    let mut lines = vec![format!("$ {}", document.command), machine.join("; ")];
    lines.extend(document.workload.clone());
    let warnings = document.environment.get("warnings").and_then(|value| value.as_array());
    lines.extend(
        warnings.into_iter().flatten().filter_map(|value| Some(format!("warning: {}", value.as_str()?))),
    );
    lines
}

/// Renders a table. Each heading has a flag that is true for a column of numbers.
pub(crate) fn table(headings: &[(String, bool)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain([&headings[column].0]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &String>| {
        let mut line = String::from("|");
        for ((cell, width), (_, is_number)) in cells.zip(&widths).zip(headings) {
            let _ = if *is_number {
                write!(line, " {cell:>width$} |")
            } else {
                write!(line, " {cell:<width$} |")
            };
        }
        line + "\n"
    };
    let mut text = line(&mut headings.iter().map(|(heading, _)| heading));
    text.push('|');
    for (width, (_, is_number)) in widths.iter().zip(headings) {
        let rule = "-".repeat(width + 1);
        let _ = if *is_number { write!(text, "{rule}:|") } else { write!(text, ":{rule}|") };
    }
    text.push('\n');
    for row in rows {
        text.push_str(&line(&mut row.iter()));
    }
    text
}

/// The table of `bench one-percent`.
fn cells(outcomes: &[Outcome], lab: &[lab::Savings]) -> String {
    let mut headings: Vec<(String, bool)> = [
        ("loop, disk, place", false),
        ("t_iter, us", true),
        ("t_read, ns", true),
        ("read(2) a request", true),
        ("predicted", true),
        ("saved of t_iter (95% interval)", true),
        ("prediction", false),
        ("device CPU saved, ns", true),
        ("predicted, ns", true),
        ("level, ns", true),
        ("system calls a request", true),
    ]
    .map(|(heading, is_number)| (escape(heading), is_number))
    .to_vec();
    if !lab.is_empty() {
        headings.push(("instructions (lab)".to_owned(), true));
    }
    let row = |outcome: &Outcome| {
        let line = Line::of(outcome, lab);
        let mut cells = vec![
            line.name,
            line.iteration_us,
            line.read_ns,
            line.reads,
            line.predicted,
            line.saved,
            line.verdict,
            line.cpu_saved_ns,
            line.cpu_predicted_ns,
            line.level_ns,
            line.syscalls,
        ];
        if !lab.is_empty() {
            cells.push(line.instructions);
        }
        cells.iter().map(|cell| escape(cell)).collect()
    };
    table(&headings, &outcomes.iter().map(row).collect::<Vec<_>>())
}

/// The table of a group, without the quantiles that only charts use. Counts that are the same in
/// all arms are in a line below.
fn numbers(group: &[Entry]) -> String {
    const TAILS: [&str; 6] = ["p01_us", "p10_us", "p25_us", "p75_us", "p90_us", "p9999_us"];
    let measured: Vec<&Entry> = group.iter().filter(|entry| entry.missing().is_none()).collect();
    let shown = |entry: &Entry, name: &str| entry.median(name).map(number).unwrap_or_default();
    let same = |(name, unit): &(&str, &str)| {
        let mut all = measured.iter().map(|entry| shown(entry, name));
        let first = all.next();
        unit.is_empty() && measured.len() > 1 && all.all(|other| Some(other) == first)
    };
    let names = metric_names(group).into_iter().filter(|(name, _)| !TAILS.contains(name));
    let (same, names): (Vec<_>, Vec<_>) = names.partition(same);

    let named = |(name, unit): &(&str, &str)| match heading(name, unit) {
        (name, Some(unit)) => (escape(&format!("{name}, {unit}")), true),
        (name, None) => (escape(&name), true),
    };
    let compared = measured.iter().any(|entry| change(entry).is_some());
    let common = Document::common_baseline(group);
    let mut headings = vec![("case".to_owned(), false)];
    headings.extend(names.iter().map(named));
    if compared {
        headings.push((format!("against {}", escape(common.unwrap_or("its baseline"))), false));
    }
    let row = |entry: &&Entry| {
        let mut cells = vec![escape(&entry.case)];
        cells.extend(names.iter().map(|(name, _)| shown(entry, name)));
        if compared {
            let baseline = entry.baseline.as_deref().filter(|_| common.is_none());
            let baseline = baseline.map(|baseline| format!(" against {baseline}")).unwrap_or_default();
            cells.push(change(entry).map(|change| escape(&(change + &baseline))).unwrap_or_default());
        }
        cells
    };
    let mut text = if measured.is_empty() {
        String::new()
    } else {
        table(&headings, &measured.iter().map(row).collect::<Vec<_>>())
    };
    let mut notes: Vec<String> = Vec::new();
    if let Some(first) = measured.first().filter(|_| !same.is_empty()) {
        let counts =
            same.iter().map(|(name, unit)| format!("{} {}", heading(name, unit).0, shown(first, name)));
        notes.push(format!("In all of them: {}.", counts.collect::<Vec<_>>().join(", ")));
    }
    notes.extend(group.iter().filter_map(|entry| Some(format!("{}: {}.", entry.case, entry.missing()?))));
    for note in notes {
        let _ = writeln!(text, "{}{}", if text.is_empty() { "" } else { "\n" }, escape(&note));
    }
    text
}

/// The change of the most important metric, `IOPS +3.0% (+2.0% to +4.0%)`; of all metrics that are
/// the time of another of our loops.
fn change(entry: &Entry) -> Option<String> {
    let compared = metric_names(std::slice::from_ref(entry)).into_iter();
    let compared = compared.filter_map(|(name, unit)| Some((name, unit, entry.versus(name)?.ratio?)));
    let changes =
        compared.enumerate().take_while(|(index, (name, ..))| *index == 0 || name.starts_with("aio_"));
    let changes: Vec<String> = changes
        .map(|(_, (name, unit, ratio))| {
            let interval =
                ratio.interval.map(|interval| format!(" ({})", range(interval, percent))).unwrap_or_default();
            format!("{} {}{interval}", heading(name, unit).0, percent(ratio.median))
        })
        .collect();
    (!changes.is_empty()).then(|| changes.join(", "))
}

/// Escapes Markdown. An underscore within a word needs no escape.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let within = before.is_alphanumeric() && characters.peek().is_some_and(|next| next.is_alphanumeric());
        match character {
            '_' if within => escaped.push('_'),
            '|' | '*' | '_' | '`' | '[' | ']' | '<' | '>' | '\\' | '#' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            character => escaped.push(character),
        }
        before = character;
    }
    escaped
}

#[cfg(test)]
mod tests;
