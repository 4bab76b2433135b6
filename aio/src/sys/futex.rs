//! futex(2) on a word that processes may share.
//!
//! Never FUTEX_PRIVATE_FLAG: the word may be in memory that another process has mapped. Also, Linux
//! 6.16 and later (private futex hash) lose a private wait that began while the process had one
//! thread, once a second thread is created.
#![expect(unsafe_code, reason = "futex(2) has no wrapper in libc; the word is a live reference")]

use super::check;
use std::io;
use std::sync::atomic::AtomicU32;

/// Sleeps while the word holds `expected`. Returns at once if it does not. May return spuriously.
pub(crate) fn wait(word: &AtomicU32, expected: u32) -> io::Result<()> {
    // SAFETY: the word is live and aligned for the whole call; a null timeout means none.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            std::ptr::null::<libc::timespec>(),
        )
    };
    match check(r) {
        // The word changed before the sleep, or a signal arrived. The caller checks again in both
        // cases.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(()),
        result => result.map(drop),
    }
}

/// Wakes up to `n` sleepers; returns how many were woken.
pub(crate) fn wake(word: &AtomicU32, n: u32) -> io::Result<u32> {
    let n = libc::c_int::try_from(n).unwrap_or(libc::c_int::MAX);
    // SAFETY: FUTEX_WAKE only uses the address, which is live.
    check(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, n) })
}
