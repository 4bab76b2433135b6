//! `bench vhost-user`: vhost-user-blk servers in other processes, side by side.
//!
//! The guest is the one of `bench virtio-blk`: a thread with a block driver, over memory that it
//! shares with the server. The server is observed from outside: its CPU time and how often it
//! slept, both reported by the kernel. Several servers are the arms of one interleaved run. All of
//! them stay connected during the whole run and sleep while another one is measured.

mod options;
mod report;
mod rig;

pub(crate) use options::VhostUserArgs;

use crate::campaign::Watch;
use crate::campaign::{self, Case, Collected};
use crate::error::Error;
use crate::machine::pin_current_thread;
use crate::measure::Plan;
use crate::report::Report;
use crate::rig::idle;
use crate::session::Session;
use rig::Rig;
use std::cell::RefCell;
use std::time::Duration;

const FULL: Plan = Plan::new(10, Duration::from_millis(250));
const QUICK: Plan = Plan::new(6, Duration::from_millis(25));

/// Runs the benchmark. Blocks until it is done or Ctrl-C is pressed.
pub(crate) fn run(args: &VhostUserArgs, session: &mut Session) -> Result<Report, Error> {
    let setup = args.setup(&session.environment.allowed)?;
    let plan = args.schedule.plan(QUICK, FULL, setup.servers.len())?;
    // All threads that are created from here on are on the guest's CPU: the servers have their CPUs
    // to themselves.
    pin_current_thread(setup.cpu).map_err(|error| Error::failed("cannot pin the guest", &error))?;

    let group = format!("{} client on CPU {}", setup.client, setup.cpu);
    let baseline = setup.servers.first().map(|server| server.name.clone());
    let case = |(index, server): (usize, &options::ServerArg)| Case {
        group: group.clone(),
        name: server.name.clone(),
        baseline: baseline.clone().filter(|_| index > 0),
    };
    let cases: Vec<Case> = setup.servers.iter().enumerate().map(case).collect();

    let rigs: RefCell<Vec<Rig>> = RefCell::default();
    let warm_up = |index: usize| {
        let mut rig = Rig::start(&setup.servers[index], &setup)?;
        rig.sample(plan.runtime / 2)?;
        rigs.borrow_mut().push(rig);
        Ok(Ok(rigs.borrow().len() - 1))
    };
    let visit = |_, &mut rig: &mut usize| rigs.borrow_mut()[rig].sample(plan.runtime);
    let campaign = campaign::run("vhost-user", &cases, plan, session, warm_up, visit)?;

    let Collected { mut rows, mut complete } = campaign.collect(&cases);
    let mut conclusions = report::conclusions(&rows);
    let rigs = rigs.into_inner();
    if complete && !setup.idle.is_zero() {
        match watch_idle(&rigs, setup.idle, session) {
            Ok(Some(idle)) => {
                // Every case has a rig: a rig that cannot be created ends the campaign.
                for (row, idle) in rows.iter_mut().zip(&idle) {
                    conclusions.push(report::idle_sentence(&row.case, idle));
                    if let Ok(metrics) = &mut row.result {
                        metrics.extend(idle.metrics());
                    }
                }
            }
            Ok(None) => complete = false,
            // The rounds are finished, and their results are valid.
            Err(error) => conclusions.push(format!("The idle servers were not measured. {error}.")),
        }
    }
    let servers: Vec<String> = rigs.iter().map(Rig::to_string).collect();
    let workload = [&[setup.title.clone()][..], &servers].concat().join("; ");
    Ok(Report {
        benchmark: "vhost-user",
        workload: Some(workload),
        text: report::tables(&rows, session.colour),
        complete,
        conclusions,
        rows,
    })
}

/// What the servers do for `time` without a request. `None` after Ctrl-C.
fn watch_idle(rigs: &[Rig], time: Duration, session: &mut Session) -> Result<Option<Vec<idle::Idle>>, Error> {
    session.phase("vhost-user: idle", 1);
    session.step("all servers");
    let processes: Vec<_> = rigs.iter().map(Rig::process).collect();
    let idle = idle::watch(&processes, time, session).map_err(|(index, error)| rigs[index].gone(&error));
    session.end();
    idle
}
