//! The model: a read(2) costs t_read and an iteration takes t_iter, so leaving the read out saves
//! at most t_read / t_iter of it. What each cell predicts and what it measured. Pure functions of
//! a report's rows.
//!
//! * t_iter is the time per request of the classic arm, the inverse of its IOPS.
//! * t_read is measured in place: the growth of the device's CPU time per request when the loop
//!   reads once more, round by round (`rig/dose.rs`). If that is below the noise, t_read is taken
//!   from the simplest cell of the same loop.
//! * The prediction is t_read times the reads that autoreset saves per request, divided by t_iter.
//!   It has the interval of t_read.
//! * The measured saving is 1 - IOPS classic / IOPS autoreset, paired by round.
//! * Edge triggering saves more than the read: the cost of watching the doorbell level-triggered.
//!   It is measured in the simplest cell of a loop, as the difference in the device's CPU time
//!   between the classic arm and the edge-triggered arm with the same read. It is not part of the
//!   prediction; cells that saved more are compared with it.

use super::cell::{Cell, and_its_read};
use crate::measure::{Better, Estimate, Interval, Verdict, hold_together, is_narrow};
use crate::report::number::{number, signed};
use crate::report::saved::Entry;

/// Fewer reads per request than this cannot be distinguished from none.
const HARDLY_ANY: f64 = 0.1;

/// In the row of the edge-triggered arm with a read: the device CPU of the same rounds without the
/// read, compared with that row.
pub(crate) const UNREAD_CPU_NS: &str = "unread_cpu_ns";

/// The result of one cell.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) cell: Cell,
    /// Where its threads ran.
    pub(crate) place: String,
    /// t_iter, per request, in the classic arm.
    pub(crate) iteration_us: f64,
    pub(crate) classic: Counts,
    /// `None` where this machine has no arm that does not read.
    pub(crate) autoreset: Option<Counts>,
    /// t_read in place.
    pub(crate) read_ns: Option<Estimate>,
    /// t_read is taken from another cell: in this one it was below the noise, or not measured.
    pub(crate) read_is_borrowed: bool,
    /// What level triggering costs per doorbell, in the device's CPU time. `None` for a loop
    /// without edge triggering, and in a report without the arm that measures it.
    pub(crate) level_ns: Option<Estimate>,
    /// It is taken from the simplest cell.
    pub(crate) level_is_borrowed: bool,
    /// Another estimate of t_read: what the read costs in an edge-triggered arm, in this cell or in
    /// the loop's simplest.
    pub(crate) own_read_ns: Option<Estimate>,
    /// Share of t_iter.
    pub(crate) predicted: Option<Estimate>,
    /// Share of t_iter.
    pub(crate) saved: Option<Estimate>,
    /// Rounds in which both arms of that were measured.
    pub(crate) pairs: usize,
    /// The verdict on the saving, beside those of all other cells.
    verdict: Option<Verdict>,
    /// Device CPU per request.
    pub(crate) cpu_predicted_ns: Option<Estimate>,
    pub(crate) cpu_saved_ns: Option<Estimate>,
    /// What one more read costs, as a share of t_iter: an estimate of the saving if no arm without
    /// the read was measured.
    pub(crate) dose_cost: Option<Estimate>,
    /// Why there is no autoreset arm.
    pub(crate) obstacle: Option<String>,
}

/// Per request, as counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    pub(crate) reads: f64,
    pub(crate) syscalls: f64,
    pub(crate) kicks: f64,
}

/// How what was measured compares with what was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prediction {
    /// The intervals overlap, and the measured one is no wider than the effect that is asked about.
    Agrees,
    /// The measured interval is above the predicted one.
    More,
    Less,
    /// The measured interval is too wide to tell: its verdict is inconclusive, or it agrees only
    /// because it is wider than the effect that is asked about.
    Inconclusive,
}

impl Prediction {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Agrees => "as predicted",
            Self::More => "more",
            Self::Less => "less",
            Self::Inconclusive => "inconclusive",
        }
    }

    pub(crate) fn agrees(self) -> bool {
        self == Self::Agrees
    }
}

/// Compares shares of t_iter. `None` if the rounds were too few for an interval.
pub(crate) fn prediction(measured: Estimate, predicted: Estimate) -> Option<Prediction> {
    let interval = measured.interval?;
    let predicted = predicted.interval.unwrap_or(Interval { low: predicted.median, high: predicted.median });
    Some(if Verdict::on_share(measured) == Verdict::Inconclusive {
        Prediction::Inconclusive
    } else if interval.low > predicted.high {
        Prediction::More
    } else if interval.high < predicted.low {
        Prediction::Less
    } else if is_narrow(interval) {
        Prediction::Agrees
    } else {
        Prediction::Inconclusive
    })
}

impl Outcome {
    /// Whether an iteration is shorter without the read. `None` if that was not measured.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The saving of the time against its prediction.
    pub(crate) fn prediction(&self) -> Option<Prediction> {
        prediction(self.saved?, self.predicted?)
    }

    /// The saving of the device's CPU time against its prediction.
    pub(crate) fn cpu_prediction(&self) -> Option<Prediction> {
        self.of_cpu(self.cpu_predicted_ns?)
    }

    /// The saving of the device's CPU time against a prediction. Both become shares of t_iter, of
    /// which one percent is asked about.
    fn of_cpu(&self, predicted_ns: Estimate) -> Option<Prediction> {
        let iteration_ns = self.iteration_us * 1e3;
        let share = |ns: Estimate| ns.map(|ns| ns / iteration_ns);
        prediction(share(self.cpu_saved_ns?), share(predicted_ns))
    }

    /// The saving of the device's CPU time that is predicted from the reads and level triggering
    /// together.
    pub(crate) fn cpu_with_level_ns(&self) -> Option<Estimate> {
        let reads = self.reads_saved();
        Some(sum(self.cpu_predicted_ns?, self.level_ns?.map(|ns| ns * reads)))
    }

    /// The saving of the time against that of read and level.
    pub(crate) fn prediction_with_level(&self) -> Option<Prediction> {
        let iteration_ns = self.iteration_us * 1e3;
        prediction(self.saved?, self.cpu_with_level_ns()?.map(|ns| ns / iteration_ns))
    }

    /// The saving of the device's CPU time against that of read and level.
    pub(crate) fn cpu_prediction_with_level(&self) -> Option<Prediction> {
        self.of_cpu(self.cpu_with_level_ns()?)
    }

    /// Returns true if more of the device's CPU time was saved than the read takes, and as much as
    /// read and level take together.
    pub(crate) fn cpu_is_with_level(&self) -> bool {
        self.cpu_prediction() == Some(Prediction::More)
            && self.cpu_prediction_with_level().is_some_and(Prediction::agrees)
    }

    /// Returns true if the device's CPU time does not contradict the sum of the level and of t_read
    /// from the edge-triggered arms of the simplest cell. That t_read differs if a second read in a
    /// row costs less than the only one.
    pub(crate) fn cpu_agrees_by_edges(&self) -> bool {
        let by_edges = self.own_read_ns.zip(self.level_ns).map(|(read_ns, level_ns)| sum(read_ns, level_ns));
        let agrees = |by_edges: Estimate| {
            let reads = self.reads_saved();
            let prediction = self.of_cpu(by_edges.map(|ns| ns * reads))?;
            Some(!matches!(prediction, Prediction::More | Prediction::Less))
        };
        by_edges.and_then(agrees).unwrap_or(false)
    }

    /// Reads saved per request; all of them if no arm without the read could be measured.
    pub(crate) fn reads_saved(&self) -> f64 {
        self.classic.reads - self.autoreset.map_or(0.0, |counts| counts.reads)
    }

    /// Returns true if there was hardly a read to save.
    pub(crate) fn nothing_to_save(&self) -> bool {
        self.classic.reads < HARDLY_ANY
    }

    /// The cell and its place, as in the report's tables.
    pub(crate) fn name(&self) -> String {
        format!("{} on {}", self.cell, self.place)
    }

    /// The same without "iodepth 1", which most cells have in common.
    pub(crate) fn short_name(&self) -> String {
        let name = self.cell.to_string();
        let name = if self.cell.iodepth == 1 { name.replace(", iodepth 1", "") } else { name };
        format!("{name} on {}", self.place)
    }

    /// t_read in nanoseconds, with a `~` if it is taken from another cell.
    pub(crate) fn read_words(&self) -> String {
        let mark = if self.read_is_borrowed { "~" } else { "" };
        self.read_ns.map(|read_ns| format!("{mark}{}", number(read_ns.median))).unwrap_or_default()
    }

    /// What level triggering costs per request in nanoseconds, with a `~` if it is taken from
    /// another cell.
    pub(crate) fn level_words(&self) -> String {
        let mark = if self.level_is_borrowed { "~" } else { "" };
        let level_ns = self.level_ns.filter(|_| self.cpu_saved_ns.is_some());
        level_ns.map(|ns| format!("{mark}{}", signed(ns.median * self.reads_saved()))).unwrap_or_default()
    }

    pub(crate) fn on_one_cpu(&self) -> bool {
        self.place.starts_with("one ")
    }

    /// Returns true for cells of the sweep: one request in flight, one kick per request.
    pub(crate) fn is_swept(&self) -> bool {
        self.cell.disk.is_swept() && self.cell.iodepth == 1 && self.cell.event_idx && !self.cell.busy_poll
    }
}

/// The outcomes of all cells of a report whose classic arm was measured, in its order.
pub(crate) fn outcomes(entries: &[Entry]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> =
        entries.chunk_by(|a, b| a.group == b.group).filter_map(outcome).collect();
    // If no read was added, or its cost is below the noise, use the cost in the simplest cell of
    // that loop.
    let simplest: Vec<Outcome> =
        outcomes.iter().filter(|outcome| outcome.cell.is_simplest()).cloned().collect();
    for outcome in &mut outcomes {
        if !outcome.read_ns.as_ref().is_some_and(told) {
            let of_another_loop = || simplest.iter().find_map(|other| other.read_ns.filter(told));
            if let Some(read_ns) = lent(&simplest, outcome, |other| other.read_ns).or_else(of_another_loop) {
                (outcome.read_ns, outcome.read_is_borrowed) = (Some(read_ns), true);
            }
        }
        // The cost of level triggering in one loop says nothing about another loop.
        if !outcome.level_ns.as_ref().is_some_and(told)
            && let Some(level_ns) = lent(&simplest, outcome, |other| other.level_ns)
        {
            (outcome.level_ns, outcome.level_is_borrowed) = (Some(level_ns), true);
        }
        if !outcome.own_read_ns.as_ref().is_some_and(told) {
            outcome.own_read_ns = lent(&simplest, outcome, |other| other.own_read_ns).or(outcome.own_read_ns);
        }
    }
    let saved: Vec<(Estimate, usize)> =
        outcomes.iter().filter_map(|outcome| Some((outcome.saved?, outcome.pairs))).collect();
    let mut hold = hold_together(&saved).into_iter();
    for outcome in &mut outcomes {
        let Some(saved) = outcome.saved else { continue };
        outcome.verdict = Some(match (Verdict::on_share(saved), hold.next()) {
            (verdict, Some(false)) if verdict.is_effect() => Verdict::Inconclusive,
            (verdict, _) => verdict,
        });
    }
    for outcome in &mut outcomes {
        let reads = outcome.reads_saved();
        outcome.cpu_predicted_ns = outcome.read_ns.map(|read_ns| read_ns.map(|ns| ns * reads));
        let iteration_ns = outcome.iteration_us * 1e3;
        outcome.predicted = outcome.cpu_predicted_ns.map(|cpu_ns| cpu_ns.map(|ns| ns / iteration_ns));
    }
    outcomes
}

/// Returns true if the estimate is known to be positive.
fn told(estimate: &Estimate) -> bool {
    estimate.interval.is_some_and(|interval| interval.low > 0.0)
}

/// The estimate of the simplest cell of the same loop, preferably at the same place.
fn lent(simplest: &[Outcome], to: &Outcome, what: impl Fn(&Outcome) -> Option<Estimate>) -> Option<Estimate> {
    let known = || {
        let of_its_loop = simplest.iter().filter(|other| other.cell.monitor == to.cell.monitor);
        of_its_loop.filter_map(|other| Some((&other.place, what(other).filter(told)?)))
    };
    let nearest = known().find(|(place, _)| **place == to.place).or_else(|| known().next());
    nearest.map(|(_, estimate)| estimate)
}

fn outcome(group: &[Entry]) -> Option<Outcome> {
    let (cell, place) = Cell::parse(&group.first()?.group)?;
    let find = |case: &str| group.iter().find(|entry| entry.case == case && !entry.metrics.is_empty());
    let classic = find(&cell.classic())?;
    let autoreset = cell.autoreset().map(|arm| arm.to_string());
    let measured = autoreset.as_deref().and_then(find);
    let iops = classic.median("iops").filter(|iops| *iops > 0.0)?;
    let read_edge = cell.edge().and_then(|edge| find(&and_its_read(edge)));
    let obstacle = group.iter().find(|entry| Some(&entry.case) == autoreset.as_ref());
    Some(Outcome {
        cell,
        place: place.to_owned(),
        iteration_us: 1e6 / iops,
        classic: counts(classic)?,
        autoreset: measured.and_then(counts),
        read_ns: find(&cell.dosed()).and_then(|dosed| read_in_place(classic, dosed)),
        read_is_borrowed: false,
        level_ns: read_edge.and_then(level),
        level_is_borrowed: false,
        own_read_ns: read_edge.and_then(|with| own_read(with, measured?)),
        predicted: None,
        saved: measured
            .and_then(|entry| entry.versus("iops")?.ratio)
            .map(|ratio| crate::measure::saved(ratio, Better::Higher)),
        pairs: measured.and_then(|entry| entry.versus("iops")).map_or(0, |versus| versus.pairs),
        verdict: None,
        cpu_predicted_ns: None,
        dose_cost: find(&cell.dosed())
            .and_then(|dosed| dosed.versus("iops")?.ratio)
            .map(|ratio| ratio.map(|ratio| 1.0 / ratio - 1.0)),
        cpu_saved_ns: measured
            .and_then(|entry| Some(entry.versus("device_cpu_ns")?.difference.map(|change| -change))),
        obstacle: obstacle.and_then(|entry| entry.reason.clone()),
    })
}

fn counts(entry: &Entry) -> Option<Counts> {
    let median = |name| entry.median(name);
    Some(Counts { reads: median("reads")?, syscalls: median("syscalls")?, kicks: median("kicks")? })
}

/// The device CPU of one more read, divided by the number of additional reads.
fn read_in_place(classic: &Entry, dosed: &Entry) -> Option<Estimate> {
    let more = dosed.median("reads")? - classic.median("reads")?;
    let difference = dosed.versus("device_cpu_ns")?.difference;
    (more >= HARDLY_ANY).then(|| difference.map(|ns| ns / more))
}

/// The device CPU that the edge-triggered arm with the read saves against the classic arm, divided
/// by the reads that both make.
fn level(read_edge: &Entry) -> Option<Estimate> {
    let reads = read_edge.median("reads")?;
    let difference = read_edge.versus("device_cpu_ns")?.difference;
    (reads >= HARDLY_ANY).then(|| difference.map(|ns| -ns / reads))
}

/// The device CPU that the edge-triggered arm with the read takes more than the one without.
fn own_read(read_edge: &Entry, edge: &Entry) -> Option<Estimate> {
    let more = read_edge.median("reads")? - edge.median("reads")?;
    let difference = read_edge.versus(UNREAD_CPU_NS)?.difference;
    (more >= HARDLY_ANY).then(|| difference.map(|ns| -ns / more))
}

/// The sum of two estimates, assuming independent errors. Those of t_read and of the level share
/// the classic arm with opposite signs, so their sum is known a little better than this.
fn sum(a: Estimate, b: Estimate) -> Estimate {
    let median = a.median + b.median;
    let interval = a.interval.zip(b.interval).map(|(i, j)| Interval {
        low: median - (a.median - i.low).hypot(b.median - j.low),
        high: median + (i.high - a.median).hypot(j.high - b.median),
    });
    Estimate { median, interval }
}

#[cfg(test)]
pub(crate) mod tests;
