//! epoll(7): level-triggered for fd handlers, EPOLLET for notifiers that are never read.

use super::{HandlerState, Sink};
use crate::handler::{Handler, Handlers, Readiness, Watch};
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::epoll::Epoll;
use crate::token::Token;
use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;

/// Events taken in one wait. More stay in the kernel for the next turn, behind those that come first in its list.
const BATCH: usize = 256;

pub(crate) struct EpollMonitor {
    set: RefCell<Set>,
}

/// An epoll instance, and where its events go.
struct Set {
    epoll: Epoll,
    events: Box<[libc::epoll_event; BATCH]>,
}

impl std::fmt::Debug for EpollMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollMonitor").field("epoll", &self.set.borrow().epoll).finish_non_exhaustive()
    }
}

/// The ring reads do not get here: [`resolve`](crate::EventNotifier) refuses them for this monitor.
fn events(watch: Watch) -> u32 {
    match watch {
        Watch::Level(interest) => interest.poll_events(),
        Watch::Edge => (libc::EPOLLIN | libc::EPOLLET) as u32,
        Watch::RingRead | Watch::RingReadMultishot => 0,
    }
}

impl EpollMonitor {
    pub(super) fn new() -> io::Result<Self> {
        let (epoll, events) = (Epoll::new()?, Box::new([libc::epoll_event { events: 0, u64: 0 }; BATCH]));
        Ok(Self { set: RefCell::new(Set { epoll, events }) })
    }

    pub(super) fn add(
        &self,
        token: Token,
        fd: RawFd,
        watch: Watch,
        stats: &Counters,
    ) -> io::Result<HandlerState> {
        let epoll = &self.set.borrow().epoll;
        stats.syscalls_ctl.bump();
        match epoll.add(fd, events(watch), token.bits()) {
            // A handler is being replaced: its entry takes the new token, so no event can fall between the two.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                stats.syscalls_ctl.bump();
                epoll.modify(fd, events(watch), token.bits())?;
            }
            result => result?,
        }
        Ok(HandlerState::default())
    }

    pub(super) fn modify(&self, handler: &Handler, stats: &Counters) -> io::Result<()> {
        stats.syscalls_ctl.bump();
        self.set.borrow().epoll.modify(handler.fd, events(handler.watch.get()), handler.token.bits())
    }

    pub(super) fn remove(&self, handler: &Handler, stats: &Counters) {
        stats.syscalls_ctl.bump();
        // Fails if the caller has closed the descriptor first. Closing the last copy removed it from the set, too; if
        // another copy lives on, `wait` meets its events and starts the set afresh.
        let _ = self.set.borrow().epoll.delete(handler.fd);
    }

    #[inline(always)]
    pub(super) fn wait(&self, timeout: TimeoutNs, sink: &Sink) -> io::Result<bool> {
        sink.stats.syscalls_wait.bump();
        let mut set = self.set.borrow_mut();
        let Set { epoll, events } = &mut *set;
        let n = match epoll.wait(&mut events[..], timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        };
        let (handlers, mut reported) = (sink.handlers.live(), 0);
        for event in &events[..n.min(BATCH)] {
            if let Some(handler) = handlers.get(Token::from_bits(event.u64)) {
                sink.handlers.mark(handler, Readiness::from_poll(event.events));
                reported += 1;
            }
        }
        if reported != n {
            sink.stats.stale.add((n - reported) as u64);
            drop((set, handlers));
            // If that fails (no descriptor, no memory), the old set goes on to serve, and the next stale event tries again.
            let _ = self.start_afresh(&sink.handlers, &sink.stats);
        }
        Ok(reported != 0)
    }

    /// Gets rid of entries whose descriptor was closed before its handler was removed while another copy of it (dup(2),
    /// fork(2), SCM_RIGHTS) lives on: no descriptor is left to name them by, and a level-triggered one would end every
    /// wait. The edges of the others are reported once more, which their handlers must tolerate anyway.
    #[cold]
    fn start_afresh(&self, handlers: &Handlers, stats: &Counters) -> io::Result<()> {
        let epoll = Epoll::new()?;
        for handler in handlers.all() {
            stats.syscalls_ctl.bump();
            match epoll.add(handler.fd, events(handler.watch.get()), handler.token.bits()) {
                // Closed without telling us, and perhaps opened again as a file: it is not to be reported any more.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBADF | libc::EPERM)) => {}
                result => result?,
            }
        }
        self.set.borrow_mut().epoll = epoll;
        Ok(())
    }
}
