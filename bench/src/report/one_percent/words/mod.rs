//! The conclusions, in sentences. Pure functions of the outcomes.

use super::cell::Disk;
use super::explain::{explain, of_a_level, unexplained_ns};
use super::figures::{estimate, nanoseconds, share};
use super::lab::Savings;
use super::model::{Outcome, Prediction};
use crate::arm::Monitor;
use crate::measure::{ASKED, Estimate, Interval, Verdict};
use crate::report::number::{fixed, number};
use crate::report::saved::obstacle;

/// The proposal's claim: 1 us of an iteration of 100 us.
pub(crate) const PROPOSED_ITERATION_US: f64 = 100.0;
pub(crate) const PROPOSED_SHARE: f64 = ASKED;

/// The sentences, the answer first.
pub(crate) fn conclusions(outcomes: &[Outcome], lab: &[Savings]) -> Vec<String> {
    let sentences = [
        answer(outcomes),
        price(outcomes),
        parts(outcomes),
        reached(outcomes),
        verdicts(outcomes),
        nothing(outcomes),
        busy(outcomes),
        of_2020(outcomes),
        agreement(outcomes),
        instructions(lab),
    ];
    sentences.into_iter().flatten().chain(explained(outcomes)).collect()
}

/// The cells outside their predictions. Those with the same explanation share a sentence.
fn explained(outcomes: &[Outcome]) -> Vec<String> {
    let mut reasons: Vec<(Prediction, String, Vec<String>)> = Vec::new();
    for outcome in outcomes {
        let (Some(verdict), Some(why)) = (outcome.prediction(), explain(outcome)) else { continue };
        let (Some(saved), Some(predicted)) = (outcome.saved, outcome.predicted) else { continue };
        let rest = unexplained_ns(outcome).map(|ns| {
            let side = if ns > 0.0 { "more" } else { "less" };
            format!(" ({} ns of CPU {side} than read and level triggering)", number(ns.abs()))
        });
        let cell = format!(
            "{}, {} instead of {}{}",
            outcome.short_name(),
            estimate(saved),
            share(predicted.median),
            rest.unwrap_or_default()
        );
        match reasons.iter_mut().find(|(same, reason, _)| *same == verdict && *reason == why) {
            Some((.., cells)) => cells.push(cell),
            None => reasons.push((verdict, why, vec![cell])),
        }
    }
    let sentence = |(verdict, why, cells): (Prediction, String, Vec<String>)| {
        let word = if verdict == Prediction::More { "More" } else { "Less" };
        format!("{word} than predicted: {}. {why}.", cells.join("; "))
    };
    reasons.into_iter().map(sentence).collect()
}

/// The sweep of one loop, in which 1% is searched.
pub(crate) fn curve(outcomes: &[Outcome], monitor: Monitor, one_cpu: bool) -> Vec<&Outcome> {
    let mut curve: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.is_swept() && !matches!(outcome.cell.disk, Disk::Sleep(_)))
        .filter(|outcome| outcome.cell.monitor == monitor && outcome.on_one_cpu() == one_cpu)
        .collect();
    curve.sort_by(|a, b| a.iteration_us.total_cmp(&b.iteration_us));
    curve
}

/// The cell whose t_read is the answer: the simplest one.
pub(crate) fn reference(outcomes: &[Outcome]) -> Option<&Outcome> {
    let null = |outcome: &&Outcome| {
        outcome.is_swept() && outcome.cell.disk == Disk::Null && outcome.read_ns.is_some()
    };
    let of = |monitor| outcomes.iter().filter(null).find(move |outcome| outcome.cell.monitor == monitor);
    of(Monitor::Epoll).or_else(|| of(Monitor::IoUring)).or_else(|| of(Monitor::Poll))
}

/// The cell that the question is about: the iteration of the proposal.
pub(crate) fn asked(outcomes: &[Outcome]) -> Option<&Outcome> {
    let monitor = reference(outcomes)?.cell.monitor;
    let at = |outcome: &&Outcome| outcome.cell.disk == Disk::Spin(100) && outcome.saved.is_some();
    curve(outcomes, monitor, true).into_iter().find(at)
}

/// What leaving the read out saves of the proposal's iteration, and whether that is one percent.
fn answer(outcomes: &[Outcome]) -> Option<String> {
    let at = asked(outcomes)?;
    let (saved, verdict) = (at.saved?, at.verdict()?);
    let size = match saved.interval {
        None => "there were too few rounds for an interval".to_owned(),
        Some(interval) => {
            let asked = format!("{}%", fixed(PROPOSED_SHARE * 100.0, 0));
            let size = match interval {
                Interval { low, .. } if low >= PROPOSED_SHARE => format!("at least {asked}"),
                Interval { high, .. } if high < PROPOSED_SHARE => format!("less than {asked}"),
                _ => format!("{asked} is possible and so is less"),
            };
            format!("95% interval {} to {}: {size}", share(interval.low), share(interval.high))
        }
    };
    Some(format!(
        "Of an iteration of {} us, as in the proposal, leaving out the read(2) saves {} ({size}). Verdict: {verdict}.",
        number(at.iteration_us),
        share(saved.median),
    ))
}

/// What a read costs, and what follows from that by arithmetic.
fn price(outcomes: &[Outcome]) -> Option<String> {
    let cell = reference(outcomes)?;
    let read_ns = cell.read_ns?;
    let interval = read_ns
        .interval
        .map(|Interval { low, high }| format!(", {} to {}", number(low), number(high)))
        .unwrap_or_default();
    if read_ns.median <= 0.0 {
        return Some(format!(
            "The cost of a read(2) inside this loop could not be distinguished from zero ({} ns{interval}): the machine is \
             too noisy for an answer, or there were too few rounds.",
            number(read_ns.median)
        ));
    }
    Some(format!(
        "A read(2) of an eventfd costs {} ns inside the loop here ({}{interval}). By arithmetic that is 1% of an iteration \
         of {} us, more of a shorter one and less of a longer one, and {} of the proposal's {} us.",
        number(read_ns.median),
        cell.cell.monitor,
        number(read_ns.median / PROPOSED_SHARE / 1e3),
        share(read_ns.median / (PROPOSED_ITERATION_US * 1e3)),
        fixed(PROPOSED_ITERATION_US, 0),
    ))
}

/// The parts of a saving, if all were measured: the read and level triggering.
fn parts(outcomes: &[Outcome]) -> Option<String> {
    let told = |estimate: Estimate| estimate.interval.is_some_and(|interval| interval.low > 0.0);
    let part = |outcome: &Outcome| {
        let level_ns = outcome.level_ns.filter(|level_ns| told(*level_ns) && !outcome.level_is_borrowed)?;
        let own_read_ns = outcome.own_read_ns.filter(|own_read_ns| told(*own_read_ns))?;
        let (saved_ns, edge) = (outcome.cpu_saved_ns?, outcome.cell.edge()?);
        let read_ns = outcome.read_ns.filter(|_| !outcome.read_is_borrowed);
        let twice = read_ns.and_then(|read_ns| Some((read_ns, overlap(own_read_ns, read_ns)?)));
        let twice = twice.map(|(read_ns, agrees)| {
            let remark = match (agrees, outcome.cell.monitor) {
                (true, _) => "which agrees",
                // A multishot POLL_ADD watches the doorbell while it is read, and the read walks
                // the list of watchers.
                (false, Monitor::IoUring) => {
                    "which does not agree, because it is a second read in a row, and the descriptor is not polled at that time"
                }
                (false, _) => "which does not agree, because it is a second read in a row",
            };
            format!(" Measured with one more read, t_read is {}, {remark}.", nanoseconds(read_ns))
        });
        Some(format!(
            "Of the {} ns of CPU that {edge} saves in the simplest iteration on {}, the read(2) is {} and level triggering is \
             {}, which is {}.{}",
            number(saved_ns.median),
            outcome.place,
            nanoseconds(own_read_ns),
            nanoseconds(level_ns),
            of_a_level(outcome.cell.monitor),
            twice.unwrap_or_default()
        ))
    };
    let parts: Vec<String> = outcomes.iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// Whether the intervals of two estimates overlap. `None` without intervals.
fn overlap(a: Estimate, b: Estimate) -> Option<bool> {
    a.interval.zip(b.interval).map(|(a, b)| a.low <= b.high && b.low <= a.high)
}

/// Iterations as a list: `3.40, 5.51 us`.
fn iterations(cells: &[&Outcome]) -> String {
    let list: Vec<String> = cells.iter().map(|outcome| number(outcome.iteration_us)).collect();
    format!("{} us", list.join(", "))
}

fn reached(outcomes: &[Outcome]) -> Option<String> {
    let curve = curve(outcomes, reference(outcomes)?.cell.monitor, true);
    let bound = |outcome: &Outcome| outcome.saved.and_then(|saved| saved.interval);
    let (known, open): (Vec<&Outcome>, Vec<&Outcome>) = curve.into_iter().partition(|outcome| {
        bound(outcome).is_some_and(|bound| bound.low >= PROPOSED_SHARE || bound.high < PROPOSED_SHARE)
    });
    let (more, less): (Vec<&Outcome>, Vec<&Outcome>) = known
        .into_iter()
        .partition(|outcome| bound(outcome).is_some_and(|bound| bound.low >= PROPOSED_SHARE));
    let parts: Vec<String> =
        [("at least 1% was saved at", more), ("less than 1% at", less), ("undecided at", open)]
            .into_iter()
            .filter(|(_, cells)| !cells.is_empty())
            .map(|(words, cells)| format!("{words} {}", iterations(&cells)))
            .collect();
    (!parts.is_empty()).then(|| format!("On one CPU, by length of the iteration: {}.", parts.join("; ")))
}

/// How many cells have which verdict.
fn verdicts(outcomes: &[Outcome]) -> Option<String> {
    let verdicts: Vec<Verdict> = outcomes.iter().filter_map(Outcome::verdict).collect();
    (!verdicts.is_empty()).then(|| {
        format!(
            "Whether an iteration is shorter without the read, over all {} cells: {}. The \
             verdicts hold together: at most 5% of those that say saves or costs are expected to be wrong \
             (Benjamini-Hochberg).",
            verdicts.len(),
            tally(&verdicts)
        )
    })
}

/// `saves in 11, inconclusive in 20`.
fn tally(verdicts: &[Verdict]) -> String {
    let words = Verdict::ALL.into_iter().filter_map(|wanted| {
        let count = verdicts.iter().filter(|verdict| **verdict == wanted).count();
        (count > 0).then(|| format!("{wanted} in {count}"))
    });
    words.collect::<Vec<_>>().join(", ")
}

fn nothing(outcomes: &[Outcome]) -> Option<String> {
    let cell = |outcome: &Outcome| {
        format!("{} ({} reads per request)", outcome.short_name(), fixed(outcome.classic.reads, 2))
    };
    let none: Vec<String> = outcomes.iter().filter(|outcome| outcome.nothing_to_save()).map(cell).collect();
    (!none.is_empty()).then(|| format!("Almost no reads are left to save in: {}.", none.join("; ")))
}

/// Busy polling that finds nothing in its window does not reduce the reads.
fn busy(outcomes: &[Outcome]) -> Option<String> {
    let cells = outcomes.iter().filter(|outcome| outcome.cell.busy_poll && !outcome.nothing_to_save()).map(
        |outcome| {
            let (reads, iteration) = (fixed(outcome.classic.reads, 2), number(outcome.iteration_us));
            format!("{}: {reads} reads per request, in iterations of {iteration} us", outcome.short_name())
        },
    );
    let cells: Vec<String> = cells.collect();
    (!cells.is_empty()).then(|| {
        format!(
            "Busy polling for up to 32.8 us did not keep the device from sleeping in {}.",
            cells.join("; ")
        )
    })
}

fn of_2020(outcomes: &[Outcome]) -> Option<String> {
    let cells = outcomes.iter().filter(|outcome| outcome.cell.disk == Disk::LinuxAio).filter_map(|outcome| {
        let what = match (outcome.saved, &outcome.obstacle) {
            (Some(saved), _) => format!("measured {}", estimate(saved)),
            (None, Some(why)) => {
                let more =
                    outcome.dose_cost.map(|cost| format!(", but one more read cost {}", estimate(cost)));
                format!("not measured without the read ({}){}", obstacle(why), more.unwrap_or_default())
            }
            (None, None) => "not measured without the read".to_owned(),
        };
        Some(format!(
            "{} on {}: {} reads in {} us, {} predicted, {what}",
            outcome.cell.monitor,
            outcome.place,
            fixed(outcome.classic.reads, 2),
            number(outcome.iteration_us),
            share(outcome.predicted?.median),
        ))
    });
    let cells: Vec<String> = cells.collect();
    (!cells.is_empty()).then(|| {
        format!(
            "The configuration of 2020, O_DIRECT with Linux AIO and completions through an eventfd: {}.",
            cells.join("; ")
        )
    })
}

fn agreement(outcomes: &[Outcome]) -> Option<String> {
    let all = |prediction: fn(&Outcome) -> Option<Prediction>| -> Vec<Prediction> {
        outcomes.iter().filter_map(prediction).collect()
    };
    let count = |all: &[Prediction], wanted| all.iter().filter(|prediction| **prediction == wanted).count();
    let agree = |all: &[Prediction]| count(all, Prediction::Agrees);
    let (time, cpu) = (all(Outcome::prediction), all(Outcome::cpu_prediction));
    let (time_level, cpu_level) =
        (all(Outcome::prediction_with_level), all(Outcome::cpu_prediction_with_level));
    let with_level = if time_level.is_empty() {
        String::new()
    } else {
        format!(
            " With the cost of level triggering included, {} of {} agree in time and {} of {} in the device's CPU time.",
            agree(&time_level),
            time_level.len(),
            agree(&cpu_level),
            cpu_level.len()
        )
    };
    let exact = |outcome: &&Outcome| outcome.autoreset.is_some_and(|counts| counts.reads == 0.0);
    (!time.is_empty()).then(|| {
        format!(
            "The prediction was checked in three ways. Time: {} of {} cells agree with it, {} saved more, {} less, and {} are \
             inconclusive. The device's CPU time: {} of {} agree, {} are inconclusive. Counts: {} of {} made no read in the \
             arm without reads.{with_level}",
            agree(&time),
            time.len(),
            count(&time, Prediction::More),
            count(&time, Prediction::Less),
            count(&time, Prediction::Inconclusive),
            agree(&cpu),
            cpu.len(),
            count(&cpu, Prediction::Inconclusive),
            outcomes.iter().filter(exact).count(),
            outcomes.iter().filter(|outcome| outcome.autoreset.is_some()).count(),
        )
    })
}

fn instructions(lab: &[Savings]) -> Option<String> {
    let kernels = lab.chunk_by(|a, b| a.kernel == b.kernel).filter_map(|kernel| {
        let saved = kernel.iter().map(|savings| {
            let saved = savings.classic - savings.autoreset;
            format!("{} ({}) by {}", number(saved), share(saved / savings.classic), savings.arm())
        });
        let saved: Vec<String> = saved.collect();
        let name = match kernel.first()?.kernel.as_str() {
            "stock" => "on the stock kernel".to_owned(),
            patch => format!("with patch {patch}"),
        };
        Some(format!("{name} {}", saved.join(", ")))
    });
    let kernels: Vec<String> = kernels.collect();
    (!kernels.is_empty()).then(|| {
        format!("The kernel lab counted the instructions that are saved per request: {}.", kernels.join("; "))
    })
}

#[cfg(test)]
mod tests;
