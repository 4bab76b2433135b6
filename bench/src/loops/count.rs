//! System calls of a visit, counted from outside: a forked child does the work and is traced with
//! ptrace(2) between two marks. Nothing is timed here, and no library has to be trusted.
#![expect(unsafe_code, reason = "fork(2), ptrace(2) and waitpid(2)")]

use super::contender::Contender;
use super::work::{Mark, Visit};
use crate::bare::check;
use std::io;

/// The child's exit code if the loop cannot do the work.
const CANNOT: libc::c_int = 3;

/// Counts the system calls that the loop's thread makes in the timed part of a visit. `None` if the
/// loop cannot do the work.
///
/// Must be called while the process has one thread: the child is a copy of the calling thread only.
///
/// # Errors
/// ptrace(2) is not allowed here, or the child died.
pub(super) fn system_calls(contender: Contender, visit: Visit) -> io::Result<Option<u64>> {
    // SAFETY: the caller is the only thread, so the child has everything that its parent has.
    let child = check(unsafe { libc::fork() }.into())? as libc::pid_t;
    if child == 0 {
        let outcome = contender.visit(Visit { mark: in_child, ..visit });
        // The end mark does not return, so the loop could not do the work.
        drop(outcome);
        // SAFETY: ends the child without running what belongs to its parent (exit handlers, buffers
        // of stdio).
        unsafe { libc::_exit(CANNOT) };
    }
    let counted = count(child);
    if counted.is_err() {
        // SAFETY: our child; nobody has waited for it yet if `count` failed before its end. If it
        // has ended already, that is fine.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let _ = wait(child);
    }
    counted
}

/// At the begin mark the child asks to be traced and stops; at the end mark it exits.
fn in_child(mark: Mark) {
    // SAFETY: no pointers; a request that is refused shows in the parent as an exit instead of a
    // stop.
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
    // Each call stops the child at its entry and its exit, except exit_group(2), which is not the
    // loop's. raise(3) adds the exit of its tgkill(2) and of a change of the signal mask, one stop
    // each.
    Ok(Some(stops / 2))
}

fn wait(child: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: `status` is ours to be written.
    check(unsafe { libc::waitpid(child, &mut status, 0) }.into())?;
    Ok(status)
}
