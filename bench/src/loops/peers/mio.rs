//! mio: a poll with tokens, and the table of handlers that its users bring. Always edge-triggered.

use super::NO_TIMERS;
use crate::eventfd::syscall::EventFd;
use crate::loops::work::{Cannot, EventLoop, Seen, Waker, clear, eventfd};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

pub(in crate::loops) struct Mio<const UNREAD: bool> {
    poll: Poll,
    events: Events,
    handlers: Vec<Option<Box<dyn FnMut()>>>,
    free: Vec<usize>,
    seen: Seen,
}

const WAKER: Token = Token(usize::MAX);

impl<const UNREAD: bool> EventLoop for Mio<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = (usize, Arc<EventFd>);

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let events = Events::with_capacity(1_024);
        Ok(Self { poll: Poll::new()?, events, handlers: Vec::new(), free: Vec::new(), seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let index = self.free.pop().unwrap_or(self.handlers.len());
        let fd = bell.as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
        let (seen, own) = (self.seen.clone(), Arc::clone(bell));
        let handler = move || {
            if !UNREAD {
                clear(&own);
            }
            seen.one_more();
        };
        if index == self.handlers.len() {
            self.handlers.push(None);
        }
        self.handlers[index] = Some(Box::new(handler));
        Ok((index, Arc::clone(bell)))
    }

    fn remove(&mut self, (index, bell): Self::Key) -> io::Result<()> {
        self.poll.registry().deregister(&mut SourceFd(&bell.as_raw_fd()))?;
        self.handlers[index] = None;
        self.free.push(index);
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
                    if let Some(Some(handler)) = self.handlers.get_mut(index) {
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
        let waker = mio::Waker::new(self.poll.registry(), WAKER).map_err(|error| error.to_string())?;
        // A write(2) to an open eventfd does not fail.
        Ok(Box::new(move || drop(waker.wake())))
    }

    fn arm_timers(&mut self, _: usize) -> Result<(), Cannot> {
        Err(NO_TIMERS.to_owned())
    }

    fn rearm(&mut self, _: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
