//! The tables and sentences of `bench loops`. Pure functions of the rows.

use super::contender::{Contender, Monitor, Reset};
use super::task_work::TaskWork;
use super::work::Work;
use crate::measure::{Estimate, Interval, MIN_VALUES, Verdict};
use crate::report::number::{fixed, number, percent, range, signed};
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
        cells.push(ratio.map(|ratio| times(ratio.median)).unwrap_or_default().into());
        cells.push(match ratio.and_then(|ratio| ratio.interval) {
            Some(interval) => tinted(row, interval),
            None => Cell::default(),
        });
    }
    cells
}

fn tinted(row: &Row, interval: Interval) -> Cell {
    let text = range(interval, times);
    let (good, bad) = if is_raw(row) { (NEAR, NEAR) } else { (1.0, 1.0) };
    match interval {
        Interval { high, .. } if high < good => Cell::tinted(text, Tint::Green),
        Interval { low, .. } if low > bad => Cell::tinted(text, Tint::Red),
        _ => text.into(),
    }
}

/// A ratio with three significant digits, so that none is rounded to zero: `1.03`, `0.00042`.
fn times(ratio: f64) -> String {
    let decimals = match ratio.abs() {
        magnitude if magnitude > 0.0 && magnitude < 1.0 => (2 - magnitude.log10().floor() as i32).clamp(3, 9),
        magnitude if magnitude < 10.0 => 2,
        magnitude if magnitude < 100.0 => 1,
        _ => 0,
    };
    fixed(ratio, decimals.unsigned_abs() as usize)
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

/// The most comparisons that a sentence names. The others are in the tables.
const NAMED: usize = 3;

/// `3 more: tokio in '...' (0.98 to 1.02), ...`; nothing for none.
fn exceptions(what: &str, those: &[&(&Row, f64, Interval)]) -> String {
    let named = those
        .iter()
        .take(NAMED)
        .map(|(row, _, interval)| format!("{} in '{}' ({})", row.case, row.group, range(*interval, times)));
    let named = named.collect::<Vec<_>>().join(", ");
    let rest = those.len().saturating_sub(NAMED);
    let rest = if rest > 0 { format!(" and {rest} others, see the tables") } else { String::new() };
    if those.is_empty() { String::new() } else { format!("; {what} in {}: {named}{rest}", those.len()) }
}

fn against_peers(rows: &[Row], monitor: Monitor) -> Option<String> {
    let all = compared(rows, monitor, is_peer);
    if all.is_empty() {
        return too_few(rows, monitor, is_peer);
    }
    let verdict =
        |row: &Row| row.metric(metric_of(monitor)).and_then(|one| one.versus).map(|one| one.verdict);
    let of = |wanted: Verdict| -> Vec<&(&Row, f64, Interval)> {
        all.iter().filter(|(row, ..)| verdict(row) == Some(wanted)).collect()
    };
    let equal = of(Verdict::NoDifferenceSeen).len();
    Some(format!(
        "aio on {monitor} against the peers, per event: saves in {} of {} comparisons, no difference that could be seen in \
         {equal}{}{}.",
        of(Verdict::Saves).len(),
        all.len(),
        exceptions("inconclusive", &of(Verdict::Inconclusive)),
        exceptions("costs", &of(Verdict::Costs)),
    ))
}

fn against_raw(rows: &[Row], monitor: Monitor) -> Option<String> {
    let all = compared(rows, monitor, is_raw);
    if all.is_empty() {
        return too_few(rows, monitor, is_raw);
    }
    let near = all.iter().filter(|(_, _, interval)| interval.high <= NEAR).count();
    let over: Vec<_> = all.iter().filter(|(_, _, interval)| interval.low > NEAR).collect();
    let open: Vec<_> = all.iter().filter(|(_, _, i)| i.low <= NEAR && i.high > NEAR).collect();
    Some(format!(
        "aio on {monitor}, including its dispatch, is within 5% of bare calls in {near} of {} comparisons{}{}.",
        all.len(),
        exceptions("inconclusive", &open),
        exceptions("more than 5% over", &over),
    ))
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
mod tests;
