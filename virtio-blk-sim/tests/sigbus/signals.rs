//! SIGBUS signals that the guard does not handle, each in a process of its own.

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_blk_sim::vhost_user::sigbus::Guard;

use super::{PAGE, memfd};

const CASE: &str = "SIGBUS_CASE";

/// What a child process does, and the expected end.
struct Case {
    name: &'static str,
    run: fn(),
    expected: fn(ExitStatus) -> bool,
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGBUS)
}

const CASES: [Case; 11] = [
    Case { name: "guarded", run: || touch_guarded(), expected: |status| status.code() == Some(0) },
    Case {
        name: "a fault outside, with Rust's handler before ours",
        run: || {
            touch_guarded();
            touch_unguarded();
        },
        expected: killed,
    },
    Case {
        name: "a fault after the guard is gone",
        run: || {
            let (base, guard) = truncated(true);
            drop(guard);
            read(base);
        },
        expected: killed,
    },
    Case {
        name: "a fault outside, with the default before ours",
        run: || {
            dispose(libc::SIG_DFL, 0);
            touch_guarded();
            touch_unguarded();
        },
        expected: killed,
    },
    Case {
        name: "a signal from a process, with the default before ours",
        run: || {
            dispose(libc::SIG_DFL, 0);
            touch_guarded();
            raise();
        },
        expected: killed,
    },
    Case {
        name: "a fault outside, ignored before",
        run: || {
            dispose(libc::SIG_IGN, 0);
            touch_guarded();
            touch_unguarded();
        },
        expected: killed,
    },
    Case {
        name: "a signal from a process, ignored before",
        run: || {
            dispose(libc::SIG_IGN, 0);
            touch_guarded();
            raise();
            // Our handler is still installed.
            touch_guarded();
        },
        expected: |status| status.code() == Some(0),
    },
    Case {
        name: "a fault outside, with a handler before ours",
        run: || {
            dispose(with_info as extern "C" fn(_, _, _) as usize, libc::SA_SIGINFO);
            touch_guarded();
            touch_unguarded();
        },
        expected: |status| status.code() == Some(42),
    },
    Case {
        name: "a signal from a process, with a handler before ours",
        run: || {
            dispose(with_info as extern "C" fn(_, _, _) as usize, libc::SA_SIGINFO);
            touch_guarded();
            raise();
        },
        expected: |status| status.code() == Some(43),
    },
    Case {
        name: "a fault outside, with an old-style handler before ours",
        run: || {
            dispose(plain as extern "C" fn(_) as usize, 0);
            touch_guarded();
            touch_unguarded();
        },
        expected: |status| status.code() == Some(44),
    },
    Case {
        name: "errno survives",
        run: || {
            let (base, _guard) = truncated(true);
            // SAFETY: the errno of the calling thread.
            unsafe { *libc::__errno_location() = 123 };
            read(base);
            // SAFETY: likewise.
            assert_eq!(unsafe { *libc::__errno_location() }, 123);
        },
        expected: |status| status.code() == Some(0),
    },
];

/// The address at which the handlers below expect a fault.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn with_info(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo, passed on by our handler.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let fault = code == libc::BUS_ADRERR && addr == EXPECTED.load(Ordering::Relaxed);
    let whole = signal == libc::SIGBUS && !context.is_null();
    // SAFETY: _exit is async-signal-safe.
    unsafe {
        libc::_exit(if !whole {
            1
        } else if fault {
            42
        } else {
            43
        })
    }
}

extern "C" fn plain(_: i32) {
    // SAFETY: _exit is async-signal-safe.
    unsafe { libc::_exit(44) }
}

fn dispose(handler: usize, flags: i32) {
    // SAFETY: all zeroes is a sigaction with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: a complete sigaction; the type of the handler matches the flags.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn raise() {
    // SAFETY: getpid and kill have no preconditions.
    unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
}

/// Maps a page of a file that has been truncated to nothing.
fn truncated(guarded: bool) -> (*mut u8, Option<Guard>) {
    let file = memfd(1);
    // SAFETY: a new mapping at an address chosen by the kernel.
    let base = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), PAGE, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(base, libc::MAP_FAILED);
    file.set_len(0).unwrap();
    let base = base.cast();
    // SAFETY: the mapping is new and is never unmapped.
    let guard = guarded.then(|| unsafe { Guard::new(base, PAGE, PAGE) }.unwrap());
    (base, guard)
}

fn read(at: *mut u8) -> u8 {
    // SAFETY: the address is mapped; the missing page is what is tested.
    unsafe { at.read_volatile() }
}

fn touch_guarded() {
    let (base, guard) = truncated(true);
    assert_eq!(read(base.wrapping_add(100)), 0);
    assert!(guard.unwrap().is_broken());
}

fn touch_unguarded() {
    let (base, _) = truncated(false);
    EXPECTED.store(base.addr() + 100, Ordering::Relaxed);
    read(base.wrapping_add(100));
}

#[test]
fn other_signals_keep_their_effect() {
    let program = std::env::current_exe().unwrap();
    for case in &CASES {
        let output = Command::new(&program)
            .args(["--exact", "signals::child", "--nocapture"])
            .env(CASE, case.name)
            .output()
            .unwrap();
        assert!(
            (case.expected)(output.status),
            "{}: {}\n{}",
            case.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Not a test: the body of the child processes.
#[test]
fn child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a complete rlimit. Avoids a core file for an expected crash.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    (case.run)();
}
