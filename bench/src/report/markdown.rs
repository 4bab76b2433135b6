//! A report as Markdown (GitHub's tables), for issues and mails: what was run, what it says, the numbers.

use super::number::{number, percent, range};
use super::saved::{Document, Entry, metric_names};
use std::fmt::Write as _;

/// The report as text.
pub(crate) fn render(document: &Document) -> String {
    let mut text = format!("### bench {}\n\n", document.benchmark);
    for sentence in &document.conclusions {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "* {}", escape(sentence));
    }
    if !document.complete {
        text.push_str("* Stopped by Ctrl-C: the tables hold what was finished.\n");
    }
    for group in document.groups() {
        let _ = writeln!(text, "\n**{}**\n", escape(group.first().map_or("", |entry| &entry.group)));
        table(&mut text, group);
    }
    let fact =
        |name: &str| document.environment.get(name).and_then(|value| value.as_str()).unwrap_or("unknown");
    let _ = writeln!(
        text,
        "\n`{}` on {}, {}, CPUs {}{}",
        document.command.replace('`', "'"),
        escape(fact("kernel")),
        escape(fact("cpu_model")),
        escape(fact("cpus_allowed")),
        document.workload.as_ref().map(|workload| format!("; {}", escape(workload))).unwrap_or_default(),
    );
    text
}

fn table(text: &mut String, group: &[Entry]) {
    // Tails that only a graph can use are left out.
    let names: Vec<_> = metric_names(group)
        .into_iter()
        .filter(|(name, _)| !["p01_us", "p10_us", "p25_us", "p75_us", "p90_us", "p9999_us"].contains(name))
        .collect();
    let heading = |(name, unit): &(&str, &str)| {
        let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
        let name = ["_ns", "_us"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        format!(" {}{unit} |", escape(name))
    };
    let _ =
        writeln!(text, "| case |{} against its baseline |", names.iter().map(heading).collect::<String>());
    let _ = writeln!(text, "|:--|{}:--|", "--:|".repeat(names.len()));
    for entry in group {
        if let Some(why) = entry.missing() {
            let _ =
                writeln!(text, "| {} |{} {} |", escape(&entry.case), " |".repeat(names.len()), escape(&why));
            continue;
        }
        let cell =
            |(name, _): &(&str, &str)| format!(" {} |", entry.median(name).map(number).unwrap_or_default());
        let cells: String = names.iter().map(cell).collect();
        let _ = writeln!(
            text,
            "| {} |{cells} {} |",
            escape(&entry.case),
            escape(&change(entry).unwrap_or_default())
        );
    }
}

/// The change of the first metric that was compared: `iops +3.0% (+2.0% to +4.0%)`.
fn change(entry: &Entry) -> Option<String> {
    let mut compared = metric_names(std::slice::from_ref(entry)).into_iter();
    let (name, ratio) = compared.find_map(|(name, _)| Some((name, entry.versus(name)?.ratio?)))?;
    let interval =
        ratio.interval.map(|interval| format!(" ({})", range(interval, percent))).unwrap_or_default();
    Some(format!("{name} {}{interval}", percent(ratio.median)))
}

/// Keeps a text from being taken for Markdown.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '`' | '[' | ']' | '<' | '>' | '\\' | '#' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_report_is_taken_for_markdown() {
        assert_eq!(escape("a|b*c_d\n<script>"), "a\\|b\\*c\\_d \\<script\\>");
    }

    #[test]
    fn a_report_has_its_sentences_its_tables_and_its_command() {
        let json = r#"{"schema":"bench/1","benchmark":"virtio-blk","command":"bench --quick","workload":"randread",
            "complete":false,"environment":{"kernel":"Linux 6.1","cpu_model":null},"conclusions":["It is so."],"results":[
            {"group":"one CPU","case":"epoll/classic","status":"measured","reason":null,"baseline":null,"metrics":{
              "iops":{"unit":"1/s","better":"higher","n":1,"median":1000.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1000.0],
              "versus":null}}},
            {"group":"one CPU","case":"poll/edge","status":"unavailable","reason":"no edges","baseline":null,"metrics":{}}]}"#;
        let text = render(&Document::parse(json).unwrap());
        for line in [
            "### bench virtio-blk",
            "* It is so.",
            "* Stopped by Ctrl-C: the tables hold what was finished.",
            "| case | iops (1/s) | against its baseline |",
            "| epoll/classic | 1,000 |  |",
            "| poll/edge | | not available: no edges |",
            "`bench --quick` on Linux 6.1, unknown, CPUs unknown; randread",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
