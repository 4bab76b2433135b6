//! eventp: subscribers behind thin pointers in epoll's user data.

use crate::bare::EventFd;
use crate::error::reason;
use crate::loops::work::{Cannot, EventLoop, Seen, Waker, clear, eventfd};
use eventp::tri_subscriber::WithHandler;
use eventp::{EventpOps, Subscriber, interest, remote_endpoint};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

pub(crate) struct Eventp<const UNREAD: bool> {
    reactor: eventp::Eventp,
    seen: Seen,
}

impl<const UNREAD: bool> EventLoop for Eventp<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = RawFd;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        Ok(Self { reactor: eventp::Eventp::default(), seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let seen = self.seen.clone();
        let handler = move |bell: &mut Arc<EventFd>| {
            if !UNREAD {
                clear(bell);
            }
            seen.one_more();
        };
        let interest = if UNREAD { interest().read().edge_triggered() } else { interest().read() };
        interest.with_fd(Arc::clone(bell)).with_handler(handler).register_into(&mut self.reactor)?;
        Ok(bell.as_raw_fd())
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        self.reactor.delete(key)
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        match self.reactor.run_once() {
            // The process was stopped and continued.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        let pair = remote_endpoint::remote_endpoint::<eventp::Eventp>();
        let endpoint = pair.and_then(|pair| pair.register_into(&mut self.reactor));
        let (endpoint, seen) = (endpoint.map_err(|error| reason(&error))?, self.seen.clone());
        Ok(Box::new(move || {
            let seen = seen.clone();
            // The reactor outlives the visit.
            let _ = endpoint.call_nonblocking(move |_| seen.one_more());
        }))
    }
}
