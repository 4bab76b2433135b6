//! The tables and sentences of `bench vhost-user`. Pure functions of the rows.

use crate::measure::Comparison;
use crate::report::Row;
use crate::report::number::{fixed, number};
use crate::report::rows::{self, Shown};
use crate::report::table::Table;
use crate::report::versus::Versus;
use crate::rig::idle::Idle;

/// A table of results, and one of ratios if there is something to compare.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    let mut text = results(rows).render(colour);
    if rows.iter().any(|row| row.baseline.is_some()) {
        text.push('\n');
        text.push_str(
            &COMPARED.table("Ratios, the median over the rounds", ["server", "ratio"], rows).render(colour),
        );
    }
    if rows.iter().any(|row| row.metric(IDLE[0].0).is_some()) {
        text.push('\n');
        text.push_str(&rows::medians("Idle, a guest attached", "server", &IDLE, rows).render(colour));
    }
    text
}

/// The numbers of a row.
const RESULTS: [Shown; 8] = [
    ("iops", "IOPS", "1/s"),
    ("p50_us", "p50", "us"),
    ("p99_us", "p99", "us"),
    ("p999_us", "p99.9", "us"),
    ("device_cpu_ns", "CPU", "ns"),
    ("kicks", "kicks", ""),
    ("interrupts", "interrupts", ""),
    ("sleeps", "sleeps", ""),
];

fn results(rows: &[Row]) -> Table {
    let place = rows::group_name(rows);
    let title = format!("Per request, {place} (CPU and sleeps: the server's)");
    rows::medians(title, "server", &RESULTS, rows)
}

/// What an idle server does.
const IDLE: [Shown; 2] = [("idle_wakeups_per_s", "wake-ups", "1/s"), ("idle_cpu_ns_per_s", "CPU", "ns/s")];

/// One sentence with what a server did while it was idle.
pub(super) fn idle_sentence(server: &str, idle: &Idle) -> String {
    if idle.woken.is_empty() && idle.cpu_ns_per_s == 0.0 {
        return format!("Idle with a guest attached, {server} slept: no thread of it woke up.");
    }
    let threads = idle.woken.iter().map(|(name, times)| format!("{name} {times}x"));
    let threads = threads.collect::<Vec<_>>().join(", ");
    let who = if threads.is_empty() { String::new() } else { format!(" ({threads})") };
    format!(
        "Idle with a guest attached, {server} woke up {} times per second{who} and used {} ns of CPU per second.",
        number(idle.wakeups_per_s),
        number(idle.cpu_ns_per_s)
    )
}

/// What is compared.
const COMPARED: Versus = Versus {
    metrics: &[
        ("iops", "IOPS"),
        ("p50_us", "latency p50"),
        ("p99_us", "latency p99"),
        ("device_cpu_ns", "server CPU"),
    ],
    show: times,
};

fn times(ratio: f64) -> String {
    format!("{}x", fixed(ratio, 3))
}

/// For each server one sentence with what saves and costs.
pub(super) fn conclusions(rows: &[Row]) -> Vec<String> {
    let sentence = |row: &Row| {
        let baseline = row.baseline.as_deref()?;
        let differs = |(_, versus): &(&str, Comparison)| versus.verdict.is_effect();
        let words = COMPARED.of(row).filter(differs).filter_map(|(words, versus)| {
            Some(format!("{words} {} ({})", times(versus.ratio?.median), COMPARED.interval(&versus)?))
        });
        let words = words.collect::<Vec<_>>().join(", ");
        let case = &row.case;
        Some(match words.as_str() {
            "" => format!("{case} against {baseline}: nothing that saves or costs could be seen."),
            words => format!("{case} against {baseline}: {words}."),
        })
    };
    let measured = rows.iter().filter(|row| row.result.is_ok());
    measured.filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measured;
    use crate::report::Missing;
    use crate::report::samples::{self, NOISE, NOISY, measured};

    fn row(case: &str, metrics: Vec<Measured>) -> Row {
        samples::row("spinning client on CPU 0", case, metrics)
    }

    fn rows() -> Vec<Row> {
        vec![
            row(
                "qemu",
                vec![measured("iops", &[100.0; 6], None), measured("device_cpu_ns", &[900.0; 6], None)],
            ),
            row(
                "ours",
                vec![
                    measured("iops", &[180.0; 6], Some(&[100.0; 6])),
                    measured("p50_us", &NOISY, Some(&NOISE)),
                    measured("device_cpu_ns", &[450.0; 6], Some(&[900.0; 6])),
                ],
            )
            .against("qemu"),
        ]
    }

    #[test]
    fn a_server_alone_has_no_table_of_ratios() {
        let text = tables(&rows()[..1], false);
        assert!(text.contains("server's") && !text.contains("Ratios"), "{text}");
        assert!(conclusions(&rows()[..1]).is_empty());
    }

    #[test]
    fn ratios_have_intervals_and_verdicts() {
        let text = tables(&rows(), false);
        let line =
            |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("qemu").contains("900"), "{text}");
        let (_, table) = text.split_once("Ratios, the median over the rounds").unwrap();
        let ours = table.lines().find(|line| line.starts_with("ours")).unwrap();
        for words in ["qemu", "IOPS", "1.800x", "1.800x to 1.800x", "saves"] {
            assert!(ours.contains(words), "{words}: {text}");
        }
        assert!(table.contains("inconclusive"), "{text}");
    }

    #[test]
    fn a_sentence_names_only_detected_differences() {
        assert_eq!(
            conclusions(&rows()),
            ["ours against qemu: IOPS 1.800x (1.800x to 1.800x), server CPU 0.500x (0.500x to 0.500x)."]
        );
        let same = [row("a", vec![measured("iops", &NOISY, Some(&NOISE))]).against("b")];
        assert_eq!(conclusions(&same), ["a against b: nothing that saves or costs could be seen."]);
    }

    #[test]
    fn idleness_has_a_table_and_a_sentence_if_it_was_watched() {
        assert!(!tables(&rows(), false).contains("Idle"), "not watched");
        let asleep = Idle { wakeups_per_s: 0.0, cpu_ns_per_s: 0.0, woken: Vec::new() };
        let woken = vec![("main".to_owned(), 2), ("worker".to_owned(), 1)];
        let awake = Idle { wakeups_per_s: 3.0, cpu_ns_per_s: 12_345.0, woken };
        let mut rows = rows();
        for (row, idle) in rows.iter_mut().zip([&awake, &asleep]) {
            row.result.as_mut().unwrap().extend(idle.metrics());
        }
        let text = tables(&rows, false);
        let (_, table) = text.split_once("Idle, a guest attached").unwrap();
        let cells = |server: &str| -> Vec<&str> {
            table.lines().find(|line| line.starts_with(server)).unwrap().split_whitespace().collect()
        };
        assert_eq!(cells("qemu"), ["qemu", "3.00", "12,345"]);
        assert_eq!(cells("ours"), ["ours", "0.00", "0.00"]);
        assert_eq!(
            idle_sentence("ours", &asleep),
            "Idle with a guest attached, ours slept: no thread of it woke up."
        );
        assert_eq!(
            idle_sentence("qemu", &awake),
            "Idle with a guest attached, qemu woke up 3.00 times per second (main 2x, worker 1x) and used 12,345 ns of CPU \
             per second."
        );
        let spins = Idle { wakeups_per_s: 0.0, cpu_ns_per_s: 1e9, woken: Vec::new() };
        assert!(
            idle_sentence("it", &spins).contains("used 1,000,000,000 ns"),
            "no context switch, but no sleep"
        );
    }

    #[test]
    fn a_missing_row_reports_the_reason() {
        let rows = [Row { result: Err(Missing::Interrupted), ..row("ours", Vec::new()).against("qemu") }];
        assert!(tables(&rows, false).contains("stopped before its first sample"));
        assert!(conclusions(&rows).is_empty());
    }
}
