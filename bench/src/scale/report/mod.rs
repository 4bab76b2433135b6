//! The tables and sentences of `bench scale`. Pure functions of the rows.

mod churn;

use crate::measure::Estimate;
use crate::report::number::{fixed, number, percent, range};
use crate::report::table::{Cell, Column, Table};
use crate::report::{Row, rows};

const NOTIFIERS: &str = "notifiers on one loop, ";
const DEVICES: &str = "devices on one loop, ";
const DISKS: &str = super::disks::GROUP;
const CHURN: &str = super::churn::GROUP;

/// The tables, one for each group of rows.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    rows::tables(rows, colour, table)
}

fn table(rows: &[Row]) -> Table {
    let group = rows::group_name(rows);
    if group.starts_with(NOTIFIERS) {
        let columns = [
            Column::number("registered", ""),
            Column::number("time", "ns/event"),
            Column::number("\u{b1}MAD", "ns"),
            Column::number("over the first", ""),
            Column::number("95% interval", ""),
            Column::number("syscalls", "per event"),
            Column::number("memory", "bytes/handler"),
        ];
        return rows::table(group, &columns, rows, |row| {
            let [change, interval] = growth_cells(row);
            vec![
                rows::median(row, "time_ns"),
                rows::mad(row, "time_ns"),
                change,
                interval,
                rows::median_fixed(row, "syscalls", 2),
                rows::median_fixed(row, "handler_bytes", 0),
            ]
        });
    }
    if group.starts_with(CHURN) {
        return churn::table(rows);
    }
    if group.starts_with(DISKS) {
        let columns = [
            Column::number("disks", ""),
            Column::number("IOPS", "1/s"),
            Column::number("p50", "us"),
            Column::number("p99", "us"),
            Column::number("over the first", ""),
            Column::number("95% interval", ""),
            Column::number("server CPU", "ns/request"),
            Column::number("start", "s"),
            Column::number("memory", "KiB/idle disk"),
            Column::number("idle wake-ups", "1/s"),
        ];
        return rows::table(group, &columns, rows, |row| {
            let ratio =
                row.metric("p99_us").and_then(|measured| measured.versus).and_then(|versus| versus.ratio);
            let kib = row.median("disk_bytes").map(|bytes| fixed(bytes / 1024.0, 1)).unwrap_or_default();
            vec![
                rows::median(row, "iops"),
                rows::median(row, "p50_us"),
                rows::median(row, "p99_us"),
                ratio.map(|ratio| percent(ratio.median)).unwrap_or_default().into(),
                rows::interval(ratio.and_then(|ratio| ratio.interval), percent),
                rows::median(row, "server_cpu_ns"),
                rows::median_fixed(row, "start_s", 2),
                kib.into(),
                rows::median_fixed(row, "idle_wakeups_per_s", 1),
            ]
        });
    }
    let first = if group.starts_with(DEVICES) { "devices" } else { "IoThreads" };
    let columns = [
        Column::number(first, ""),
        Column::number("time", "ns/request"),
        Column::number("\u{b1}MAD", "ns"),
        Column::number("over the first", ""),
        Column::number("95% interval", ""),
        Column::number("device CPU", "ns/request"),
        Column::number("syscalls", "device/request"),
        Column::number("latency", "us"),
        Column::number("slowest", "/ median"),
        Column::number("memory", "bytes/device"),
    ];
    rows::table(group, &columns, rows, |row| {
        let [change, interval] = growth_cells(row);
        vec![
            rows::median(row, "time_ns"),
            rows::mad(row, "time_ns"),
            change,
            interval,
            rows::median(row, "device_cpu_ns"),
            rows::median_fixed(row, "syscalls", 2),
            rows::median(row, "latency_us"),
            rows::median_fixed(row, "latency_max_over_median", 2),
            rows::median_fixed(row, "device_bytes", 0),
        ]
    })
}

/// The change from the group's first row, and its interval.
fn growth_cells(row: &Row) -> [Cell; 2] {
    let ratio = row.metric("time_ns").and_then(|measured| measured.versus).and_then(|versus| versus.ratio);
    let change = ratio.map(|ratio| percent(ratio.median)).unwrap_or_default();
    [change.into(), rows::interval(ratio.and_then(|ratio| ratio.interval), percent)]
}

/// The results in sentences: the answer, then one sentence for each group.
pub(super) fn conclusions(rows: &[Row]) -> Vec<String> {
    let groups = || rows::groups(rows);
    answer(groups()).into_iter().chain(groups().filter_map(conclusion)).collect()
}

/// The cost of an event with the most and with the fewest notifiers, if one of them is signalled.
fn answer<'a>(groups: impl Iterator<Item = &'a [Row]>) -> Option<String> {
    let mut loops = groups.filter_map(|group| {
        // "1 rung, epoll/edge, CPU 0"
        let arm =
            group.first()?.group.strip_prefix(NOTIFIERS)?.strip_prefix("1 rung, ")?.split(", ").next()?;
        let Ends { first, last, change } = ends(group)?;
        let [few, many] = [first.median("time_ns")?, last.median("time_ns")?].map(number);
        Some((arm, [first.case.as_str(), last.case.as_str()], [few, many], percent(change.median)))
    });
    let (arm, [fewest, most], [few, many], change) = loops.next()?;
    let others: String = loops
        .map(|(arm, [fewest, most], [few, many], change)| {
            format!("; on {arm} {many} ns with {most} and {few} ns with {fewest} ({change})")
        })
        .collect();
    Some(format!(
        "An event costs {many} ns on a loop with {most} notifiers registered and {few} ns with {fewest} ({change}) on \
         {arm}{others}."
    ))
}

/// The first and the last measured row of a group, and the change between them.
struct Ends<'a> {
    first: &'a Row,
    last: &'a Row,
    change: Estimate,
}

fn ends(group: &[Row]) -> Option<Ends<'_>> {
    let mut measured = group.iter().filter(|row| row.result.is_ok());
    let first = measured.next()?;
    let last = measured.next_back()?;
    Some(Ends { first, last, change: last.metric("time_ns")?.versus?.ratio? })
}

/// What many idle disks cost a busy one, and the process.
fn disks_conclusion(group: &[Row]) -> Option<String> {
    let measured = || group.iter().filter(|row| row.result.is_ok());
    let first = measured().next()?;
    let last = measured().rfind(|row| row.case.parse::<usize>().is_ok())?;
    let against = |row: &Row| {
        let versus = row.metric("p99_us")?.versus?.ratio?;
        let interval =
            versus.interval.map(|i| format!(", 95% interval {}", range(i, percent))).unwrap_or_default();
        Some(format!("{}{interval}", percent(versus.median)))
    };
    let bad = measured().filter_map(|row| {
        let (_, neighbour) = row.case.split_once(", ")?;
        Some(format!("; while {neighbour}, {} us ({})", number(row.median("p99_us")?), against(row)?))
    });
    let bad: String = bad.collect();
    let once = [("start_s", 1.0, 2), ("disk_bytes", 1024.0, 1), ("idle_wakeups_per_s", 1.0, 1)];
    let [start, kib, wakeups] =
        once.map(|(name, unit, digits)| last.median(name).map(|value| fixed(value / unit, digits)));
    Some(format!(
        "{}: the p99 of a busy disk is {} us beside {} that are idle and {} us alone ({}){bad}; each idle disk \
         with its frontend takes {} KiB of private memory, all of them start in {} s, and the idle process wakes up \
         {} times per second.",
        capital(&first.group),
        number(last.median("p99_us")?),
        last.case.parse::<usize>().ok()?.saturating_sub(1),
        number(first.median("p99_us")?),
        against(last)?,
        kib?,
        start?,
        wakeups?,
    ))
}

fn conclusion(group: &[Row]) -> Option<String> {
    if group.first()?.group.starts_with(DISKS) {
        return disks_conclusion(group);
    }
    if group.first()?.group.starts_with(CHURN) {
        return churn::conclusion(group, &capital(&group.first()?.group));
    }
    let Ends { first, last, change: versus } = ends(group)?;
    let name = first.group.as_str();
    let time = |row: &Row| row.median("time_ns");
    let (a, b) = (time(first)?, time(last)?);
    let interval =
        versus.interval.map(|i| format!(", 95% interval {}", range(i, percent))).unwrap_or_default();
    let change = format!("{}{interval}", percent(versus.median));
    let bytes = |name: &str, what: &str| {
        last.median(name).map(|bytes| format!("; {} bytes of heap for each {what}", fixed(bytes, 0)))
    };
    Some(if name.starts_with(NOTIFIERS) {
        format!(
            "{}: an event costs {} ns with {} registered and {} ns with {} ({change}){}.",
            capital(name),
            number(a),
            first.case,
            number(b),
            last.case,
            bytes("handler_bytes", "handler").unwrap_or_default()
        )
    } else if name.starts_with(DEVICES) {
        format!(
            "{}: a request costs {} ns with {} device(s) and {} ns with {} ({change}); the slowest of {} devices waits {} \
             times the median's latency{}.",
            capital(name),
            number(a),
            first.case,
            number(b),
            last.case,
            last.case,
            fixed(last.median("latency_max_over_median")?, 2),
            bytes("device_bytes", "device").unwrap_or_default()
        )
    } else {
        format!(
            "{}: {} IoThread(s) take {} ns for each request, {} take {} ns ({change}).",
            capital(name),
            first.case,
            number(a),
            last.case,
            number(b)
        )
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Missing;
    use crate::report::samples::{self, measured};

    fn row(
        group: &str,
        case: &str,
        time_ns: f64,
        baseline: Option<f64>,
        more: &[(&'static str, f64)],
    ) -> Row {
        let baseline = baseline.map(|ns| [ns; 6]);
        let mut metrics = vec![measured("time_ns", &[time_ns; 6], baseline.as_ref().map(|ns| &ns[..]))];
        metrics.extend(more.iter().map(|&(name, value)| measured(name, &[value; 6], None)));
        samples::row(group, case, metrics)
    }

    fn rows() -> Vec<Row> {
        let notifiers = "notifiers on one loop, 1 rung, epoll/edge, CPU 0";
        let devices = "devices on one loop, epoll/edge, two CPUs (0, 1)";
        let threads = "32 queues over IoThreads, epoll/edge, guest on CPU 0, IoThreads on 1 CPU(s)";
        vec![
            row(notifiers, "1", 500.0, None, &[("syscalls", 2.0), ("handler_bytes", 400.0)]),
            row(notifiers, "10000", 510.0, Some(500.0), &[("syscalls", 2.0), ("handler_bytes", 240.0)]),
            row(devices, "1", 900.0, None, &[("latency_max_over_median", 1.0), ("device_bytes", 9_000.0)]),
            row(
                devices,
                "1000",
                450.0,
                Some(900.0),
                &[("latency_max_over_median", 1.25), ("device_bytes", 4_000.0)],
            ),
            row(threads, "1", 300.0, None, &[]),
            row(threads, "2", 330.0, Some(300.0), &[]),
        ]
    }

    #[test]
    fn each_group_has_a_sentence_on_its_first_and_last_row() {
        assert_eq!(
            conclusions(&rows()),
            [
                "An event costs 510 ns on a loop with 10000 notifiers registered and 500 ns with 1 (+2.0%) on epoll/edge.",
                "Notifiers on one loop, 1 rung, epoll/edge, CPU 0: an event costs 500 ns with 1 registered and 510 ns with 10000 (+2.0%, 95% \
                 interval +2.0% to +2.0%); 240 bytes of heap for each handler.",
                "Devices on one loop, epoll/edge, two CPUs (0, 1): a request costs 900 ns with 1 device(s) and 450 ns with 1000 (-50.0%, 95% \
                 interval -50.0% to -50.0%); the slowest of 1000 devices waits 1.25 times the median's latency; 4,000 \
                 bytes of heap for each device.",
                "32 queues over IoThreads, epoll/edge, guest on CPU 0, IoThreads on 1 CPU(s): 1 IoThread(s) take 300 ns \
                 for each request, 2 take 330 ns (+10.0%, 95% interval +10.0% to +10.0%).",
            ]
        );
    }

    #[test]
    fn the_answer_has_a_part_for_each_loop() {
        let one = rows()[..2].to_vec();
        let renamed = |from: &str, to: &str| -> Vec<Row> {
            one.iter().map(|row| Row { group: row.group.replace(from, to), ..row.clone() }).collect()
        };
        let (rung, others) = (renamed("1 rung", "all rung"), renamed("epoll", "io_uring"));
        assert_eq!(
            conclusions(&[rung, one.clone(), others].concat())[0],
            "An event costs 510 ns on a loop with 10000 notifiers registered and 500 ns with 1 (+2.0%) on epoll/edge; on \
             io_uring/edge 510 ns with 10000 and 500 ns with 1 (+2.0%)."
        );
        // There is no answer without such rows.
        assert!(
            conclusions(&rows()[2..])[0]
                .starts_with("Devices on one loop, epoll/edge, two CPUs (0, 1): a request")
        );
    }

    #[test]
    fn a_row_that_is_not_available_is_in_the_table_but_in_no_sentence() {
        let mut rows = rows();
        rows[1].result = Err(Missing::Unavailable("needs 10000 descriptors; raise 'ulimit -n'".to_owned()));
        assert_eq!(conclusions(&rows[..2]), Vec::<String>::new());
        let text = tables(&rows, false);
        let line = text.lines().find(|line| line.trim_start().starts_with("10000 ")).unwrap();
        assert!(line.ends_with("not available: needs 10000 descriptors; raise 'ulimit -n'"), "{text}");
        assert!(text.contains("devices on one loop, epoll/edge, two CPUs (0, 1)\n"), "{text}");
    }
}

#[cfg(test)]
mod columns;
