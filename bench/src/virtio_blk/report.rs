//! The tables and sentences of `bench virtio-blk`. Pure functions of the rows.

use crate::measure::{Comparison, MIN_VALUES, Verdict};
use crate::report::Row;
use crate::report::number::{number, percent};
use crate::report::rows::{self, Shown};
use crate::report::table::Table;
use crate::report::versus::Versus;

/// For each placement one table of results and one of differences.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    let tables = rows::groups(rows).flat_map(|group| {
        [
            results(group),
            COMPARED.table(
                "Without the read(2), change: the median of paired differences",
                ["arm", "change"],
                group,
            ),
        ]
    });
    tables.map(|table| table.render(colour)).collect::<Vec<_>>().join("\n")
}

/// Kicks that a bounded doorbell made wait. A column only where that happened.
const HELD: &str = "kicks_held";

/// The numbers of a row.
const RESULTS: [Shown; 13] = [
    ("iops", "IOPS", "1/s"),
    ("p50_us", "p50", "us"),
    ("p99_us", "p99", "us"),
    ("p999_us", "p99.9", "us"),
    ("device_cpu_ns", "CPU", "ns"),
    ("kicks", "kicks", ""),
    (HELD, "held", ""),
    ("reads", "read(2)", ""),
    ("waits", "wait", ""),
    ("writes", "write(2)", ""),
    ("enters", "enter", ""),
    ("syscalls", "syscalls", ""),
    ("vm_exits", "vm exits", ""),
];

fn results(group: &[Row]) -> Table {
    // Columns that no arm needs are left out: without KVM there are no exits, and without a maximum
    // no kick is held.
    let held = group.iter().filter_map(|row| row.metric(HELD)).any(|held| held.summary.max > 0.0);
    let has = |name: &str| match name {
        "vm_exits" => group.iter().any(|row| row.metric(name).is_some()),
        HELD => held,
        _ => true,
    };
    let shown: Vec<_> = RESULTS.into_iter().filter(|(name, ..)| has(name)).collect();
    let place = rows::group_name(group);
    let title = format!("Per request, {place} (CPU and system calls: the device's)");
    rows::medians(title, "arm", &shown, group)
}

/// What the conclusions are drawn from.
const COMPARED: Versus = Versus {
    metrics: &[("iops", "IOPS"), ("p50_us", "latency p50"), ("device_cpu_ns", "device CPU")],
    show: percent,
};

/// A general sentence, and for each placement one with the effect of the first arm without the read
/// of each monitor.
pub(super) fn conclusions(read: &[Row], rows: &[Row]) -> Vec<String> {
    let cost = read.iter().find_map(|row| row.median("time_ns")).map(number);
    let mut sentences = Vec::new();
    if let Some(cost) = cost {
        let per_iteration = |classic: bool| {
            let arms = rows.iter().filter(|row| row.case.ends_with("/classic") == classic);
            let reads = arms.filter_map(|row| row.median("reads_per_wakeup"));
            reads.reduce(f64::max).map(number)
        };
        let loops = per_iteration(true).zip(per_iteration(false)).map(|(classic, autoreset)| {
            format!("; the loop made {classic} of them per iteration with classic notifiers, and {autoreset} with autoreset ones")
        });
        sentences.push(format!("A read(2) of an eventfd costs {cost} ns here{}.", loops.unwrap_or_default()));
    }
    for group in rows::groups(rows) {
        let mut effects: Vec<(&str, String)> = Vec::new();
        for row in group {
            let told =
                row.baseline.as_deref().filter(|baseline| effects.iter().all(|(of, _)| of != baseline));
            if let Some((baseline, effect)) = told.zip(effect(row)) {
                effects.push((baseline, effect));
            }
        }
        if let (Some(row), false) = (group.first(), effects.is_empty()) {
            let effects: Vec<String> = effects.into_iter().map(|(_, effect)| effect).collect();
            sentences.push(format!("Without the read, {}: {}.", row.group, effects.join("; ")));
        }
    }
    sentences
}

/// The effect of an arm on each of the compared metrics.
fn effect(row: &Row) -> Option<String> {
    let words = COMPARED.of(row).map(|(words, versus)| format!("{words} {}", change(&versus)));
    let words = words.collect::<Vec<_>>();
    (!words.is_empty()).then(|| format!("{} {}", row.case, words.join(", ")))
}

/// `saves, +1.2% (+0.8% to +1.6%)`: the verdict and its interval.
fn change(versus: &Comparison) -> String {
    let Some((ratio, interval)) = versus.ratio.zip(COMPARED.interval(versus)) else {
        return format!("{} after {} rounds, fewer than {MIN_VALUES}", Verdict::Inconclusive, versus.pairs);
    };
    match versus.verdict {
        verdict if verdict.is_effect() => format!("{} ({interval}: {verdict})", percent(ratio.median)),
        verdict => format!("{verdict} ({interval})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measured;
    use crate::report::samples::{self, NOISE, NOISY, measured, unavailable};

    const GROUP: &str = "guest and device on one CPU (0)";

    fn row(case: &str, metrics: Vec<Measured>) -> Row {
        samples::row(GROUP, case, metrics)
    }

    fn rows() -> Vec<Row> {
        vec![
            row(
                "epoll/classic",
                vec![measured("iops", &[100.0; 6], None), measured("reads_per_wakeup", &[1.0; 6], None)],
            ),
            row(
                "epoll/edge",
                vec![
                    measured("iops", &[104.0; 6], Some(&[100.0; 6])),
                    measured("p50_us", &NOISY, Some(&NOISE)),
                    measured("device_cpu_ns", &[90.0; 6], Some(&[100.0; 6])),
                    measured("reads_per_wakeup", &[0.0; 6], None),
                ],
            )
            .against("epoll/classic"),
            unavailable(GROUP, "epoll/kernel-flag", "no such kernel"),
        ]
    }

    #[test]
    fn sentences_follow_from_the_numbers() {
        let read = [row("read", vec![measured("time_ns", &[150.0; 6], None)])];
        let sentences = conclusions(&read, &rows());
        assert_eq!(sentences.len(), 2);
        assert_eq!(
            sentences[0],
            "A read(2) of an eventfd costs 150 ns here; the loop made 1.00 of them per iteration with classic notifiers, \
             and 0.00 with autoreset ones."
        );
        let text = &sentences[1];
        assert!(
            text.starts_with(
                "Without the read, guest and device on one CPU (0): epoll/edge IOPS +4.0% (+4.0% to +4.0%: saves), \
                 latency p50 inconclusive ("
            ),
            "{text}"
        );
        assert!(text.ends_with("device CPU -10.0% (-10.0% to -10.0%: saves)."), "{text}");
    }

    #[test]
    fn only_the_first_arm_of_a_monitor_is_put_in_words() {
        let mut rows = rows();
        let mut other = rows[1].clone();
        other.case = "epoll/other".to_owned();
        rows.push(other);
        assert!(conclusions(&[], &rows).iter().all(|sentence| !sentence.contains("epoll/other")));
    }

    #[test]
    fn without_results_there_are_no_sentences() {
        assert!(conclusions(&[], &[]).is_empty());
        assert!(conclusions(&[], &rows()[2..]).is_empty());
    }

    #[test]
    fn vm_exits_are_a_column_where_there_are_any() {
        let mut rows = rows();
        assert!(!results(&rows).render(false).contains("vm exits"));
        if let Ok(metrics) = &mut rows[1].result {
            metrics.push(measured("vm_exits", &[2.25; 6], None));
        }
        let table = results(&rows).render(false);
        assert!(table.contains("vm exits") && table.contains("2.25"), "{table}");
    }

    #[test]
    fn a_missing_row_reports_the_reason() {
        let table = results(&rows()).render(false);
        assert!(table.contains("not available: no such kernel"), "{table}");
        assert!(table.lines().any(|line| line.starts_with("epoll/edge") && line.contains("104")), "{table}");
        let table = tables(&rows(), false);
        assert!(table.contains("saves") && table.contains("inconclusive"), "{table}");
    }
}
