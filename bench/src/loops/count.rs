//! System calls of a visit, counted from outside: a forked child does the work and is traced with ptrace(2) between the marks.
//! Nothing is timed here, so it costs the times nothing; and no library is believed.
#![expect(unsafe_code, reason = "fork(2), ptrace(2) and waitpid(2)")]

use super::contender::Contender;
use super::work::{Mark, Visit};
use crate::bare::check;
use std::io;

/// What the child ends with if it has no row.
const CANNOT: libc::c_int = 3;

/// The system calls that the loop's thread makes in a visit's timed part. `None` where the loop cannot do the work.
///
/// To be called while the process has one thread: the child is a copy of the caller only.
///
/// # Errors
/// ptrace(2) is not allowed here, or the child died.
pub(super) fn system_calls(contender: Contender, visit: Visit) -> io::Result<Option<u64>> {
    // SAFETY: the caller is the only thread, so the child has everything that its parent has.
    let child = check(unsafe { libc::fork() }.into())? as libc::pid_t;
    if child == 0 {
        let outcome = contender.visit(Visit { mark: in_child, ..visit });
        // The mark at the end does not return, so this is a loop that cannot do it.
        drop(outcome);
        // SAFETY: ends the child without running what belongs to its parent (exit handlers, buffers of stdio).
        unsafe { libc::_exit(CANNOT) };
    }
    let counted = count(child);
    if counted.is_err() {
        // SAFETY: our child, which nobody has waited for yet if `count` failed before its end; gone is as good.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let _ = wait(child);
    }
    counted
}

/// At the beginning the child asks to be traced and stops; at the end it is over.
fn in_child(mark: Mark) {
    // SAFETY: no pointers; a request that is refused shows in the parent as an exit instead of a stop.
    unsafe {
        if mark == Mark::End {
            libc::_exit(0);
        }
        if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
            libc::_exit(1);
        }
        libc::raise(libc::SIGSTOP);
    }
}

/// Counts entries until the child calls exit_group(2).
fn count(child: libc::pid_t) -> io::Result<Option<u64>> {
    let status = wait(child)?;
    if libc::WIFEXITED(status) {
        return match libc::WEXITSTATUS(status) {
            CANNOT => Ok(None),
            _ => Err(io::Error::other("ptrace(2) is not allowed here")),
        };
    }
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: the child is stopped and traced by us; the request takes flags and no pointers.
    check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) })?;
    let mut stops = 0u64;
    loop {
        // SAFETY: as above; no signal is passed on.
        check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0) })?;
        let status = wait(child)?;
        if !libc::WIFSTOPPED(status) {
            break;
        }
        if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
            stops += 1;
        }
    }
    // Each call stops at its entry and its exit, but for exit_group(2), which is not the loop's; raise(3) leaves with the
    // exit of its tgkill(2) and a change of the signal mask, seen once each.
    Ok(Some(stops / 2))
}

fn wait(child: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: `status` is ours to be written.
    check(unsafe { libc::waitpid(child, &mut status, 0) }.into())?;
    Ok(status)
}
