//! The monitor of one context: how it is chosen, and the calls that it takes.

use super::epoll::EpollMonitor;
use super::info::{MonitorInfo, MonitorKind, RingInfo, RingSetup};
use super::io_uring::UringMonitor;
use super::poll::PollMonitor;
use super::watched::{Sink, State, Target, Watched};
use crate::agenda::Agenda;
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::fd::{check_pollable, explain};
use crate::sys::uring::Ring;
use crate::token::Token;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

/// The monitor of one context. `T` is what an operation of its ring holds.
#[derive(Debug)]
pub(crate) enum Monitor<T> {
    Poll(PollMonitor),
    Epoll(EpollMonitor),
    IoUring(Box<UringMonitor<T>>),
}

/// What a context asks of its monitor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// `None`: the best that this kernel has.
    pub(crate) kind: Option<MonitorKind>,
    pub(crate) ring_entries: u32,
    /// The newest way of delivering completions to try.
    pub(crate) ring_setup: RingSetup,
    /// Completions are to show in memory: see [`RingInfo::tells`].
    pub(crate) tells: bool,
    /// An outer loop may sleep in place of the monitor.
    pub(crate) embeddable: bool,
}

impl<T> Monitor<T> {
    /// Makes the monitor that was asked for.
    pub(crate) fn new(wanted: Wanted, agenda: &Rc<Agenda>) -> io::Result<(Self, MonitorInfo)> {
        let ring = || {
            let (mut setup, mut tells) = (wanted.ring_setup, wanted.tells);
            if wanted.embeddable {
                // With DEFER_TASKRUN, completions do not end the sleep of an outer loop. Because
                // they come without an enter then, a look at memory saves one.
                (setup, tells) = (setup.max(RingSetup::CoopTaskrun), true);
            }
            Ring::new(wanted.ring_entries, setup, tells).map_err(why_no_ring)
        };
        let epoll = || EpollMonitor::new(wanted.embeddable).map(|epoll| (Self::Epoll(epoll), None));
        let with_ring = |ring: Ring| {
            let info = RingInfo {
                setup: ring.setup(),
                tells: ring.tells(),
                registered_fd: ring.has_registered_fd(),
                no_iowait: ring.has_no_iowait(),
            };
            (Self::IoUring(Box::new(UringMonitor::new(ring, agenda))), Some(info))
        };
        let poll = || PollMonitor::new(wanted.embeddable).map(|poll| (Self::Poll(poll), None));
        let asked = || "asked for".to_owned();
        let ((monitor, ring), reason) = match wanted.kind {
            Some(MonitorKind::Poll) => (poll()?, asked()),
            Some(MonitorKind::Epoll) => (epoll()?, asked()),
            Some(MonitorKind::IoUring) => (with_ring(ring()?), asked()),
            None => match ring() {
                Ok(ring) => (with_ring(ring), "the best monitor, and this kernel has it".to_owned()),
                Err(e) => match epoll() {
                    Ok(epoll) => (epoll, e.to_string()),
                    Err(e2) => (poll()?, format!("{e}; no epoll either: {e2}")),
                },
            },
        };
        let info = MonitorInfo { kind: monitor.kind(), reason, ring };
        Ok((monitor, info))
    }

    pub(crate) fn kind(&self) -> MonitorKind {
        match self {
            Self::Poll(_) => MonitorKind::Poll,
            Self::Epoll(_) => MonitorKind::Epoll,
            Self::IoUring(_) => MonitorKind::IoUring,
        }
    }

    pub(crate) fn ring(&self) -> Option<&UringMonitor<T>> {
        match self {
            Self::IoUring(monitor) => Some(monitor),
            _ => None,
        }
    }

    /// Starts to watch a descriptor under `token`. If another handler of this context has the same
    /// number, it is about to be removed with `replaced`.
    pub(crate) fn add(&self, token: Token, target: &Target, stats: &Counters) -> io::Result<State> {
        // epoll_ctl checks by itself.
        let checked = if target.known || matches!(self, Self::Epoll(_)) {
            Ok(())
        } else {
            stats.syscalls_ctl.bump();
            check_pollable(target.fd)
        };
        let state = checked.and_then(|()| match self {
            Self::Poll(monitor) => monitor.add(token, target, stats),
            Self::Epoll(monitor) => monitor.add(token, target, stats),
            Self::IoUring(monitor) => Ok(monitor.add(token)),
        });
        state.map_err(|e| explain(e, target.fd))
    }

    /// Takes over the handler's new interest.
    pub(crate) fn modify(&self, watched: &Watched, stats: &Counters) -> io::Result<()> {
        match self {
            Self::Poll(monitor) => monitor.modify(watched, stats)?,
            Self::Epoll(monitor) => monitor.modify(watched, stats)?,
            Self::IoUring(monitor) => monitor.modify(watched, stats),
        }
        Ok(())
    }

    /// Stops watching the descriptor of a handler that left its slot. `replaced`: a newer one
    /// watches the same descriptor number.
    pub(crate) fn remove(&self, watched: &Watched, replaced: bool, sink: &impl Sink) {
        match self {
            Self::Poll(monitor) => monitor.remove(watched, replaced, sink),
            Self::Epoll(_) if replaced => {}
            Self::Epoll(monitor) => monitor.remove(watched, sink.stats()),
            Self::IoUring(monitor) => monitor.remove(watched, sink),
        }
    }

    #[inline(always)]
    pub(crate) fn wait(&self, timeout: TimeoutNs, sink: &impl Sink) -> io::Result<bool> {
        match self {
            Self::Poll(monitor) => monitor.wait(timeout, sink),
            Self::Epoll(monitor) => monitor.wait(timeout, sink),
            Self::IoUring(monitor) => monitor.wait(timeout, sink),
        }
    }

    /// What an outer loop sleeps on, if the monitor was made for that: readable while `wait` would
    /// find something, once `submit` was called. It stays the same as long as the monitor.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Poll(monitor) => monitor.descriptor(),
            Self::Epoll(monitor) => monitor.descriptor(),
            Self::IoUring(monitor) => Some(monitor.descriptor()),
        }
    }

    /// Before an outer loop sleeps: gives the kernel what the next wait would. Does not sleep.
    /// Returns true if it collected something.
    pub(crate) fn submit(&self, sink: &impl Sink) -> io::Result<bool> {
        self.ring().map_or(Ok(false), |ring| ring.submit_queued_work(sink))
    }

    /// After the last turn: rings what would ride on the next one.
    pub(crate) fn flush_rings(&self, stats: &Counters) {
        if let Some(ring) = self.ring() {
            ring.flush_rings(stats);
        }
    }

    /// After an outer loop slept, and a wait has found nothing. If something ends every sleep of
    /// the outer loop, it is removed here.
    pub(crate) fn found_nothing(&self, stats: &Counters) -> io::Result<()> {
        match self {
            Self::Poll(monitor) => monitor.found_nothing(stats),
            // A wait by itself finds what is stale, and a ring has nothing of the kind.
            Self::Epoll(_) | Self::IoUring(_) => Ok(()),
        }
    }

    /// While it is closed, the next SQE nudges the agenda.
    pub(crate) fn set_closed(&self, closed: bool) {
        if let Some(ring) = self.ring() {
            ring.set_closed(closed);
        }
    }

    /// Takes back everything that the kernel was given. Calls no user code.
    pub(crate) fn shutdown(&self, sink: &impl Sink) {
        if let Some(ring) = self.ring() {
            ring.shutdown(sink);
        }
    }

    /// In place of `shutdown` in a forked child.
    pub(crate) fn abandon(&self) {
        if let Some(ring) = self.ring() {
            ring.abandon();
        }
    }

    /// Returns true if a wait would find or submit something. Looks at memory only; monitors that
    /// cannot do that return false.
    pub(crate) fn needs_wait(&self) -> bool {
        self.ring().is_some_and(UringMonitor::needs_wait)
    }

    /// Returns true if [`needs_wait`](Self::needs_wait) sees everything that a wait would find.
    pub(crate) fn tells(&self) -> bool {
        self.ring().is_some_and(UringMonitor::tells)
    }
}

/// Says why io_uring cannot be used, and what to do about it.
fn why_no_ring(e: io::Error) -> io::Error {
    let why = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is switched off for this process; allow it with sysctl kernel.io_uring_disabled=0, or in \
             the seccomp filter of the container or sandbox"
        }
        Some(libc::ENOSYS) => {
            "this kernel, or the sandbox around it, has no io_uring; it takes Linux 5.15 with CONFIG_IO_URING"
        }
        Some(libc::ENOMEM) => "not enough locked memory for an io_uring; raise RLIMIT_MEMLOCK (ulimit -l)",
        Some(libc::EMFILE | libc::ENFILE) => {
            "no descriptor left for an io_uring; raise RLIMIT_NOFILE (ulimit -n)"
        }
        _ => return e,
    };
    io::Error::new(io::ErrorKind::Unsupported, format!("{why}: {e}"))
}
