//! Options and values that several subcommands share. Each subcommand's own options stand beside
//! it.

mod schedule;
mod sentence;
pub(crate) mod value;
mod workload;

pub(crate) use schedule::{PlacementArgs, ScheduleArgs};
pub(crate) use sentence::sentence;
pub(crate) use workload::{WorkloadArgs, check_verify};

/// Parses the options of one subcommand, for tests.
#[cfg(test)]
pub(crate) fn options<T: clap::Args>(arguments: &[&str]) -> Result<T, clap::Error> {
    let command = T::augment_args(clap::Command::new("bench"));
    T::from_arg_matches(&command.try_get_matches_from(["bench"].iter().chain(arguments))?)
}
