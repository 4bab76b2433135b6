//! Shows what the loop does for one doorbell: rings a notifier and runs one turn of the loop, many
//! times on one thread, and prints the loop's counters.
//!
//! ```text
//! cargo run --release -p aio-context --example notifier_turns -- MONITOR RESET TURNS [REGISTERED]
//!
//!   MONITOR     auto, poll, epoll, io_uring
//!   RESET       classic, autoreset, or one method: read, edge, ring-read, ring-read-multishot,
//!               kernel-flag
//!   TURNS       how many times to ring and turn
//!   REGISTERED  number of notifiers in the loop; only one is rung (default 1)
//! ```
//!
//! To compare the printed numbers with the system calls that strace counts:
//!
//! ```text
//! strace -f -c target/release/examples/notifier_turns epoll classic 100000
//! strace -f -c target/release/examples/notifier_turns epoll autoreset 100000
//! ```

use aio::{AioContext, EventNotifier, Method, MonitorKind, Reset};
use std::cell::Cell;
use std::error::Error;
use std::process::ExitCode;
use std::rc::Rc;

const USAGE: &str = "usage: notifier_turns auto|poll|epoll|io_uring \
    classic|autoreset|read|edge|ring-read|ring-read-multishot|kernel-flag TURNS [REGISTERED]";

struct Options {
    monitor: Option<MonitorKind>,
    reset: Reset,
    turns: u64,
    registered: usize,
}

fn parse(args: &[String]) -> Option<Options> {
    let (monitor, reset, turns, registered) = match args {
        [monitor, reset, turns] => (monitor, reset, turns, 1),
        [monitor, reset, turns, registered] => (monitor, reset, turns, registered.parse().ok()?),
        _ => return None,
    };
    let monitor = match monitor.as_str() {
        "auto" => None,
        name => Some(*MonitorKind::ALL.iter().find(|kind| kind.to_string() == name)?),
    };
    let reset = match reset.as_str() {
        "classic" => Reset::Classic,
        "autoreset" => Reset::Autoreset,
        "read" => Reset::AutoresetBy(Method::Read),
        "edge" => Reset::AutoresetBy(Method::Edge),
        "ring-read" => Reset::AutoresetBy(Method::RingRead),
        "ring-read-multishot" => Reset::AutoresetBy(Method::RingReadMultishot),
        "kernel-flag" => Reset::AutoresetBy(Method::KernelFlag),
        _ => return None,
    };
    Some(Options { monitor, reset, turns: turns.parse().ok()?, registered: registered.max(1) })
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // The reset mode also applies to the loop's own notifier, although no other thread wakes this
    // loop.
    let mut builder = AioContext::builder().reset(options.reset);
    if let Some(kind) = options.monitor {
        builder = builder.monitor(kind);
    }
    let ctx = builder.build()?;
    let handled = Rc::new(Cell::new(0u64));
    let mut devices = Vec::new();
    for _ in 0..options.registered {
        let kick = EventNotifier::new(options.reset)?;
        let handled = Rc::clone(&handled);
        let registration = ctx.add_notifier(&kick, move |_| handled.set(handled.get() + 1))?;
        devices.push((kick, registration));
    }
    let (kick, registration) = devices.last().ok_or("no notifier")?;
    for _ in 0..options.turns {
        let before = handled.get();
        kick.notify()?;
        while handled.get() == before {
            ctx.poll(true)?;
        }
    }
    println!("monitor {}: {}", ctx.monitor().kind, ctx.monitor().reason);
    println!("reset {}", registration.method());
    if let Some(why) = registration.fallback() {
        println!("fallback {why}");
    }
    let stats = ctx.stats();
    println!("turns {}", stats.turns);
    println!("notifier_dispatches {}", stats.notifier_dispatches);
    println!("spurious {}", stats.spurious);
    println!("syscalls_wait {}", stats.syscalls_wait);
    println!("syscalls_enter {}", stats.syscalls_enter);
    println!("syscalls_read {}", stats.syscalls_read);
    println!("syscalls_write {}", stats.syscalls_write);
    println!("syscalls_ctl {}", stats.syscalls_ctl);
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let Some(options) = parse(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("notifier_turns: {e}");
            ExitCode::FAILURE
        }
    }
}
