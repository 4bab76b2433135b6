//! polling: a poll with keys, with a table of handlers as its users write one. Level- or
//! edge-triggered: its default mode, one-shot, would cost an epoll_ctl(2) for each event.
#![expect(unsafe_code, reason = "Poller::add_with_mode requires a promise about the descriptor")]

use crate::bare::EventFd;
use crate::loops::work::{Cannot, EventLoop, Handler, Seen, Waker, eventfd, handler};
use polling::{Event, Events, PollMode, Poller};
use slab::Slab;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

pub(crate) struct Polling<const UNREAD: bool> {
    // Closed before the descriptors that the handlers hold.
    poller: Arc<Poller>,
    events: Events,
    handlers: Slab<Handler>,
    /// Set if a wait without events was ended by [`Poller::notify`], which is not reported
    /// otherwise.
    woken: bool,
    seen: Seen,
}

impl<const UNREAD: bool> EventLoop for Polling<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = (usize, Arc<EventFd>);

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        Ok(Self { poller, events: Events::new(), handlers: Slab::new(), woken: false, seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let index = self.handlers.vacant_key();
        let mode = if UNREAD { PollMode::Edge } else { PollMode::Level };
        // SAFETY: the descriptor is removed from the poller (`remove`), or the poller closed,
        // before its last owner (the key and the handler) is dropped.
        unsafe { self.poller.add_with_mode(bell.as_raw_fd(), Event::readable(index), mode) }?;
        self.handlers.insert(handler::<UNREAD>(bell, &self.seen));
        Ok((index, Arc::clone(bell)))
    }

    fn remove(&mut self, (index, bell): Self::Key) -> io::Result<()> {
        self.poller.delete(bell.as_fd())?;
        drop(self.handlers.remove(index));
        Ok(())
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        self.events.clear();
        self.poller.wait(&mut self.events, None)?;
        for event in self.events.iter() {
            if let Some(handler) = self.handlers.get_mut(event.key) {
                handler();
            }
        }
        if self.woken && self.events.is_empty() {
            self.seen.one_more();
        }
        Ok(())
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        self.woken = true;
        let poller = Arc::clone(&self.poller);
        // A write(2) to an open eventfd does not fail.
        Ok(Box::new(move || drop(poller.notify())))
    }
}
