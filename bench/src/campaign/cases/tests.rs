use super::*;
use crate::campaign::StepsLeft;
use crate::measure::{Better, Growth, Metric, Verdict};

const SIX: Plan = Plan::new(6, Duration::from_millis(1));

#[derive(Debug)]
struct Cost(f64);

impl Sample for Cost {
    const METRICS: &'static [Metric<Self>] =
        &[Metric { name: "cost", unit: "ns", better: Better::Lower, value: |sample| sample.0 }];
}

fn cases() -> Vec<Case> {
    let case = |name: &str, baseline: Option<&str>| Case {
        group: "group".to_owned(),
        name: name.to_owned(),
        baseline: baseline.map(str::to_owned),
    };
    vec![case("classic", None), case("absent", Some("classic")), case("edge", Some("classic"))]
}

/// The second case is not available; the others cost 100 and 50.
fn campaign(left: usize) -> (Vec<Row>, bool, Vec<(String, usize)>) {
    let mut watch = StepsLeft { left, ..StepsLeft::default() };
    let warm_up = |case| {
        Ok(if case == 1 { Err("no such kernel".to_owned()) } else { Ok(100.0 / (1.0 + case as f64 / 2.0)) })
    };
    let visit = |_, cost: &mut f64| Ok(Cost(*cost));
    let campaign = run("test", &cases(), SIX, &mut watch, warm_up, visit).unwrap();
    (campaign.rows(&cases()), campaign.complete(), watch.phases)
}

#[test]
fn available_cases_are_measured_and_compared() {
    let (rows, complete, phases) = campaign(usize::MAX);
    assert!(complete);
    assert_eq!(phases, [("test: warm-up".to_owned(), 3), ("test: rounds".to_owned(), 24)]);
    assert_eq!(rows[1].result, Err(Missing::Unavailable("no such kernel".to_owned())));
    assert_eq!((rows[0].baseline.as_deref(), rows[2].baseline.as_deref()), (None, Some("classic")));
    let versus = rows[2].metric("cost").unwrap().versus.unwrap();
    assert_eq!((versus.difference.median, versus.verdict), (-50.0, Verdict::Saves));
}

#[test]
fn ctrl_c_in_the_warm_up_leaves_rows_that_say_so() {
    // The first case was warmed up but not visited.
    let (rows, complete, _) = campaign(2);
    assert!(!complete);
    assert!(rows.iter().all(|row| row.result.is_err()));
    assert_eq!(rows[2].result, Err(Missing::Interrupted));
}

#[test]
fn ctrl_c_in_the_rounds_keeps_what_was_finished() {
    // Three steps of warm-up, one whole round of four visits, and one visit more.
    let (rows, complete, _) = campaign(3 + 4 + 2);
    assert!(!complete);
    assert_eq!(rows[0].metric("cost").unwrap().summary.n, 2);
    let edge = rows[2].metric("cost").unwrap();
    assert_eq!((edge.summary.n, edge.versus.unwrap().pairs), (1, 1));
}

#[test]
fn disturbed_rounds_are_reported_and_left_out() {
    let cases = cases();
    // Three steps of warm-up, and four visits in each of six rounds.
    let visit = |round: usize, visit: usize| 1_000 - 3 - 4 * (round - 1) - visit;
    let disturbed_at = |stolen_at: Vec<usize>| {
        let mut watch = StepsLeft { left: 1_000, stolen_at, ..StepsLeft::default() };
        let warm_up = |case| Ok(if case == 1 { Err("no".to_owned()) } else { Ok(()) });
        let campaign = run("test", &cases, SIX, &mut watch, warm_up, |_, ()| Ok(Cost(1.0))).unwrap();
        let summary = campaign.rows(&cases)[0].metric("cost").unwrap().summary;
        (watch.disturbed, summary.n)
    };
    assert_eq!(disturbed_at(Vec::new()), (Vec::new(), 6));
    // Two more rounds make up for two that are left out.
    let (disturbed, n) = disturbed_at(vec![visit(2, 4), visit(6, 3)]);
    assert_eq!(n, 6);
    let expected = Disturbed {
        campaign: "test".to_owned(),
        rounds: 8,
        left_out: true,
        causes: BTreeMap::from([(Cause::Stolen, vec![2, 6])]),
    };
    assert_eq!(disturbed, [expected]);
    // Every round: half as many are added, and all of them count.
    let (disturbed, n) = disturbed_at((0..1_000).collect());
    assert_eq!((disturbed[0].rounds, disturbed[0].left_out, n), (9, false, 9));
}

#[test]
fn a_gap_in_the_clock_disturbs_its_round() {
    let mut watch = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
    let mut visits = 0;
    let visit = |_, &mut (): &mut ()| {
        visits += 1;
        std::thread::sleep(Duration::from_millis(if visits == 7 { 200 } else { 1 }));
        Ok(Cost(1.0))
    };
    let cases = &cases()[..1];
    let campaign = run("test", cases, SIX, &mut watch, |_| Ok(Ok(())), visit).unwrap();
    // Two visits a round: the seventh is in the fourth. A busy machine may add others.
    let causes = &watch.disturbed[0].causes;
    assert!(causes[&Cause::Gap].contains(&4), "{causes:?}");
    let summary = campaign.rows(cases)[0].metric("cost").unwrap().summary;
    assert!(summary.n < watch.disturbed[0].rounds, "{summary:?}");
}

#[test]
fn a_baseline_that_is_not_available_is_none() {
    let mut cases = cases();
    cases[2].baseline = Some("absent".to_owned());
    let mut watch = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
    let warm_up = |case| Ok(if case == 1 { Err("no".to_owned()) } else { Ok(()) });
    let campaign = run("test", &cases, SIX, &mut watch, warm_up, |_, ()| Ok(Cost(1.0))).unwrap();
    let rows = campaign.rows(&cases);
    assert_eq!(rows[2].baseline, None);
    assert!(rows[2].metric("cost").unwrap().versus.is_none());
}

#[test]
fn errors_end_a_campaign() {
    let broken = || Error::Failed("broken".to_owned());
    let mut watch = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
    let warm =
        run("test", &cases(), SIX, &mut watch, |_| Err::<Result<(), _>, _>(broken()), |_, ()| Ok(Cost(1.0)));
    assert_eq!(warm.unwrap_err().to_string(), "broken");
    let visits = run("test", &cases(), SIX, &mut watch, |_| Ok(Ok(())), |_, ()| Err::<Cost, _>(broken()));
    assert_eq!(visits.unwrap_err().to_string(), "broken");
}

/// The arms differ, give or take some percent, so a narrow interval needs more than six rounds.
#[test]
fn rounds_are_added_until_the_precision_is_reached_or_time_is_over() {
    let rounds = |growth: Growth| {
        let mut watch = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
        let mut visits = 0;
        let visit = |_, cost: &mut f64| {
            visits += 1;
            Ok(Cost(*cost * (1.0 + 0.02 * f64::from(visits % 7 - 3) / 3.0)))
        };
        let plan = Plan { growth, ..SIX };
        let campaign = run(
            "test",
            &cases(),
            plan,
            &mut watch,
            |case| Ok(if case == 1 { Err("no".to_owned()) } else { Ok(100.0 - case as f64) }),
            visit,
        )
        .unwrap();
        let wide = campaign.rows(&cases())[2].metric("cost").unwrap().versus.unwrap().ratio.unwrap();
        (campaign.recording.rounds(), wide.interval.unwrap(), watch.more)
    };
    let (six, wide, more) = rounds(Growth::default());
    assert_eq!((six, more), (6, 0));
    let precision = (wide.high - wide.low) * 0.7;
    let (grown, narrow, more) = rounds(Growth { precision: Some(precision), time_per_arm: None });
    assert!(grown > 6 && narrow.high - narrow.low <= precision, "{grown} rounds: {narrow:?}");
    assert_eq!(more, 4 * (grown - 6));
    // What cannot be reached ends, too.
    let (most, ..) = rounds(Growth { precision: Some(0.0), time_per_arm: None });
    assert_eq!(most, 6 * 20);
    let over = Growth { precision: Some(0.0), time_per_arm: Some(Duration::ZERO) };
    assert_eq!(rounds(over).0, 6);
}
