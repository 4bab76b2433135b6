//! Thin wrappers of system calls: they take integers and Rust types and return [`io::Result`].
#![expect(
    unsafe_code,
    reason = "libc calls on integers, on memory that the caller lends, and on descriptors owned here"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

/// The flag of both patches.
pub(crate) const EFD_AUTORESET: i32 = 1 << 6;
/// The ioctls of the maximum.
pub(crate) const SET_MAXIMUM: libc::Ioctl = libc::_IOW::<u64>(b'J' as u32, 0);
pub(crate) const GET_MAXIMUM: libc::Ioctl = libc::_IOR::<u64>(b'J' as u32, 1);

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;
pub(crate) const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
pub(crate) const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// How long to wait for what has to come before it counts as lost. Far longer than it can take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

fn check(r: impl Into<i64>) -> io::Result<i64> {
    let r = r.into();
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// A call that waits, until no signal interrupts it. The kernel takes a dropped ring apart later,
/// and that interrupts the waits of the thread that had it.
fn wait<R: Into<i64>>(timeout: Duration, call: impl Fn(Duration) -> R) -> io::Result<i64> {
    let until = Instant::now() + timeout;
    let mut left = timeout;
    loop {
        match check(call(left)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => left = until - Instant::now(),
            result => return result,
        }
    }
}

/// A raw eventfd.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(fd: EventFd) -> Self {
        fd.0
    }
}

impl EventFd {
    pub(crate) fn new(flags: i32) -> io::Result<Self> {
        // SAFETY: takes two integers.
        let fd = check(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) })?;
        // SAFETY: fresh from the kernel.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    pub(crate) fn write(&self, n: u64) -> io::Result<()> {
        // SAFETY: eight readable bytes.
        check(unsafe { libc::write(self.as_raw_fd(), (&raw const n).cast(), 8) } as i64).map(drop)
    }

    pub(crate) fn read(&self) -> io::Result<u64> {
        let mut n = 0u64;
        // SAFETY: eight writable bytes.
        check(unsafe { libc::read(self.as_raw_fd(), (&raw mut n).cast(), 8) } as i64)?;
        Ok(n)
    }

    /// read(2) or write(2) of fewer bytes than a counter has.
    pub(crate) fn transfer_short(&self, write: bool) -> io::Result<()> {
        let mut bytes = [0u8; 4];
        let (fd, at) = (self.as_raw_fd(), bytes.as_mut_ptr().cast());
        // SAFETY: four bytes that live across the call, either way.
        check(unsafe { if write { libc::write(fd, at, 4) } else { libc::read(fd, at, 4) } } as i64).map(drop)
    }

    pub(crate) fn set_maximum(&self, maximum: u64) -> io::Result<()> {
        // SAFETY: reads eight bytes that live across the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), SET_MAXIMUM, &raw const maximum) }).map(drop)
    }

    pub(crate) fn maximum(&self) -> io::Result<u64> {
        let mut maximum = 0u64;
        // SAFETY: writes eight bytes that live across the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), GET_MAXIMUM, &raw mut maximum) })?;
        Ok(maximum)
    }

    /// An ioctl whose argument is no address.
    pub(crate) fn ioctl_nowhere(&self, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: a null address is answered with EFAULT by what uses it, and ignored by what does
        // not.
        check(unsafe { libc::ioctl(self.as_raw_fd(), request, ptr::null_mut::<u64>()) }).map(drop)
    }

    /// A field of /proc/self/fdinfo.
    pub(crate) fn info(&self, field: &str) -> Option<String> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.as_raw_fd())).ok()?;
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned))
    }

    /// The counter, without touching it.
    pub(crate) fn count(&self) -> u64 {
        let text = self.info("eventfd-count").expect("/proc is mounted");
        u64::from_str_radix(text.trim(), 16).expect("a hexadecimal count")
    }

    pub(crate) fn is_nonblocking_and_cloexec(&self) -> (bool, bool) {
        // SAFETY: integers only.
        let status = unsafe { libc::fcntl(self.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: integers only.
        let descriptor = unsafe { libc::fcntl(self.as_raw_fd(), libc::F_GETFD) };
        (status & libc::O_NONBLOCK != 0, descriptor & libc::FD_CLOEXEC != 0)
    }
}

fn ms(timeout: Duration) -> i32 {
    timeout.as_millis() as i32
}

/// poll(2) of these descriptors; what each has.
pub(crate) fn poll<const N: usize>(fds: [(&EventFd, i16); N], timeout: Duration) -> [i16; N] {
    let mut fds = fds.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    let fds_at = fds.as_mut_ptr();
    // SAFETY: N live entries.
    wait(timeout, |left| unsafe { libc::poll(fds_at, N as libc::nfds_t, ms(left)) }).expect("poll");
    fds.map(|fd| fd.revents)
}

/// poll(2) of one descriptor for input, without waiting.
pub(crate) fn readable(fd: &impl AsRawFd) -> bool {
    let mut fds = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    // SAFETY: one live entry.
    check(unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) }).expect("poll") != 0
}

/// ppoll(2) without waiting and without blocking any signal.
pub(crate) fn ppoll_with_all_signals(fd: &EventFd) -> io::Result<bool> {
    let mut fds = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let none = empty_signal_set();
    // SAFETY: one live entry, a live time and a live signal set.
    check(unsafe { libc::ppoll(fds.as_mut_ptr(), 1, &raw const now, &raw const none) }).map(|n| n != 0)
}

/// poll(2) whose result cannot be written back: its pollfd lies in a page that is read-only.
/// EFAULT.
pub(crate) fn poll_that_faults(fd: &EventFd) {
    let page = Page::new();
    let entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: a page of our own, aligned for anything, nobody else has it.
    unsafe { page.0.cast::<libc::pollfd>().write(entry) };
    page.protect();
    // SAFETY: one live entry; that it cannot be written is what the kernel has to find out.
    let r = unsafe { libc::poll(page.0.cast(), 1, 0) };
    assert_eq!((r, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
}

/// read(2) into a buffer that cannot be written. EFAULT.
pub(crate) fn read_that_faults(fd: &EventFd) {
    let page = Page::new();
    page.protect();
    // SAFETY: the kernel finds that the page is read-only.
    let r = unsafe { libc::read(fd.as_raw_fd(), page.0, 8) };
    assert_eq!((r, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
}

struct Page(*mut libc::c_void);

impl Page {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at)
    }

    fn protect(&self) {
        // SAFETY: our own page, to which no reference exists.
        check(unsafe { libc::mprotect(self.0, 4096, libc::PROT_READ) }).expect("mprotect");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: our own page, to which no reference exists.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

/// What to ask select(2) for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    In,
    Out,
    Except,
}

/// select(2) of one descriptor, without waiting; in which of the sets asked for it is.
pub(crate) fn select(fd: &impl AsRawFd, sets: &[Set]) -> Vec<Set> {
    let number = fd.as_raw_fd();
    let mut lists = [Set::In, Set::Out, Set::Except].map(|set| {
        // SAFETY: all-zero is an empty set.
        let mut list: libc::fd_set = unsafe { std::mem::zeroed() };
        if sets.contains(&set) {
            // SAFETY: a live set; the tests have few descriptors, far below FD_SETSIZE.
            unsafe { libc::FD_SET(number, &raw mut list) };
        }
        list
    });
    let mut now = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let [reads, writes, excepts] = &mut lists;
    // SAFETY: three live sets and a live time.
    check(unsafe { libc::select(number + 1, reads, writes, excepts, &raw mut now) }).expect("select");
    let sets = [Set::In, Set::Out, Set::Except].into_iter().zip(&lists);
    // SAFETY: a live set, and a number below FD_SETSIZE.
    sets.filter(|(_, list)| unsafe { libc::FD_ISSET(number, *list) }).map(|(set, _)| set).collect()
}

/// An epoll set whose events carry their index.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Epoll {
    pub(crate) fn new() -> Self {
        // SAFETY: takes one integer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).expect("epoll_create1");
        // SAFETY: fresh from the kernel.
        Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// A set with one member.
    pub(crate) fn of(fd: &impl AsRawFd, events: u32) -> Self {
        let epoll = Self::new();
        epoll.add(fd, events);
        epoll
    }

    pub(crate) fn add(&self, fd: &impl AsRawFd, events: u32) {
        self.ctl(libc::EPOLL_CTL_ADD, fd, events);
    }

    pub(crate) fn modify(&self, fd: &impl AsRawFd, events: u32) {
        self.ctl(libc::EPOLL_CTL_MOD, fd, events);
    }

    pub(crate) fn delete(&self, fd: &impl AsRawFd) {
        self.ctl(libc::EPOLL_CTL_DEL, fd, 0);
    }

    fn ctl(&self, op: i32, fd: &impl AsRawFd, events: u32) {
        let mut event = libc::epoll_event { events, u64: fd.as_raw_fd() as u64 };
        // SAFETY: a live event.
        check(unsafe { libc::epoll_ctl(self.as_raw_fd(), op, fd.as_raw_fd(), &raw mut event) })
            .expect("epoll_ctl");
    }

    /// At most `most` (up to 8) events, each as the descriptor and what it has.
    pub(crate) fn wait(&self, most: usize, timeout: Duration) -> Vec<(RawFd, u32)> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        let most = most.min(events.len());
        // SAFETY: at least `most` live events.
        let r = unsafe { self.wait_at(events.as_mut_ptr(), most, timeout) }.expect("epoll_wait");
        events[..r].iter().map(|event| (event.u64 as RawFd, event.events)).collect()
    }

    /// What the only member has, without waiting.
    pub(crate) fn now(&self) -> u32 {
        self.wait(1, Duration::ZERO).first().map_or(0, |(_, events)| *events)
    }

    /// Returns true if the only member is readable, without waiting.
    pub(crate) fn readable(&self) -> bool {
        self.now() & IN != 0
    }

    /// epoll_wait(2) into a buffer that cannot be written: EFAULT if there is something to report.
    pub(crate) fn wait_that_faults(&self) -> io::Result<usize> {
        let page = Page::new();
        page.protect();
        // SAFETY: a page of our own; that it cannot be written is what the kernel has to find out.
        unsafe { self.wait_at(page.0.cast(), 1, Duration::ZERO) }
    }

    /// # Safety
    /// `at` points to `most` events that live across the call, or to memory that nobody can write.
    unsafe fn wait_at(
        &self,
        at: *mut libc::epoll_event,
        most: usize,
        timeout: Duration,
    ) -> io::Result<usize> {
        // SAFETY: the caller's.
        let call = |left| unsafe { libc::epoll_wait(self.as_raw_fd(), at, most as i32, ms(left)) };
        wait(timeout, call).map(|n| n as usize)
    }
}

extern "C" fn no_op(_: libc::c_int) {}

fn empty_signal_set() -> libc::sigset_t {
    // SAFETY: all-zero is a valid, if unspecified, set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a live set.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

/// Makes SIGUSR2 pending for the calling thread: blocked, with a handler, and sent.
pub(crate) fn make_a_signal_pending() {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = no_op as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: a live sigaction whose handler touches nothing.
    check(unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) }).expect("sigaction");
    let mut set = empty_signal_set();
    // SAFETY: a live set.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGUSR2) };
    // SAFETY: a live set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: integers; raises in the calling thread.
    unsafe { libc::raise(libc::SIGUSR2) };
}

/// Sends SIGUSR2, which has a handler without SA_RESTART, to a thread of this process.
pub(crate) fn interrupt(tid: i32) {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = no_op as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: a live sigaction whose handler touches nothing.
    check(unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) }).expect("sigaction");
    // SAFETY: integers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR2) };
}

/// The calling thread's number.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// Waits until a thread sleeps in the kernel.
pub(crate) fn until_asleep(tid: i32) {
    let asleep = || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    };
    let begin = Instant::now();
    while !asleep() {
        assert!(begin.elapsed() < 10 * PATIENCE, "thread {tid} does not fall asleep");
        std::thread::yield_now();
    }
}

/// How often a thread has gone to sleep.
pub(crate) fn sleeps(tid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a thread that lives has a count")
}
