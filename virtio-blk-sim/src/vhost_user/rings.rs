//! The running rings of a session. The task of the session starts and stops them; the server asks
//! them meanwhile.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use aio::AioContext;

use super::loops::{Asked, RunningQueue};
use super::losses::Losses;
use super::ring_device::RunningRing;
use crate::queue::Stopped;

/// The running rings, by index. Dropping it stops them without waiting.
#[derive(Debug)]
pub(super) struct Rings {
    running: RefCell<Vec<Option<RunningQueue>>>,
    /// Those whose loop has ended.
    pub(super) losses: Arc<Losses>,
    /// No ring starts any more.
    is_closed: Cell<bool>,
}

impl Rings {
    pub(super) fn new(queues: u16) -> Self {
        let running = RefCell::new((0..queues).map(|_| None).collect());
        Self { running, losses: Arc::default(), is_closed: Cell::new(false) }
    }

    pub(super) fn is_running(&self, index: u32) -> bool {
        self.running.borrow().get(index as usize).is_some_and(Option::is_some)
    }

    pub(super) fn is_any_running(&self) -> bool {
        self.running.borrow().iter().any(Option::is_some)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Adds a ring that was started. No ring of this index is running. If no more may run, it is
    /// dropped.
    pub(super) fn add(&self, index: u16, ring: RunningQueue) {
        if self.is_closed() {
            return drop(ring);
        }
        if let Some(place) = self.running.borrow_mut().get_mut(usize::from(index)) {
            *place = Some(ring);
        }
    }

    /// Takes a ring away whose loop has ended.
    pub(super) fn lose(&self, index: u16) {
        let lost = self.running.borrow_mut().get_mut(usize::from(index)).and_then(Option::take);
        drop(lost);
    }

    /// Stops a ring and waits for its requests in flight. `None` if it was not running.
    pub(super) async fn stop(&self, index: u32, own: &AioContext) -> std::io::Result<Option<Stopped>> {
        let running = self.running.borrow_mut().get_mut(index as usize).and_then(Option::take);
        match running {
            Some(running) => running.stop(own).await.map(Some),
            None => Ok(None),
        }
    }

    /// Asks a ring, if it is running.
    pub(super) fn ask<R: Send + 'static>(
        &self,
        index: u32,
        question: impl FnOnce(&dyn RunningRing) -> R + Send + 'static,
    ) -> Option<Asked<R>> {
        let asker = self.running.borrow().get(index as usize)?.as_ref().map(RunningQueue::asker);
        asker.map(|asker| asker.ask(question))
    }

    /// Asks all running rings.
    pub(super) fn ask_all<R: Send + 'static>(
        &self,
        question: fn(&dyn RunningRing) -> R,
    ) -> Vec<(usize, Asked<R>)> {
        let askers: Vec<_> = {
            let rings = self.running.borrow();
            let running = rings.iter().enumerate();
            running.filter_map(|(index, ring)| Some((index, ring.as_ref()?.asker()))).collect()
        };
        askers.into_iter().map(|(index, asker)| (index, asker.ask(question))).collect()
    }

    /// Drops all rings, without waiting for their requests in flight. No ring is started after
    /// that, also if a request that was begun would start one.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        let rings: Vec<_> = self.running.borrow_mut().iter_mut().map(Option::take).collect();
        drop(rings);
    }
}
