//! What does a `read(2)` of an eventfd cost on this machine? Classic against autoreset event notifiers, measured on the
//! path of a virtio-blk request and on bare system calls.
//!
//! The command line is in [`cli`], one module per subcommand does the measuring, [`measure`] says what follows from
//! the samples, and [`report`] says it to people and programs. This file only connects them.

mod arm;
mod campaign;
mod cli;
mod compare;
mod descriptors;
mod environment;
mod error;
mod eventfd;
mod flow_control;
mod interrupt;
mod list;
#[cfg(feature = "peers")]
mod loops;
mod measure;
mod one_percent;
mod pin;
mod progress;
mod repeater;
mod report;
mod scale;
mod session;
mod vhost_user;
mod virtio_blk;
mod worker;

use cli::{Command, Parsed};
use error::Error;
use session::Session;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            session::complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<u8, Error> {
    let command = match cli::parse(env::args_os())? {
        Parsed::Print(text) => return print(&text),
        Parsed::Run(command) => *command,
    };
    match command {
        Command::VirtioBlk(args) => {
            virtio_blk::check(&args)?;
            let mut session = Session::start(&args.schedule)?;
            let report = virtio_blk::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::VhostUser(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = vhost_user::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::Eventfd(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = eventfd::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::FlowControl(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = flow_control::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::Scale(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = scale::run(&args, &mut session)?;
            session.finish(&report)
        }
        #[cfg(feature = "peers")]
        Command::Loops(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = loops::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::OnePercent(args) => {
            let mut session = Session::start(&args.schedule)?;
            let report = one_percent::run(&args, &mut session)?;
            session.finish(&report)
        }
        Command::Compare(args) => compare::run(&args),
        Command::List => print(&list::render(report::colour_on_stdout())),
    }
}

/// Text that is no measurement: help, lists.
fn print(text: &str) -> Result<u8, Error> {
    report::print(text).map_err(|error| Error::failed("cannot write to stdout", &error))?;
    Ok(0)
}
