//! A small program that uses everything of a loop and ends with a count of what arrived. It is made
//! to run under fault injection: `scripts/faults.sh` makes each of its system calls fail, with each
//! error, and expects that nothing is lost or that the program says what failed.
//!
//! ```text
//! cargo run --release -p aio-context --example loop_under_faults -- MONITOR RESET ROUNDS [PART]
//!
//!   MONITOR   auto, poll, epoll, io_uring
//!   RESET     classic, autoreset
//!   ROUNDS    how many of each part
//!   PART      doorbells, messages, bottom-halves, closures, timers, operations (default: all)
//! ```
//!
//! Exit codes: 0 all arrived, 1 something failed (the message says what), 2 wrong use, 4 something
//! is missing after five seconds, 5 the loop made many more turns than there was work.
#![expect(unsafe_code, reason = "sigaction(2), for a handler that interrupts system calls")]

use aio::{AioContext, EventNotifier, Interest, MonitorKind, Reset};
use std::cell::Cell;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, exit};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: loop_under_faults auto|poll|epoll|io_uring classic|autoreset ROUNDS \
    [doorbells|messages|bottom-halves|closures|timers|operations]";

/// A part of the program, and its name.
type Part = (&'static str, fn(&Lab, Reset));

/// The parts, in their order.
const PARTS: [Part; 6] = [
    ("doorbells", doorbells),
    ("messages", messages),
    ("bottom-halves", bottom_halves),
    ("closures", closures),
    ("timers", timers),
    ("operations", operations),
];

/// A phase takes milliseconds. Whatever is missing after this time is lost.
const LOST: Duration = Duration::from_secs(5);
/// A failed turn is repeated this often: the context stays usable.
const REPEATS: u32 = 3;
/// Turns for each piece of work that are more than any monitor needs, with room for what a failed
/// call costs.
const MOST_TURNS: u64 = 4;

/// Ends the program from any thread: an error in a thread cannot reach a loop that may be deaf.
fn fail(what: &str, error: impl Display) -> ! {
    // Nothing can be done about a closed stderr.
    let _ = writeln!(io::stderr(), "loop_under_faults: {what}: {error}");
    exit(1)
}

/// The value, or the end of the program with the name of what failed.
trait OrFail<T> {
    fn or_fail(self, what: &str) -> T;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_fail(self, what: &str) -> T {
        self.unwrap_or_else(|error| fail(what, error))
    }
}

/// The loop, and what is watched while it turns.
struct Lab {
    ctx: AioContext,
    rounds: u64,
    failed_turns: Cell<u32>,
}

impl Lab {
    /// Turns the loop until `got` returns the number of rounds.
    fn until(&self, what: &str, got: impl Fn() -> u64) {
        let begin = Instant::now();
        // Wakes a loop that has lost something, so that it can say so. Nothing else may wake it.
        let alarm = self.ctx.timer(|_| ());
        alarm.arm_after(LOST);
        while got() < self.rounds {
            if let Err(error) = self.ctx.poll(true) {
                self.failed_turns.set(self.failed_turns.get() + 1);
                if self.failed_turns.get() > REPEATS {
                    fail("a turn of the loop", error);
                }
                let _ = writeln!(io::stderr(), "loop_under_faults: a turn of the loop: {error}; again");
            }
            if begin.elapsed() >= LOST {
                let _ = writeln!(
                    io::stderr(),
                    "loop_under_faults: LOST: {} of {} {what} arrived",
                    got(),
                    self.rounds
                );
                exit(4);
            }
        }
    }
}

/// Returns a counter, and a closure that adds one to it.
fn counter() -> (Rc<Cell<u64>>, impl Fn() -> u64 + 'static) {
    let counter = Rc::new(Cell::new(0));
    let own = Rc::clone(&counter);
    let bump = move || {
        own.set(own.get() + 1);
        own.get()
    };
    (counter, bump)
}

/// Answers the other thread with one byte.
fn acknowledge(mut pipe: &PipeWriter) {
    pipe.write_all(b"a").or_fail("writing an acknowledgement to a pipe");
}

/// Waits for one answer of the loop.
fn await_acknowledgement(mut pipe: &PipeReader) {
    pipe.read_exact(&mut [0]).or_fail("reading an acknowledgement from a pipe");
}

/// Runs `each(round)` in a thread of its own, for all rounds; after each it waits for a byte.
fn thread(rounds: u64, answers: PipeReader, mut each: impl FnMut(u64) + Send + 'static) {
    let all = move || {
        for round in 1..=rounds {
            each(round);
            await_acknowledgement(&answers);
        }
    };
    // Not joined: the last acknowledgement may fail after the work is done.
    Builder::new().name("peer".to_owned()).spawn(all).or_fail("creating a thread");
}

/// A thread rings; each ring makes a value visible.
fn doorbells(lab: &Lab, reset: Reset) {
    let kick = EventNotifier::new(reset).or_fail("creating a doorbell");
    let (answers, answer) = io::pipe().or_fail("creating a pipe");
    let published = Arc::new(AtomicU64::new(0));
    let (seen, handled) = (Arc::clone(&published), Rc::new(Cell::new(0)));
    let last = Rc::clone(&handled);
    let _registration = lab
        .ctx
        .add_notifier(&kick, move |_| {
            // Spurious calls are allowed.
            if seen.load(Ordering::Acquire) > last.get() {
                last.set(last.get() + 1);
                acknowledge(&answer);
            }
        })
        .map_err(|refused| refused.to_string())
        .or_fail("adding a doorbell");
    thread(lab.rounds, answers, move |round| {
        published.store(round, Ordering::Release);
        kick.notify().or_fail("ringing a doorbell");
    });
    lab.until("doorbells", || handled.get());
}

/// A thread sends bytes over a socket, and the loop sends them back.
fn messages(lab: &Lab, _: Reset) {
    let (near, mut far) = UnixStream::pair().or_fail("creating a socket pair");
    near.set_nonblocking(true).or_fail("making a socket non-blocking");
    let (echoed, bump) = counter();
    let near = Rc::new(near);
    let socket = Rc::clone(&near);
    let _registration = lab
        .ctx
        .add_fd(Rc::clone(&near), Interest::READABLE, move |_, _| {
            let mut byte = [0];
            match (&*socket).read(&mut byte) {
                Ok(1) => {
                    (&*socket).write_all(&byte).or_fail("writing to a socket");
                    bump();
                }
                Ok(_) => fail("reading from a socket", "it was closed"),
                // Level-triggered: the next turn calls again.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => fail("reading from a socket", e),
            }
        })
        .map_err(|refused| refused.to_string())
        .or_fail("adding a socket");
    let rounds = lab.rounds;
    let peer = move || {
        for round in 1..=rounds {
            let mut byte = [round as u8];
            far.write_all(&byte).or_fail("writing to the peer's socket");
            far.read_exact(&mut byte).or_fail("reading from the peer's socket");
            if byte != [round as u8] {
                fail("reading from the peer's socket", "another byte came back");
            }
        }
    };
    Builder::new().name("peer".to_owned()).spawn(peer).or_fail("creating a thread");
    lab.until("messages", || echoed.get());
}

/// A thread schedules a bottom half.
fn bottom_halves(lab: &Lab, _: Reset) {
    let (answers, answer) = io::pipe().or_fail("creating a pipe");
    let (ran, bump) = counter();
    let half = lab.ctx.bottom_half(move |_| {
        bump();
        acknowledge(&answer);
    });
    let handle = half.handle();
    thread(lab.rounds, answers, move |_| handle.schedule());
    lab.until("bottom halves", || ran.get());
}

/// A thread schedules closures, two at a time; they run in order.
fn closures(lab: &Lab, _: Reset) {
    let (answers, answer) = io::pipe().or_fail("creating a pipe");
    let (ran, answer) = (Arc::new(AtomicU64::new(0)), Arc::new(answer));
    let (handle, counted) = (lab.ctx.handle(), Arc::clone(&ran));
    thread(lab.rounds, answers, move |round| {
        let before = 2 * (round - 1);
        for at in [before, before + 1] {
            let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
            handle.schedule(move |_| {
                if counted.fetch_add(1, Ordering::Relaxed) != at {
                    fail("closures of one thread", "they ran in another order");
                }
                if at % 2 == 1 {
                    acknowledge(&answer);
                }
            });
        }
    });
    lab.until("pairs of closures", || ran.load(Ordering::Relaxed) / 2);
}

/// A timer arms itself again, and never runs before its time.
fn timers(lab: &Lab, _: Reset) {
    let (ran, bump) = counter();
    let due_ns = Cell::new(0);
    let timer = lab.ctx.timer_with(move |ctx, timer| {
        if ctx.now_ns() < due_ns.get() {
            fail("a timer", "it ran early");
        }
        bump();
        timer.arm_after(Duration::from_micros(300));
        due_ns.set(timer.deadline_ns().unwrap_or(0));
    });
    timer.arm_after(Duration::from_micros(300));
    lab.until("timers", || ran.get());
}

/// Reads of this program's own file through the ring, one after the other.
fn operations(lab: &Lab, _: Reset) {
    if lab.ctx.monitor().kind != MonitorKind::IoUring {
        return;
    }
    let path = std::env::current_exe().or_fail("finding this program's file");
    let file = File::open(path).or_fail("opening this program's file");
    let done = Rc::new(Cell::new(0));
    read_on(&lab.ctx, file, vec![0; 4], Rc::clone(&done));
    lab.until("operations", || done.get());
}

fn read_on(ctx: &AioContext, file: File, buffer: Vec<u8>, done: Rc<Cell<u64>>) {
    let next = move |ctx: &AioContext, result: io::Result<usize>, file, buffer: Vec<u8>| {
        let bytes = result.or_fail("reading this program's file through the ring");
        if bytes != 4 || buffer != *b"\x7fELF" {
            fail("reading this program's file through the ring", "other bytes came");
        }
        done.set(done.get() + 1);
        read_on(ctx, file, buffer, done);
    };
    ctx.read_at(file, buffer, 0, next).map_err(|refused| refused.error).or_fail("submitting a read");
}

/// SIGUSR1 interrupts system calls, and does nothing else.
fn interrupt_by_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros is a valid sigaction, with no flags and so without SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the action lives across the call, and its handler does nothing.
    if unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) } != 0 {
        fail("sigaction", io::Error::last_os_error());
    }
}

fn run(options: Options) {
    let Options { monitor, reset, rounds, part } = options;
    interrupt_by_signals();
    let mut builder = AioContext::builder().reset(reset);
    if let Some(kind) = monitor {
        builder = builder.monitor(kind);
    }
    let ctx = builder.build().or_fail("building a context");
    let lab = Lab { ctx, rounds, failed_turns: Cell::new(0) };
    let parts = PARTS.iter().filter(|(name, _)| part.is_none_or(|part| part == *name));
    let mut most = 0;
    for (_, part) in parts {
        part(&lab, reset);
        most += MOST_TURNS * rounds;
    }
    let (kind, turns) = (lab.ctx.monitor().kind, lab.ctx.stats().turns);
    if turns > most {
        let _ = writeln!(io::stderr(), "loop_under_faults: SPIN: {turns} turns, {most} are plenty");
        exit(5);
    }
    drop(lab);
    writeln!(io::stdout(), "all arrived: {rounds} of each, {turns} turns, {kind}")
        .or_fail("writing to stdout");
}

struct Options {
    /// `None`: the best.
    monitor: Option<MonitorKind>,
    reset: Reset,
    rounds: u64,
    /// `None`: all.
    part: Option<&'static str>,
}

fn parse(args: &[String]) -> Option<Options> {
    let (monitor, reset, rounds, part) = match args {
        [monitor, reset, rounds] => (monitor, reset, rounds, None),
        [monitor, reset, rounds, part] => (monitor, reset, rounds, Some(part)),
        _ => return None,
    };
    let monitor = match monitor.as_str() {
        "auto" => None,
        name => Some(*MonitorKind::ALL.iter().find(|kind| kind.to_string() == name)?),
    };
    let reset = match reset.as_str() {
        "classic" => Reset::Classic,
        "autoreset" => Reset::Autoreset,
        _ => return None,
    };
    let rounds = rounds.parse().ok().filter(|rounds| (1..=1_000_000).contains(rounds))?;
    let part = match part {
        Some(part) => Some(PARTS.iter().find(|(name, _)| part == name)?.0),
        None => None,
    };
    Some(Options { monitor, reset, rounds, part })
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let Some(options) = parse(&args) else {
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    run(options);
    ExitCode::SUCCESS
}
