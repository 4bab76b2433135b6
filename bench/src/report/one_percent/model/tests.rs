use super::*;
use crate::measure::{Better, Comparison, Summary};
use crate::report::one_percent::lab::Savings;
use crate::report::saved::SavedMetric;

/// One arm: IOPS, device CPU and reads per request, and the ratio and difference against the
/// classic arm, with a half-width.
pub(crate) fn arm(
    group: &str,
    case: &str,
    iops: f64,
    cpu_ns: f64,
    reads: f64,
    base: Option<(f64, f64)>,
) -> Entry {
    let metric = |value: f64, versus: Option<(f64, f64)>, better| {
        // Six rounds that differ by the same small amounts in both arms.
        let noise = [-0.001, 0.001, -0.0005, 0.0005, 0.0002, -0.0002];
        let values: Vec<f64> = noise.iter().map(|noise| value * (1.0 + noise)).collect();
        let versus = versus.and_then(|(base, spread)| {
            let pairs: Vec<(f64, f64)> =
                noise.iter().map(|noise| (value + base * spread * noise * 1e3, base)).collect();
            Comparison::of(&pairs, better)
        });
        let summary = Summary::of(&values).unwrap();
        SavedMetric { unit: String::new(), better, summary, values, versus }
    };
    let mut metrics = std::collections::BTreeMap::new();
    let (iops_base, cpu_base) =
        base.map_or((None, None), |(iops, cpu)| (Some((iops, 0.002)), Some((cpu, 0.002))));
    metrics.insert("iops".to_owned(), metric(iops, iops_base, Better::Higher));
    metrics.insert("device_cpu_ns".to_owned(), metric(cpu_ns, cpu_base, Better::Lower));
    metrics.insert("reads".to_owned(), metric(reads, None, Better::Lower));
    metrics.insert("syscalls".to_owned(), metric(2.0 + reads, None, Better::Lower));
    metrics.insert("kicks".to_owned(), metric(1.0, None, Better::Lower));
    Entry {
        group: group.to_owned(),
        case: case.to_owned(),
        baseline: None,
        reason: None,
        rounds: Vec::new(),
        left_out: Default::default(),
        latency: None,
        metrics,
    }
}

/// A cell of epoll in which a read costs 200 ns of `iteration_ns`, and leaving it out saves
/// `saved_ns`.
pub(crate) fn cell(disk: &str, iteration_ns: f64, saved_ns: f64) -> Vec<Entry> {
    let group = format!("epoll, {disk}, iodepth 1 on one CPU (0)");
    let iops = |ns: f64| 1e9 / ns;
    let (classic, cpu) = (iops(iteration_ns), iteration_ns / 2.0);
    let base = Some((classic, cpu));
    vec![
        arm(&group, "epoll/classic", classic, cpu, 1.0, None),
        arm(&group, "epoll/classic + a read", iops(iteration_ns + 200.0), cpu + 200.0, 2.0, base),
        arm(&group, "epoll/edge", iops(iteration_ns - saved_ns), cpu - saved_ns, 0.0, base),
    ]
}

/// The same with an edge-triggered arm that reads: the read costs `own_ns` and level triggering
/// `level_ns`.
pub(crate) fn cell_with_level(disk: &str, iteration_ns: f64, own_ns: f64, level_ns: f64) -> Vec<Entry> {
    let mut entries = cell(disk, iteration_ns, own_ns + level_ns);
    let (group, cpu) = (entries[0].group.clone(), iteration_ns / 2.0);
    let own = cpu - level_ns;
    let mut read_edge = arm(
        &group,
        "epoll/edge + its read",
        1e9 / (iteration_ns - level_ns),
        own,
        1.0,
        Some((1e9 / iteration_ns, cpu)),
    );
    let mut unread = arm(&group, "", 1.0, own - own_ns, 0.0, Some((1.0, own)));
    let unread = unread.metrics.remove("device_cpu_ns").unwrap();
    read_edge.metrics.insert(UNREAD_CPU_NS.to_owned(), unread);
    entries.insert(2, read_edge);
    entries
}

/// A read takes 200 ns of 4 us, and of 2 us of CPU time. Without it 400 ns are saved. All numbers
/// are different.
pub(crate) fn more() -> Vec<Outcome> {
    let mut entries = cell("null", 4_000.0, 400.0);
    entries[2].metrics.get_mut("syscalls").unwrap().summary.median = 1.75;
    outcomes(&entries)
}

/// The lab's counts for the same loop.
pub(crate) fn lab_savings() -> Savings {
    let (monitor, reset) = ("epoll".to_owned(), "edge".to_owned());
    Savings { kernel: "stock".to_owned(), monitor, reset, classic: 9_000.0, autoreset: 8_500.0 }
}

/// The same cell at another place, or in another loop.
fn elsewhere(mut entries: Vec<Entry>, here: &str, there: &str) -> Vec<Entry> {
    for entry in &mut entries {
        entry.group = entry.group.replace(here, there);
        entry.case = entry.case.replace(here, there);
    }
    entries
}

#[test]
fn an_edge_triggered_arm_with_a_read_separates_level_and_read() {
    let mut entries = cell_with_level("null", 4_000.0, 203.0, 100.0);
    let about = |estimate: Option<Estimate>| estimate.unwrap().median.round();
    let of = |entries: &[Entry]| outcomes(entries).swap_remove(0);
    let only = of(&entries);
    assert_eq!([about(only.level_ns), about(only.own_read_ns), about(only.read_ns)], [100.0, 203.0, 200.0]);
    assert!(!only.level_is_borrowed && only.level_words() == "+100", "{}", only.level_words());
    assert_eq!((only.cpu_prediction(), only.prediction()), (Some(Prediction::More), Some(Prediction::More)));
    assert!(only.cpu_is_with_level() && only.prediction_with_level().unwrap().agrees());
    assert!((only.cpu_with_level_ns().unwrap().median - 300.0).abs() < 1.0);
    // The cost is per read.
    entries[2].metrics.get_mut("reads").unwrap().summary.median = 0.5;
    assert_eq!([about(of(&entries).level_ns), about(of(&entries).own_read_ns)], [200.0, 406.0]);
    // An older report, or a loop without edges.
    entries.remove(2);
    let old = of(&entries);
    assert_eq!((old.level_ns, old.own_read_ns, old.cpu_prediction_with_level()), (None, None, None));
    assert!(old.level_words().is_empty() && !old.cpu_is_with_level() && !old.cpu_agrees_by_edges());
}

#[test]
fn a_level_is_borrowed_only_from_the_same_loop_and_preferably_the_same_place() {
    const ONE: &str = "one CPU (0)";
    const TWO: &str = "two CPUs (0, 1)";
    let deep =
        |place| elsewhere(elsewhere(cell("null", 4_000.0, 300.0), "iodepth 1", "iodepth 32"), ONE, place);
    let entries = [
        cell_with_level("null", 4_000.0, 200.0, 100.0),
        elsewhere(cell_with_level("null", 4_000.0, 200.0, 150.0), ONE, TWO),
        deep(TWO),
        deep(ONE),
        deep("another place"),
        elsewhere(cell("null", 4_000.0, 300.0), "epoll", "io_uring"),
    ];
    let outcomes = outcomes(&entries.concat());
    let of = |index: usize| {
        let outcome: &Outcome = &outcomes[index];
        (outcome.level_ns.map(|ns| ns.median.round()), outcome.level_is_borrowed)
    };
    assert_eq!([of(0), of(1)], [(Some(100.0), false), (Some(150.0), false)]);
    assert_eq!([of(2), of(3), of(4)], [(Some(150.0), true), (Some(100.0), true), (Some(100.0), true)]);
    assert_eq!(outcomes[3].level_words(), "~+100");
    assert_eq!(of(5), (None, false), "the level of another loop was borrowed");
}

#[test]
fn a_level_below_the_noise_is_replaced_by_a_known_one() {
    let noisy = elsewhere(cell_with_level("null", 4_000.0, 200.0, 0.0), "one CPU (0)", "two CPUs (0, 1)");
    let outcomes = outcomes(&[noisy.clone(), cell_with_level("null", 4_000.0, 200.0, 100.0)].concat());
    assert!((outcomes[0].level_ns.unwrap().median - 100.0).abs() < 1.0 && outcomes[0].level_is_borrowed);
    // It is kept if no other cell has a known one.
    let alone = super::outcomes(&noisy).swap_remove(0);
    assert!(alone.level_ns.unwrap().median.abs() < 1.0 && !alone.level_is_borrowed);
}

#[test]
fn errors_of_a_sum_add_as_squares() {
    let estimate = |median: f64, below: f64, above: f64| Estimate {
        median,
        interval: Some(Interval { low: median - below, high: median + above }),
    };
    assert_eq!(sum(estimate(10.0, 3.0, 6.0), estimate(20.0, 4.0, 8.0)), estimate(30.0, 5.0, 10.0));
    let known = Estimate { median: 1.0, interval: None };
    assert_eq!(sum(estimate(10.0, 3.0, 6.0), known), Estimate { median: 11.0, interval: None });
}

#[test]
fn a_prediction_is_the_cost_of_one_more_read() {
    let outcomes = outcomes(&cell("null", 4_000.0, 200.0));
    let [only] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert!((only.iteration_us - 4.0).abs() < 1e-9);
    assert!((only.read_ns.unwrap().median - 200.0).abs() < 1.0, "{:?}", only.read_ns);
    assert!((only.predicted.unwrap().median - 0.05).abs() < 0.001, "{:?}", only.predicted);
    assert!((only.saved.unwrap().median - 0.05).abs() < 0.001, "{:?}", only.saved);
    assert!((only.cpu_saved_ns.unwrap().median - 200.0).abs() < 1.0);
    assert_eq!((only.reads_saved(), only.verdict()), (1.0, Some(Verdict::Saves)));
    let agrees = Some(Prediction::Agrees);
    assert_eq!((only.prediction(), only.cpu_prediction()), (agrees, agrees));
    assert!(only.is_swept() && only.on_one_cpu() && !only.nothing_to_save());
}

#[test]
fn a_saving_outside_the_prediction_is_more_or_less() {
    let prediction_of = |saved_ns| outcomes(&cell("null", 4_000.0, saved_ns))[0].prediction();
    assert_eq!(prediction_of(400.0), Some(Prediction::More));
    assert_eq!(prediction_of(50.0), Some(Prediction::Less));
}

#[test]
fn a_saving_below_the_noise_is_no_difference_and_as_predicted() {
    // 0.02 % of a millisecond, and a noise of 0.2 %.
    let outcomes = outcomes(&cell("spin 100us", 1_000_000.0, 200.0));
    assert_eq!(outcomes[0].verdict(), Some(Verdict::NoDifferenceSeen));
    assert_eq!(outcomes[0].prediction(), Some(Prediction::Agrees));
}

#[test]
fn narrow_intervals_that_overlap_agree() {
    let estimate = |median: f64, half: f64| Estimate {
        median,
        interval: Some(Interval { low: median - half, high: median + half }),
    };
    for (measured, predicted, expected) in [
        (estimate(0.05, 0.004), estimate(0.055, 0.004), Prediction::Agrees),
        (estimate(0.05, 0.004), estimate(0.055, 0.0005), Prediction::Less),
        (estimate(0.05, 0.004), estimate(0.045, 0.0005), Prediction::More),
        (estimate(0.0, 0.004), estimate(0.003, 0.0005), Prediction::Agrees),
        // Wider than one percent: it overlaps with almost anything.
        (estimate(0.05, 0.01), estimate(0.055, 0.01), Prediction::Inconclusive),
        (estimate(0.2, 0.21), estimate(0.003, 0.001), Prediction::Inconclusive),
        // It excludes the prediction, but says nothing about an effect of one percent.
        (estimate(0.2, 0.195), estimate(0.003, 0.001), Prediction::Inconclusive),
        // Beyond the effect, and beyond the prediction.
        (estimate(0.2, 0.1), estimate(0.003, 0.001), Prediction::More),
    ] {
        assert_eq!(prediction(measured, predicted), Some(expected), "{measured:?} {predicted:?}");
    }
    assert_eq!(prediction(Estimate { median: 0.05, interval: None }, estimate(0.05, 0.1)), None);
    let point = Estimate { median: 0.05, interval: None };
    assert_eq!(prediction(estimate(0.05, 0.004), point), Some(Prediction::Agrees));
}

#[test]
fn without_an_autoreset_arm_there_is_only_a_prediction() {
    let mut entries = cell("null", 4_000.0, 200.0);
    entries[2].metrics.clear();
    entries[2].reason = Some("no such kernel".to_owned());
    let outcomes = outcomes(&entries);
    assert_eq!((outcomes[0].saved, outcomes[0].verdict(), outcomes[0].reads_saved()), (None, None, 1.0));
    assert!((outcomes[0].predicted.unwrap().median - 0.05).abs() < 0.001);
    assert_eq!(outcomes[0].obstacle.as_deref(), Some("no such kernel"));
}

#[test]
fn a_cell_without_a_dose_takes_t_read_from_the_simplest_cell() {
    let mut entries = cell("null", 4_000.0, 200.0);
    let group = "epoll, null, iodepth 1, busy polling on one CPU (0)";
    let base = Some((1e6, 500.0));
    entries.extend([
        arm(group, "epoll/classic", 1e6, 500.0, 0.01, None),
        arm(group, "epoll/edge", 1e6, 500.0, 0.0, base),
    ]);
    let outcomes = outcomes(&entries);
    assert!((outcomes[1].read_ns.unwrap().median - 200.0).abs() < 1.0);
    assert!(outcomes[1].nothing_to_save() && outcomes[1].predicted.unwrap().median < 0.003);
    assert!(outcomes[1].prediction().unwrap().agrees());
}

#[test]
fn rows_of_something_else_are_no_cells() {
    let mut entries = cell("null", 4_000.0, 200.0);
    for entry in &mut entries {
        entry.group = "one thread, CPU 0".to_owned();
    }
    assert!(outcomes(&entries).is_empty() && outcomes(&[]).is_empty());
}
