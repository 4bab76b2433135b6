//! Tests that each number is below its heading.

use super::*;
use crate::measure::{Better, Comparison, Measured, Summary};

/// A row whose time changes by 1 to 6 percent from round to round, and with one value for each
/// other metric.
fn row(group: &str, metrics: &[(&'static str, f64)]) -> Row {
    let measured = |&(name, value): &(&'static str, f64)| {
        let pairs: Vec<(f64, f64)> =
            (1..=6).map(|percent| (value * (1.0 + f64::from(percent) / 100.0), value)).collect();
        Measured {
            name,
            unit: "",
            better: Better::Lower,
            summary: Summary::of(&[value; 6]).unwrap(),
            values: vec![value; 6],
            versus: Comparison::of(&pairs, Better::Lower),
        }
    };
    let result = Ok(metrics.iter().map(measured).collect());
    Row { group: group.to_owned(), case: "7".to_owned(), baseline: None, result, raw: Default::default() }
}

/// The cells of the only row; the change has an interval from the lower to the upper end.
fn cells(row: Row) -> Vec<String> {
    let text = tables(&[row], false);
    text.lines().last().unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn of_notifiers() {
    let found = cells(row(
        "notifiers on one loop, x",
        &[("time_ns", 500.0), ("syscalls", 2.0), ("handler_bytes", 240.0), ("device_bytes", 1.0)],
    ));
    assert_eq!(
        [&found[..4], &found[7..]].concat(),
        ["7", "500", "0.00", "+3.5%", "2.00", "240"],
        "{found:?}"
    );
    let ends = [&found[4], &found[6]].map(|end| end.trim_end_matches('%').parse::<f64>().unwrap());
    assert!(1.0 <= ends[0] && ends[0] < ends[1] && ends[1] <= 6.0, "{found:?}");
}

#[test]
fn of_devices_and_queues() {
    for group in ["devices on one loop, x", "32 queues over IoThreads, x"] {
        let found = cells(row(
            group,
            &[
                ("time_ns", 500.0),
                ("device_cpu_ns", 300.0),
                ("syscalls", 0.25),
                ("latency_us", 40.0),
                ("latency_max_over_median", 1.5),
                ("device_bytes", 1_000.0),
            ],
        ));
        assert_eq!(
            [&found[..4], &found[7..]].concat(),
            ["7", "500", "0.00", "+3.5%", "300", "0.25", "40.0", "1.50", "1,000"],
            "{found:?}"
        );
    }
}

#[test]
fn of_disks() {
    let metrics: &[(&'static str, f64)] = &[
        ("iops", 20_000.0),
        ("p50_us", 45.0),
        ("p99_us", 90.0),
        ("server_cpu_ns", 9_000.0),
        ("start_s", 1.25),
        ("disk_bytes", 20_480.0),
        ("idle_wakeups_per_s", 0.5),
    ];
    let one = row("disks in one process, 2 loops", &[("p99_us", 80.0)]);
    let many = Row { case: "1000".to_owned(), ..row("disks in one process, 2 loops", metrics) };
    let found = cells(many.clone());
    assert_eq!(
        [&found[..5], &found[8..]].concat(),
        ["1000", "20,000", "45.0", "90.0", "+3.5%", "9,000", "1.25", "20.0", "0.5"],
        "{found:?}"
    );
    let sentences = conclusions(&[one, many]);
    assert_eq!(sentences.len(), 1);
    for words in [
        "is 90.0 us beside 999 that are idle and 80.0 us alone (+3.5%",
        "takes 20.0 KiB",
        "in 1.25 s",
        "0.5 times",
    ] {
        assert!(sentences[0].contains(words), "{sentences:?}");
    }
}
