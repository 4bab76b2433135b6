//! mio: a poll with tokens, with a table of handlers as its users write one. Always edge-triggered.

use crate::bare::EventFd;
use crate::error::reason;
use crate::loops::work::{Cannot, EventLoop, Handler, Seen, Waker, eventfd, handler};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

pub(crate) struct Mio<const UNREAD: bool> {
    poll: Poll,
    events: Events,
    handlers: Slab<Handler>,
    seen: Seen,
}

const WAKER: Token = Token(usize::MAX);

impl<const UNREAD: bool> EventLoop for Mio<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = (usize, Arc<EventFd>);

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let events = Events::with_capacity(1_024);
        Ok(Self { poll: Poll::new()?, events, handlers: Slab::new(), seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let index = self.handlers.vacant_key();
        let fd = bell.as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
        self.handlers.insert(handler::<UNREAD>(bell, &self.seen));
        Ok((index, Arc::clone(bell)))
    }

    fn remove(&mut self, (index, bell): Self::Key) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&bell.as_raw_fd()))?;
        drop(self.handlers.remove(index));
        Ok(())
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        match self.poll.poll(&mut self.events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            match event.token() {
                WAKER => self.seen.one_more(),
                Token(index) => {
                    if let Some(handler) = self.handlers.get_mut(index) {
                        handler();
                    }
                }
            }
        }
        Ok(())
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        let waker = mio::Waker::new(self.poll.registry(), WAKER).map_err(|error| reason(&error))?;
        // A write(2) to an open eventfd does not fail.
        Ok(Box::new(move || drop(waker.wake())))
    }
}
