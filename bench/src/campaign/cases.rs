//! A campaign: named cases are warmed up, measured in interleaved rounds, and turned into the rows
//! of a report.

use super::watch::Watch;
use crate::error::Error;
use crate::measure::{Cause, Disturbed, Measured, Raw, Recording, Sample, analyse, gaps, interleave};
use crate::report::{Missing, Report, Row};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// One row of the report to be.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The table that it belongs to.
    pub(crate) group: String,
    pub(crate) name: String,
    /// The case of the same group that it is compared with.
    pub(crate) baseline: Option<String>,
}

/// What was measured of a list of cases.
#[derive(Debug)]
pub(crate) struct Campaign<S> {
    /// For each case the index of its arm in the recording, or the reason why it was not measured.
    arms: Vec<Result<usize, Missing>>,
    recording: Recording<S>,
}

/// Warms up every case in order, and then visits the available ones in `rounds` interleaved rounds.
///
/// `warm_up(case)` returns what `visit` needs (a number of repetitions, or a rig that sleeps
/// between its samples), or in the inner error the reason why the case is not available here. The
/// value is kept until the end. `visit(case, warm)` takes a sample. An error of either ends the
/// campaign. Ctrl-C ends it after the current sample and keeps what was measured.
pub(crate) fn run<S, W>(
    name: &str,
    cases: &[Case],
    rounds: usize,
    watch: &mut impl Watch,
    mut warm_up: impl FnMut(usize) -> Result<Result<W, String>, Error>,
    mut visit: impl FnMut(usize, &mut W) -> Result<S, Error>,
) -> Result<Campaign<S>, Error> {
    watch.phase(&format!("{name}: warm-up"), cases.len());
    let mut arms = Vec::with_capacity(cases.len());
    let (mut available, mut warm) = (Vec::new(), Vec::new());
    for (index, case) in cases.iter().enumerate() {
        if watch.stopped() {
            arms.push(Err(Missing::Interrupted));
            continue;
        }
        watch.step(&case.name);
        arms.push(warm_up(index)?.map_err(Missing::Unavailable).map(|state| {
            available.push(index);
            warm.push(state);
            warm.len() - 1
        }));
    }
    watch.phase(&format!("{name}: rounds"), 2 * rounds * warm.len());
    let (journal, round_now) = (RefCell::new(Journal::new(warm.len())), Cell::new(0));
    // Both closures report to it.
    let watch = RefCell::new(watch);
    let mut recording = interleave(
        warm.len(),
        // Rounds that will be left out are made up for, within limits: intervals need their number.
        |round| round < rounds + journal.borrow().disturbed().len().min(rounds / 2),
        |round, arm| {
            let mut watch = watch.borrow_mut();
            watch.step(&cases[available[arm]].name);
            round_now.set(round);
            // What happened between the samples does not matter.
            watch.look();
            !watch.stopped()
        },
        |arm| {
            let begin = Instant::now();
            let sample = visit(available[arm], &mut warm[arm])?;
            journal.borrow_mut().note(round_now.get(), arm, begin.elapsed(), watch.borrow_mut().look());
            Ok(sample)
        },
    )?;
    let watch = watch.into_inner();
    if let Some(disturbed) = journal.into_inner().close(name, &mut recording) {
        watch.disturbed(disturbed);
    }
    watch.end();
    Ok(Campaign { arms, recording })
}

/// What disturbed the rounds, and how long each visit took.
#[derive(Debug)]
struct Journal {
    causes: BTreeMap<Cause, BTreeSet<usize>>,
    /// By arm: round and time of each visit.
    times: Vec<Vec<(usize, Duration)>>,
}

impl Journal {
    fn new(arms: usize) -> Self {
        Self { causes: BTreeMap::new(), times: vec![Vec::new(); arms] }
    }

    fn note(&mut self, round: usize, arm: usize, time: Duration, causes: Vec<Cause>) {
        self.times[arm].push((round, time));
        for cause in causes {
            self.causes.entry(cause).or_default().insert(round);
        }
    }

    /// The rounds that were disturbed so far.
    fn disturbed(&self) -> BTreeSet<usize> {
        let gaps = self.gaps();
        self.causes.values().chain([&gaps]).flatten().copied().collect()
    }

    /// The rounds with a gap and no other cause.
    fn gaps(&self) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for visits in &self.times {
            let times: Vec<Duration> = visits.iter().map(|(_, time)| *time).collect();
            found.extend(gaps(&times).into_iter().map(|visit| visits[visit].0));
        }
        found.retain(|round| !self.causes.values().any(|rounds| rounds.contains(round)));
        found
    }

    /// Leaves the disturbed rounds out of the recording. `None` if there are none.
    fn close<S>(mut self, name: &str, recording: &mut Recording<S>) -> Option<Disturbed> {
        let (disturbed, gaps) = (self.disturbed(), self.gaps());
        if !gaps.is_empty() {
            self.causes.insert(Cause::Gap, gaps);
        }
        if disturbed.is_empty() {
            return None;
        }
        let numbers = |rounds: &BTreeSet<usize>| rounds.iter().map(|round| round + 1).collect();
        Some(Disturbed {
            campaign: name.to_owned(),
            rounds: recording.rounds(),
            left_out: recording.leave_out(disturbed),
            causes: self.causes.iter().map(|(cause, rounds)| (*cause, numbers(rounds))).collect(),
        })
    }
}

/// The rows of one campaign or of several, and whether every sample was taken.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) rows: Vec<Row>,
    pub(crate) complete: bool,
}

impl Collected {
    /// The rows of no campaign.
    pub(crate) fn nothing() -> Self {
        Self { rows: Vec::new(), complete: true }
    }

    /// Puts the rows of `more` below these.
    pub(crate) fn extend(&mut self, more: Self) {
        self.rows.extend(more.rows);
        self.complete &= more.complete;
    }

    /// The report of a subcommand whose tables and sentences follow from the rows alone.
    pub(crate) fn report(
        self,
        benchmark: &'static str,
        colour: bool,
        tables: fn(&[Row], bool) -> String,
        conclusions: fn(&[Row]) -> Vec<String>,
    ) -> Report {
        let Self { rows, complete } = self;
        let (text, conclusions) = (tables(&rows, colour), conclusions(&rows));
        Report { benchmark, workload: None, rows, text, conclusions, complete }
    }
}

impl<S: Sample> Campaign<S> {
    /// One row for each of `cases`, the same that the campaign ran.
    pub(crate) fn collect(&self, cases: &[Case]) -> Collected {
        Collected { rows: self.rows(cases), complete: self.complete() }
    }

    /// Whether every sample was taken.
    fn complete(&self) -> bool {
        self.recording.complete && !self.arms.iter().any(|arm| arm == &Err(Missing::Interrupted))
    }

    /// One row for each of `cases`. A baseline that is not available is none.
    fn rows(&self, cases: &[Case]) -> Vec<Row> {
        let rows = cases.iter().zip(&self.arms).map(|(case, own)| {
            let baseline = case.baseline.as_deref().and_then(|name| self.arm(cases, &case.group, name));
            let metrics = own.clone().and_then(|own| match analyse(&self.recording, own, baseline) {
                metrics if metrics.is_empty() => Err(Missing::Interrupted),
                metrics => Ok(metrics),
            });
            Row {
                group: case.group.clone(),
                case: case.name.clone(),
                baseline: baseline.and(case.baseline.clone()),
                result: metrics,
                raw: own.as_ref().map(|own| Raw::of(&self.recording, *own)).unwrap_or_default(),
            }
        });
        rows.collect()
    }

    /// The arm of case `name` of `group`, if it was available.
    fn arm(&self, cases: &[Case], group: &str, name: &str) -> Option<usize> {
        let index = cases.iter().position(|case| case.group == group && case.name == name)?;
        self.arms.get(index)?.as_ref().ok().copied()
    }

    /// The metrics of case `arm` of `group` against case `baseline` of it, whichever baseline it
    /// has as a row. Empty unless both were measured.
    pub(crate) fn versus(&self, cases: &[Case], group: &str, arm: &str, baseline: &str) -> Vec<Measured> {
        match (self.arm(cases, group, arm), self.arm(cases, group, baseline)) {
            (Some(arm), Some(baseline)) => analyse(&self.recording, arm, Some(baseline)),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::StepsLeft;
    use crate::measure::{Better, Metric, Verdict};

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
            Ok(if case == 1 {
                Err("no such kernel".to_owned())
            } else {
                Ok(100.0 / (1.0 + case as f64 / 2.0))
            })
        };
        let visit = |_, cost: &mut f64| Ok(Cost(*cost));
        let campaign = run("test", &cases(), 6, &mut watch, warm_up, visit).unwrap();
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
            let campaign = run("test", &cases, 6, &mut watch, warm_up, |_, ()| Ok(Cost(1.0))).unwrap();
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
        let campaign = run("test", cases, 6, &mut watch, |_| Ok(Ok(())), visit).unwrap();
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
        let campaign = run("test", &cases, 6, &mut watch, warm_up, |_, ()| Ok(Cost(1.0))).unwrap();
        let rows = campaign.rows(&cases);
        assert_eq!(rows[2].baseline, None);
        assert!(rows[2].metric("cost").unwrap().versus.is_none());
    }

    #[test]
    fn errors_end_a_campaign() {
        let broken = || Error::Failed("broken".to_owned());
        let mut watch = StepsLeft { left: usize::MAX, ..StepsLeft::default() };
        let warm = run(
            "test",
            &cases(),
            6,
            &mut watch,
            |_| Err::<Result<(), _>, _>(broken()),
            |_, ()| Ok(Cost(1.0)),
        );
        assert_eq!(warm.unwrap_err().to_string(), "broken");
        let visits = run("test", &cases(), 6, &mut watch, |_| Ok(Ok(())), |_, ()| Err::<Cost, _>(broken()));
        assert_eq!(visits.unwrap_err().to_string(), "broken");
    }
}
