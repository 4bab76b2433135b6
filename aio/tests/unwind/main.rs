//! A panic in every hook of a user, at every place where the loop runs one.
//!
//! The rows of the table are the hooks: each kind of callback, the poll of a task, the methods of a
//! device that moves, the four hooks of a busy polled
//! device, the drop of what each callback captured, and the drop of what operations hold. The
//! columns are the places: ordinary and nested turns, removal, replacement, a change of the busy
//! polling policy, the drop of the context, and the end of an `IoThread`. While a cell runs, reads
//! on pipes and on a doorbell are in flight. Afterwards
//!
//! * the panic has reached the caller,
//! * no block was written to after it had been freed, and no buffer was freed while the kernel
//!   still held its operation,
//! * the context and the source itself can still be used, unless the context was dropped,
//! * every device whose `begin` was called gets its `end`,
//! * every value was dropped exactly once, and all descriptors are closed.
//!
//! Each test runs its cells in a process of its own, because a cell that fails may abort or hang:
//! that cell is then reported, and the rest is run by another process.

mod bomb;
mod bystander;
mod cell;
mod io_thread;
mod os;
mod owned;
mod quarantine;
mod source;
mod subscribed;
mod traffic;

use aio::MonitorKind::{Epoll, IoUring, Poll};
use aio::Reset::{Autoreset, AutoresetBy, Classic};
use aio::RingSetup::{CoopTaskrun, DeferTaskrun, Plain};
use aio::{Method, MonitorKind, Reset, RingSetup};
use cell::Setup;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// In a child: the first cell to run.
const FROM: &str = "AIO_UNWIND_FROM";

/// A cell that takes longer hangs. None comes near it.
const HANG: Duration = Duration::from_secs(20);

/// After so many processes that ended early, the rest of a table is given up.
const MAX_CHILDREN: usize = 40;

/// Tests that use the allocator of this process, or count its descriptors, run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn table(name: &str, setup: Setup) {
    if let Some(missing) = setup.missing() {
        return eprintln!("{name} skipped: {missing}");
    }
    match std::env::var(FROM).ok().and_then(|from| from.parse().ok()) {
        Some(from) => run_cells(setup, from),
        None => run_children(name, setup),
    }
}

/// A line for the parent. It begins on a line of its own, because the test harness writes to the
/// same pipe.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let told = write!(out, "\n@{line}\n").and_then(|()| out.flush());
    told.expect("the parent listens");
}

fn run_cells(setup: Setup, from: usize) {
    for (index, cell) in cell::all(setup.monitor).into_iter().enumerate().skip(from) {
        tell(&format!("begin {index}"));
        for complaint in cell.run(setup) {
            tell(&format!("fail {cell}: {complaint}"));
        }
    }
    tell("done");
}

fn run_children(name: &str, setup: Setup) {
    let cells = cell::all(setup.monitor);
    let mut failures = Vec::new();
    let (mut next, mut children) = (0, 0);
    while next < cells.len() && children < MAX_CHILDREN {
        children += 1;
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(FROM, next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let reader = std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut done = false;
        let silent = loop {
            match lines.recv_timeout(HANG) {
                Ok(line) => {
                    match line.strip_prefix('@').and_then(|line| line.split_once(' ').or(Some((line, "")))) {
                        Some(("begin", index)) => next = index.parse().expect("a number"),
                        Some(("fail", text)) => failures.push(text.to_owned()),
                        Some(("done", _)) => done = true,
                        _ => {}
                    }
                }
                Err(RecvTimeoutError::Timeout) => break true,
                Err(RecvTimeoutError::Disconnected) => break false,
            }
        };
        if silent {
            child.kill().expect("the child was started here");
        }
        let status = child.wait().expect("the child was started here");
        drop(reader.join());
        if done {
            next = cells.len();
        } else {
            let why = if silent { "it hangs".to_owned() } else { format!("the process ended: {status}") };
            failures.push(format!("{}: {why}", cells[next]));
            next += 1;
        }
    }
    println!("{name}: {} cells, {} failures", cells.len(), failures.len());
    assert!(next >= cells.len(), "given up after {children} processes:\n{}", failures.join("\n"));
    assert!(
        failures.is_empty(),
        "{} failures in {} cells:\n{}",
        failures.len(),
        cells.len(),
        failures.join("\n")
    );
}

macro_rules! tables {
    ($($name:ident: $monitor:expr, $reset:expr, $ring:expr;)+) => {
        $(
            #[test]
            fn $name() {
                let (monitor, reset, ring): (MonitorKind, Reset, RingSetup) = ($monitor, $reset, $ring);
                table(stringify!($name), Setup { monitor, reset, ring });
            }
        )+
    };
}

tables! {
    poll_classic: Poll, Classic, Plain;
    epoll_classic: Epoll, Classic, Plain;
    epoll_edge: Epoll, Autoreset, Plain;
    io_uring_classic: IoUring, Classic, DeferTaskrun;
    io_uring_edge: IoUring, Autoreset, DeferTaskrun;
    io_uring_ring_read: IoUring, AutoresetBy(Method::RingRead), DeferTaskrun;
    io_uring_ring_read_multishot: IoUring, AutoresetBy(Method::RingReadMultishot), DeferTaskrun;
    io_uring_coop_edge: IoUring, Autoreset, CoopTaskrun;
    io_uring_coop_ring_read: IoUring, AutoresetBy(Method::RingRead), CoopTaskrun;
    io_uring_plain_edge: IoUring, Autoreset, Plain;
    io_uring_plain_ring_read: IoUring, AutoresetBy(Method::RingRead), Plain;
    io_uring_plain_ring_read_multishot: IoUring, AutoresetBy(Method::RingReadMultishot), Plain;
}
