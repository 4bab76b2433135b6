//! The tables and sentences of `bench loops`. Pure functions of the rows.

use super::contender::{Contender, Monitor, Reset};
use super::task_work::TaskWork;
use super::work::Work;
use crate::measure::{Estimate, Interval, MIN_VALUES};
use crate::report::number::{fixed, number, percent, signed};
use crate::report::rows;
use crate::report::table::{Cell, Column, Table, Tint};
use crate::report::{Missing, Row};

/// The goal for the cost of our loop over the bare calls, as a ratio.
const NEAR: f64 = 1.05;

/// The name of the metric with our loop's time, in the row of the loop that it is compared with.
pub(super) fn metric_of(monitor: Monitor) -> &'static str {
    match monitor {
        Monitor::Epoll => "aio_epoll_ns",
        Monitor::IoUring => "aio_io_uring_ns",
    }
}

const COLUMNS: [Column; 8] = [
    Column::text("loop"),
    Column::number("time", "ns/event"),
    Column::number("\u{b1}MAD", "ns"),
    Column::number("syscalls", "per event"),
    Column::number("aio epoll", "/ this"),
    Column::number("95% interval", ""),
    Column::number("aio io_uring", "/ this"),
    Column::number("95% interval", ""),
];

/// The table of an executor's work. Peers are compared with our tasks, and our tasks with our
/// callbacks.
const TASK_COLUMNS: [Column; 10] = [
    Column::text("loop"),
    Column::number("time", "ns/event"),
    Column::number("\u{b1}MAD", "ns"),
    Column::number("syscalls", "per event"),
    Column::number("task, epoll", "/ this"),
    Column::number("95% interval", ""),
    Column::number("task, io_uring", "/ this"),
    Column::number("95% interval", ""),
    Column::number("this", "- callback, ns"),
    Column::number("95% interval", ""),
];

fn is_of_tasks(group: &str) -> bool {
    TaskWork::all().any(|work| group.starts_with(&format!("{work}, ")))
}

/// One table for each kind of work. A ratio below one means that our loop takes less time.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    rows::tables(rows, colour, |rows| {
        let of_tasks = is_of_tasks(rows::group_name(rows));
        let columns: &[Column] = if of_tasks { &TASK_COLUMNS } else { &COLUMNS };
        let mut table = Table::new(rows::group_name(rows), columns);
        for row in rows {
            match &row.result {
                Ok(_) if of_tasks => {
                    let [difference, interval, ..] = rows::difference(row, "time_ns");
                    table.row(cells(row).into_iter().chain([difference, interval]).collect());
                }
                Ok(_) => table.row(cells(row)),
                Err(Missing::Unavailable(why)) => table.remark(row.case.as_str(), format!("cannot: {why}")),
                Err(why) => table.remark(row.case.as_str(), why.to_string()),
            }
        }
        table
    })
}

fn cells(row: &Row) -> Vec<Cell> {
    let mut cells = vec![
        row.case.as_str().into(),
        rows::median(row, "time_ns"),
        rows::mad(row, "time_ns"),
        rows::median_fixed(row, "syscalls", 2),
    ];
    for monitor in [Monitor::Epoll, Monitor::IoUring] {
        let ratio = ratio(row, monitor);
        cells.push(ratio.map(|ratio| fixed(ratio.median, 3)).unwrap_or_default().into());
        cells.push(match ratio.and_then(|ratio| ratio.interval) {
            Some(interval) => tinted(row, interval),
            None => Cell::default(),
        });
    }
    cells
}

fn tinted(row: &Row, interval: Interval) -> Cell {
    let text = format!("{} to {}", fixed(interval.low, 3), fixed(interval.high, 3));
    let (good, bad) = if is_raw(row) { (NEAR, NEAR) } else { (1.0, 1.0) };
    match interval {
        Interval { high, .. } if high < good => Cell::tinted(text, Tint::Green),
        Interval { low, .. } if low > bad => Cell::tinted(text, Tint::Red),
        _ => text.into(),
    }
}

fn ratio(row: &Row, monitor: Monitor) -> Option<Estimate> {
    row.metric(metric_of(monitor))?.versus?.ratio
}

fn is_raw(row: &Row) -> bool {
    Contender::all().any(|it| matches!(it, Contender::Raw(..)) && it.to_string() == row.case)
}

fn is_peer(row: &Row) -> bool {
    Contender::all().any(|it| matches!(it, Contender::Peer(..)) && it.to_string() == row.case)
}

/// The results in sentences.
pub(super) fn conclusions(rows: &[Row]) -> Vec<String> {
    let monitors = [Monitor::Epoll, Monitor::IoUring];
    let mut sentences: Vec<String> = monitors.into_iter().filter_map(|m| against_peers(rows, m)).collect();
    sentences.extend(monitors.into_iter().filter_map(|m| against_raw(rows, m)));
    sentences.extend(monitors.into_iter().filter_map(|m| growth(rows, m)));
    sentences.extend(monitors.into_iter().filter_map(|m| awaited(rows, m)));
    sentences
}

/// What awaiting an event costs over a callback for it.
fn awaited(rows: &[Row], monitor: Monitor) -> Option<String> {
    let group = format!("{}, ", TaskWork::Rung { tasks: 1, ready: 1 });
    let task = Contender::Tasks(monitor).to_string();
    let row = rows.iter().find(|row| row.group.starts_with(&group) && row.case == task)?;
    let difference = row.metric("time_ns")?.versus?.difference;
    let Interval { low, high } = difference.interval?;
    let [median, low, high] = [difference.median, low, high].map(signed);
    Some(format!("An awaited event of aio on {monitor} costs {median} ns over a callback ({low} to {high})."))
}

/// The comparisons of our loop on `monitor` with rows of one kind that have an interval: `(row, its
/// ratio, its interval)`.
fn compared(rows: &[Row], monitor: Monitor, kind: fn(&Row) -> bool) -> Vec<(&Row, f64, Interval)> {
    let one = |row| {
        let ratio = ratio(row, monitor)?;
        Some((row, ratio.median, ratio.interval?))
    };
    rows.iter().filter(|row| kind(row)).filter_map(one).collect()
}

fn named(row: &Row, median: f64, interval: Interval) -> String {
    let [low, high] = [interval.low, interval.high].map(|ratio| fixed(ratio, 3));
    format!("{} in '{}' ({}: {low} to {high})", row.case, row.group, fixed(median, 3))
}

fn list<'a>(those: impl Iterator<Item = &'a (&'a Row, f64, Interval)>) -> Vec<String> {
    those.map(|&(row, median, interval)| named(row, median, interval)).collect()
}

fn against_peers(rows: &[Row], monitor: Monitor) -> Option<String> {
    let all = compared(rows, monitor, is_peer);
    if all.is_empty() {
        return too_few(rows, monitor, is_peer);
    }
    let ahead = all.iter().filter(|(_, _, interval)| interval.high < 1.0).count();
    let behind = list(all.iter().filter(|(_, _, interval)| interval.low > 1.0));
    let open = list(all.iter().filter(|(_, _, i)| i.low <= 1.0 && i.high >= 1.0));
    let mut text = format!(
        "aio on {monitor} takes less time than the peer in {ahead} of {} comparisons (ratio interval below 1.0)",
        all.len()
    );
    if !open.is_empty() {
        text += &format!("; no detectable difference from {}", open.join(", "));
    }
    if !behind.is_empty() {
        text += &format!("; more than {}", behind.join(", "));
    }
    Some(text + ".")
}

fn against_raw(rows: &[Row], monitor: Monitor) -> Option<String> {
    let all = compared(rows, monitor, is_raw);
    if all.is_empty() {
        return too_few(rows, monitor, is_raw);
    }
    let near = all.iter().filter(|(_, _, interval)| interval.high <= NEAR).count();
    let over = list(all.iter().filter(|(_, _, interval)| interval.low > NEAR));
    let open = list(all.iter().filter(|(_, _, i)| i.low <= NEAR && i.high > NEAR));
    let mut text = format!(
        "aio on {monitor}, including its dispatch, is within 5% of bare calls in {near} of {} comparisons",
        all.len()
    );
    if !open.is_empty() {
        text += &format!("; the interval spans 5% over {}", open.join(", "));
    }
    if !over.is_empty() {
        text += &format!("; more than 5% over {}", over.join(", "));
    }
    Some(text + ".")
}

/// The sentence for a comparison in too few rounds for an interval.
fn too_few(rows: &[Row], monitor: Monitor, kind: fn(&Row) -> bool) -> Option<String> {
    let any = rows.iter().any(|row| kind(row) && ratio(row, monitor).is_some());
    any.then(|| format!("aio on {monitor}: an interval needs {MIN_VALUES} rounds, so nothing is concluded."))
}

/// The cost of an event with many notifiers registered, compared with one.
fn growth(rows: &[Row], monitor: Monitor) -> Option<String> {
    let median_of = |work: Work| {
        let ours = Contender::Ours(monitor, Reset::Edge).to_string();
        let group = format!("{work}, ");
        let row = rows.iter().find(|row| row.group.starts_with(&group) && row.case == ours)?;
        Some(row.metric("time_ns")?.summary.median)
    };
    let one = |registered| median_of(Work::Bells { registered, ready: 1 });
    let all = |registered| median_of(Work::Bells { registered, ready: registered });
    let (first, last) = (one(1)?, one(10_000)?);
    let mut text = format!(
        "An event of aio on {monitor} costs {} ns with 10,000 registered and {} ns with 1 ({})",
        number(last),
        number(first),
        percent(last / first)
    );
    if let (Some(few), Some(many)) = (all(100), all(10_000)) {
        text += &format!(
            "; if all of them are rung, {} ns with 10,000 and {} ns with 100 ({})",
            number(many),
            number(few),
            percent(many / few)
        );
    }
    Some(text + ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{self, measured};

    /// A row that takes `ns`, while ours on epoll takes 100 to 102.
    fn row(work: Work, case: &str, ns: f64, rounds: usize) -> Row {
        let ours: Vec<f64> = (0..rounds).map(|round| 100.0 + (round % 3) as f64).collect();
        let own = vec![ns; rounds];
        let metrics = vec![
            measured("time_ns", &own, None),
            measured("syscalls", &[2.0], None),
            measured("aio_epoll_ns", &ours, Some(&own)),
        ];
        samples::row(&format!("{work}, CPU 0"), case, metrics)
    }

    const ONE: Work = Work::Bells { registered: 1, ready: 1 };

    #[test]
    fn the_interval_decides_if_a_peer_is_faster_or_slower() {
        let rows = [row(ONE, "mio", 200.0, 6), row(ONE, "tokio", 101.0, 6), row(ONE, "eventp", 50.0, 6)];
        let sentence = &conclusions(&rows)[0];
        assert!(
            sentence.starts_with("aio on epoll takes less time than the peer in 1 of 3 comparisons"),
            "{sentence}"
        );
        assert!(sentence.contains("; no detectable difference from tokio in '1 notifier, rung, CPU 0' (1.0"));
        assert!(sentence.contains("; more than eventp in '1 notifier, rung, CPU 0' (2.0"), "{sentence}");
    }

    #[test]
    fn the_interval_decides_if_aio_is_near_the_bare_calls() {
        let raw = "raw epoll, unread";
        let near = &conclusions(&[row(ONE, raw, 100.0, 6)])[0];
        assert_eq!(
            near,
            "aio on epoll, including its dispatch, is within 5% of bare calls in 1 of 1 comparisons."
        );
        let over = &conclusions(&[row(ONE, raw, 90.0, 6)])[0];
        assert!(over.contains("in 0 of 1 comparisons; more than 5% over raw epoll, unread in"), "{over}");
        let open = &conclusions(&[row(ONE, raw, 96.2, 6)])[0];
        assert!(open.contains("in 0 of 1 comparisons; the interval spans 5% over"), "{open}");
    }

    #[test]
    fn too_few_rounds_conclude_nothing() {
        let sentences = conclusions(&[row(ONE, "mio", 200.0, 3)]);
        assert_eq!(sentences, ["aio on epoll: an interval needs 6 rounds, so nothing is concluded."]);
        assert!(conclusions(&[]).is_empty());
    }

    #[test]
    fn an_interval_is_coloured_by_its_goal() {
        // Ours takes 100 to 102 ns.
        let colour = |case: &str, ns: f64| {
            let text = tables(&[row(ONE, case, ns, 6)], true);
            match (text.contains("\u{1b}[38;5;2m"), text.contains("\u{1b}[38;5;1m")) {
                (true, false) => "green",
                (false, true) => "red",
                (false, false) => "none",
                (true, true) => "both",
            }
        };
        let peers = [200.0, 50.0, 101.0].map(|ns| colour("mio", ns));
        assert_eq!(peers, ["green", "red", "none"], "the goal is that a peer takes longer");
        let raw = [100.0, 90.0, 96.2].map(|ns| colour("raw epoll, unread", ns));
        assert_eq!(raw, ["green", "red", "none"], "bare calls may take 5% less");
    }

    /// A row of our own loop, which has no comparison.
    fn own(work: Work, ns: f64) -> Row {
        let row = row(work, "aio epoll/edge", ns, 6);
        Row { result: row.result.map(|metrics| metrics.into_iter().take(2).collect()), ..row }
    }

    #[test]
    fn growth_with_all_of_them_rung_is_between_a_hundred_and_ten_thousand() {
        let all = |registered| Work::Bells { registered, ready: registered };
        let many = Work::Bells { registered: 10_000, ready: 1 };
        let rows = [own(ONE, 100.0), own(many, 103.0), own(all(100), 50.0), own(all(10_000), 60.0)];
        assert_eq!(
            conclusions(&rows),
            [
                "An event of aio on epoll costs 103 ns with 10,000 registered and 100 ns with 1 (+3.0%); if all of them are \
              rung, 60.0 ns with 10,000 and 50.0 ns with 100 (+20.0%)."
            ]
        );
    }

    #[test]
    fn an_awaited_event_is_compared_with_a_callback() {
        let work = Work::Tasks(TaskWork::Rung { tasks: 1, ready: 1 });
        let task = |rounds: usize| {
            let (task, callback) = (vec![130.0; rounds], vec![100.0; rounds]);
            let metrics = vec![measured("time_ns", &task, Some(&callback))];
            samples::row(&format!("{work}, CPU 0"), "aio epoll/edge, task", metrics)
        };
        assert_eq!(
            conclusions(&[task(6)]),
            ["An awaited event of aio on epoll costs +30.0 ns over a callback (+30.0 to +30.0)."]
        );
        assert!(conclusions(&[task(3)]).is_empty(), "no interval, no conclusion");
        let text = tables(&[task(6)], false);
        let line = text.lines().find(|line| line.starts_with("aio epoll/edge, task")).unwrap();
        assert!(line.contains("130") && line.contains("+30.0"), "{text}");
    }

    #[test]
    fn growth_compares_the_first_and_the_last_row() {
        let many = Work::Bells { registered: 10_000, ready: 1 };
        let rows = [own(ONE, 100.0), own(many, 103.0)];
        assert_eq!(
            conclusions(&rows),
            ["An event of aio on epoll costs 103 ns with 10,000 registered and 100 ns with 1 (+3.0%)."]
        );
    }

    #[test]
    fn a_row_that_is_not_available_reports_the_reason() {
        let cannot = Row {
            result: Err(Missing::Unavailable("it has no timers".to_owned())),
            ..row(Work::Rearm { armed: 1 }, "mio", 1.0, 1)
        };
        let text = tables(&[row(ONE, "mio", 200.0, 6), cannot], false);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("mio ")).collect();
        assert!(
            lines[0].contains("200") && lines[0].contains("2.00") && lines[0].contains("0.505"),
            "{text}"
        );
        assert!(lines[1].ends_with("cannot: it has no timers"), "{text}");
    }
}
