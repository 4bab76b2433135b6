//! `bench eventfd`: what each bare operation on an eventfd costs here. The floor under every event loop: what a loop
//! adds is its time minus these.

mod loop_turns;
pub(crate) mod method;
mod one_thread;
mod readiness;
mod report;
pub(crate) mod ring;
mod ring_waiter;
pub(crate) mod syscall;
mod two_threads;

pub(crate) use one_thread::Operation;
pub(crate) use syscall::{Calls, EventFd, clock_ns};

use crate::campaign::{self, Campaign, Case, Collected};
use crate::cli::EventfdArgs;
use crate::cli::schedule::Plan;
use crate::error::Error;
use crate::measure::Sample;
use crate::pin::Placement;
use crate::report::Report;
use crate::session::{Session, Watch};
use loop_turns::Turn;
use method::Method;
use std::cell::RefCell;
use std::time::Duration;
use two_threads::TwoThreads;

const FULL: Plan = Plan { rounds: 10, runtime: Duration::from_millis(30) };
const QUICK: Plan = Plan { rounds: 6, runtime: Duration::from_millis(8) };

/// A self-tested operation that takes longer than this for one sample is taken to hang.
const OPERATION_PATIENCE: Duration = Duration::from_secs(10);
/// One sample of turns that takes longer than this hangs.
const TURN_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &EventfdArgs, session: &mut Session) -> Result<Report, Error> {
    let placements = args.placement.placements(&session.environment.allowed)?;
    let operations: Vec<Operation> = Operation::all().collect();
    let turns: Vec<Turn> = Turn::all().collect();
    let arms = operations.len() + turns.len() + placements.len() * Method::ALL.len();
    let plan = args.schedule.plan(QUICK, FULL, arms)?;
    let cpu = placements.first().map_or(0, |placement| placement.device);

    let mut all = one_thread(cpu, operations, plan, session)?;
    all.extend(loop_turns(cpu, turns, plan, session)?);
    all.extend(two_threads(&placements, plan, session)?);
    Ok(all.report("eventfd", session.colour, report::tables, report::conclusions))
}

/// The rows of one thread on `cpu`.
fn one_thread(
    cpu: usize,
    operations: Vec<Operation>,
    plan: Plan,
    watch: &mut impl Watch,
) -> Result<Collected, Error> {
    let case = |operation: &Operation| Case {
        group: format!("one thread, CPU {cpu}"),
        name: operation.to_string(),
        baseline: operation.baseline().map(|baseline| baseline.to_string()),
    };
    let cases: Vec<Case> = operations.iter().map(case).collect();
    let mut thread = one_thread::thread(cpu, operations)?;
    let patience = OPERATION_PATIENCE + 10 * plan.runtime;
    let sample = |index, times| thread.sample(index, times, patience, "an operation on one thread");
    Ok(measure("one thread", &cases, plan, watch, sample)?.collect(&cases))
}

/// The rows of the event loop and its floor on `cpu`.
fn loop_turns(cpu: usize, turns: Vec<Turn>, plan: Plan, watch: &mut impl Watch) -> Result<Collected, Error> {
    let case = |turn: &Turn| Case {
        group: format!("{}{cpu}", report::LOOP_GROUP),
        name: turn.to_string(),
        baseline: turn.baseline().map(|baseline| baseline.to_string()),
    };
    let cases: Vec<Case> = turns.iter().map(case).collect();
    let mut thread = loop_turns::thread(cpu, turns)?;
    let patience = TURN_PATIENCE + 10 * plan.runtime;
    let sample = |index, times| thread.sample(index, times, patience, "a turn of the loop");
    Ok(measure("the loop", &cases, plan, watch, sample)?.collect(&cases))
}

/// The rows of two threads on each placement. The placements take turns within each round too.
fn two_threads(placements: &[Placement], plan: Plan, watch: &mut impl Watch) -> Result<Collected, Error> {
    let mut cases = Vec::new();
    let mut pairs: Vec<TwoThreads> = Vec::new();
    for &placement in placements {
        cases.extend(Method::ALL.map(|method| Case {
            group: format!("two threads, {placement}"),
            name: method.to_string(),
            baseline: method.baseline().map(|baseline| baseline.to_string()),
        }));
        pairs.push(TwoThreads::new(placement, &Method::ALL)?);
    }
    let methods = Method::ALL.len();
    let sample = |index: usize, times| pairs[index / methods].sample(index % methods, times, plan.runtime);
    Ok(measure("two threads", &cases, plan, watch, sample)?.collect(&cases))
}

/// What a read(2) of an eventfd costs on `cpu`, as a row of its own: the floor beside another benchmark's results.
pub(crate) fn cost_of_a_read(cpu: usize, watch: &mut impl Watch) -> Result<Collected, Error> {
    one_thread(cpu, vec![Operation::Read], QUICK, watch)
}

/// Takes one sample of a case: `Ok(Err(why))` if the case is not available here.
pub(crate) type Taken<S> = Result<Result<(Duration, S), String>, Error>;

/// Calibrates every case, which warms it up, and then records the rounds.
pub(crate) fn measure<S: Sample>(
    name: &str,
    cases: &[Case],
    plan: Plan,
    watch: &mut impl Watch,
    sample: impl FnMut(usize, u64) -> Taken<S>,
) -> Result<Campaign<S>, Error> {
    // The warm-up and the visits take turns, never nest.
    let sample = RefCell::new(sample);
    let take = |index, times| sample.borrow_mut()(index, times);
    let warm_up = |index| calibrate(plan.runtime, |times| take(index, times));
    let visit = |index: usize, &mut times: &mut u64| {
        // What worked when it was calibrated and fails now is no missing feature.
        take(index, times)?
            .map(|(_, sample)| sample)
            .map_err(|why| Error::Failed(format!("{}: {why}", cases[index].name)))
    };
    campaign::run(name, cases, plan.rounds, watch, warm_up, visit)
}

/// How often to repeat for a sample of about `target`: found by repeating more and more often.
fn calibrate<S>(
    target: Duration,
    mut sample: impl FnMut(u64) -> Taken<S>,
) -> Result<Result<u64, String>, Error> {
    // Enough for a second of the cheapest operation there is.
    const MOST: u64 = 1 << 32;
    let mut times = 16;
    loop {
        let elapsed = match sample(times)? {
            Ok((elapsed, _)) => elapsed,
            Err(why) => return Ok(Err(why)),
        };
        if elapsed >= target / 4 || times >= MOST {
            let scale = target.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
            return Ok(Ok(((times as f64 * scale) as u64).clamp(1, MOST)));
        }
        times *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample that took `ns` for each repetition.
    fn takes(ns: u64) -> impl FnMut(u64) -> Taken<()> {
        move |times| Ok(Ok((Duration::from_nanos(ns * times), ())))
    }

    #[test]
    fn calibration_finds_the_number_of_repetitions() {
        let calibrated = |target, ns| calibrate(Duration::from_millis(target), takes(ns)).unwrap().unwrap();
        assert_eq!(calibrated(10, 100), 100_000);
        assert_eq!(calibrated(1, 1_000), 1_000);
        // One repetition already takes too long; a clock that stands still does not keep us.
        assert_eq!(calibrated(1, 100_000_000), 1);
        assert_eq!(calibrated(10, 0), 1 << 32);
    }

    #[test]
    fn calibration_passes_reasons_and_errors_on() {
        let target = Duration::from_millis(1);
        assert_eq!(
            calibrate(target, |_| Taken::<()>::Ok(Err("why".to_owned()))).unwrap(),
            Err("why".to_owned())
        );
        assert!(calibrate(target, |_| Taken::<()>::Err(Error::Failed("broken".to_owned()))).is_err());
    }
}
