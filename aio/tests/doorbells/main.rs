//! Rings doorbells from four threads, on every monitor with every reset method, and counts that
//! none is lost.
//!
//!     cargo doorbells                          a short run; the same as in `cargo test`
//!     cargo doorbells --rings 100000000        so many in total, divided over all set-ups
//!     cargo doorbells --rings 100000000 --each so many in each set-up
//!     cargo doorbells --rings 1000000 epoll    set-ups whose line contains "epoll"
//!
//! A thread publishes a number, rings, and at the end of a burst waits until the loop has seen it.
//! Bursts have 1 to 4096 rings, most of them few, so that the loop falls asleep often. A lost ring
//! leaves its thread waiting, and the watchdog prints who waits for what. At the end, what the loop
//! has seen is compared with what was published.

mod ledger;
mod setups;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use aio::{Method, MonitorKind, Reset};
use ledger::{Ledger, Sums, THREADS};
use setups::{Answering, Bell, Setup, Way};

/// How long nothing may be seen, on a busy machine, until a ring counts as lost.
const LOST: Duration = Duration::from_secs(30);
/// The rings of a short run, in total.
const SHORT: u64 = 1_000_000;

/// A sequence of burst lengths.
struct Bursts(u64);

impl Bursts {
    fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // One in 512 is long; the others have a length below 1, 2, 4 ... 64.
        match self.0 >> 55 {
            0 => 4096,
            bits => 1 + (self.0 & 0xffff) % (1 << (bits % 7)),
        }
    }
}

/// One thread: rings `count` times, and waits at the end of each burst.
fn ring(ledger: &Ledger, i: usize, bell: &Bell, count: u64) {
    let mut bursts = Bursts(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1));
    let mut left = count;
    while left > 0 {
        let burst = bursts.next().min(left);
        let mut number = 0;
        for _ in 0..burst {
            number = ledger.publish(i);
            if bell.ring() {
                ledger.rang(i);
            }
        }
        ledger.wait(i, number);
        left -= burst;
    }
}

/// Ends the process if nothing is seen for too long.
fn watch(name: &str, ledger: &Ledger, over: &mpsc::Receiver<()>) {
    let (mut last, mut since) = (ledger.sums(), Instant::now());
    while over.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
        let now = ledger.sums();
        if now.seen != last.seen {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() >= LOST {
            println!("LOST {}: nothing was seen for {} s", name.trim_end(), LOST.as_secs());
            let turns = now.turns - last.turns;
            println!("{ledger}; {turns} turns of these in that time");
            // A loop that sleeps forever cannot be ended otherwise.
            std::process::exit(1);
        }
    }
}

/// Runs one set-up with `count` rings.
fn run(name: &str, answering: Answering, ledger: &Arc<Ledger>, count: u64) -> Sums {
    let (alive, over) = mpsc::channel();
    std::thread::scope(|scope| {
        let watched = Arc::clone(ledger);
        scope.spawn(move || watch(name, &watched, &over));
        for (i, bell) in answering.bells.iter().enumerate() {
            let handle = answering.context.handle();
            let share = count / THREADS as u64 + u64::from((i as u64) < count % THREADS as u64);
            scope.spawn(move || {
                ring(ledger, i, bell, share);
                ledger.finish();
                handle.notify();
            });
        }
        while !ledger.all_finished() {
            answering.context.poll(true).expect("a blocking turn");
            ledger.count_turn();
        }
        drop(alive);
    });
    ledger.sums()
}

struct Options {
    rings: u64,
    each: bool,
    names: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { rings: SHORT, each: false, names: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rings" => {
                let number = arguments.next().ok_or("--rings takes a number")?;
                options.rings =
                    number.parse().map_err(|_| format!("--rings takes a number, not {number:?}"))?;
            }
            "--each" => options.each = true,
            // Options of the standard harness, which `cargo test` passes to every test binary.
            option if option.starts_with('-') => {}
            name => options.names.push(name.to_owned()),
        }
    }
    Ok(options)
}

/// The set-ups that this kernel has and whose line contains one of `names`. Prints the others.
fn pairs(names: &[String]) -> Vec<(Setup, Way, String)> {
    let mut pairs = Vec::new();
    for setup in Setup::all() {
        // Whether it works does not depend on the way to ring.
        if let Err(error) = Answering::new(setup, Way::OwnBells, &Arc::default()) {
            println!("skip {setup}: {error}");
            continue;
        }
        pairs.extend(Way::ALL.map(|way| (setup, way, format!("{setup:41} {way:23}"))));
    }
    // These run everywhere. Without them nothing would be shown.
    for (monitor, reset) in
        [(MonitorKind::Poll, Reset::Classic), (MonitorKind::Epoll, Reset::AutoresetBy(Method::Edge))]
    {
        let is_there = pairs.iter().any(|(setup, ..)| setup.monitor == monitor && setup.reset == reset);
        assert!(is_there, "{monitor} with {reset:?} is missing");
    }
    pairs.retain(|(.., name)| names.is_empty() || names.iter().any(|part| name.contains(part)));
    pairs
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let pairs = pairs(&options.names);
    if std::env::args().any(|argument| argument == "--list") {
        pairs.iter().for_each(|(.., name)| println!("{}: test", name.trim_end()));
        return ExitCode::SUCCESS;
    }
    let parts = if options.each { 1 } else { pairs.len().max(1) as u64 };
    let (start, mut total, mut failed) = (Instant::now(), Sums::default(), 0);
    println!(
        "     {:65} {:>11} {:>11} {:>10} {:>11} {:>4} {:>6}",
        "", "published", "rung", "waits", "calls", "lost", "s"
    );
    for (setup, way, name) in &pairs {
        let ledger = Arc::<Ledger>::default();
        let answering = Answering::new(*setup, *way, &ledger).expect("it worked a moment ago");
        let (began, count) = (Instant::now(), options.rings.div_ceil(parts));
        let sums = run(name, answering, &ledger, count);
        let lost = sums.published - sums.seen;
        let ok = lost == 0 && sums.published == count && sums.rung <= sums.published;
        failed += u64::from(!ok);
        println!(
            "{} {name} {:11} {:11} {:10} {:11} {lost:4} {:6.1}",
            if ok { "ok  " } else { "FAIL" },
            sums.published,
            sums.rung,
            sums.checkpoints,
            sums.calls,
            began.elapsed().as_secs_f64(),
        );
        total.published += sums.published;
        total.seen += sums.seen;
        total.rung += sums.rung;
        total.checkpoints += sums.checkpoints;
    }
    println!(
        "{} set-ups, {} published, {} rung, {} waits for the last ring, {} lost, {:.0} s",
        pairs.len(),
        total.published,
        total.rung,
        total.checkpoints,
        total.published - total.seen,
        start.elapsed().as_secs_f64(),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
