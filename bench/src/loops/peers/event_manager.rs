//! event-manager of rust-vmm: subscribers with a descriptor each.

use crate::bare::EventFd;
use crate::loops::work::{Cannot, EventLoop, Seen, Waker, clear, eventfd};
use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use std::io;
use std::sync::Arc;

pub(crate) struct Manager<const UNREAD: bool> {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    seen: Seen,
}

/// A device with one doorbell.
struct Device<const UNREAD: bool> {
    bell: Arc<EventFd>,
    seen: Seen,
}

impl<const UNREAD: bool> MutEventSubscriber for Device<UNREAD> {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        if !UNREAD {
            clear(&self.bell);
        }
        self.seen.one_more();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let edge = if UNREAD { EventSet::EDGE_TRIGGERED } else { EventSet::empty() };
        // It cannot report errors here. A handler that was not registered shows as a visit that
        // hangs.
        let _ = ops.add(Events::new(&*self.bell, EventSet::IN | edge));
    }
}

impl<const UNREAD: bool> EventLoop for Manager<UNREAD> {
    type Bell = Arc<EventFd>;
    type Key = SubscriberId;

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        Ok(Self { manager: EventManager::new().map_err(io::Error::other)?, seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let device = Device::<UNREAD> { bell: Arc::clone(bell), seen: self.seen.clone() };
        Ok(self.manager.add_subscriber(Box::new(device)))
    }

    fn remove(&mut self, key: Self::Key) -> io::Result<()> {
        self.manager.remove_subscriber(key).map(drop).map_err(io::Error::other)
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        self.manager.run().map(drop).map_err(io::Error::other)
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn waker(&mut self) -> Result<Waker, Cannot> {
        let (endpoint, seen) = (self.manager.remote_endpoint(), self.seen.clone());
        Ok(Box::new(move || {
            let seen = seen.clone();
            // The manager outlives the visit.
            let _ = endpoint.fire(move |_| seen.one_more());
        }))
    }
}
