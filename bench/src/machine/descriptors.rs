//! How many descriptors this process may have.
#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2) take C structures")]

/// Raises the soft limit on open descriptors (RLIMIT_NOFILE) to the hard one. Where that fails, what needs more says so.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours and is filled by the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}
