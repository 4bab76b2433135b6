//! How a kernel handles an eventfd: every way to be notified of a write, with read(2) and with
//! EFD_AUTORESET, and the bounded counter. `scripts/kernel-lab.sh test` runs it in patched kernels;
//! on a stock kernel it runs what is supported, and prints what is skipped.
//!
//!     kernel [--list] [NAME...]        runs the tests whose name contains one of NAMEs
//!
//! Each scenario has a verdict for each way of resetting: delivered, LOST, spurious (delivered once
//! too often) or refused. A verdict that is not the expected one is a failure. For the 2020
//! proposal, which resets inside poll, the expected verdicts include its known losses.

mod many;
mod maximum;
mod os;
mod ring;
mod rings;
mod trial;
mod waiting;
mod writers;

use os::{EFD_AUTORESET, Epoll, EventFd, IN, readable};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use trial::Verdict::{Delivered, Lost, Refused, Spurious};
use trial::{By, Trial, Verdict};

/// What this kernel does with EFD_AUTORESET, observed without the crate under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    /// Rejects it.
    Absent,
    /// Resets inside poll: patch 0001, as proposed in 2020.
    Proposal,
    /// Resets where an event is delivered: patch 0002.
    Delivery,
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "stock",
            Self::Proposal => "0001",
            Self::Delivery => "0002",
        })
    }
}

impl Flag {
    fn observe() -> Self {
        let Ok(fd) = EventFd::new(libc::EFD_NONBLOCK | EFD_AUTORESET) else {
            return Self::Absent;
        };
        fd.write(1).expect("room");
        if !readable(&fd) || readable(&fd) {
            return Self::Absent;
        }
        fd.write(1).expect("room");
        if Epoll::of(&fd, IN).readable() { Self::Delivery } else { Self::Proposal }
    }
}

/// A scenario, and what to expect of it: with read(2), with the proposal, and with the reset at
/// delivery. More than one verdict where it depends on who is faster.
struct Scenario {
    name: &'static str,
    run: fn(&mut Trial) -> io::Result<()>,
    expected: [&'static [Verdict]; 3],
}

/// Expected of the proposal; the others deliver.
const fn scenario(name: &'static str, run: fn(&mut Trial) -> io::Result<()>, proposal: Verdict) -> Scenario {
    let proposal = match proposal {
        Delivered => &[Delivered],
        Lost => &[Lost],
        Spurious => &[Spurious],
        Refused => &[Refused],
    };
    Scenario { name, run, expected: [&[Delivered], proposal, &[Delivered]] }
}

/// What the proposal loses only if a write comes at the wrong moment.
const fn race(name: &'static str, run: fn(&mut Trial) -> io::Result<()>) -> Scenario {
    Scenario { name, run, expected: [&[Delivered], &[Delivered, Lost], &[Delivered]] }
}

const SCENARIOS: &[Scenario] = &[
    scenario("poll", waiting::poll_level, Delivered),
    scenario("poll, asleep when it is written to", waiting::poll_asleep, Delivered),
    scenario("poll for output only, then for input", waiting::poll_for_output_takes_nothing, Delivered),
    scenario("poll, the same descriptor twice in the array", waiting::poll_same_descriptor_twice, Delivered),
    scenario("poll by two, one after the other", waiting::poll_two_consumers_one_after_the_other, Delivered),
    scenario("ppoll that lets a pending signal in", waiting::ppoll_with_a_pending_signal, Delivered),
    scenario("select, for input and for all three", waiting::select_for_input, Delivered),
    scenario("select for output only, then for input", waiting::select_for_output_takes_nothing, Delivered),
    scenario("epoll, level-triggered", waiting::epoll_level, Delivered),
    scenario("epoll, asleep when it is written to", waiting::epoll_asleep, Delivered),
    scenario("epoll, edge-triggered", waiting::epoll_edge, Delivered),
    scenario("epoll for input and output", waiting::epoll_input_and_output, Delivered),
    scenario("epoll, three ready, one event at a time", waiting::epoll_one_event_at_a_time, Delivered),
    scenario("epoll, written to before EPOLL_CTL_ADD", waiting::epoll_written_before_add, Lost),
    scenario("epoll, written to before EPOLL_CTL_MOD", waiting::epoll_written_before_mod, Lost),
    scenario("epoll, written to before DEL and ADD", waiting::epoll_deleted_and_added, Lost),
    scenario("epoll, EPOLLONESHOT, written to while disarmed", waiting::epoll_one_shot, Lost),
    scenario("epoll, EPOLLEXCLUSIVE, two sets", waiting::epoll_exclusive, Lost),
    scenario("epoll, two sets that take turns", waiting::epoll_two_sets, Delivered),
    scenario("epoll in epoll", waiting::epoll_nested, Lost),
    scenario("epoll, written to, then added to another epoll", waiting::epoll_added_to_another, Lost),
    scenario("poll or select of the epoll, then epoll_wait", waiting::poll_of_an_epoll_descriptor, Lost),
    scenario("epoll_wait into a bad buffer (EFAULT), then again", waiting::epoll_wait_faults, Lost),
    scenario("io_uring POLL_ADD, armed again each time", rings::poll_add, Spurious),
    scenario("io_uring POLL_ADD, written to before", rings::poll_add_written_before, Delivered),
    scenario("io_uring POLL_ADD multishot", rings::poll_multishot, Spurious),
    scenario(
        "io_uring POLL_ADD multishot, written to before",
        rings::poll_multishot_written_before,
        Spurious,
    ),
    scenario("io_uring READ", rings::read, Delivered),
    scenario("io_uring READ, two writes before reaping", rings::read_two_writes, Delivered),
    scenario("io_uring READ_MULTISHOT, two writes before reaping", rings::read_multishot, Lost),
    scenario("IOCB_CMD_POLL, and read(2) in any case", rings::iocb_poll_then_read, Delivered),
    scenario("a blocked writer and poll", writers::woken_by_poll, Lost),
    scenario("a blocked writer and epoll", writers::woken_by_epoll, Lost),
    scenario("a blocked writer and io_uring POLL_ADD", writers::woken_by_poll_add, Lost),
    scenario("who polls for room, and poll", writers::who_polls_for_room, Lost),
    scenario("EFD_SEMAPHORE, one delivery for each post", many::semaphore, Refused),
    scenario("EFD_SEMAPHORE, two consumers that race", many::semaphore_shared, Refused),
    scenario("3 producers, poll", many::sequence_by_poll, Delivered),
    scenario("3 producers, epoll", many::sequence_by_epoll, Delivered),
    scenario("3 producers, epoll, edge-triggered", many::sequence_by_epoll_edge, Delivered),
    race("3 producers, epoll, EPOLLONESHOT", many::sequence_by_epoll_one_shot),
    race("3 producers, io_uring POLL_ADD", many::sequence_by_poll_add),
    scenario("3 producers, io_uring POLL_ADD multishot", many::sequence_by_poll_multishot, Delivered),
    race("3 producers, io_uring READ", many::sequence_by_read),
    // No reset can help here, and read(2) does not.
    Scenario {
        name: "the call that takes the count faults (EFAULT)",
        run: waiting::the_taking_call_faults,
        expected: [&[Lost], &[Lost], &[Lost]],
    },
];

/// What a check needs of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Flag,
    Maximum,
    /// The maximum, and the flag of 0002.
    Both,
}

struct Check {
    name: &'static str,
    needs: Needs,
    run: fn(),
}

const fn check(name: &'static str, needs: Needs, run: fn()) -> Check {
    Check { name, needs, run }
}

/// A check of the bounded counter alone.
const fn bounded(name: &'static str, run: fn()) -> Check {
    check(name, Needs::Maximum, run)
}

const CHECKS: &[Check] = &[
    check("flags of eventfd2(2) and fdinfo", Needs::Nothing, flags),
    check("fdinfo shows EFD_AUTORESET", Needs::Flag, fdinfo_shows_the_flag),
    check("aio uses the flag where it is right", Needs::Nothing, aio_uses_the_flag_where_it_is_right),
    bounded("maximum: none at first", maximum::fresh_is_unbounded),
    bounded("maximum: what was set can be asked", maximum::what_was_set_can_be_asked),
    bounded("maximum: SET refuses what is reached", maximum::set_refuses_what_is_reached),
    bounded("maximum: a write stays below", maximum::a_write_stays_below),
    bounded("maximum: epoll tells of room", maximum::epoll_tells_of_room),
    bounded("maximum: fdinfo", maximum::fdinfo_has_it),
    check("maximum: unknown commands are ENOTTY", Needs::Nothing, maximum::unknown_commands_are_enotty),
    bounded("maximum: bad addresses are EFAULT", maximum::bad_addresses_are_efault),
    bounded("maximum: 0 is refused", maximum::zero_is_refused),
    bounded("maximum: 1 admits a write of 0 only", maximum::one_admits_nothing_but_nothing),
    bounded("maximum: too much at once", maximum::too_much_at_once_is_eagain_and_not_einval),
    bounded("maximum: a write is all or nothing", maximum::a_write_is_all_or_nothing),
    check("maximum: the largest is what it was", Needs::Nothing, maximum::the_largest_is_what_it_was),
    bounded("maximum: poll and select tell of room", maximum::poll_and_select_tell_of_room),
    bounded("maximum: edges", maximum::an_edge_tells_of_room_after_a_read_and_a_set),
    bounded("maximum: eventfd_signal() and EPOLLERR", maximum::the_kernel_fills_up_and_no_further),
    bounded("maximum: EFD_SEMAPHORE", maximum::a_semaphore_is_a_bounded_queue),
    bounded("maximum: a read wakes a writer", maximum::a_read_wakes_a_writer),
    bounded("maximum: SET wakes a writer", maximum::a_raised_maximum_wakes_a_writer),
    bounded("maximum: a raise that is not enough", maximum::a_raise_that_is_not_enough_wakes_nobody),
    bounded("maximum: a signal interrupts a writer", maximum::a_signal_interrupts_a_writer),
    bounded("maximum: small before large", maximum::a_small_write_passes_a_large_one_that_waits),
    bounded("maximum: no herd of writers", maximum::writers_go_on_one_by_one),
    bounded("maximum: all writers that fit", maximum::one_read_lets_all_in_that_fit),
    bounded("maximum: several writers, one reader", maximum::nothing_is_lost_between_writers_and_a_reader),
    check(
        "maximum and autoreset: a blocked writer",
        Needs::Both,
        maximum::autoreset_wakes_a_writer_at_the_bound,
    ),
    check("maximum and autoreset: an overflow", Needs::Both, maximum::autoreset_ends_an_overflow),
];

fn flags() {
    for (flags, expected) in [
        (0, (false, true)),
        (libc::EFD_NONBLOCK, (true, true)),
        (libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE, (true, true)),
    ] {
        let fd = EventFd::new(flags).unwrap();
        assert_eq!(fd.is_nonblocking_and_cloexec(), expected);
        let semaphore = fd.info("eventfd-semaphore").map(|text| text.trim() == "1");
        assert_eq!(semaphore, Some(flags & libc::EFD_SEMAPHORE != 0));
        assert_eq!(fd.info("eventfd-autoreset"), None);
    }
    assert!(EventFd::new(1 << 5).is_err(), "a flag that nobody knows");
}

/// CRIU restores an eventfd from what fdinfo says. The proposal does not consider this.
fn fdinfo_shows_the_flag() {
    let fd = EventFd::new(EFD_AUTORESET).unwrap();
    let shown = fd.info("eventfd-autoreset").is_some_and(|text| text.trim() == "1");
    assert_eq!(shown, Flag::observe() == Flag::Delivery);
}

fn aio_uses_the_flag_where_it_is_right() {
    use aio::{AioContext, EventNotifier, Method, MonitorKind, Reset};
    let flag = Flag::observe();
    let by_flag = Reset::AutoresetBy(Method::KernelFlag);
    assert_eq!(EventNotifier::new(by_flag).is_ok(), flag != Flag::Absent);
    for (monitor, right) in [
        (MonitorKind::Poll, flag != Flag::Absent),
        (MonitorKind::Epoll, flag == Flag::Delivery),
        (MonitorKind::IoUring, false),
    ] {
        // The loop's own notifier is reset by it, too.
        let made = AioContext::builder().monitor(monitor).reset(by_flag).build();
        assert_eq!(made.as_ref().err().map(ToString::to_string).is_none(), right, "{monitor}");
    }
    // One that somebody else has made is taken as what it is.
    let adopted = |reset| {
        let fd = EventFd::new(libc::EFD_NONBLOCK | EFD_AUTORESET).unwrap();
        EventNotifier::adopt(fd.into(), reset).is_ok()
    };
    if flag != Flag::Absent {
        assert!(adopted(by_flag) && !adopted(Reset::Classic));
        assert_eq!(adopted(Reset::Autoreset), flag == Flag::Delivery);
    }
    // By itself, where nothing else helps.
    let ctx = AioContext::builder().monitor(MonitorKind::Poll).build().unwrap();
    let expected = if flag == Flag::Delivery { Method::KernelFlag } else { Method::Read };
    assert_eq!(ctx.own_notifier().0, expected);
}

struct Run {
    flag: Flag,
    has_maximum: bool,
    failed: Vec<&'static str>,
    skipped: usize,
}

impl Run {
    fn scenario(&mut self, scenario: &Scenario) {
        let mut line = format!("{:52}", scenario.name);
        let mut wrong = Vec::new();
        let mut trial = |by, column: &dyn fmt::Display, expected: &[Verdict]| {
            let name = scenario.name;
            match catch_unwind(AssertUnwindSafe(|| Trial::of(by, scenario.run))) {
                Ok((verdict, what)) => {
                    line += &format!(" {column}={verdict:9}");
                    if !expected.contains(&verdict) {
                        wrong.push(format!("{name}: {column}: {verdict} ({what}), expected {expected:?}"));
                    }
                }
                Err(_) => wrong.push(format!("{name}: {column}: a panic, see above")),
            }
        };
        trial(By::Read, &"read", scenario.expected[0]);
        match self.flag {
            Flag::Absent => {}
            Flag::Proposal => trial(By::Flag, &self.flag, scenario.expected[1]),
            Flag::Delivery => trial(By::Flag, &self.flag, scenario.expected[2]),
        }
        println!("{} {}", if wrong.is_empty() { "ok  " } else { "FAIL" }, line.trim_end());
        for what in &wrong {
            println!("     {what}");
        }
        if !wrong.is_empty() {
            self.failed.push(scenario.name);
        }
    }

    fn check(&mut self, check: &Check) {
        let has = match check.needs {
            Needs::Nothing => true,
            Needs::Flag => self.flag != Flag::Absent,
            Needs::Maximum => self.has_maximum,
            Needs::Both => self.has_maximum && self.flag == Flag::Delivery,
        };
        if !has {
            self.skipped += 1;
            let what = match check.needs {
                Needs::Flag => "EFD_AUTORESET",
                Needs::Maximum => "EFD_IOC_SET_MAXIMUM",
                Needs::Both | Needs::Nothing => {
                    "EFD_IOC_SET_MAXIMUM and an EFD_AUTORESET that resets at delivery"
                }
            };
            println!("skip {}: this kernel has no {what}", check.name);
        } else if catch_unwind(check.run).is_ok() {
            println!("ok   {}", check.name);
        } else {
            println!("FAIL {}", check.name);
            self.failed.push(check.name);
        }
    }
}

fn main() -> ExitCode {
    // Flags of the standard harness that cargo test passes on mean nothing here.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    if arguments.iter().any(|argument| argument == "--list") {
        let names =
            SCENARIOS.iter().map(|scenario| scenario.name).chain(CHECKS.iter().map(|check| check.name));
        names.for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Err(e) = ring::Ring::new() {
        println!(
            "skipped: all of it needs io_uring with deferred task work (Linux 6.1), which is not available here: {e}"
        );
        return ExitCode::SUCCESS;
    }
    let has_maximum = EventFd::new(0).and_then(|fd| fd.maximum()).is_ok();
    let mut run = Run { flag: Flag::observe(), has_maximum, failed: Vec::new(), skipped: 0 };
    println!("EFD_AUTORESET: {}; EFD_IOC_SET_MAXIMUM: {}", run.flag, if has_maximum { "yes" } else { "no" });
    if run.flag == Flag::Absent {
        println!("skip each scenario's column of EFD_AUTORESET: this kernel does not have it");
    }
    SCENARIOS.iter().filter(|scenario| chosen(scenario.name)).for_each(|scenario| run.scenario(scenario));
    CHECKS.iter().filter(|check| chosen(check.name)).for_each(|check| run.check(check));
    println!("{} failed, {} skipped", run.failed.len(), run.skipped);
    if run.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
