//! System calls that tests need and the standard library does not have.
#![expect(unsafe_code, reason = "libc calls on integers and on descriptors that a Rust object owns")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

fn check(r: libc::c_int) -> libc::c_int {
    assert!(r >= 0, "{}", io::Error::last_os_error());
    r
}

/// An eventfd with these flags, close-on-exec.
pub(crate) fn eventfd(flags: libc::c_int) -> OwnedFd {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) });
    // SAFETY: the kernel has just returned it; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A file in memory.
pub(crate) fn memory_file() -> File {
    // SAFETY: the name is a static C string.
    let fd = check(unsafe { libc::memfd_create(c"aio-test".as_ptr(), libc::MFD_CLOEXEC) });
    // SAFETY: the kernel has just returned it; nothing else owns it.
    unsafe { File::from_raw_fd(fd) }
}

/// Adds to an eventfd's counter.
pub(crate) fn add_to_counter(fd: &impl AsFd, n: u64) {
    // SAFETY: eight readable bytes.
    let r = unsafe { libc::write(fd.as_fd().as_raw_fd(), (&raw const n).cast(), 8) };
    assert_eq!(r, 8, "{}", io::Error::last_os_error());
}

/// Sleeps in ppoll(2) until `fd` is readable, the timeout passed, or a signal came. Returns true if
/// it is readable.
pub(crate) fn poll_readable(fd: &impl AsFd, timeout: Option<Duration>) -> bool {
    let mut fds = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let ts = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let ts = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one live pollfd, and a live timespec or none.
    let n = unsafe { libc::ppoll(&raw mut fds, 1, ts, std::ptr::null()) };
    assert!(n >= 0 || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted);
    n > 0 && fds.revents & libc::POLLIN != 0
}

/// An epoll set with one member, which is watched for EPOLLIN.
pub(crate) fn epoll_of(member: &impl AsFd, edge_triggered: bool) -> OwnedFd {
    // SAFETY: the call takes one integer.
    let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
    // SAFETY: the kernel has just returned it; nothing else owns it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let edge = if edge_triggered { libc::EPOLLET } else { 0 };
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | edge) as u32, u64: 0 };
    let fd = member.as_fd().as_raw_fd();
    // SAFETY: a live event, which the call only reads.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) });
    epoll
}

/// Sleeps in epoll_wait(2) until there is an event, the timeout passed (rounded up to
/// milliseconds), or a signal came. Returns true if there is an event.
pub(crate) fn epoll_wait(epoll: &OwnedFd, timeout: Option<Duration>) -> bool {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let ms = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i32::MAX));
    // SAFETY: room for one event.
    let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, ms) };
    assert!(n >= 0 || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted);
    n > 0
}

/// Sets O_NONBLOCK.
pub(crate) fn set_nonblocking(fd: &impl AsFd) {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: integers only.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) });
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) });
}

/// Clears O_NONBLOCK.
pub(crate) fn set_blocking(fd: &impl AsFd) {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: integers only.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) });
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) });
}

/// Takes the count of an eventfd, if there is one.
pub(crate) fn take_counter(fd: &impl AsFd) -> Option<u64> {
    set_nonblocking(fd);
    let mut count = 0u64;
    // SAFETY: eight writable bytes.
    let r = unsafe { libc::read(fd.as_fd().as_raw_fd(), (&raw mut count).cast(), 8) };
    (r == 8).then_some(count)
}

/// Closes the number `of` and opens it again as another copy of `file`, in one step (dup3(2)), so
/// that no test in another thread can get the number in between.
pub(crate) fn reopen_as(of: &OwnedFd, file: &impl AsFd) {
    // SAFETY: integers only; the number stays open, and `of` its owner.
    check(unsafe { libc::dup3(file.as_fd().as_raw_fd(), of.as_raw_fd(), libc::O_CLOEXEC) });
}

/// Duplicates `file` to a number so high that no test in another thread gets the same number after
/// it was closed.
pub(crate) fn under_a_private_number(file: &impl AsFd) -> OwnedFd {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let offset = NEXT.fetch_add(1, Ordering::Relaxed) % PRIVATE_NUMBERS;
    let number = (descriptor_limit() - PRIVATE_NUMBERS + offset) as RawFd;
    under_this_number(file, number)
}

/// The same with a given number, which must be such a private number that was closed.
pub(crate) fn under_this_number(file: &impl AsFd, number: RawFd) -> OwnedFd {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, number) });
    // SAFETY: the kernel has just returned it; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

const PRIVATE_NUMBERS: u64 = 400;

/// A descriptor number that is not open and never can be: it is above every limit that Linux allows
/// (NR_OPEN is below 2^30).
pub(crate) fn closed_descriptor() -> BorrowedFd<'static> {
    // SAFETY: not -1; it can never be open, so no I/O can reach another file.
    unsafe { BorrowedFd::borrow_raw((1 << 30) + 7) }
}

/// Raises the soft limit of descriptors to the hard limit, and returns it.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) });
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: a live rlimit. At worst the call fails.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        // SAFETY: as above.
        check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) });
    }
    // Limited so that the private numbers do not make the kernel's descriptor table needlessly
    // large.
    limit.rlim_cur.min(65_536)
}

/// The owner of a number that is not open, for tests of what the kernel says to that.
pub(crate) fn own(closed: RawFd) -> OwnedFd {
    assert!(closed >= 1 << 30, "no number that could be open");
    // SAFETY: nobody else owns it, because it is not open.
    unsafe { OwnedFd::from_raw_fd(closed) }
}

/// Returns true if FD_CLOEXEC is set.
pub(crate) fn is_close_on_exec(fd: &impl AsFd) -> bool {
    // SAFETY: integers only.
    let flags = check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) });
    flags & libc::FD_CLOEXEC != 0
}

/// A stream socket of AF_UNIX, not connected.
pub(crate) fn unix_socket() -> OwnedFd {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) });
    // SAFETY: the kernel has just returned it; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The same, bound to a name in the abstract namespace.
pub(crate) fn bound_unix_socket(name: &str) -> OwnedFd {
    let socket = unix_socket();
    let family = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes();
    let address = [&family[..], &[0], name.as_bytes()].concat();
    // SAFETY: so many readable bytes.
    let r =
        unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    check(r);
    socket
}

/// A named pipe, removed when it is dropped.
pub(crate) struct Fifo(std::ffi::CString);

impl Fifo {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("aio-fifo-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: a C string.
        check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) });
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        std::path::Path::new(self.0.to_str().unwrap())
    }

    /// Returns true if somebody has it open for reading.
    pub(crate) fn has_reader(&self) -> bool {
        // SAFETY: a C string. ENXIO without a reader.
        let fd = unsafe { libc::open(self.0.as_ptr(), libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC) };
        if fd >= 0 {
            // SAFETY: just opened.
            unsafe { libc::close(fd) };
        }
        fd >= 0
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        // SAFETY: a C string.
        unsafe { libc::unlink(self.0.as_ptr()) };
    }
}

extern "C" fn no_op(_: libc::c_int) {}

/// Sends signals to the thread that created it, as fast as another thread can send them, until it
/// is dropped. The handler does nothing and is installed without SA_RESTART, so every sleeping
/// system call ends with EINTR.
pub(crate) struct SignalStorm {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
}

impl SignalStorm {
    pub(crate) fn start() -> Self {
        // SAFETY: all-zero is a valid sigaction: no flags, no mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = no_op as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: a live sigaction whose handler touches nothing.
        check(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) });
        // SAFETY: no arguments.
        let target = unsafe { libc::pthread_self() };
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = std::thread::spawn({
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            move || {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: the target waits for this thread in `drop`, so it lives.
                    unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            }
        });
        Self { over, sent, sender: Some(sender) }
    }

    /// Returns how many signals have been sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for SignalStorm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// Whether eventfd(2) takes the flag of the 2020 proposal.
pub(crate) fn has_autoreset_flag() -> bool {
    // SAFETY: eventfd(2) takes two integers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | 1 << 6) };
    // SAFETY: closes a descriptor that nothing else owns; -1 is refused.
    unsafe { libc::close(fd) == 0 }
}
