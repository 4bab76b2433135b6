//! Our own loop.

use super::work::{Cannot, EventLoop, LATER, Seen, Waker, others_at};
use aio::{AioContext, BottomHalf, EventNotifier, Method, MonitorKind, NotifierRegistration, Reset, Timer};
use std::io;
use std::time::Duration;

/// `RING`: on io_uring, else on epoll. `EDGE`: edge-triggered autoreset, else classic.
pub(super) struct Aio<const RING: bool, const EDGE: bool> {
    bottom_half: Option<BottomHalf>,
    timer: Option<Timer>,
    _others: Vec<Timer>,
    pub(super) context: AioContext,
    pub(super) seen: Seen,
}

const fn reset(edge: bool) -> Reset {
    if edge { Reset::AutoresetBy(Method::Edge) } else { Reset::Classic }
}

impl<const RING: bool, const EDGE: bool> EventLoop for Aio<RING, EDGE> {
    type Bell = EventNotifier;
    type Key = NotifierRegistration;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        let monitor = if RING { MonitorKind::IoUring } else { MonitorKind::Epoll };
        let context = AioContext::builder().monitor(monitor).reset(reset(EDGE)).build()?;
        Ok(Self { bottom_half: None, timer: None, _others: Vec::new(), context, seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        EventNotifier::new(reset(EDGE))
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let seen = self.seen.clone();
        Ok(self.context.add_notifier(bell, move |_| seen.one_more())?)
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        drop(key);
        Ok(())
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        self.context.poll(true).map(drop)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        let seen = self.seen.clone();
        let bottom_half = self.context.bottom_half(move |_| seen.one_more());
        let handle = bottom_half.handle();
        self.bottom_half = Some(bottom_half);
        Ok(Box::new(move || handle.schedule()))
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        for index in 0..others {
            let timer = self.context.timer(|_| {});
            timer.arm_after(others_at(index));
            self._others.push(timer);
        }
        let seen = self.seen.clone();
        let timer = self.context.timer(move |_| seen.one_more());
        timer.arm_after(LATER);
        self.timer = Some(timer);
        Ok(())
    }

    #[inline]
    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        if let Some(timer) = &self.timer {
            timer.arm_after(delay);
        }
        Ok(())
    }
}
