//! `bench one-percent`: the proposal's claim, checked on this machine. How much of an iteration
//! does a read(2) cost, for which iteration is that one percent, and does leaving the read out save
//! as much?
//!
//! Each cell has up to three arms, measured in turn: the classic loop, the same with one more
//! read(2) per doorbell, and the loop that does not read. The second measures what a read costs
//! inside the loop, and so predicts what the third should save; the third measures what it does
//! save. The simplest cell of each loop has a fourth arm, edge-triggered with a read, which
//! separates the cost of the read from that of level triggering.

mod kernel_lab;
mod plan;
mod report;
mod scratch;

use crate::arm::{Arm, Reset};
use crate::campaign::{self, Case, Collected};
use crate::cli::{PlacementArgs, ScheduleArgs};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::{Measured, Plan};
use crate::report::Report;
use crate::report::one_percent::{Cell, Disk, UNREAD_CPU_NS, and_its_read, conclusions, lab, outcomes};
use crate::report::saved::Entry;
use crate::rig::{BackendKind, Dose, GuestKind, Rig, Setup, features, no_loop};
use crate::session::Session;
use clap::Args;
use plan::{Cpus, Section};
use scratch::Scratch;
use std::path::PathBuf;
use std::time::Duration;
use virtio_blk_sim::blk::backend::Delay;
use virtio_blk_sim::guest::{Kicking, Pattern, Stop, Workload};

// Many short rounds: a noisy neighbour then affects few of them, and the medians are stable.
const FULL: Plan = Plan::new(60, Duration::from_millis(25));
const DEFAULT: Plan = Plan::new(24, Duration::from_millis(12));
const QUICK: Plan = Plan::new(8, Duration::from_millis(6));

/// What fio calls bs.
const BLOCK_BYTES: u32 = 4096;
/// Size of the disks that store nothing.
const SECTORS: u64 = 1 << 21;
/// QEMU's window for busy polling in IOThreads.
const BUSY_POLL_NS: u64 = 32_768;

/// Options of `bench one-percent`.
#[derive(Debug, Clone, Args)]
pub(crate) struct OnePercentArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// The full reproduction: more cells, more rounds, longer samples; takes about 13 minutes
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Directory for the file of the file backends (64m; it has no name and is freed when bench
    /// ends) [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Instruction counts from 'scripts/kernel-lab.sh bench --json FILE', as one more column
    #[arg(long, value_name = "FILE")]
    kernel_lab: Option<PathBuf>,
}

/// One arm of one cell.
#[derive(Debug, Clone, Copy)]
struct Run {
    cell: Cell,
    placement: Placement,
    arm: Arm,
    dose: Option<Dose>,
}

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &OnePercentArgs, session: &mut Session) -> Result<Report, Error> {
    let placements = args.placement.placements(&session.environment.allowed)?;
    let lab = args.kernel_lab.as_deref().map(kernel_lab::read).transpose()?.unwrap_or_default();
    let scratch = Scratch::new(args.dir.as_deref())?;
    let sections: Vec<(&'static str, Vec<Run>)> = plan::sections(args.full)
        .into_iter()
        .map(|section| (section.name, runs(&section, &placements)))
        .filter(|(_, runs)| !runs.is_empty())
        .collect();
    let arms = sections.iter().map(|(_, runs)| runs.len()).sum();
    let plan = args.schedule.plan(QUICK, if args.full { FULL } else { DEFAULT }, arms)?;

    let mut all = Collected::nothing();
    for (name, runs) in &sections {
        all.extend(measure(name, runs, plan, &scratch, session)?);
    }
    let Collected { mut rows, complete } = all;
    rows.extend(kernel_lab::rows(&lab));
    let entries: Vec<Entry> = rows.iter().map(Entry::from).collect();
    let (outcomes, lab) = (outcomes(&entries), lab::savings(&entries));
    Ok(Report {
        benchmark: "one-percent",
        workload: Some(format!(
            "randread bs=4k; files in {}; on one CPU the guest waits until the device sleeps (SCHED_BATCH)",
            scratch.directory().display()
        )),
        text: report::tables(&outcomes, &lab, session.colour),
        conclusions: conclusions(&outcomes, &lab),
        complete,
        rows,
    })
}

/// The arms of a section, cell by cell. Cells for two CPUs are left out if there is only one.
fn runs(section: &Section, placements: &[Placement]) -> Vec<Run> {
    let place = |cpus: Cpus| {
        let fits = |placement: &&Placement| (placement.guest == placement.device) == (cpus == Cpus::One);
        placements.iter().find(fits).copied()
    };
    let cells = section.cells.iter().filter_map(|&(cpus, cell)| Some((place(cpus)?, cell)));
    let runs = cells.flat_map(|(placement, cell)| {
        let run = |arm, dose| Run { cell, placement, arm, dose };
        let classic = Arm::new(cell.monitor, Reset::Classic);
        // Without reads to begin with, one more read per doorbell would make it a different loop.
        let dosed = classic.filter(|_| !cell.busy_poll).map(|arm| run(arm, Some(Dose::Second)));
        let read_edge = cell.edge().filter(|_| cell.is_simplest()).map(|arm| run(arm, Some(Dose::Doorbell)));
        [classic.map(|arm| run(arm, None)), dosed, read_edge, cell.autoreset().map(|arm| run(arm, None))]
    });
    runs.flatten().collect()
}

/// Measures a section.
fn measure(
    name: &str,
    runs: &[Run],
    plan: Plan,
    scratch: &Scratch,
    session: &mut Session,
) -> Result<Collected, Error> {
    let case = |run: &Run| {
        let classic = run.cell.classic();
        let name = match run.dose {
            None => run.arm.to_string(),
            Some(Dose::Second) => run.cell.dosed(),
            Some(Dose::Doorbell) => and_its_read(run.arm),
        };
        Case {
            group: format!("{} on {}", run.cell, run.placement),
            baseline: Some(classic).filter(|classic| *classic != name),
            name,
        }
    };
    let cases: Vec<Case> = runs.iter().map(case).collect();
    let warm_up = |index: usize| {
        let run = &runs[index];
        if let Some(why) = no_loop(run.arm) {
            return Ok(Err(why));
        }
        let setup = match setup(run, scratch) {
            Ok(setup) => setup,
            Err(why) => return Ok(Err(why)),
        };
        let mut rig = match Rig::start(run.arm, run.placement, &setup) {
            Ok(rig) => rig,
            // Some machines lack a feature such as io_setup(2). What all machines have is measured
            // in other cells, too, where a failure ends the run.
            Err(error) if !run.cell.disk.is_swept() => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        rig.sample(plan.runtime / 2)?;
        Ok(Ok(rig))
    };
    let visit = |_, rig: &mut Rig| rig.sample(plan.runtime);
    let campaign = campaign::run(name, &cases, plan, session, warm_up, visit)?;
    let mut collected = campaign.collect(&cases);
    // A row has one baseline, but this arm is compared with two.
    for (row, run) in collected.rows.iter_mut().zip(runs).filter(|(_, run)| run.dose == Some(Dose::Doorbell))
    {
        let Ok(metrics) = &mut row.result else { continue };
        let against = campaign.versus(&cases, &row.group, &run.arm.to_string(), &row.case);
        let cpu = against.into_iter().filter(|measured| measured.name == "device_cpu_ns");
        metrics.extend(cpu.map(|measured| Measured { name: UNREAD_CPU_NS, ..measured }));
    }
    campaign::settle_rows(&mut collected.rows);
    Ok(collected)
}

/// The setup of an arm, or the reason why this machine does not support it.
fn setup(run: &Run, scratch: &Scratch) -> Result<Setup, String> {
    let Cell { disk, iodepth, event_idx, busy_poll, .. } = run.cell;
    let delay = |us, spin| {
        let latency = Duration::from_micros(u64::from(us));
        BackendKind::Delay(Delay { latency, spin })
    };
    let backend = match disk {
        Disk::Null => BackendKind::Null,
        Disk::Spin(us) => delay(us, true),
        Disk::Sleep(us) => delay(us, false),
        Disk::Cached => BackendKind::File(scratch.cached()),
        Disk::Direct => BackendKind::File(scratch.direct()?),
        Disk::LinuxAio => BackendKind::LinuxAio(scratch.direct()?),
    };
    let capacity_sectors = backend.image().map_or(SECTORS, |image| image.capacity_sectors());
    Ok(Setup {
        backend,
        capacity_sectors,
        block_bytes: BLOCK_BYTES,
        iodepth,
        features: features(event_idx),
        busy_poll_ns: if busy_poll { BUSY_POLL_NS } else { 0 },
        guest: GuestKind::Thread,
        requests: None,
        kicking: Kicking::AsWanted,
        kick_bound: None,
        workload: Workload {
            pattern: Pattern::RandRead,
            iodepth,
            stop: Stop::Requests(0),
            verify: false,
            seed: 1,
        },
        title: run.cell.to_string(),
        dose: run.dose,
        // Otherwise a guest that is woken while the device still has kicks disabled submits its
        // next request at once. An iteration then has several requests, and most of them have no
        // read. On two CPUs the guest is never that quick.
        patient_guest: true,
        // Otherwise a sleep may end 50 us late, which would dominate the iteration.
        timer_slack_ns: matches!(disk, Disk::Sleep(_)).then_some(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Monitor;

    #[test]
    fn edges_with_the_read_are_measured_in_the_simplest_cell_of_each_loop_that_has_them() {
        let places = [Placement { guest: 0, device: 0 }, Placement { guest: 0, device: 1 }];
        for (full, wanted) in [(false, 3), (true, 4)] {
            let runs: Vec<Run> =
                plan::sections(full).iter().flat_map(|section| super::runs(section, &places)).collect();
            let read_edge = |run: &&Run| run.dose == Some(Dose::Doorbell);
            assert_eq!(runs.iter().filter(read_edge).count(), wanted, "both loops on one CPU, and on two");
            for run in runs.iter().filter(read_edge) {
                assert_eq!(
                    (run.cell, run.arm.reset()),
                    (Cell::new(run.arm.monitor(), Disk::Null), Reset::Edge)
                );
            }
            // Otherwise the arms are the same, and poll has no edge-triggered mode.
            assert!(runs.iter().all(|run| run.cell.monitor == run.arm.monitor()));
            let is_poll = |run: &&Run| run.arm.monitor() == Monitor::Poll;
            assert!(runs.iter().filter(is_poll).all(|run| run.dose != Some(Dose::Doorbell)));
        }
        // Without a second CPU there are fewer.
        assert!(
            plan::sections(false).iter().flat_map(|section| super::runs(section, &places[..1])).count() > 40
        );
    }
}
