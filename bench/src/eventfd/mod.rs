//! `bench eventfd`: the cost of each bare operation on an eventfd, of one turn of the event loop
//! compared with the same system calls without a loop, and of a round trip between two threads.

mod loop_turns;
mod report;
mod two_threads;

use crate::bare::{Method, Operation, one_thread};
use crate::campaign::{Case, Collected, Watch, calibrated};
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::report::Report;
use crate::session::Session;
use clap::Args;
use loop_turns::Turn;
use std::time::Duration;
use two_threads::TwoThreads;

const FULL: Plan = Plan::new(10, Duration::from_millis(30));
const QUICK: Plan = Plan::new(6, Duration::from_millis(8));

/// Options of `bench eventfd`.
#[derive(Debug, Args)]
pub(crate) struct EventfdArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

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

/// Measures the event loop and the bare system calls on `cpu`.
fn loop_turns(cpu: usize, turns: Vec<Turn>, plan: Plan, watch: &mut impl Watch) -> Result<Collected, Error> {
    let case = |turn: &Turn| Case {
        group: format!("{}{cpu}", report::LOOP_GROUP),
        name: turn.to_string(),
        baseline: turn.baseline().map(|baseline| baseline.to_string()),
    };
    let cases: Vec<Case> = turns.iter().map(case).collect();
    let mut thread = loop_turns::thread(cpu, turns)?;
    let sample = |index, times| thread.sample(index, times, plan.patience(), "a turn of the loop");
    Ok(calibrated("the loop", &cases, plan, watch, sample)?.collect(&cases))
}

/// Measures two threads on each placement. The placements take turns within each round, too.
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
    Ok(calibrated("two threads", &cases, plan, watch, sample)?.collect(&cases))
}
