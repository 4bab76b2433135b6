//! The descriptors of the poll monitor once more, as an epoll set: an outer loop sleeps on one
//! descriptor, and ppoll(2) has none.
//!
//! The monitor does not wait for it, so what it collects is what ppoll(2) says. All members are
//! level-triggered.

use super::outward::Outward;
use crate::stats::Counters;
use crate::sys::epoll::Epoll;
use crate::token::Token;
use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

#[derive(Debug)]
pub(super) struct Mirror {
    set: RefCell<Epoll>,
    outward: Outward,
}

impl Mirror {
    pub(super) fn new() -> io::Result<Self> {
        let set = Epoll::new()?;
        let outward = Outward::new(&set)?;
        Ok(Self { set: RefCell::new(set), outward })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.outward.descriptor()
    }

    /// If the number is in the set already, its entry takes the new token.
    pub(super) fn add(&self, fd: RawFd, events: u32, token: Token, stats: &Counters) -> io::Result<()> {
        stats.syscalls_ctl.bump();
        let calls = self.set.borrow().add_or_modify(fd, events, token.bits())?;
        stats.syscalls_ctl.add(calls - 1);
        Ok(())
    }

    pub(super) fn modify(&self, fd: RawFd, events: u32, token: Token, stats: &Counters) -> io::Result<()> {
        stats.syscalls_ctl.bump();
        self.set.borrow().modify(fd, events, token.bits())
    }

    pub(super) fn remove(&self, fd: RawFd, stats: &Counters) {
        stats.syscalls_ctl.bump();
        // Fails if the caller closed the descriptor first; see `renew_if_stale`.
        let _ = self.set.borrow().delete(fd);
    }

    /// ppoll(2) has found nothing. If the set has an event all the same, for a token that is not
    /// `watched`, its descriptor was closed before its handler was removed, while another copy of
    /// it is open. Nothing names its entry any more, and it would end every sleep. So a new set is
    /// made of `members`.
    pub(super) fn renew_if_stale(
        &self,
        watched: impl Fn(Token) -> bool,
        members: impl Iterator<Item = (RawFd, u32, Token)>,
        stats: &Counters,
    ) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        stats.syscalls_wait.bump();
        let n = self.set.borrow().wait(&mut events, Some(0))?;
        let mut reported = events.iter().take(n);
        if reported.all(|event| watched(Token::from_bits(event.u64))) {
            return Ok(());
        }
        stats.stale.bump();
        let set = Epoll::new()?;
        for (fd, events, token) in members {
            stats.syscalls_ctl.bump();
            match set.add(fd, events, token.bits()) {
                // Closed under its handler; ppoll(2) reports that.
                Err(e) if !matches!(e.raw_os_error(), Some(libc::EBADF | libc::EPERM)) => return Err(e),
                _ => {}
            }
        }
        self.outward.show(&set)?;
        self.set.replace(set);
        Ok(())
    }
}
