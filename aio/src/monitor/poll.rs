//! ppoll(2): an array of descriptors, kept from wait to wait.

use super::{HandlerState, Sink};
use crate::handler::{Handler, Handlers, Readiness, Watch};
use crate::sys::{TimeoutNs, ppoll::ppoll};
use crate::token::Token;
use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;

#[derive(Default)]
pub(crate) struct PollMonitor {
    set: RefCell<Set>,
}

/// Two arrays with one index: what the kernel sees, and whose it is.
#[derive(Default)]
struct Set {
    fds: Vec<libc::pollfd>,
    tokens: Vec<Token>,
}

impl std::fmt::Debug for PollMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollMonitor").field("descriptors", &self.set.borrow().tokens.len()).finish()
    }
}

/// `Watch::Edge` and the ring reads do not get here: [`resolve`](crate::EventNotifier) refuses them for this monitor.
fn events(watch: Watch) -> libc::c_short {
    match watch {
        Watch::Level(interest) => interest.poll_events() as libc::c_short,
        Watch::Edge | Watch::RingRead | Watch::RingReadMultishot => 0,
    }
}

impl PollMonitor {
    pub(super) fn add(&self, token: Token, fd: RawFd, watch: Watch) -> HandlerState {
        let mut set = self.set.borrow_mut();
        let state = HandlerState::default();
        state.index.set(Some(set.fds.len() as u32));
        set.fds.push(libc::pollfd { fd, events: events(watch), revents: 0 });
        set.tokens.push(token);
        state
    }

    pub(super) fn modify(&self, handler: &Handler) {
        if let Some(index) = handler.monitor.index.get() {
            self.set.borrow_mut().fds[index as usize].events = events(handler.watch.get());
        }
    }

    pub(super) fn remove(&self, handler: &Handler, handlers: &Handlers) {
        let Some(index) = handler.monitor.index.take() else {
            return;
        };
        let mut set = self.set.borrow_mut();
        set.fds.swap_remove(index as usize);
        set.tokens.swap_remove(index as usize);
        // The last one has moved into the gap.
        if let Some(moved) = set.tokens.get(index as usize)
            && let Some(moved) = handlers.get(*moved)
        {
            moved.monitor.index.set(Some(index));
        }
    }

    #[inline(never)]
    pub(super) fn wait(&self, timeout: TimeoutNs, sink: &Sink) -> io::Result<bool> {
        sink.stats.syscalls_wait.bump();
        let mut set = self.set.borrow_mut();
        let ready = match ppoll(&mut set.fds, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            result => result?,
        };
        let Set { fds, tokens } = &mut *set;
        let hits = fds.iter_mut().zip(tokens.iter()).filter(|(fd, _)| fd.revents != 0);
        let (handlers, mut collected) = (sink.handlers.live(), false);
        for (fd, token) in hits.take(ready) {
            if fd.revents & libc::POLLNVAL != 0 {
                // Closed under us: said once, and left out of later waits, which it would end at once for ever.
                fd.fd = -1;
            }
            let revents = std::mem::take(&mut fd.revents);
            // A removed handler has left the arrays.
            if let Some(handler) = handlers.get(*token) {
                sink.handlers.mark(handler, Readiness::from_poll(revents as u16 as u32));
                collected = true;
            }
        }
        Ok(collected)
    }
}
