//! `bench loops`: the same work on our event loop, on other event loops, and on bare calls of epoll
//! and io_uring.
//!
//! In the JSON report the row of a peer or of bare calls has the metrics `aio_epoll_ns` and
//! `aio_io_uring_ns`: the time of our loop in the same rounds. Their `versus` compares it with the
//! row's own time, so the ratio is ours over theirs. Peers are compared with our `edge` variant,
//! bare calls with the variant that makes the same calls. `syscalls` is one exact count from a
//! traced child.
//!
//! The work of an executor ([`executor`]) is done by our loop with callbacks, which is the floor,
//! by our loop with tasks, and by the peers that run futures. There the peers are compared with our
//! tasks, and our tasks with our callbacks: `versus` of their `time_ns`.

mod callbacks;
mod contender;
mod count;
mod executor;
mod our_tasks;
mod ours;
mod peers;
mod raw_epoll;
mod raw_ring;
mod report;
mod signal;
mod task_work;
mod work;

use crate::campaign::Watch;
use crate::campaign::{Case, Collected, Repeater, calibrated, settle_rows};
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::measure::{Measured, sample};
use crate::report::Report;
use crate::session::Session;
use clap::Args;
use contender::Contender;
use std::fmt::Display;
use std::time::Duration;
use work::{Visit, Work};

const FULL: Plan = Plan::new(10, Duration::from_millis(15));
const QUICK: Plan = Plan::new(6, Duration::from_millis(3));

sample! {
    /// What one event costs.
    struct EventSample {
        time_ns: "ns" Lower,
    }
}

/// Options of `bench loops`.
#[derive(Debug, Args)]
pub(crate) struct LoopsArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    /// Do only the work whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) work: Option<String>,
    /// Measure only the peers whose name contains this, besides our loop and the bare calls
    #[arg(long, value_name = "TEXT")]
    pub(crate) peer: Option<String>,
}

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &LoopsArgs, session: &mut Session) -> Result<Report, Error> {
    let placements = args.placement.placements(&session.environment.allowed)?;
    let placement = placements.last().copied().unwrap_or(Placement { guest: 0, device: 0 });
    let named =
        |it: &Contender| args.peer.as_ref().is_none_or(|part| !it.is_peer() || it.to_string().contains(part));
    let contenders: Vec<Contender> = Contender::all().filter(named).collect();
    let wanted = |work: &Work| args.work.as_ref().is_none_or(|part| work.to_string().contains(part.as_str()));
    let works: Vec<Work> = Work::all().filter(wanted).collect();
    if works.is_empty() {
        return Err(matches_none("--work", Work::all()));
    }
    if !contenders.iter().any(|it| it.is_peer()) {
        return Err(matches_none("--peer", Contender::all().filter(|it| it.is_peer())));
    }
    let plan =
        args.schedule.plan(QUICK, FULL, works.iter().map(|&work| rows(work, &contenders).count()).sum())?;
    crate::machine::raise_descriptor_limit();

    // Count first, while the process has a single thread.
    let counts = count_all(&works, &contenders, placement, session)?;
    let mut all = Collected::nothing();
    for (&work, counts) in works.iter().zip(counts) {
        let contenders: Vec<Contender> = rows(work, &contenders).collect();
        all.extend(measure(work, &contenders, &counts, placement, plan, session)?);
    }
    Ok(all.report("loops", session.colour, report::tables, report::conclusions))
}

/// Those that have a row for this work.
fn rows(work: Work, contenders: &[Contender]) -> impl Iterator<Item = Contender> {
    contenders.iter().copied().filter(move |it| it.has_row(work))
}

fn matches_none(option: &str, all: impl Iterator<Item: Display>) -> Error {
    let all: Vec<String> = all.map(|it| format!("'{it}'")).collect();
    Error::Usage(format!("{option} matches none of {}", all.join(", ")))
}

/// System calls per event, by contender; empty if they could not be counted.
type Counts = Vec<Option<f64>>;

fn count_all(
    works: &[Work],
    contenders: &[Contender],
    placement: Placement,
    session: &mut Session,
) -> Result<Vec<Counts>, Error> {
    let steps = works.iter().map(|&work| rows(work, contenders).count()).sum();
    session.phase("loops: system calls", steps);
    let mut all = Vec::new();
    let mut complained = false;
    for &work in works {
        // Enough repetitions to include calls that a loop makes only now and then.
        let times = 1_000u64.div_ceil(work.events());
        let mut counts = Vec::new();
        for contender in rows(work, contenders) {
            session.step(&format!("{work}: {contender}"));
            let visit = Visit { work, times, placement, mark: |_| {} };
            let counted = if session.stopped() { Ok(None) } else { count::system_calls(contender, visit) };
            let counted = counted.unwrap_or_else(|error| {
                if !std::mem::replace(&mut complained, true) {
                    let why = crate::error::reason(&error);
                    crate::report::complain(&format!("warning: system calls are not counted: {why}"));
                }
                None
            });
            counts.push(counted.map(|calls| calls as f64 / (times * work.events()) as f64));
        }
        all.push(counts);
    }
    session.end();
    Ok(all)
}

/// The rows of one kind of work.
fn measure(
    work: Work,
    contenders: &[Contender],
    counts: &Counts,
    placement: Placement,
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let group = format!(
        "{work}, {}",
        match work {
            Work::WakeAcross => placement.to_string(),
            _ => format!("CPU {}", placement.device),
        }
    );
    let case = |contender: &Contender| Case {
        group: group.clone(),
        name: contender.to_string(),
        baseline: contender.callback().map(|callback| callback.to_string()),
    };
    let cases: Vec<Case> = contenders.iter().map(case).collect();
    let visitors = contenders.to_vec();
    let visit = move |(): &mut (), index: usize, times: u64| {
        let timed = visitors[index].visit(Visit { work, times, placement, mark: |_| {} })?;
        Ok((timed.elapsed, EventSample { time_ns: timed.each_ns / work.events() as f64 }))
    };
    let mut thread = Repeater::new("loops", placement.device, || (), visit)?;
    let sample = |index: usize, times: u64| {
        thread.sample(index, times, plan.patience(), format_args!("{work}: {}", contenders[index]))
    };
    let campaign = calibrated(&work.to_string(), &cases, plan, session, sample)?;
    let mut collected = campaign.collect(&cases);
    for ((row, &contender), &calls) in collected.rows.iter_mut().zip(contenders).zip(counts) {
        let Ok(metrics) = &mut row.result else { continue };
        metrics.extend(calls.map(|calls| Measured::once("syscalls", "syscalls", calls)));
        for (monitor, ours) in contender.ours(work) {
            let name = report::metric_of(monitor);
            let against = campaign.versus(&cases, &group, &ours.to_string(), &contender.to_string());
            metrics
                .extend(against.into_iter().filter(|m| m.name == "time_ns").map(|m| Measured { name, ..m }));
        }
    }
    settle_rows(&mut collected.rows);
    Ok(collected)
}
