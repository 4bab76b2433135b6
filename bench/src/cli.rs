//! The command line: what can be asked for, and one sentence for what cannot.

pub(crate) mod schedule;
pub(crate) mod value;

use crate::compare::CompareArgs;
use crate::error::Error;
use crate::flow_control::FlowControlArgs;
use crate::one_percent::OnePercentArgs;
use crate::vhost_user::options::VhostUserArgs;
use crate::virtio_blk::options::VirtioBlkArgs;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use schedule::{PlacementArgs, ScheduleArgs};

/// What does a read(2) of an eventfd cost on this machine?
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a subcommand: those of virtio-blk.
    #[command(flatten)]
    virtio_blk: VirtioBlkArgs,
}

impl Cli {
    /// What to do; without a subcommand, the main job.
    fn into_command(self) -> Command {
        self.command.unwrap_or(Command::VirtioBlk(self.virtio_blk))
    }
}

const EXIT_CODES: &str = "\
Results go to stdout, everything else to stderr.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 asked for something this machine cannot do, 130 stopped by Ctrl-C
(which prints what was finished).";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Classic against autoreset notifiers on the path of a virtio-blk request (the default)
    VirtioBlk(VirtioBlkArgs),
    /// Any vhost-user-blk servers, ours or another's, side by side, driven by a guest in this process
    VhostUser(VhostUserArgs),
    /// What each bare operation on an eventfd costs here: the floor under every event loop
    Eventfd(EventfdArgs),
    /// Bounded event counts: the three benchmarks of the EFD_IOC_SET_MAXIMUM proposal, with each way to keep the bound
    FlowControl(FlowControlArgs),
    /// 1 to 10,000 notifiers and 1 to 1,000 devices on one loop, and queues over several IoThreads
    Scale(ScaleArgs),
    /// The same work on our loop, on mio, polling, calloop, event-manager, eventp and tokio, and on bare calls
    #[cfg(feature = "peers")]
    Loops(LoopsArgs),
    /// The proposal's result: what share of an iteration a read(2) is, and where that is one percent
    OnePercent(OnePercentArgs),
    /// Two reports of one subcommand, arm by arm: exit code 1 if the second is worse
    Compare(CompareArgs),
    /// What can be measured: the arms and the operations
    List,
}

/// Options of `bench eventfd`.
#[derive(Debug, Args)]
pub(crate) struct EventfdArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

/// Options of `bench scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

/// Options of `bench loops`.
#[cfg(feature = "peers")]
#[derive(Debug, Args)]
pub(crate) struct LoopsArgs {
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    /// Only the work whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) work: Option<String>,
    /// Only the loops whose name contains this, and ours and the bare calls
    #[arg(long, value_name = "TEXT")]
    pub(crate) peer: Option<String>,
}

/// What came of parsing the command line.
#[derive(Debug)]
pub(crate) enum Parsed {
    Run(Box<Command>),
    /// --help or --version: text for stdout.
    Print(String),
}

/// Parses the arguments, the program's name first. An [`Error::Usage`] is one sentence.
pub(crate) fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Parsed, Error> {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli.into_command()))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(error.render().to_string()))
        }
        Err(error) => Err(Error::Usage(sentence(&error))),
    }
}

/// clap's error as one sentence: its first paragraph without the "error:" before it, and its suggestion if it has
/// one. The usage text that clap adds is what --help is for.
pub(crate) fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no subcommand given; try 'bench --help'".to_owned();
    }
    let text = error.render().to_string();
    let first_paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let sentence = first_paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned();
    let suggestion =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|kind| match error.get(kind)? {
                ContextValue::String(text) => Some(text.clone()),
                ContextValue::Strings(texts) => texts.first().cloned(),
                _ => None,
            });
    match suggestion {
        Some(suggestion) => format!("{sentence}; did you mean '{suggestion}'?"),
        None => sentence,
    }
}

/// The options of a subcommand by themselves, for their tests.
#[cfg(test)]
pub(crate) fn options<T: Args>(arguments: &[&str]) -> Result<T, clap::Error> {
    let command = T::augment_args(clap::Command::new("bench"));
    T::from_arg_matches(&command.try_get_matches_from(["bench"].iter().chain(arguments))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<Parsed, String> {
        let arguments = ["bench"].iter().chain(arguments).map(|&argument| argument.into());
        super::parse(arguments).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_and_version_are_texts_for_stdout() {
        for arguments in
            [&["--help"][..], &["--version"], &["eventfd", "--help"], &["flow-control", "--help"]]
        {
            assert!(matches!(parse(arguments), Ok(Parsed::Print(text)) if text.contains("bench")));
        }
    }

    #[test]
    fn every_refusal_is_one_line() {
        let refusals: &[(&[&str], &str)] = &[
            (&["evntfd"], "unrecognized subcommand 'evntfd'; did you mean 'eventfd'?"),
            (&["eventfd", "--quik"], "unexpected argument '--quik' found; did you mean '--quick'?"),
            (&["eventfd", "--rounds"], "a value is required for '--rounds <N>' but none was supplied"),
            (&["eventfd", "--rounds", "0"], "invalid value '0' for '--rounds <N>': must be 1 to 10000"),
            (
                &["flow-control", "--maximum", "10,1"],
                "invalid value '1' for '--maximum <LIST>': must be 2 to 65536",
            ),
            (&["list", "extra"], "unexpected argument 'extra' found"),
        ];
        for (arguments, sentence) in refusals {
            assert_eq!(parse(arguments).unwrap_err(), *sentence);
        }
    }
}
