//! The ledger of costs: instructions and system calls of a turn, of an awaited event and of a
//! request, compared with `bench/costs.toml`. Counts, never times.
//!
//!     cargo costs                   compares, and fails if one has grown by more than 1 %
//!     UPDATE_COSTS=1 cargo costs    writes the file again
//!     cargo costs --only NAME       only what has NAME in its name
//!     cargo costs --table NAME      where the instructions of one work are, by source file
//!
//! Each work runs in a process of its own, once under callgrind and once under strace, and only
//! what happens inside [`counted`](works::counted) counts: turns of the loop. The guest shares the
//! thread, and takes its steps between the turns, so each run does the same.
//!
//! Instructions are those of optimised code on x86-64 without those inside libc, which depend on
//! its version. They are compared only if the compiler is the one that the file names, and system
//! calls only if the kernel is: a line says so otherwise.

mod ledger;
mod strace;
mod valgrind;
mod works;

use ledger::{Costs, Ledger};
use std::process::ExitCode;
use works::Work;

const USAGE: &str = "usage: costs [--only NAME] [--table NAME]";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut only, mut table) = (String::new(), None);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (argument.as_str(), value) {
            // In the process that is counted.
            ("--work", Some(name)) => return carry_out(&name),
            ("--only", Some(name)) => only = name,
            ("--table", Some(name)) => table = Some(name),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if cfg!(debug_assertions) || !cfg!(target_arch = "x86_64") {
        println!("skipped: the ledger is of optimised code on x86-64: cargo costs");
        return ExitCode::SUCCESS;
    }
    match table {
        Some(name) => print_table(&name),
        None => compare(&only),
    }
}

/// Does one work in this process, which a tool counts.
fn carry_out(name: &str) -> ExitCode {
    let Some(work) = Work::all().into_iter().find(|work| work.to_string() == name) else {
        eprintln!("there is no work '{name}'");
        return ExitCode::from(2);
    };
    match work.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(works::CANNOT)
        }
    }
}

fn compare(only: &str) -> ExitCode {
    let update = std::env::var_os("UPDATE_COSTS").is_some();
    let noted = match Ledger::read() {
        Ok(noted) => noted,
        Err(error) if update => {
            println!("{error}");
            Ledger::default()
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut counted = Ledger::of_this_machine();
    for work in Work::all() {
        let name = work.to_string();
        if !name.contains(only) {
            continue;
        }
        match count(work, &name) {
            Ok(costs) => {
                println!("{name}: {costs}");
                counted.works.insert(name, costs);
            }
            Err(why) => println!("skipped: {name}: {why}"),
        }
    }
    if update {
        return match noted.updated_by(counted).write() {
            Ok(path) => {
                println!("{path} is written");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let (remarks, grown) = noted.against(&counted);
    remarks.iter().for_each(|remark| println!("{remark}"));
    for line in &grown {
        eprintln!("GREW: {line}");
    }
    if grown.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("if that is meant, write the file again: UPDATE_COSTS=1 cargo costs");
    ExitCode::FAILURE
}

/// Counts one work with both tools. The error is the reason why that cannot be done here.
fn count(work: Work, name: &str) -> Result<Costs, String> {
    let each = |count: u64| count as f64 / work.units() as f64;
    let instructions = each(valgrind::profile(name)?.instructions());
    let calls = strace::calls(name)?;
    Ok(Costs { instructions, calls: calls.into_iter().map(|(call, count)| (call, each(count))).collect() })
}

fn print_table(name: &str) -> ExitCode {
    let Some(work) = Work::all().into_iter().find(|work| work.to_string() == name) else {
        eprintln!("there is no work '{name}'; there are:");
        Work::all().iter().for_each(|work| eprintln!("  {work}"));
        return ExitCode::from(2);
    };
    match valgrind::profile(name) {
        Ok(profile) => print!("{}", profile.table(work.units())),
        Err(why) => println!("skipped: {why}"),
    }
    ExitCode::SUCCESS
}
