//! epoll(7): level-triggered for fd handlers, EPOLLET for notifiers that are never read.

use super::outward::Outward;
use super::readiness::{Readiness, Watch};
use super::watched::{Sink, State, Table, Target, Watched};
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::epoll::Epoll;
use crate::token::Token;
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

/// Events taken in one wait. More of them stay in the kernel's list for the next turn, behind the
/// ones that become ready before it.
const BATCH: usize = 256;

pub(crate) struct EpollMonitor {
    set: RefCell<Set>,
    /// For an outer loop.
    outward: Option<Outward>,
}

/// An epoll instance, and the buffer for its events.
struct Set {
    epoll: Epoll,
    events: Box<[libc::epoll_event; BATCH]>,
}

impl std::fmt::Debug for EpollMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollMonitor").field("epoll", &self.set.borrow().epoll).finish_non_exhaustive()
    }
}

/// Ring reads do not get here: the reset matrix refuses them for this monitor.
fn events(watch: Watch) -> u32 {
    match watch {
        Watch::Level(interest) => interest.poll_events(),
        Watch::Edge => (libc::EPOLLIN | libc::EPOLLET) as u32,
        Watch::RingRead | Watch::RingReadMultishot => 0,
    }
}

impl EpollMonitor {
    /// `embeddable`: an outer loop may sleep in place of `wait`.
    pub(super) fn new(embeddable: bool) -> io::Result<Self> {
        let (epoll, events) = (Epoll::new()?, Box::new([libc::epoll_event { events: 0, u64: 0 }; BATCH]));
        let outward = embeddable.then(|| Outward::new(&epoll)).transpose()?;
        Ok(Self { set: RefCell::new(Set { epoll, events }), outward })
    }

    /// What an outer loop sleeps on. It is readable while a descriptor is ready.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.outward.as_ref().map(Outward::descriptor)
    }

    pub(super) fn add(&self, token: Token, target: &Target, stats: &Counters) -> io::Result<State> {
        let epoll = &self.set.borrow().epoll;
        let (fd, events) = (target.fd, events(target.watch));
        stats.syscalls_ctl.bump();
        // If a handler is being replaced, its entry takes the new token, so no event is lost in
        // between.
        let calls = epoll.add_or_modify(fd, events, token.bits())?;
        stats.syscalls_ctl.add(calls - 1);
        Ok(State::Epoll)
    }

    pub(super) fn modify(&self, watched: &Watched, stats: &Counters) -> io::Result<()> {
        stats.syscalls_ctl.bump();
        self.set.borrow().epoll.modify(watched.fd, events(watched.watch.get()), watched.token.bits())
    }

    pub(super) fn remove(&self, watched: &Watched, stats: &Counters) {
        stats.syscalls_ctl.bump();
        // Fails if the caller closed the descriptor first. Closing the last copy removed it from
        // the set, too. If another copy is still open, `wait` sees its events and makes a new set.
        let _ = self.set.borrow().epoll.delete(watched.fd);
    }

    #[inline(always)]
    pub(super) fn wait(&self, timeout: TimeoutNs, sink: &impl Sink) -> io::Result<bool> {
        sink.stats().syscalls_wait.bump();
        let mut set = self.set.borrow_mut();
        let Set { epoll, events } = &mut *set;
        let n = match epoll.wait(&mut events[..], timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        };
        let (live, mut reported) = (sink.live(), 0);
        for event in &events[..n.min(BATCH)] {
            if let Some(handler) = live.get(Token::from_bits(event.u64)) {
                sink.mark(handler, Readiness::from_poll(event.events));
                reported += 1;
            }
        }
        if reported != n {
            sink.stats().stale.add((n - reported) as u64);
            drop((set, live));
            // If this fails (no descriptor or no memory left), the old set is still in use and the
            // next stale event tries again.
            let _ = self.make_new_set(sink);
        }
        Ok(reported != 0)
    }

    /// Drops entries whose descriptor was closed before its handler was removed, while another copy
    /// of it (dup(2), fork(2), SCM_RIGHTS) is still open. No descriptor is left to name them in
    /// EPOLL_CTL_DEL, and a level-triggered one would end every wait. The edges of the other
    /// entries are reported once more, which their handlers must tolerate anyway.
    #[cold]
    fn make_new_set(&self, sink: &impl Sink) -> io::Result<()> {
        let epoll = Epoll::new()?;
        let mut failed = None;
        sink.live().each(|watched| {
            sink.stats().syscalls_ctl.bump();
            match epoll.add(watched.fd, events(watched.watch.get()), watched.token.bits()) {
                // Closed without our knowledge, and perhaps opened again as a regular file: it is
                // not reported any more.
                Err(e) if !matches!(e.raw_os_error(), Some(libc::EBADF | libc::EPERM)) => failed = Some(e),
                _ => {}
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(outward) = &self.outward {
            outward.show(&epoll)?;
        }
        self.set.borrow_mut().epoll = epoll;
        Ok(())
    }
}
