//! The cost of a turn does not grow with the number of registered handlers. The tests count the
//! instructions of a turn.
//!
//! The thread steps itself: with the trap flag set in RFLAGS the processor raises a debug exception
//! after each instruction (Intel SDM volume 3, 18.3.1.4 "Single-Step Exception Condition"), and a
//! handler of SIGTRAP counts them. That is exact, needs no tool and no permission, and makes the
//! real system calls, while valgrind returns ENOSYS for those that it does not know. Instructions
//! inside the kernel are not seen.

use aio::{AioContext, Builder, EventNotifier, MonitorKind, Reset};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

static STEPS: AtomicU64 = AtomicU64::new(0);
/// One thread at a time.
static STEPPING: Mutex<()> = Mutex::new(());

extern "C" fn step(_signal: libc::c_int) {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// How many instructions the calling thread executes in `work`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn during(work: impl FnOnce()) -> Option<u64> {
    use std::arch::asm;
    let _alone = STEPPING.lock().unwrap();
    let handler: extern "C" fn(libc::c_int) = step;
    // SAFETY: the handler does one atomic addition, which is async-signal-safe.
    let old = unsafe { libc::signal(libc::SIGTRAP, handler as libc::sighandler_t) };
    assert_ne!(old, libc::SIG_ERR, "{}", io::Error::last_os_error());
    let before = STEPS.load(Ordering::Relaxed);
    // SAFETY: sets one flag of this thread, whose exception the handler takes; the stack is as it
    // was.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    work();
    // SAFETY: clears it again.
    unsafe { asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq") };
    Some(STEPS.load(Ordering::Relaxed) - before)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn during(_work: impl FnOnce()) -> Option<u64> {
    let _ = (step as extern "C" fn(_), &STEPS, &STEPPING);
    println!("skipped: a thread can single-step itself on x86-64 only");
    None
}

/// Lets this process open as many descriptors as it may. Returns false and prints a message if
/// there are too few.
fn may_open(descriptors: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the struct, which lives across the call.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: only reads the struct.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    let enough = limit.rlim_max >= descriptors;
    if !enough {
        println!("skipped: only {} descriptors are allowed (ulimit -n)", limit.rlim_max);
    }
    enough
}

/// Instructions of two turns that ring the last of `registered` notifiers and handle it.
fn two_turns(builder: Builder, reset: Reset, registered: usize) -> Option<u64> {
    let ctx: AioContext = builder.reset(reset).build().unwrap();
    let kicks: Vec<_> = (0..registered).map(|_| EventNotifier::new(reset).unwrap()).collect();
    let _registrations: Vec<_> = kicks.iter().map(|kick| ctx.add_notifier(kick, |_| ()).unwrap()).collect();
    let kick = kicks.last().unwrap();
    let turns = |n| {
        for _ in 0..n {
            kick.notify().unwrap();
            assert!(ctx.poll(true).unwrap());
        }
    };
    turns(20);
    let before = ctx.stats().notifier_dispatches;
    let instructions = during(|| turns(2));
    assert_eq!(ctx.stats().notifier_dispatches - before, 2);
    instructions
}

#[test]
fn a_turn_takes_as_many_instructions_with_a_thousand_notifiers_as_with_one() {
    const MANY: usize = 1000;
    // Other tests of this binary run at the same time.
    if !may_open(MANY as u64 + 200) {
        return;
    }
    for (kind, builder) in crate::monitors() {
        for reset in [Reset::Classic, Reset::Autoreset] {
            // ppoll goes through all of them, which shows that the count detects such a cost. A few
            // are enough.
            let many = if kind == MonitorKind::Poll { 50 } else { MANY };
            let count = |registered| two_turns(builder.clone(), reset, registered);
            let (Some(with_one), Some(with_many)) = (count(1), count(many)) else {
                return;
            };
            let what = format!(
                "{kind} {reset:?}: {with_one} instructions in two turns with 1 notifier, {with_many} with {many}"
            );
            println!("{what}");
            let grows = with_one.abs_diff(with_many) * 50 > with_one;
            assert_eq!(grows, kind == MonitorKind::Poll, "{what}");
        }
    }
}
