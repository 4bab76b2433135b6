use super::*;
use crate::measure::{Better, Comparison, Summary};
use crate::report::saved::SavedMetric;

/// One arm: IOPS, device CPU and reads per request, and the ratio and difference against the classic arm, with a half-width.
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
    Entry { group: group.to_owned(), case: case.to_owned(), reason: None, metrics }
}

/// A cell of epoll in which a read costs 200 ns of `iteration_ns`, and leaving it out saves `saved_ns`.
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

#[test]
fn a_cell_predicts_what_one_read_more_has_cost() {
    let outcomes = outcomes(&cell("null", 4_000.0, 200.0));
    let [only] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert!((only.iteration_us - 4.0).abs() < 1e-9);
    assert!((only.read_ns.unwrap().median - 200.0).abs() < 1.0, "{:?}", only.read_ns);
    assert!((only.predicted.unwrap().median - 0.05).abs() < 0.001, "{:?}", only.predicted);
    assert!((only.saved.unwrap().median - 0.05).abs() < 0.001, "{:?}", only.saved);
    assert!((only.cpu_saved_ns.unwrap().median - 200.0).abs() < 1.0);
    assert_eq!((only.reads_saved(), only.verdict()), (1.0, Some(Verdict::Reproduced)));
    assert_eq!(only.cpu_verdict(), Some(Verdict::Reproduced));
    assert!(only.is_swept() && only.on_one_cpu() && !only.nothing_to_save());
}

#[test]
fn what_is_outside_the_prediction_is_more_or_less() {
    let verdict_of = |saved_ns| outcomes(&cell("null", 4_000.0, saved_ns))[0].verdict();
    assert_eq!(verdict_of(400.0), Some(Verdict::More));
    assert_eq!(verdict_of(50.0), Some(Verdict::Less));
}

#[test]
fn a_saving_below_the_noise_is_not_called_found() {
    // 0.02 % of a millisecond, and a noise of 0.2 %.
    let outcomes = outcomes(&cell("spin 100us", 1_000_000.0, 200.0));
    assert_eq!(outcomes[0].verdict(), Some(Verdict::WithinNoise));
}

#[test]
fn intervals_that_meet_agree() {
    let estimate = |median: f64, half: f64| Estimate {
        median,
        interval: Some(Interval { low: median - half, high: median + half }),
    };
    assert_eq!(verdict(estimate(0.05, 0.01), estimate(0.065, 0.01)), Some(Verdict::Reproduced));
    assert_eq!(verdict(estimate(0.05, 0.01), estimate(0.065, 0.001)), Some(Verdict::Less));
    assert_eq!(verdict(Estimate { median: 0.05, interval: None }, estimate(0.05, 0.1)), None);
    let point = Estimate { median: 0.05, interval: None };
    assert_eq!(verdict(estimate(0.05, 0.01), point), Some(Verdict::Reproduced));
}

#[test]
fn without_an_arm_that_does_not_read_there_is_a_prediction_alone() {
    let mut entries = cell("null", 4_000.0, 200.0);
    entries[2].metrics.clear();
    entries[2].reason = Some("no such kernel".to_owned());
    let outcomes = outcomes(&entries);
    assert_eq!((outcomes[0].saved, outcomes[0].verdict(), outcomes[0].reads_saved()), (None, None, 1.0));
    assert!((outcomes[0].predicted.unwrap().median - 0.05).abs() < 0.001);
    assert_eq!(outcomes[0].obstacle.as_deref(), Some("no such kernel"));
}

#[test]
fn a_cell_without_a_dose_takes_the_read_of_its_loops_simplest_cell() {
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
    assert!(outcomes[1].verdict().unwrap().agrees());
}

#[test]
fn rows_of_something_else_are_no_cells() {
    let mut entries = cell("null", 4_000.0, 200.0);
    for entry in &mut entries {
        entry.group = "one thread, CPU 0".to_owned();
    }
    assert!(outcomes(&entries).is_empty() && outcomes(&[]).is_empty());
}
