//! Options that the measuring subcommands share: how often and how long to measure, where to run,
//! and where to write the results.

use super::value;
use crate::error::Error;
use crate::machine::{CpuSet, Placement, default_placements};
use crate::measure::{Growth, Plan};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The options, as given.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScheduleArgs {
    /// Get a rough answer in seconds: fewer rounds and shorter samples, unless these are given
    #[arg(long)]
    pub(crate) quick: bool,
    /// Number of rounds; each round visits every arm twice, forwards and backwards. Intervals need
    /// at least 6
    #[arg(long, value_name = "N", value_parser = rounds)]
    rounds: Option<usize>,
    /// Length of one sample (each arm has two per round) in seconds, or with a suffix: 200ms
    #[arg(long, value_name = "SECONDS", value_parser = runtime)]
    runtime: Option<Duration>,
    /// Add rounds until the 95% interval of every comparison is no wider than this share of its
    /// baseline, or --time is over (without it: 20 times the rounds)
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    precision: Option<f64>,
    /// Add rounds until the run has taken about this long, in seconds or with a suffix; end early
    /// if it is over sooner, but not before six rounds
    #[arg(long, value_name = "SECONDS", value_parser = time)]
    time: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where the results are written, and what they are compared with.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Also write the results as JSON; - is stdout, and the text then goes to stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write every sample of every round as CSV; - is stdout, as for --json
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Also write an HTML page: one file that loads nothing else; - is stdout, as for --json
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print the results as Markdown, for issues and mail
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Compare the results with an earlier --json FILE, as 'bench compare' does; exit code 1 if
    /// they are worse
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Largest acceptable regression, in percent
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = value::percent)]
    pub(crate) threshold: f64,
}

/// Where to run: for subcommands with two threads.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlacementArgs {
    /// CPUs of the guest's thread (which kicks) and of the device's thread; they may be the same
    /// [default: first one CPU for both, then two]
    #[arg(long, value_name = "GUEST,DEVICE", value_parser = value::pin)]
    pin: Option<Placement>,
}

/// A longer run is a typing mistake.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

fn rounds(text: &str) -> Result<usize, String> {
    value::within(text, 1, 10_000).map(|rounds| rounds as usize)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = value::duration(text, Duration::from_secs(1))?;
    let range = Duration::from_secs(1)..=LONGEST_RUN;
    if range.contains(&time) { Ok(time) } else { Err("must be 1s to 86400s".to_owned()) }
}

fn runtime(text: &str) -> Result<Duration, String> {
    let runtime = value::duration(text, Duration::from_secs(1))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    if range.contains(&runtime) { Ok(runtime) } else { Err("must be 1ms to 3600s".to_owned()) }
}

impl ScheduleArgs {
    /// Returns the plan for `arms` arms: the given values, or those of `quick` or `full`. A usage
    /// error if the run would take more than a day.
    pub(crate) fn plan(&self, quick: Plan, full: Plan, arms: usize) -> Result<Plan, Error> {
        let default = if self.quick { quick } else { full };
        let plan = Plan {
            rounds: self.rounds.unwrap_or(default.rounds),
            runtime: self.runtime.unwrap_or(default.runtime),
            growth: Growth {
                precision: self.precision,
                time_per_arm: self.time.map(|time| time / u32::try_from(arms.max(1)).unwrap_or(u32::MAX)),
            },
        };
        let samples = 2.0 * plan.rounds as f64 * arms as f64;
        let seconds = samples * plan.runtime.as_secs_f64();
        if seconds > LONGEST_RUN.as_secs_f64() {
            let message = format!(
                "{arms} arms twice in each of {} rounds for {:?} each would take {:.0} hours; lower --rounds or --runtime",
                plan.rounds,
                plan.runtime,
                seconds / 3600.0
            );
            return Err(Error::Usage(message));
        }
        Ok(plan)
    }
}

impl PlacementArgs {
    /// Returns --pin or both default placements. A usage error for a CPU that this process may not
    /// use.
    pub(crate) fn placements(&self, allowed: &CpuSet) -> Result<Vec<Placement>, Error> {
        let Some(pin) = self.pin else {
            return Ok(default_placements(allowed));
        };
        for cpu in [pin.guest, pin.device] {
            if !allowed.contains(cpu) {
                let message = format!(
                    "--pin {},{}: CPU {cpu} is not among those that this process may use ({allowed})",
                    pin.guest, pin.device
                );
                return Err(Error::Usage(message));
            }
        }
        Ok(vec![pin])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Harness {
        #[command(flatten)]
        schedule: ScheduleArgs,
        #[command(flatten)]
        placement: PlacementArgs,
    }

    const QUICK: Plan = Plan::new(6, Duration::from_millis(10));
    const FULL: Plan = Plan::new(10, Duration::from_millis(100));

    fn parse(arguments: &[&str]) -> Result<Harness, String> {
        let arguments = ["bench"].iter().chain(arguments);
        Harness::try_parse_from(arguments).map_err(|error| crate::cli::sentence(&error))
    }

    fn schedule(arguments: &[&str]) -> Result<ScheduleArgs, String> {
        parse(arguments).map(|harness| harness.schedule)
    }

    #[test]
    fn what_is_given_wins_over_quick_and_full() {
        let plan = |arguments: &[&str]| schedule(arguments).unwrap().plan(QUICK, FULL, 4).unwrap();
        assert_eq!(plan(&[]), FULL);
        assert_eq!(plan(&["--quick"]), QUICK);
        assert_eq!(plan(&["--quick", "--rounds", "3"]), Plan { rounds: 3, ..QUICK });
        assert_eq!(plan(&["--runtime", "2"]), Plan { runtime: Duration::from_secs(2), ..FULL });
    }

    #[test]
    fn the_time_of_a_run_is_shared_by_its_arms() {
        let plan = schedule(&["--time", "60s", "--precision", "1%"]).unwrap().plan(QUICK, FULL, 4).unwrap();
        let growth = Growth { precision: Some(0.01), time_per_arm: Some(Duration::from_secs(15)) };
        assert_eq!(plan, Plan { growth, ..FULL });
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for (arguments, end) in [
            (["--rounds", "0"], "must be 1 to 10000"),
            (["--rounds", "1000000"], "must be 1 to 10000"),
            (["--rounds", "-1"], "must be 1 to 10000"),
            (["--runtime", "0"], "must be 1ms to 3600s"),
            (["--time", "0"], "must be 1s to 86400s"),
            (["--precision", "-1"], "write a percentage from 0 to 1000, such as 5"),
            (["--runtime", "2h"], "write a time, such as 500ns, 20us, 200ms or 2s"),
            (["--pin", "1"], "write two CPU numbers, GUEST,DEVICE, such as 0,1 or 0,0"),
        ] {
            let message = schedule(&[&format!("{}={}", arguments[0], arguments[1])]).unwrap_err();
            assert!(message.ends_with(end), "{message}");
        }
        let forever = schedule(&["--rounds", "10000", "--runtime", "3600"]).unwrap();
        let message = forever.plan(QUICK, FULL, 2).unwrap_err().to_string();
        assert!(message.contains("would take 40000 hours"), "{message}");
    }

    #[test]
    fn a_pin_must_be_allowed() {
        let allowed = CpuSet::parse_list("2-3");
        let placements = |arguments: &[&str]| parse(arguments).unwrap().placement.placements(&allowed);
        assert_eq!(placements(&["--pin", "2,3"]).unwrap(), [Placement { guest: 2, device: 3 }]);
        assert_eq!(placements(&["--pin", "3,3"]).unwrap(), [Placement { guest: 3, device: 3 }]);
        let message = placements(&["--pin", "2,4"]).unwrap_err().to_string();
        assert_eq!(message, "--pin 2,4: CPU 4 is not among those that this process may use (2-3)");
        assert_eq!(placements(&[]).unwrap()[0], Placement { guest: 2, device: 2 });
    }
}
