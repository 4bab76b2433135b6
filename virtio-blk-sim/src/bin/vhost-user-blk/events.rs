//! What happens to the disks, for the clients of the control socket.
//!
//! An event can arise on any thread. It goes to the main loop, where a task passes it on. A peer
//! can cause events by connecting again and again, so at most [`MOST_WAITING`] wait for that task.
//! The others are counted, and the clients get an event with that number.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::SystemTime;

/// Events that wait for the main loop.
const MOST_WAITING: usize = 1024;

/// A disk that something has happened to. A disk that is added later can have the same id, but
/// never the same generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) id: String,
    pub(crate) generation: u64,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A disk is served from now on.
    DiskAdded { disk: Subject },
    /// A disk is gone, and its image is closed, unless it was removed by force.
    DiskRemoved { disk: Subject },
    /// The size of a disk has changed.
    DiskResized { disk: Subject, sectors: u64 },
    /// A flush of the image has failed: writes fail from now on.
    DiskFailed { disk: Subject, error: String },
    /// A frontend has connected to a disk.
    FrontendConnected { disk: Subject },
    /// The frontend of a disk is gone, and its requests have ended.
    FrontendDisconnected { disk: Subject },
    /// The loop of an I/O thread has ended by itself.
    LoopEnded { index: usize, thread: String, error: String },
    /// There were too many events at once, and this many are missing.
    EventsLost { count: u64 },
}

/// An event and when it happened.
#[derive(Debug, Clone)]
pub(crate) struct Stamped {
    pub(crate) event: Event,
    pub(crate) time: SystemTime,
}

/// Where events go. Any thread.
#[derive(Debug, Default)]
pub(crate) struct Outlet(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Stamped>,
    lost: u64,
    /// The task that takes them. `None` also while nobody listens: then nothing is kept.
    task: Option<Waker>,
    is_open: bool,
}

impl Outlet {
    /// Passes an event on. Never blocks.
    pub(crate) fn send(&self, event: Event) {
        let task = {
            let mut waiting = self.lock();
            if !waiting.is_open {
                return;
            }
            match waiting.events.len() < MOST_WAITING {
                true => waiting.events.push_back(Stamped { event, time: SystemTime::now() }),
                false => waiting.lost += 1,
            }
            waiting.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Keeps events from now on, or throws them away.
    pub(crate) fn set_open(&self, is_open: bool) {
        let mut waiting = self.lock();
        waiting.is_open = is_open;
        if !is_open {
            waiting.events.clear();
            waiting.lost = 0;
        }
    }

    /// Returns the next event. Only one task may wait for it.
    pub(crate) async fn next(&self) -> Stamped {
        poll_fn(|cx| {
            let waker = cx.waker().clone();
            let mut waiting = self.lock();
            if let Some(event) = waiting.events.pop_front() {
                return Poll::Ready(event);
            }
            // After those that were kept, because it was lost after them.
            if waiting.lost > 0 {
                let event = Event::EventsLost { count: std::mem::take(&mut waiting.lost) };
                return Poll::Ready(Stamped { event, time: SystemTime::now() });
            }
            waiting.task = Some(waker);
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn take(outlet: &Outlet) -> Option<Event> {
        match pin!(outlet.next()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(stamped) => Some(stamped.event),
            Poll::Pending => None,
        }
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let outlet = Outlet::default();
        let event = Event::DiskAdded { disk: Subject { id: "a".to_owned(), generation: 1 } };
        outlet.send(event.clone());
        assert_eq!(take(&outlet), None, "nobody listens yet");
        outlet.set_open(true);
        (0..MOST_WAITING + 3).for_each(|_| outlet.send(event.clone()));
        for _ in 0..MOST_WAITING {
            assert_eq!(take(&outlet), Some(event.clone()));
        }
        assert_eq!(take(&outlet), Some(Event::EventsLost { count: 3 }));
        assert_eq!(take(&outlet), None);
    }
}
