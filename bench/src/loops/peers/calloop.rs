//! calloop: callbacks for event sources.

use crate::bare::EventFd;
use crate::error::reason;
use crate::loops::work::{Cannot, EventLoop, LATER, Seen, Waker, clear, eventfd, others_at};
use calloop::generic::Generic;
use calloop::timer::{TimeoutAction, Timer};
use calloop::{Interest, Mode, PostAction, RegistrationToken};
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Calloop<const UNREAD: bool> {
    event_loop: calloop::EventLoop<'static, Seen>,
    timer: Option<RegistrationToken>,
    seen: Seen,
}

impl<const UNREAD: bool> EventLoop for Calloop<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = RegistrationToken;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let event_loop = calloop::EventLoop::try_new().map_err(io::Error::other)?;
        Ok(Self { event_loop, timer: None, seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let mode = if UNREAD { Mode::Edge } else { Mode::Level };
        let source = Generic::new(Arc::clone(bell), Interest::READ, mode);
        let handler = |_, bell: &mut calloop::generic::NoIoDrop<Arc<EventFd>>, seen: &mut Seen| {
            if !UNREAD {
                clear(bell);
            }
            seen.one_more();
            Ok(PostAction::Continue)
        };
        let added = self.event_loop.handle().insert_source(source, handler);
        added.map_err(|error| io::Error::other(error.to_string()))
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        self.event_loop.handle().remove(key);
        Ok(())
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        self.event_loop.dispatch(None, &mut self.seen).map_err(io::Error::other)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        let (ping, source) = calloop::ping::make_ping().map_err(|error| reason(&error))?;
        let added = self.event_loop.handle().insert_source(source, |(), (), seen| seen.one_more());
        added.map_err(|error| reason(&error))?;
        Ok(Box::new(move || ping.ping()))
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        for index in 0..others {
            let timer = Timer::from_duration(others_at(index));
            let added = self.event_loop.handle().insert_source(timer, |_, (), _| TimeoutAction::Drop);
            added.map_err(|error| reason(&error))?;
        }
        self.rearm(LATER).map_err(|error| reason(&error))
    }

    /// To change its deadline a timer is removed and inserted again: calloop gives no access to a
    /// timer that it owns.
    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        let handle = self.event_loop.handle();
        if let Some(timer) = self.timer.take() {
            handle.remove(timer);
        }
        let added = handle.insert_source(Timer::from_duration(delay), |_, (), seen: &mut Seen| {
            seen.one_more();
            TimeoutAction::Drop
        });
        self.timer = Some(added.map_err(|error| io::Error::other(error.to_string()))?);
        Ok(())
    }
}
