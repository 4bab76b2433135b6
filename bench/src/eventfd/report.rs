//! The tables and sentences of `bench eventfd`. Pure functions of the rows.

use crate::bare::{Method, Operation};
use crate::measure::{Comparison, MIN_VALUES};
use crate::report::number::{number, percent, range, signed};
use crate::report::rows::{self, Shown};
use crate::report::table::{Column, Table};
use crate::report::{FLOOR, Row};

/// The tables, one for each group of rows.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    rows::tables(rows, colour, |rows| {
        let group = rows::group_name(rows);
        if group.starts_with(FLOOR) {
            OPERATIONS.table(rows)
        } else if group.starts_with(LOOP_GROUP) {
            TURNS.table(rows)
        } else {
            ROUND_TRIPS.table(rows)
        }
    })
}

/// The group of the loop's rows, before the number of its CPU.
pub(super) const LOOP_GROUP: &str = "the event loop, CPU ";

/// The columns of a table: the case, its time with the spread, counts, and the difference from the
/// baseline.
struct Layout {
    per: &'static str,
    case: &'static str,
    time: Shown,
    counts: &'static [Shown],
    difference: &'static [Column],
}

const OPERATIONS: Layout = Layout {
    per: "operation",
    case: "operation",
    time: ("time_ns", "time", "ns"),
    counts: &[("syscalls", "syscalls", ""), ("reads", "read(2)", "")],
    difference: &DIFFERENCE,
};

const TURNS: Layout = Layout {
    per: "turn",
    case: "ring + turn + handler",
    difference: &[
        Column::number("over the floor", "ns"),
        Column::number("95% interval", "ns"),
        Column::number("change", ""),
    ],
    ..OPERATIONS
};

const ROUND_TRIPS: Layout = Layout {
    per: "round trip",
    case: "the device waits by",
    time: ("round_trip_ns", "round trip", "ns"),
    counts: &[
        ("device_cpu_ns", "device CPU", "ns"),
        ("device_syscalls", "syscalls", "device"),
        ("device_reads", "read(2)", "device"),
    ],
    difference: &DIFFERENCE,
};

const DIFFERENCE: [Column; 4] = [
    Column::number("difference", "ns"),
    Column::number("95% interval", "ns"),
    Column::number("change", ""),
    Column::text("against level + read"),
];

impl Layout {
    fn table(&self, rows: &[Row]) -> Table {
        let (metric, heading, unit) = self.time;
        let mut columns =
            vec![Column::text(self.case), Column::number(heading, unit), Column::number("\u{b1}MAD", unit)];
        columns.extend(self.counts.iter().map(|(_, heading, unit)| Column::number(heading, unit)));
        columns.extend(self.difference);
        let title = format!(
            "Per {}, {} (difference: the median of paired differences)",
            self.per,
            rows::group_name(rows)
        );
        rows::table(title, &columns, rows, |row| {
            let mut cells = vec![rows::median(row, metric), rows::mad(row, metric)];
            cells.extend(self.counts.iter().map(|(name, ..)| rows::median(row, name)));
            cells.extend(rows::difference(row, metric));
            cells
        })
    }
}

/// The results in sentences.
pub(super) fn conclusions(rows: &[Row]) -> Vec<String> {
    let mut sentences: Vec<String> = cost_of_a_read(rows).into_iter().collect();
    for group in rows::groups(rows) {
        sentences.extend(without_the_read(group));
        sentences.extend(without_the_level(group));
        sentences.extend(over_the_floor(group));
    }
    sentences
}

/// What a read(2) costs on its own.
fn cost_of_a_read(rows: &[Row]) -> Option<String> {
    let time = |operation: Operation| {
        let name = operation.to_string();
        let row = rows.iter().find(|row| row.case == name)?;
        Some(number(row.metric("time_ns")?.summary.median))
    };
    let read = time(Operation::Read)?;
    let details: Vec<String> = [
        time(Operation::ReadEmpty).map(|ns| format!("{ns} ns when there is nothing to read")),
        time(Operation::EmptyCall)
            .map(|ns| format!("{ns} ns of such a call are the way into the kernel and back")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join("; ")) };
    Some(format!("A read(2) of an eventfd costs {read} ns here{details}."))
}

/// What leaving the read out saves in one group.
fn without_the_read(group: &[Row]) -> Option<String> {
    let effects = effects(group, Method::EpollEdge, Method::PollMultishot)?;
    let name = &group.first()?.group;
    let what = if name.starts_with("one thread") { "a notification" } else { "a round trip" };
    Some(format!("Without the read, {what} on {name}: {effects}."))
}

/// Which part of the saving is not the read: edge triggering with a read saves only the cost of
/// level triggering. With epoll that is a second check of the descriptor, with io_uring arming the
/// poll again.
fn without_the_level(group: &[Row]) -> Option<String> {
    let effects = effects(group, Method::EpollEdgeRead, Method::PollMultishotRead)?;
    Some(format!(
        "An edge-triggered loop that still reads saves only the cost of level triggering: {effects}."
    ))
}

fn effects(group: &[Row], epoll: Method, io_uring: Method) -> Option<String> {
    let effect = |method: Method, monitor: &str| {
        let names = [method.to_string(), Operation::Signal(method).to_string()];
        let row = group.iter().find(|row| names.contains(&row.case))?;
        let time = row.metric("time_ns").or_else(|| row.metric("round_trip_ns"))?;
        Some(format!("{monitor} {}", effect(&time.versus?)))
    };
    let effects = [effect(epoll, "epoll"), effect(io_uring, "io_uring")];
    let effects: Vec<String> = effects.into_iter().flatten().collect();
    (!effects.is_empty()).then(|| effects.join("; "))
}

/// What the loop adds to the bare calls, and whether that grows with the number of notifiers.
fn over_the_floor(group: &[Row]) -> Option<String> {
    let name = &group.first()?.group;
    if !name.starts_with(LOOP_GROUP) {
        return None;
    }
    let added = |arm: &str| {
        let loops: Vec<&Row> = group
            .iter()
            .filter(|row| row.baseline.is_some() && row.case.starts_with(&format!("{arm}:")))
            .collect();
        let time = |row: &Row| Some(row.metric("time_ns")?.summary.median);
        let (first, last) = (*loops.first()?, *loops.last()?);
        let versus = first.metric("time_ns")?.versus?;
        let interval = versus.difference.interval.map(|interval| format!(" ({})", range(interval, signed)));
        let growth = percent(time(last)? / time(first)?);
        // "loop, 1 of 10000 registered"
        let registered = last.case.rsplit(" of ").next()?;
        Some(format!(
            "{arm} {} ns{}; a turn with {registered} changes by {growth}",
            signed(versus.difference.median),
            interval.unwrap_or_default()
        ))
    };
    let added: Vec<String> = ["epoll/edge", "io_uring/edge"].into_iter().filter_map(added).collect();
    (!added.is_empty())
        .then(|| format!("In addition to the bare system calls, {name} takes: {}.", added.join("; ")))
}

/// A difference in words: `saves 80.0 ns (95% interval -82.0 to -78.0 ns, -14.0%)`.
fn effect(versus: &Comparison) -> String {
    let Some(interval) = versus.difference.interval else {
        return format!("{} ({} of {MIN_VALUES} rounds)", versus.verdict, versus.pairs);
    };
    let change = versus.ratio.map(|ratio| format!(", {}", percent(ratio.median))).unwrap_or_default();
    let details = format!("(95% interval {} ns{change})", range(interval, signed));
    match versus.verdict {
        verdict if verdict.is_effect() => {
            format!("{verdict} {} ns {details}", number(versus.difference.median.abs()))
        }
        verdict => format!("{verdict} {details}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{measured, row, unavailable};

    /// One thread: a read of 90 ns; epoll 560 ns with it and 480 without; io_uring without a
    /// difference.
    fn rows() -> Vec<Row> {
        let one = |operation: Operation, metrics| row("one thread, CPU 0", &operation.to_string(), metrics);
        let noisy = [500.0, 510.0, 490.0, 520.0, 480.0, 505.0];
        vec![
            one(Operation::EmptyCall, vec![measured("time_ns", &[60.0; 6], None)]),
            one(Operation::Read, vec![measured("time_ns", &[90.0; 6], None)]),
            one(Operation::ReadEmpty, vec![measured("time_ns", &[85.0; 6], None)]),
            one(
                Operation::Signal(Method::EpollEdge),
                vec![
                    measured("time_ns", &[480.0; 6], Some(&[560.0; 6])),
                    measured("syscalls", &[2.0; 6], None),
                    measured("reads", &[0.0; 6], None),
                ],
            ),
            one(
                Operation::Signal(Method::PollMultishot),
                vec![measured("time_ns", &noisy, Some(&[510.0, 500.0, 500.0, 500.0, 500.0, 500.0]))],
            ),
            unavailable(
                "two threads, one CPU (0)",
                &Method::RingRead.to_string(),
                "io_uring is not enabled here",
            ),
        ]
    }

    #[test]
    fn sentences_come_from_the_numbers() {
        let sentences = conclusions(&rows());
        assert_eq!(sentences.len(), 2);
        assert_eq!(
            sentences[0],
            "A read(2) of an eventfd costs 90.0 ns here (85.0 ns when there is nothing to read; 60.0 ns of such a call \
             are the way into the kernel and back)."
        );
        assert!(
            sentences[1].starts_with(
                "Without the read, a notification on one thread, CPU 0: epoll saves 80.0 ns (95% interval -80.0 to -80.0 \
                 ns, -14.3%); io_uring inconclusive (95% interval "
            ),
            "{}",
            sentences[1]
        );
        assert!(sentences[1].ends_with("%)."));
    }

    #[test]
    fn without_results_there_are_no_sentences() {
        assert!(conclusions(&[]).is_empty());
        assert!(conclusions(&rows()[5..]).is_empty());
        assert_eq!(tables(&[], false), "");
    }

    #[test]
    fn too_few_rounds_are_reported_as_such() {
        let few = measured("time_ns", &[1.0, 1.0], Some(&[2.0, 2.0]));
        let rows = [row("one thread, CPU 0", &Operation::Signal(Method::EpollEdge).to_string(), vec![few])];
        let sentence = &conclusions(&rows)[0];
        assert!(sentence.contains("epoll inconclusive (2 of 6 rounds)."), "{sentence}");
        assert!(tables(&rows, false).contains("inconclusive (2 of 6 rounds)"));
    }

    #[test]
    fn each_group_has_a_table_and_each_row_a_line() {
        let text = tables(&rows(), false);
        assert!(text.contains("Per operation, one thread, CPU 0 ("));
        assert!(text.contains("\nPer round trip, two threads, one CPU (0) ("));
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        let edge: Vec<String> =
            line("write + epoll_wait edge").split("  ").map(|s| s.trim().to_owned()).collect();
        let edge: Vec<&str> = edge.iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            edge,
            [
                "write + epoll_wait edge, no read",
                "480",
                "0.00",
                "2.00",
                "0.00",
                "-80.0",
                "-80.0 to -80.0",
                "-14.3%",
                "saves"
            ]
        );
        assert!(line("ring READ re-armed").ends_with("not available: io_uring is not enabled here"));
        assert!(!text.contains('\x1b') && tables(&rows(), true).contains("\x1b[38;5;2msaves"));
    }
}
