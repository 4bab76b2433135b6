//! A campaign: named cases are warmed up, measured in interleaved rounds, and turned into the rows
//! of a report.

use super::growing::Growing;
use super::watch::Watch;
use crate::error::Error;
use crate::measure::{
    Cause, Disturbed, Measured, Plan, Raw, Recording, Sample, analyse, gaps, interleave, settle,
};
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

/// Warms up every case in order, and then visits the available ones in the interleaved rounds of
/// `plan`.
///
/// `warm_up(case)` returns what `visit` needs (a number of repetitions, or a rig that sleeps
/// between its samples), or in the inner error the reason why the case is not available here. The
/// value is kept until the end. `visit(case, warm)` takes a sample. An error of either ends the
/// campaign. Ctrl-C ends it after the current sample and keeps what was measured.
pub(crate) fn run<S: Sample, W>(
    name: &str,
    cases: &[Case],
    plan: Plan,
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
    watch.phase(&format!("{name}: rounds"), 2 * plan.rounds * warm.len());
    let index_of = |group: &str, name: &str| {
        available.iter().position(|&index| cases[index].group == group && cases[index].name == name)
    };
    let compared: Vec<(usize, usize)> = available
        .iter()
        .enumerate()
        .filter_map(|(arm, &index)| {
            let case = &cases[index];
            Some((arm, index_of(&case.group, case.baseline.as_deref()?)?))
        })
        .collect();
    let rounds = plan.rounds;
    let mut growth = Growing::new(plan, compared);
    let (journal, round_now) = (RefCell::new(Journal::new(warm.len())), Cell::new(0));
    // Both closures report to it.
    let watch = RefCell::new(watch);
    let mut recording = interleave(
        warm.len(),
        // Rounds that will be left out are made up for, within limits: intervals need their number.
        |round, recording| {
            let planned = rounds + journal.borrow().disturbed().len().min(rounds / 2);
            let more = growth.another(round, planned, recording);
            if more && round >= planned {
                watch.borrow_mut().more(2 * recording.arms());
            }
            more
        },
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
        let mut rows: Vec<Row> = rows.collect();
        settle_rows(&mut rows);
        rows
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

/// Judges all comparisons of each group so that they hold together. For rows that get more of them
/// after they were collected.
pub(crate) fn settle_rows(rows: &mut [Row]) {
    for group in rows.chunk_by_mut(|a, b| a.group == b.group) {
        let measured = group.iter_mut().filter_map(|row| row.result.as_mut().ok()).flatten();
        settle(measured.filter_map(|one| Some((one.versus.as_mut()?, one.better))));
    }
}

#[cfg(test)]
mod tests;
