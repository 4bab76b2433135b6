//! What does a `read(2)` of an eventfd cost on this machine? Classic against autoreset event
//! notifiers, measured on the path of a virtio-blk request and with bare system calls.
//!
//! This file has the command line and starts a subcommand. Each subcommand is a module with its
//! options, its plan and its report. What several of them share is below: [`campaign`] takes the
//! samples, [`measure`] draws conclusions from them, [`report`] presents them to people and
//! programs.

mod arm;
mod bare;
mod campaign;
mod cli;
mod compare;
mod environment;
mod error;
mod eventfd;
mod flow_control;
mod list;
#[cfg(feature = "peers")]
mod loops;
mod machine;
mod measure;
mod one_percent;
mod redraw;
mod report;
mod rig;
mod scale;
mod session;
mod vhost_user;
mod virtio_blk;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use cli::ScheduleArgs;
use compare::CompareArgs;
use error::Error;
use eventfd::EventfdArgs;
use flow_control::FlowControlArgs;
#[cfg(feature = "peers")]
use loops::LoopsArgs;
use one_percent::OnePercentArgs;
use redraw::ReportArgs;
use report::{Report, Stream, complain};
use scale::ScaleArgs;
use session::Session;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use vhost_user::VhostUserArgs;
use virtio_blk::VirtioBlkArgs;

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
    /// Options without a subcommand: those of virtio-blk.
    #[command(flatten)]
    virtio_blk: VirtioBlkArgs,
}

impl Cli {
    /// Returns the subcommand; virtio-blk by default.
    fn into_command(self) -> Command {
        self.command.unwrap_or(Command::VirtioBlk(self.virtio_blk))
    }
}

const EXIT_CODES: &str = "\
Results go to stdout, everything else to stderr. With --json - or --html -, only that report goes to stdout, and
the text goes to stderr.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 asked for something this machine cannot do, 130 stopped by Ctrl-C
(which prints what was finished).";

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Classic against autoreset notifiers on the path of a virtio-blk request (the default)
    VirtioBlk(VirtioBlkArgs),
    /// Compare vhost-user-blk servers, ours or others, driven by a guest in this process
    VhostUser(VhostUserArgs),
    /// What each bare operation on an eventfd costs here: the lower limit for every event loop
    Eventfd(EventfdArgs),
    /// Bounded event counts: the three benchmarks of the EFD_IOC_SET_MAXIMUM proposal, with each
    /// method to enforce the maximum
    FlowControl(FlowControlArgs),
    /// 1 to 10,000 notifiers and 1 to 1,000 devices on one loop, and queues over several IoThreads
    Scale(ScaleArgs),
    /// The same work on our loop, on mio, polling, calloop, event-manager, eventp and tokio, and on
    /// bare calls
    #[cfg(feature = "peers")]
    Loops(LoopsArgs),
    /// The proposal's claim: what share of an iteration is a read(2), and for which iterations is
    /// that one percent
    OnePercent(OnePercentArgs),
    /// Compare two reports of one subcommand, arm by arm; exit code 1 if the second is worse
    Compare(CompareArgs),
    /// Present a saved report again, as text, Markdown or a page
    Report(ReportArgs),
    /// List the arms and the operations that can be measured
    List,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<u8, Error> {
    let command = match parse(env::args_os())? {
        Parsed::Print(text) => return print(&text),
        Parsed::Run(command) => *command,
    };
    match command {
        Command::VirtioBlk(args) => {
            let checked = virtio_blk::check(&args)?;
            in_session("virtio-blk", &args.schedule, |session| virtio_blk::run(&args, checked, session))
        }
        Command::VhostUser(args) => {
            in_session("vhost-user", &args.schedule, |session| vhost_user::run(&args, session))
        }
        Command::Eventfd(args) => {
            in_session("eventfd", &args.schedule, |session| eventfd::run(&args, session))
        }
        Command::FlowControl(args) => {
            in_session("flow-control", &args.schedule, |session| flow_control::run(&args, session))
        }
        Command::Scale(args) => in_session("scale", &args.schedule, |session| scale::run(&args, session)),
        #[cfg(feature = "peers")]
        Command::Loops(args) => in_session("loops", &args.schedule, |session| loops::run(&args, session)),
        Command::OnePercent(args) => {
            in_session("one-percent", &args.schedule, |session| one_percent::run(&args, session))
        }
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => redraw::run(&args),
        Command::List => print(&list::render(Stream::Stdout.is_coloured())),
    }
}

/// Runs a subcommand that measures, in a session of its own. Returns the exit code.
fn in_session(
    benchmark: &str,
    schedule: &ScheduleArgs,
    run: impl FnOnce(&mut Session) -> Result<Report, Error>,
) -> Result<u8, Error> {
    let mut session = Session::start(benchmark, schedule)?;
    let report = run(&mut session)?;
    session.finish(report)
}

/// Prints text that is not a measurement: help, lists.
fn print(text: &str) -> Result<u8, Error> {
    Stream::Stdout.print(text)?;
    Ok(0)
}

/// The result of parsing the command line.
#[derive(Debug)]
enum Parsed {
    Run(Box<Command>),
    /// --help or --version: text for stdout.
    Print(String),
}

/// Parses the arguments, the program's name first. An [`Error::Usage`] is one sentence.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, Error> {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli.into_command()))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(error.render().to_string()))
        }
        Err(error) => Err(Error::Usage(cli::sentence(&error))),
    }
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
