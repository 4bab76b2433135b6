//! `bench scale`: how costs grow with the number of notifiers and of devices on one loop, how
//! evenly a loop serves many devices, how much memory a handler needs, what several IoThreads gain,
//! what many idle disks of vhost-user-blk cost, and whether disks that come and go disturb a busy
//! one.

mod churn;
mod devices;
mod disks;
mod heap;
mod neighbour;
mod notifiers;
mod report;

use crate::arm::Arm;
use crate::campaign::{self, Case, Collected, Watch, calibrated};
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::report::Report;
use crate::rig::idle;
use crate::session::Session;
use churn::{Churn, Client};
use clap::{Args, ValueEnum};
use devices::{Devices, Rig};
use disks::{Daemon, Load};
use notifiers::Notifiers;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FULL: Plan = Plan::new(8, Duration::from_millis(25));
const QUICK: Plan = Plan::new(6, Duration::from_millis(5));

/// A sample of disks is longer: a p99 needs many requests.
const DISK_RUNTIME: u32 = 10;

/// How long the disks are watched while none of them is used.
const IDLE: Duration = Duration::from_secs(2);

/// The arms that are shown: the cheapest of each monitor on a stock kernel.
const ARMS: [&str; 2] = ["epoll/edge", "io_uring/edge"];

/// Options of `bench scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    /// Measure only this part
    #[arg(long, value_name = "PART")]
    part: Option<Part>,
    /// The program vhost-user-blk, for the disks [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Notifiers on one loop
    Notifiers,
    /// Devices on one loop
    Devices,
    /// Queues spread over IoThreads
    Threads,
    /// Disks in one process of vhost-user-blk
    Disks,
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
    let cases = notifiers.len()
        + on_one.len()
        + spread.len()
        + DISK_RUNTIME as usize * (Load::all().len() + Client::ALL.len());
    let plan = args.schedule.plan(QUICK, FULL, cases)?;
    crate::machine::raise_descriptor_limit();

    let mut all = Collected::nothing();
    let wanted = |part| args.part.is_none_or(|only| only == part);
    if wanted(Part::Notifiers) {
        all.extend(measure_notifiers(notifiers, placement.device, plan, session)?);
    }
    if wanted(Part::Devices) {
        all.extend(measure_devices("devices on one loop", on_one, placement, plan, session)?);
    }
    if wanted(Part::Threads) {
        let allowed = session.environment.allowed.iter();
        let cpus: Vec<usize> = allowed.filter(|&cpu| cpu != placement.guest).collect();
        all.extend(measure_spread(spread, placement, &cpus, plan, session)?);
    }
    if wanted(Part::Disks) {
        all.extend(measure_disks(args.server.as_deref(), placement, plan, session)?);
        all.extend(measure_churn(args.server.as_deref(), placement, plan, session)?);
    }
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

/// One busy disk of vhost-user-blk, alone in its process and beside idle ones.
fn measure_disks(
    server: Option<&Path>,
    placement: Placement,
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let group = format!("{}, {} loops, {placement}", disks::GROUP, disks::LOOPS);
    let loads = Load::all();
    let cases = cases(&loads, |_| group.clone(), |load| load.to_string());
    let program = server.map_or_else(disks::program, |path| Ok(path.to_owned()));
    let allowed = session.environment.allowed.iter();
    let others = allowed.filter(|cpu| ![placement.guest, placement.device].contains(cpu));
    let elsewhere = others.last().unwrap_or(placement.guest);
    // By number of disks: loads share the process.
    let daemons: RefCell<BTreeMap<usize, Daemon>> = RefCell::default();
    let warm_up = |index: usize| {
        let load = loads[index];
        let mut daemons = daemons.borrow_mut();
        if let Entry::Vacant(place) = daemons.entry(load.disks) {
            match program
                .clone()
                .and_then(|program| Daemon::start(&program, load.disks, placement, elsewhere))
            {
                Ok(daemon) => _ = place.insert(daemon),
                Err(why) => return Ok(Err(why)),
            }
        }
        let Some(daemon) = daemons.get_mut(&load.disks) else { return Err(gone()) };
        daemon.sample(load, plan.runtime)?;
        Ok(Ok(load))
    };
    let visit = |_, &mut load: &mut Load| match daemons.borrow_mut().get_mut(&load.disks) {
        Some(daemon) => daemon.sample(load, plan.runtime * DISK_RUNTIME),
        None => Err(gone()),
    };
    let recorded = campaign::run("disks", &cases, plan, session, warm_up, visit)?;
    let mut collected = recorded.collect(&cases);
    let daemons = daemons.into_inner();
    if collected.complete && !watch_disks(&loads, &daemons, &mut collected, session)? {
        collected.complete = false;
    }
    Ok(collected)
}

/// One busy disk while another one is added and removed.
fn measure_churn(
    server: Option<&Path>,
    placement: Placement,
    plan: Plan,
    session: &mut Session,
) -> Result<Collected, Error> {
    let group = format!("{}, {} loops, {placement}", churn::GROUP, disks::LOOPS);
    let cases = cases(&Client::ALL, |_| group.clone(), |client| client.to_string());
    let program = server.map_or_else(disks::program, |path| Ok(path.to_owned()));
    let running: RefCell<Option<Churn>> = RefCell::default();
    let sample = |client, runtime| match &mut *running.borrow_mut() {
        Some(churn) => churn.sample(client, runtime),
        None => Err(gone()),
    };
    let warm_up = |index: usize| {
        if running.borrow().is_none() {
            match program.clone().and_then(|program| Churn::start(&program, placement)) {
                Ok(churn) => _ = running.replace(Some(churn)),
                Err(why) => return Ok(Err(why)),
            }
        }
        sample(Client::ALL[index], plan.runtime)?;
        Ok(Ok(Client::ALL[index]))
    };
    let visit = |_, client: &mut Client| sample(*client, plan.runtime * DISK_RUNTIME);
    Ok(campaign::run("disks that change", &cases, plan, session, warm_up, visit)?.collect(&cases))
}

fn gone() -> Error {
    Error::Failed("a server that was started is gone".to_owned())
}

/// Adds what is measured once, while no disk is used. Returns false after Ctrl-C.
fn watch_disks(
    loads: &[Load],
    daemons: &BTreeMap<usize, Daemon>,
    collected: &mut Collected,
    session: &mut Session,
) -> Result<bool, Error> {
    let processes: Vec<_> = daemons.values().map(Daemon::process).collect();
    session.phase("disks: idle", 1);
    session.step("all servers");
    let unseen = |error: &std::io::Error| Error::failed("a server cannot be watched any more", error);
    let seen = idle::watch(&processes, IDLE, session).map_err(|(_, error)| unseen(&error))?;
    session.end();
    let Some(seen) = seen else { return Ok(false) };
    let one = daemons.values().next();
    for ((disks, daemon), idle) in daemons.iter().zip(&seen) {
        let once = daemon.once(one).map_err(|error| unseen(&error))?;
        let row = loads.iter().position(|load| load.disks == *disks);
        let row = row.and_then(|row| collected.rows.get_mut(row));
        if let Some(Ok(metrics)) = row.map(|row| row.result.as_mut()) {
            metrics.extend(once);
            metrics.extend(idle.metrics());
        }
    }
    Ok(true)
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
