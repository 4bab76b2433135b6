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
    Row { group: group.to_owned(), case: "7".to_owned(), baseline: None, result }
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
