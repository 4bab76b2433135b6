//! The table and the sentence of a busy disk while others change.

use crate::measure::Estimate;
use crate::report::number::{number, percent, range};
use crate::report::table::{Column, Table};
use crate::report::{Row, rows};

pub(super) fn table(group: &[Row]) -> Table {
    let columns = [
        Column::number("other disks", ""),
        Column::number("IOPS", "1/s"),
        Column::number("p50", "us"),
        Column::number("p99", "us"),
        Column::number("over the first", ""),
        Column::number("95% interval", ""),
        Column::number("max", "us"),
        Column::number("over the first", ""),
        Column::number("95% interval", ""),
        Column::number("server CPU", "ns/request"),
        Column::number("commands", "1/s"),
    ];
    rows::table(rows::group_name(group), &columns, group, |row| {
        let cells = |name| {
            let ratio = change(row, name);
            let median = ratio.map(|ratio| percent(ratio.median)).unwrap_or_default();
            [median.into(), rows::interval(ratio.and_then(|ratio| ratio.interval), percent)]
        };
        let [p99, p99_interval] = cells("p99_us");
        let [max, max_interval] = cells("max_us");
        vec![
            rows::median(row, "iops"),
            rows::median(row, "p50_us"),
            rows::median(row, "p99_us"),
            p99,
            p99_interval,
            rows::median(row, "max_us"),
            max,
            max_interval,
            rows::median(row, "server_cpu_ns"),
            rows::median(row, "commands_per_s"),
        ]
    })
}

/// The change of a metric from the group's first row.
fn change(row: &Row, name: &str) -> Option<Estimate> {
    row.metric(name)?.versus?.ratio
}

/// The sentence, which begins with `name`.
pub(super) fn conclusion(group: &[Row], name: &str) -> Option<String> {
    let mut measured = group.iter().filter(|row| row.result.is_ok());
    let first = measured.next()?;
    let alone = ["p99_us", "max_us"].map(|name| first.median(name).map(number));
    let [Some(p99), Some(max)] = alone else { return None };
    let others: Vec<String> = measured
        .filter_map(|row| {
            let part = |name| {
                let ratio = change(row, name)?;
                let interval = ratio.interval.map(|it| format!(", 95% interval {}", range(it, percent)));
                let median = number(row.median(name)?);
                Some(format!("{median} us ({}{})", percent(ratio.median), interval.unwrap_or_default()))
            };
            Some(format!("while {}, {} and {}", row.case, part("p99_us")?, part("max_us")?))
        })
        .collect();
    if others.is_empty() {
        return None;
    }
    Some(format!(
        "{}: its p99 and its slowest request take {p99} us and {max} us while {}; {}.",
        name,
        first.case,
        others.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, measured};

    #[test]
    fn the_sentence_has_both_figures_of_each_row() {
        let row = |case: &str, p99: f64, max: f64, baseline: Option<[f64; 2]>| {
            let [a, b] = [0, 1].map(|index| baseline.map(|values| [values[index]; 6]));
            let metrics = vec![
                measured("p99_us", &[p99; 6], a.as_ref().map(|values| &values[..])),
                measured("max_us", &[max; 6], b.as_ref().map(|values| &values[..])),
            ];
            samples::row("x", case, metrics)
        };
        let first = row("none changes", 80.0, 400.0, None);
        let second = row("one is added and removed", 88.0, 500.0, Some([80.0, 400.0]));
        assert_eq!(conclusion(std::slice::from_ref(&first), "X"), None);
        assert_eq!(
            conclusion(&[first, second], "A busy disk").unwrap(),
            "A busy disk: its p99 and its slowest request take 80.0 us and 400 us while none \
             changes; while one is added and removed, 88.0 us (+10.0%, 95% interval +10.0% to +10.0%) and 500 us \
             (+25.0%, 95% interval +25.0% to +25.0%)."
        );
    }
}
