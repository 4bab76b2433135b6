//! `bench flow-control`: the three benchmarks of the proposal "eventfd: add configurable maximum
//! counter value for flow control" (EFD_IOC_SET_MAXIMUM, v5), with each method to enforce the
//! maximum that this machine supports.

mod benches;
mod mq;
mod pair;
mod proposal;
mod report;
mod way;

use crate::campaign::Watch;
use crate::campaign::{self, Campaign, Case, Collected};
use crate::cli::value;
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::measure::{Sample, sample};
use crate::report::Report;
use crate::session::Session;
use aio::BoundedMethod;
use benches::{Burst, Coalescing, Tail, Taken};
use clap::Args;
use std::time::Duration;
use way::Way;

/// `runtime` applies to bench 1 and to the uncontended pairs; the other benchmarks have a fixed
/// number of events.
const FULL: Plan = Plan::new(3, Duration::from_secs(1));
const QUICK: Plan = Plan::new(1, Duration::from_millis(200));

/// Options of `bench flow-control`.
#[derive(Debug, Args)]
pub(crate) struct FlowControlArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Also measure these maxima (2 to 65536), for example 2,10,100,1000,10000
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = maximum)]
    maximum: Vec<u64>,
}

fn maximum(text: &str) -> Result<u64, String> {
    value::within(text, 2, 1 << 16)
}

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &FlowControlArgs, session: &mut Session) -> Result<Report, Error> {
    let placements = args.placement.placements(&session.environment.allowed)?;
    // As in the proposal: writer and reader on separate CPUs, if there are two.
    let Some(&placement) = placements.last() else {
        return Err(Error::Unavailable("this process may not use any CPU".to_owned()));
    };
    let mut maxima = args.maximum.clone();
    maxima.sort_unstable();
    maxima.dedup();
    let (counters, semaphores) = (Way::all(false), Way::all(true));
    let plan = args.schedule.plan(QUICK, FULL, 2 * counters.len() + 2 * maxima.len())?;
    let runtime = plan.runtime;

    let mut all = Collected::nothing();
    let on = |name: &str| format!("{name}, {placement}");
    let pairs: Vec<Way> = counters.iter().copied().filter(|way| matches!(way, Way::Bounded { .. })).collect();
    let take = |way: Way| benches::burst(way, placement, runtime);
    all.extend(measure(&on(report::BURST), &counters, plan, session, take)?);
    let take = |way: Way| benches::tail(way, placement);
    all.extend(measure(&on(report::TAIL), &semaphores, plan, session, take)?);
    let take = |way: Way| benches::coalescing(way, placement);
    all.extend(measure(&on(report::COALESCING), &counters, plan, session, take)?);
    let take = |way: Way| benches::uncontended(way, placement, runtime / 10);
    all.extend(measure(
        &on(report::PAIR),
        &pairs,
        Plan { rounds: plan.rounds.max(6), ..plan },
        session,
        take,
    )?);

    let best = [BoundedMethod::Kernel, BoundedMethod::Atomic].into_iter().find(|m| m.obstacle().is_none());
    let method = best.unwrap_or(BoundedMethod::Atomic);
    let curve: Vec<Way> = maxima.into_iter().map(|maximum| Way::Bounded { method, maximum }).collect();
    let take = |way: Way| point(way, placement, runtime);
    all.extend(measure(&on(report::CURVE), &curve, plan, session, take)?);
    Ok(all.report("flow-control", session.colour, report::tables, report::conclusions))
}

/// Measures each way in interleaved rounds. The warm-up takes one sample and discards it.
fn measure<S: Sample>(
    group: &str,
    ways: &[Way],
    plan: Plan,
    watch: &mut impl Watch,
    take: impl Fn(Way) -> Taken<S>,
) -> Result<Collected, Error> {
    let case = |way: &Way| Case { group: group.to_owned(), name: way.to_string(), baseline: None };
    let cases: Vec<Case> = ways.iter().map(case).collect();
    let sample = |index: usize| {
        let failed = |error| Error::failed(&format!("{group}: {}", ways[index]), &error);
        take(ways[index]).map_err(failed)
    };
    let warm_up = |index: usize| Ok(sample(index)?.map(drop));
    // It worked in the warm-up, so this is a failure and not a missing feature.
    let visit = |index: usize, (): &mut ()| sample(index)?.map_err(Error::Failed);
    let campaign: Campaign<S> = campaign::run(group, &cases, plan, watch, warm_up, visit)?;
    Ok(campaign.collect(&cases))
}

sample! {
    /// A point of the curve.
    struct Point {
        wcpu_ms: "ms" Lower,
        p999_us: "us" Lower,
        intended_p999_us: "us" Lower,
        avg_batch: "" Lower,
        syscalls_per_event: "" Lower,
    }
}

/// All three benchmarks with one maximum.
fn point(way: Way, placement: Placement, runtime: Duration) -> Taken<Point> {
    let burst = benches::burst(way, placement, runtime)?;
    let tail = benches::tail(way, placement)?;
    let coalescing = benches::coalescing(way, placement)?;
    let point = |burst: Burst, tail: Tail, coalescing: Coalescing| Point {
        wcpu_ms: burst.wcpu_ms,
        p999_us: tail.p999_us,
        intended_p999_us: tail.intended_p999_us,
        avg_batch: coalescing.avg_batch,
        syscalls_per_event: burst.syscalls_per_event,
    };
    Ok(burst.and_then(|burst| Ok(point(burst, tail?, coalescing?))))
}
