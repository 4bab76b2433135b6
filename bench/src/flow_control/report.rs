//! The tables and sentences of `bench flow-control`. Pure functions of the rows.

use super::proposal::{self, Judged};
use super::way::MAXIMUM;
use crate::report::Row;
use crate::report::number::{fixed, number};
use crate::report::table::{Cell, Column, Table, Tint};
use aio::BoundedMethod;

/// The groups, before the placement.
pub(super) const BURST: &str = "Bench 1 - burst/CPU (blocking write; scaled to 5 s)";
pub(super) const TAIL: &str =
    "Bench 2 - latency tail (EFD_SEMAPHORE, 10 K/s writer, ~8 K/s reader, 5000 events)";
pub(super) const COALESCING: &str = "Bench 3 - coalescing (10000 writes, 125 us/read reader)";
pub(super) const PAIR: &str = "Uncontended notify + take";
pub(super) const CURVE: &str = "Curve over the maximum";

const UNLIMITED: &str = "eventfd, unlimited";
/// The goal for the atomic method: an uncontended pair of calls, in ns.
const PAIR_NS: f64 = 60.0;
/// The goal for the factor by which it makes fewer system calls than the ioctl would for the same
/// events.
const FEWER: f64 = 5.0;

/// A column: its head, the metric that fills it, and its decimals (`None` for three significant
/// digits).
type Filled = (Column, &'static str, Option<usize>);

fn column(name: &'static str, unit: &'static str, metric: &'static str) -> Filled {
    (Column::number(name, unit), metric, None)
}

fn whole(name: &'static str, unit: &'static str, metric: &'static str) -> Filled {
    (Column::number(name, unit), metric, Some(0))
}

/// The tables in the proposal's layout, with the proposal's own rows above ours.
pub(super) fn tables(rows: &[Row], colour: bool) -> String {
    let syscalls = (Column::number("syscalls", "per event"), "syscalls_per_event", Some(2));
    let burst = [
        whole("wcpu_ms", "", "wcpu_ms"),
        whole("rcpu_ms", "", "rcpu_ms"),
        whole("EAGAIN", "", "eagain"),
        whole("writes", "", "writes"),
        whole("reads", "", "reads"),
        syscalls,
    ];
    let from_write = [
        whole("p50_us", "", "p50_us"),
        whole("p99_us", "", "p99_us"),
        whole("p999_us", "", "p999_us"),
        whole("max_us", "", "max_us"),
        syscalls,
    ];
    let from_intended = [
        whole("p50_us", "", "intended_p50_us"),
        whole("p99_us", "", "intended_p99_us"),
        whole("p999_us", "", "intended_p999_us"),
        whole("max_us", "", "intended_max_us"),
    ];
    let coalescing = [
        whole("writes", "", "writes"),
        whole("reads", "", "reads"),
        (Column::number("avg_batch", ""), "avg_batch", Some(2)),
        syscalls,
    ];
    let pair = [column("time", "ns", "time_ns"), syscalls];
    let curve = [
        whole("wcpu_ms", "", "wcpu_ms"),
        syscalls,
        whole("p999_us", "from the write", "p999_us"),
        whole("p999_us", "from the schedule", "intended_p999_us"),
        (Column::number("avg_batch", ""), "avg_batch", Some(2)),
    ];
    let nothing: Option<[&[f64]; 2]> = None;
    let blank = f64::NAN;
    let [tail_unlimited, tail_10] =
        [proposal::TAIL_UNLIMITED, proposal::TAIL_10].map(|[p99, p999, max]| [blank, p99, p999, max]);
    let mut parts = Vec::new();
    let mut part =
        |start: &str, heading: &str, columns: &[Filled], theirs: Option<[&[f64]; 2]>, below: String| {
            let rows: Vec<&Row> = rows.iter().filter(|row| row.group.starts_with(start)).collect();
            if let Some(first) = rows.first() {
                let title = format!("{}{heading}", first.group);
                parts.push(table(title, columns, &rows, theirs).render(colour) + &below);
            }
        };
    let seed = [&proposal::BURST_UNLIMITED[..], &proposal::BURST_10[..]];
    part(BURST, "", &burst, Some(seed), String::new());
    part(
        TAIL,
        "\nfrom the moment of the write, as the proposal",
        &from_write,
        Some([&tail_unlimited, &tail_10]),
        String::new(),
    );
    part(
        TAIL,
        "\nfrom the intended time of the write",
        &from_intended,
        nothing,
        omission(rows).unwrap_or_default(),
    );
    let seed = [&proposal::COALESCING_UNLIMITED[..], &proposal::COALESCING_10[..]];
    part(COALESCING, "", &coalescing, Some(seed), String::new());
    part(PAIR, "", &pair, nothing, String::new());
    part(CURVE, "", &curve, nothing, String::new());
    let judged = judge_all(rows);
    if !judged.is_empty() {
        parts.push(reproduction(&judged).render(colour));
    }
    parts.join("\n")
}

fn table(title: String, columns: &[Filled], rows: &[&Row], theirs: Option<[&[f64]; 2]>) -> Table {
    let heads: Vec<Column> =
        [Column::text("")].into_iter().chain(columns.iter().map(|filled| filled.0)).collect();
    let mut table = Table::new(title, &heads);
    let text = |value: f64, decimals: Option<usize>| match decimals {
        _ if value.is_nan() => String::new(),
        Some(decimals) => fixed(value, decimals),
        None => number(value),
    };
    for (name, figures) in
        ["the proposal: ULLONG_MAX", "the proposal: 10"].iter().zip(theirs.into_iter().flatten())
    {
        let cells = figures.iter().zip(columns).map(|(value, (_, metric, decimals))| {
            let decimals = if *metric == "avg_batch" { Some(1) } else { *decimals };
            Cell::tinted(text(*value, decimals), Tint::Dim)
        });
        table.row([Cell::tinted(*name, Tint::Dim)].into_iter().chain(cells).collect());
    }
    for row in rows {
        match &row.result {
            Err(why) => table.remark(row.case.as_str(), why.to_string()),
            Ok(_) => {
                let cells = columns.iter().map(|(_, metric, decimals)| {
                    row.metric(metric).map_or(Cell::default(), |m| text(m.summary.median, *decimals).into())
                });
                table.row([Cell::from(row.case.as_str())].into_iter().chain(cells).collect());
            }
        }
    }
    table
}

fn reproduction(judged: &[(BoundedMethod, Judged)]) -> Table {
    let columns = [
        Column::text("figure"),
        Column::text("by"),
        Column::text("the proposal"),
        Column::text("here"),
        Column::text("verdict"),
    ];
    let mut table = Table::new("The proposal's figures", &columns);
    for (method, judged) in judged {
        let tint = if judged.verdict.is_ok() { Tint::Green } else { Tint::Red };
        table.row(vec![
            judged.figure.into(),
            method.to_string().into(),
            judged.proposal.as_str().into(),
            judged.ours.as_str().into(),
            Cell::tinted(judged.words(), tint),
        ]);
    }
    table
}

/// The median of a metric of a row.
fn median(rows: &[Row], group: &str, case: &str, metric: &str) -> Option<f64> {
    let row = rows.iter().find(|row| row.group.starts_with(group) && row.case == case)?;
    Some(row.metric(metric)?.summary.median)
}

fn bounded(method: BoundedMethod) -> String {
    format!("{method}, maximum {MAXIMUM}")
}

/// Each of the proposal's claims, for each method that was measured.
fn judge_all(rows: &[Row]) -> Vec<(BoundedMethod, Judged)> {
    BoundedMethod::ALL
        .into_iter()
        .flat_map(|method| judge(rows, method).into_iter().map(move |judged| (method, judged)))
        .collect()
}

fn judge(rows: &[Row], method: BoundedMethod) -> Vec<Judged> {
    let case = bounded(method);
    let ours = |group, metric| median(rows, group, &case, metric);
    let unlimited = |group, metric| median(rows, group, UNLIMITED, metric);
    let both = |group, metric| Some((unlimited(group, metric)?, ours(group, metric)?));
    let mut judged = Vec::new();
    judged.extend(both(BURST, "wcpu_ms").map(|(unlimited, ours)| proposal::cpu(unlimited, ours)));
    judged.extend(ours(BURST, "eagain").map(proposal::eagain));
    judged.extend(
        ours(BURST, "writes").zip(ours(BURST, "reads")).map(|(w, r)| proposal::burst_batch(w, r, MAXIMUM)),
    );
    judged.extend(both(TAIL, "p999_us").map(|(unlimited, ours)| proposal::tail(unlimited, ours)));
    judged.extend(both(COALESCING, "avg_batch").map(|(unlimited, _)| proposal::unlimited_batch(unlimited)));
    judged.extend(ours(COALESCING, "avg_batch").map(|batch| proposal::coalescing_batch(batch, MAXIMUM)));
    judged
}

/// The effect of the maximum on the tail of bench 2.
struct Tail {
    /// The first method that was measured.
    method: BoundedMethod,
    /// p999 from the write, unlimited and bounded.
    us: [f64; 2],
    /// How many times shorter the tail is with a maximum, from the write and from the time when the
    /// write was due.
    from_write: f64,
    intended: f64,
}

impl Tail {
    fn of(rows: &[Row]) -> Option<Self> {
        let method =
            BoundedMethod::ALL.into_iter().find(|m| median(rows, TAIL, &bounded(*m), "p999_us").is_some())?;
        let both = |metric| {
            Some([median(rows, TAIL, UNLIMITED, metric)?, median(rows, TAIL, &bounded(method), metric)?])
        };
        let (us, [unlimited, bounded]) = (both("p999_us")?, both("intended_p999_us")?);
        Some(Self { method, us, from_write: us[0] / us[1], intended: unlimited / bounded })
    }

    /// Returns true if measured from the due time the improvement (almost) disappears.
    fn disappears(&self) -> bool {
        self.intended < self.from_write / 10.0
    }
}

/// The main result.
fn answer(rows: &[Row]) -> Option<String> {
    let tail = Tail::of(rows)?;
    let [unlimited, bounded] = tail.us.map(number);
    let from_write = number(tail.from_write);
    let intended = number(tail.intended);
    let due = if tail.disappears() {
        format!(
            "but not after they were due ({intended} times): the waiting moves from the queue to the producer, and a latency \
             measured from the write does not include it (coordinated omission)"
        )
    } else {
        format!("and {intended} times sooner after they were due")
    };
    Some(format!(
        "With a maximum of {MAXIMUM}, the slowest 0.1% of events arrive {from_write} times sooner after their write ({bounded} us \
         instead of {unlimited}, with the {} method), {due}.",
        tail.method
    ))
}

/// What the second table of bench 2 shows, by the first method that was measured.
fn omission(rows: &[Row]) -> Option<String> {
    let tail = Tail::of(rows)?;
    let Tail { method, from_write, intended, .. } = tail;
    let what = if tail.disappears() { "disappears" } else { "does not disappear" };
    Some(format!(
        "Coordinated omission: the gain of {}x at p999 {what} ({}x with {method}) if the latency is measured from the time when \
         the event should have been written; the waiting moved from the queue to the producer.\n",
        number(from_write),
        number(intended)
    ))
}

/// The results in sentences, the answer first.
pub(super) fn conclusions(rows: &[Row]) -> Vec<String> {
    let mut sentences: Vec<String> = answer(rows).into_iter().collect();
    for method in BoundedMethod::ALL {
        let judged = judge(rows, method);
        if judged.is_empty() {
            continue;
        }
        let good = judged.iter().filter(|judged| judged.verdict.is_ok()).count();
        let bad: Vec<String> = judged
            .iter()
            .filter(|judged| judged.verdict.is_err())
            .map(|judged| format!("{} {}", judged.figure, judged.words()))
            .collect();
        let bad = if bad.is_empty() { String::new() } else { format!("; {}", bad.join("; ")) };
        sentences.push(format!("{method}: {good} of {} figures reproduced{bad}.", judged.len()));
    }
    if rows.iter().any(|row| row.group.starts_with(BURST) && row.group.contains("one CPU")) {
        sentences.push(
            "Writer and reader share a CPU here, but had a CPU each in the proposal: counts can be compared, times cannot.".to_owned(),
        );
    }
    sentences.extend(pair_cost(rows));
    sentences.extend(fewer_calls(rows));
    sentences.extend(never_slower(rows));
    sentences
}

fn reached(good: bool) -> &'static str {
    if good { "reached" } else { "not reached" }
}

fn pair_cost(rows: &[Row]) -> Option<String> {
    let ns = median(rows, PAIR, &bounded(BoundedMethod::Atomic), "time_ns")?;
    let goal = reached(ns <= PAIR_NS);
    Some(format!(
        "An uncontended notify + take of the atomic method takes {} ns (goal: {PAIR_NS} at most, {goal}).",
        number(ns)
    ))
}

/// The system calls of the atomic method, compared with those of the ioctl.
fn fewer_calls(rows: &[Row]) -> Option<String> {
    let case = bounded(BoundedMethod::Atomic);
    let benches = [("bench 1", BURST), ("bench 2", TAIL), ("bench 3", COALESCING)];
    let ratios = |metric| -> Vec<(&str, f64)> {
        let ratio = |group| {
            Some(median(rows, group, &case, metric)? / median(rows, group, &case, "syscalls_per_event")?)
        };
        benches.into_iter().filter_map(|(name, group)| Some((name, ratio(group)?))).collect()
    };
    let list = |ratios: &[(&str, f64)]| {
        ratios
            .iter()
            .map(|(name, ratio)| format!("{} in {name}", fixed(*ratio, 1)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (kernel, bare) = (ratios("kernel_syscalls_per_event"), ratios("ioctl_syscalls_per_event"));
    // Bench 2 keeps the queue full, so each event causes a sleep and a wake-up with every method.
    let mut bursts = kernel.iter().filter(|(name, _)| *name != "bench 2").peekable();
    bursts.peek()?;
    let good = bursts.all(|(_, ratio)| *ratio >= FEWER);
    Some(format!(
        "The kernel method would make this many times more system calls for the same events than the atomic method: {} (goal for \
         bursts: {FEWER}, {}). Compared with blocking calls on an eventfd with that maximum, which nobody can \
         interrupt: {} (at most {} is possible, because a sleep and a wake-up replace {} writes and a read).",
        list(&kernel),
        reached(good),
        list(&bare),
        fixed(MAXIMUM as f64 / 2.0, 1),
        MAXIMUM - 1,
    ))
}

/// A smaller difference does not count, however small the spread of a few rounds is.
const ALIKE: f64 = 0.05;

/// The figures in which the atomic method is slower than the credit method by more than the noise
/// of both.
fn never_slower(rows: &[Row]) -> Option<String> {
    let compared = [
        (BURST, "wcpu_ms", "writer CPU of bench 1"),
        (BURST, "rcpu_ms", "reader CPU of bench 1"),
        (TAIL, "p99_us", "p99 of bench 2"),
        (TAIL, "p999_us", "p999 of bench 2"),
        (COALESCING, "reads", "reads of bench 3"),
        (PAIR, "time_ns", "uncontended pair"),
    ];
    let mut slower = Vec::new();
    let mut seen = 0;
    for (group, metric, name) in compared {
        let summary = |method| {
            let case = bounded(method);
            let row = rows.iter().find(|row| row.group.starts_with(group) && row.case == case)?;
            Some(row.metric(metric)?.summary)
        };
        let (Some(atomic), Some(credit)) = (summary(BoundedMethod::Atomic), summary(BoundedMethod::Credit))
        else {
            continue;
        };
        seen += 1;
        let noise = (atomic.mad + credit.mad).max(ALIKE * credit.median);
        if atomic.median > credit.median + noise {
            slower.push(format!("{name} ({} against {})", number(atomic.median), number(credit.median)));
        }
    }
    let list = if slower.is_empty() { "in none of them".to_owned() } else { slower.join(", ") };
    (seen > 0).then(|| {
        format!("Slower than the credit method, of {seen} figures: {list} ({}).", reached(slower.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Summary;
    use crate::report::samples::{self, measured, unavailable};

    const PLACE: &str = "two CPUs (0, 1)";

    fn row(group: &str, case: &str, metrics: &[(&'static str, f64)]) -> Row {
        let metrics = metrics.iter().map(|&(name, value)| measured(name, &[value; 6], None)).collect();
        samples::row(&format!("{group}, {PLACE}"), case, metrics)
    }

    /// The proposal's figures as our results, for the atomic and the credit method; the kernel has
    /// no ioctl.
    fn rows() -> Vec<Row> {
        let calls = [
            ("syscalls_per_event", 0.22),
            ("ioctl_syscalls_per_event", 1.1),
            ("kernel_syscalls_per_event", 1.32),
        ];
        let with = |metrics: &[(&'static str, f64)]| [metrics, &calls].concat();
        let mut rows = Vec::new();
        let group = format!("{BURST}, {PLACE}");
        rows.push(unavailable(&group, "kernel, maximum 10", "this kernel has no such ioctl"));
        rows.push(row(BURST, UNLIMITED, &[("wcpu_ms", 5002.0), ("rcpu_ms", 132.0)]));
        rows.push(row(TAIL, UNLIMITED, &[("p999_us", 142_477.0), ("intended_p999_us", 143_000.0)]));
        rows.push(row(COALESCING, UNLIMITED, &[("avg_batch", 126.6)]));
        for (case, ns) in [("atomic, maximum 10", 30.0), ("credit, maximum 10", 900.0)] {
            let burst = [
                ("wcpu_ms", 133.0),
                ("rcpu_ms", 150.0),
                ("eagain", 0.0),
                ("writes", 40_456.0),
                ("reads", 4496.0),
            ];
            rows.push(row(BURST, case, &with(&burst)));
            rows.push(row(
                TAIL,
                case,
                &[("p99_us", 1719.0), ("p999_us", 2378.0), ("intended_p999_us", 143_000.0)],
            ));
            rows.push(row(COALESCING, case, &with(&[("reads", 1121.0), ("avg_batch", 8.92)])));
            rows.push(row(PAIR, case, &[("time_ns", ns)]));
        }
        rows
    }

    #[test]
    fn the_proposals_figures_are_all_reproduced_by_themselves() {
        let sentences = conclusions(&rows()).join("\n");
        assert!(sentences.contains("atomic: 6 of 6 figures reproduced.\n"), "{sentences}");
        assert!(sentences.contains("credit: 6 of 6 figures reproduced.\n"), "{sentences}");
        assert!(!sentences.contains("kernel:"), "{sentences}");
        assert!(sentences.contains("takes 30.0 ns (goal: 60 at most, reached)"), "{sentences}");
        assert!(
            sentences.contains("6.0 in bench 1, 6.0 in bench 3 (goal for bursts: 5, reached). "),
            "{sentences}"
        );
        assert!(
            sentences.contains("interrupt: 5.0 in bench 1, 5.0 in bench 3 (at most 5.0 is possible"),
            "{sentences}"
        );
        assert!(sentences.contains("of 6 figures: in none of them (reached)"), "{sentences}");
    }

    #[test]
    fn the_tables_have_the_proposals_layout_and_rows() {
        let text = tables(&rows(), false);
        let line = |start: &str| {
            text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
        };
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(
            words(line("the proposal: 10"))
                .ends_with(&["133", "150", "0", "40,456", "4,496"].map(str::to_owned))
        );
        assert!(line("kernel, maximum 10").ends_with("not available: this kernel has no such ioctl"));
        assert!(
            text.contains("from the moment of the write")
                && text.contains("from the intended time of the write")
        );
        assert_eq!(text.matches("reproduced").count(), 12);
        let reproduced = text.lines().find(|line| line.starts_with("bounded batch, bench 3")).unwrap();
        assert!(
            reproduced.contains("8.90") && reproduced.contains("8.92") && reproduced.ends_with("reproduced")
        );
    }

    #[test]
    fn what_is_worse_is_said() {
        let mut rows = rows();
        let set = |rows: &mut Vec<Row>, group: &str, case: &str, metric: &str, value: f64| {
            let row = rows.iter_mut().find(|row| row.group.starts_with(group) && row.case == case).unwrap();
            let metrics = row.result.as_mut().unwrap();
            metrics.iter_mut().find(|m| m.name == metric).unwrap().summary =
                Summary::of(&[value; 6]).unwrap();
        };
        let case = "atomic, maximum 10";
        set(&mut rows, BURST, case, "wcpu_ms", 400.0);
        set(&mut rows, BURST, case, "syscalls_per_event", 0.5);
        set(&mut rows, PAIR, case, "time_ns", 61.0);
        let sentences = conclusions(&rows).join("\n");
        assert!(
            sentences.contains("atomic: 5 of 6 figures reproduced; writer CPU, bench 1 not reproduced: "),
            "{sentences}"
        );
        assert!(sentences.contains("61.0 ns (goal: 60 at most, not reached)"), "{sentences}");
        assert!(
            sentences.contains("2.6 in bench 1, 6.0 in bench 3 (goal for bursts: 5, not reached)."),
            "{sentences}"
        );
        assert!(sentences.contains("writer CPU of bench 1 (400 against 133) (not reached)"), "{sentences}");
    }

    #[test]
    fn the_omission_is_called_so_only_if_it_is_one() {
        let mut rows = rows();
        let sentence = omission(&rows).unwrap();
        assert!(sentence.contains("the gain of 59.9x at p999 disappears (1.00x with atomic)"), "{sentence}");
        for row in rows.iter_mut().filter(|row| row.case == UNLIMITED && row.group.starts_with(TAIL)) {
            let metrics = row.result.as_mut().unwrap();
            metrics[1].summary = Summary::of(&[2_000_000.0; 6]).unwrap();
        }
        assert!(omission(&rows).unwrap().contains("does not disappear (14.0x"));
        assert!(
            conclusions(&rows)[0]
                .ends_with("with the atomic method), and 14.0 times sooner after they were due.")
        );
    }

    #[test]
    fn the_first_sentence_is_the_answer() {
        assert_eq!(
            conclusions(&rows())[0],
            "With a maximum of 10, the slowest 0.1% of events arrive 59.9 times sooner after their write (2,378 us instead of 142,477, \
             with the atomic method), but not after they were due (1.00 times): the waiting moves from the queue to the producer, \
             and a latency measured from the write does not include it (coordinated omission)."
        );
    }

    #[test]
    fn one_cpu_is_not_two() {
        let mut rows = rows();
        assert!(!conclusions(&rows).join("\n").contains("share a CPU"));
        rows.iter_mut().for_each(|row| row.group = row.group.replace(PLACE, "one CPU (0)"));
        assert!(conclusions(&rows).join("\n").contains("share a CPU here"));
    }

    #[test]
    fn nothing_measured_means_nothing_said() {
        assert!(conclusions(&[]).is_empty());
        assert_eq!(tables(&[], false), "");
    }
}
