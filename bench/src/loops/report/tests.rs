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
    assert_eq!(
        conclusions(&rows)[0],
        "aio on epoll against the peers, per event: saves in 1 of 3 comparisons, no difference that could be seen in \
         0; inconclusive in 1: tokio in '1 notifier, rung, CPU 0' (0.990 to 1.01); costs in 1: eventp in '1 notifier, rung, \
         CPU 0' (2.00 to 2.04)."
    );
}

#[test]
fn a_sentence_names_a_few_and_counts_the_others() {
    let rows = ["mio", "tokio", "eventp", "polling", "calloop"].map(|peer| row(ONE, peer, 50.0, 6));
    let sentence = &conclusions(&rows)[0];
    assert!(sentence.contains("costs in 5: mio in ") && sentence.contains(" and 2 others, see the tables."));
    assert!(!sentence.contains("polling in"), "{sentence}");
}

#[test]
fn no_ratio_is_rounded_to_zero() {
    let shown = [1.034, 0.98765, 0.0004217, 12.34, 1_234.6, 0.0].map(times);
    assert_eq!(shown, ["1.03", "0.988", "0.000422", "12.3", "1,235", "0.00"]);
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
    assert!(over.contains("in 0 of 1 comparisons; more than 5% over in 1: raw epoll, unread in"), "{over}");
    let open = &conclusions(&[row(ONE, raw, 96.2, 6)])[0];
    assert!(open.contains("in 0 of 1 comparisons; inconclusive in 1: raw epoll"), "{open}");
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
    assert!(lines[0].contains("200") && lines[0].contains("2.00") && lines[0].contains("0.505"), "{text}");
    assert!(lines[1].ends_with("cannot: it has no timers"), "{text}");
}
