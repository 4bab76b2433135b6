//! `bench scale`: how costs grow with the number of notifiers and of devices on one loop, how
//! evenly a loop serves many devices, how much memory a handler needs, and what several IoThreads
//! gain.

mod devices;
mod heap;
mod notifiers;
mod report;

use crate::arm::Arm;
use crate::campaign::{Case, Collected, calibrated};
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::report::Report;
use crate::session::Session;
use clap::Args;
use devices::{Devices, Rig};
use notifiers::Notifiers;
use std::time::Duration;

const FULL: Plan = Plan { rounds: 8, runtime: Duration::from_millis(25) };
const QUICK: Plan = Plan { rounds: 6, runtime: Duration::from_millis(5) };

/// The arms that are shown: the cheapest of each monitor on a stock kernel.
const ARMS: [&str; 2] = ["epoll/edge", "io_uring/edge"];

/// Options of `bench scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &ScaleArgs, session: &mut Session) -> Result<Report, Error> {
    let placements = args.placement.placements(&session.environment.allowed)?;
    // Guest and devices on different CPUs, if there are two.
    let placement = placements.last().copied().unwrap_or(Placement { guest: 0, device: 0 });
    let arms: Vec<Arm> = ARMS.iter().filter_map(|name| name.parse().ok()).collect();
    let sizes = |list: fn(Arm) -> Vec<Devices>| arms.iter().copied().flat_map(list).collect::<Vec<_>>();
    let notifiers: Vec<Notifiers> = arms.iter().copied().flat_map(Notifiers::all).collect();
    let on_one = sizes(Devices::on_one_loop);
    let spread = sizes(Devices::spread);
    let plan = args.schedule.plan(QUICK, FULL, notifiers.len() + on_one.len() + spread.len())?;
    crate::machine::raise_descriptor_limit();

    let mut all = measure_notifiers(notifiers, placement.device, plan, session)?;
    all.extend(measure_devices("devices on one loop", on_one, placement, plan, session)?);
    let cpus: Vec<usize> = session.environment.allowed.iter().filter(|&cpu| cpu != placement.guest).collect();
    all.extend(measure_spread(spread, placement, &cpus, plan, session)?);
    Ok(all.report("scale", session.colour, report::tables, report::conclusions))
}

/// Cases of one list: each group's first is the baseline of the others.
fn cases<T: Copy>(items: &[T], group: impl Fn(T) -> String, name: impl Fn(T) -> String) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::with_capacity(items.len());
    for &item in items {
        let group = group(item);
        let baseline = cases.iter().find(|case| case.group == group).map(|case| case.name.clone());
        cases.push(Case { group, name: name(item), baseline });
    }
    cases
}

fn measure_notifiers(
    notifiers: Vec<Notifiers>,
    cpu: usize,
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let cases = cases(&notifiers, |it| it.group(cpu), |it| it.to_string());
    let mut thread = notifiers::thread(cpu, notifiers)?;
    let sample = |index, times| thread.sample(index, times, plan.patience(), "a turn of the loop");
    Ok(calibrated("notifiers", &cases, plan, session, sample)?.collect(&cases))
}

fn measure_devices(
    name: &str,
    devices: Vec<Devices>,
    placement: Placement,
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let cases = cases(&devices, |it| it.group(&placement.to_string()), |it| it.to_string());
    record(name, &cases, &devices, placement.guest, &[placement.device], plan, session)
}

/// The same queues on one IoThread, then on more, each on a CPU of its own if possible.
fn measure_spread(
    devices: Vec<Devices>,
    placement: Placement,
    cpus: &[usize],
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let cpus = if cpus.is_empty() { &[placement.device][..] } else { cpus };
    let place = format!("guest on CPU {}, IoThreads on {} CPU(s)", placement.guest, cpus.len());
    let cases = cases(&devices, |it| it.group(&place), |it| it.to_string());
    record("IoThreads", &cases, &devices, placement.guest, cpus, plan, session)
}

fn record(
    name: &str,
    cases: &[Case],
    devices: &[Devices],
    guest: usize,
    cpus: &[usize],
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    // Rigs are created in the warm-up and kept for all rounds. While they are not measured they
    // sleep.
    let mut rigs: Vec<Option<Rig>> = devices.iter().map(|_| None).collect();
    let sample = |index: usize, times: u64| {
        let rig = match &mut rigs[index] {
            Some(rig) => rig,
            empty => match Rig::start(devices[index], guest, cpus) {
                Ok(rig) => empty.insert(rig),
                Err(why) => return Ok(Err(why)),
            },
        };
        rig.sample(times, plan.patience()).map(Ok)
    };
    Ok(calibrated(name, cases, plan, session, sample)?.collect(cases))
}
