//! `bench virtio-blk`: classic against autoreset event notifiers on the path of a virtio-blk
//! request.
//!
//! One thread plays the guest's vCPU, another one is the device's event loop. Between them are a
//! real ioeventfd, a real irqfd and a split virtqueue. The arms differ in how the loop waits and in
//! how its notifiers are reset: the ioeventfd and the loop's own. The guest waits for its interrupt
//! with one blocking read(2) in every arm. With `--guest kvm` it is a vCPU that halts, and KVM
//! signals the ioeventfd and resets the irqfd.

mod options;
mod report;

pub(crate) use options::VirtioBlkArgs;

use crate::arm::{Arm, Reset};
use crate::bare;
use crate::campaign::{self, Case};
use crate::error::Error;
use crate::machine::Placement;
use crate::measure::Plan;
use crate::report::Report;
use crate::report::complain;
use crate::rig::{self, Rig, Setup};
use crate::session::Session;
use std::time::Duration;

const FULL: Plan = Plan::new(8, Duration::from_millis(140));
const QUICK: Plan = Plan::new(6, Duration::from_millis(25));

/// What was checked before the run.
#[derive(Debug)]
pub(crate) struct Checked {
    setup: Setup,
    /// About the guest.
    remark: Option<&'static str>,
}

/// Checks before the run whether everything can be measured.
pub(crate) fn check(args: &VirtioBlkArgs) -> Result<Checked, Error> {
    let setup = args.setup()?;
    let remark = rig::remark(&setup.guest)?;
    let asked = args.arms();
    if !asked.is_empty() {
        available(&asked, &setup)?;
    }
    Ok(Checked { setup, remark })
}

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &VirtioBlkArgs, checked: Checked, session: &mut Session) -> Result<Report, Error> {
    let Checked { setup, remark } = checked;
    let placements = args.placement.placements(&session.environment.allowed)?;
    let asked = args.arms();
    let arms = available(&asked, &setup)?;
    if let [(arm, Some(why)), ..] = arms.as_slice()
        && arms.iter().all(|(_, missing)| missing.is_some())
    {
        return Err(Error::Unavailable(format!("no arm is available here; {arm}: {why}")));
    }
    let plan = args.schedule.plan(QUICK, FULL, arms.len() * placements.len())?;

    let everywhere = placements.iter().flat_map(|&placement| arms.iter().map(move |arm| (placement, arm)));
    let runs: Vec<(Placement, &(Arm, Option<String>))> = everywhere.collect();
    let cases: Vec<Case> = runs.iter().map(|(placement, (arm, _))| case(*placement, *arm, &arms)).collect();

    let cpu = placements.first().map_or(0, |placement| placement.device);
    let mut all = bare::cost_of_a_read(cpu, session)?;

    let warm_up = |index: usize| {
        let (placement, (arm, missing)) = &runs[index];
        if let Some(why) = missing {
            return Ok(Err(why.clone()));
        }
        let mut rig = Rig::start(*arm, *placement, &setup)?;
        rig.sample(plan.runtime / 2)?;
        Ok(Ok(rig))
    };
    let visit = |_, rig: &mut Rig| rig.sample(plan.runtime);
    let campaign = campaign::run("virtio-blk", &cases, plan, session, warm_up, visit)?;

    let measured = campaign.collect(&cases);
    let text = report::tables(&measured.rows, session.colour);
    let mut conclusions = report::conclusions(&all.rows, &measured.rows);
    conclusions.splice(0..0, remark.map(str::to_owned));
    all.extend(measured);
    Ok(Report {
        benchmark: "virtio-blk",
        workload: Some(setup.title),
        text,
        complete: all.complete,
        rows: all.rows,
        conclusions,
    })
}

/// The arms to run, each with the reason why it is not available, if so. For an arm that was
/// requested by name that is an error. Otherwise it becomes a row of the table. Arms that need a
/// kernel patch are left out, with one message.
fn available(asked: &[Arm], setup: &Setup) -> Result<Vec<(Arm, Option<String>)>, Error> {
    if !asked.is_empty() {
        let missing = asked.iter().find_map(|arm| Some((arm, rig::obstacle(*arm, setup)?)));
        return match missing {
            Some((arm, why)) => {
                Err(Error::Unavailable(format!("--arms: {arm} is not available here: {why}")))
            }
            None => Ok(asked.iter().map(|arm| (*arm, None)).collect()),
        };
    }
    let (mut arms, mut unpatched) = (Vec::new(), None);
    for arm in Arm::all() {
        match rig::obstacle(arm, setup) {
            Some(why) if arm.reset() == Reset::KernelFlag => unpatched = Some(why),
            missing => arms.push((arm, missing)),
        }
    }
    if let Some(why) = unpatched {
        complain(&format!("{} arms are left out: {why}", Reset::KernelFlag));
    }
    Ok(arms)
}

/// An arm is compared with the classic one of the same monitor, if that is measured too.
fn case(placement: Placement, arm: Arm, arms: &[(Arm, Option<String>)]) -> Case {
    let classic = Arm::new(arm.monitor(), Reset::Classic).filter(|classic| *classic != arm);
    let classic =
        classic.filter(|classic| arms.iter().any(|(arm, missing)| arm == classic && missing.is_none()));
    Case {
        group: format!("guest and device on {placement}"),
        name: arm.to_string(),
        baseline: classic.map(|classic| classic.to_string()),
    }
}
