//! The queues that a device wants on one thread, and the events that they get there.
#![expect(unsafe_code, reason = "an EventConsumer has no AsFd, only the number of its descriptor")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use crate::log::Line;

/// Queues that one thread serves: an entry of `queues_per_thread`.
pub(super) struct Group<B: VhostUserBackend> {
    name: Arc<str>,
    backend: Arc<B>,
    /// The thread index of the trait.
    pub(super) index: usize,
    /// The rings that `handle_event` gets.
    vrings: Vec<B::Vring>,
    /// The queue of each of them.
    queues: Vec<u16>,
    exit: Option<(EventConsumer, EventNotifier)>,
    ended: AtomicBool,
    home: Mutex<Home>,
}

/// The thread that the rings of a group run on.
#[derive(Debug, Default)]
struct Home {
    thread: Option<ThreadId>,
    rings: usize,
}

impl<B: VhostUserBackend<Vring: Clone>> Group<B> {
    /// Creates the groups of a device, whose rings are `vrings`. `name` is for log lines.
    ///
    /// # Errors
    /// `InvalidInput` if a queue belongs to no group.
    pub(super) fn all(name: &Arc<str>, backend: &Arc<B>, vrings: &[B::Vring]) -> io::Result<Vec<Self>> {
        let groups: Vec<_> = backend
            .queues_per_thread()
            .into_iter()
            .enumerate()
            .map(|(index, mask)| {
                let in_mask =
                    |queue: &u16| mask.checked_shr((*queue).into()).is_some_and(|rest| rest & 1 == 1);
                // At most 256.
                let queues: Vec<u16> = (0..vrings.len() as u16).filter(in_mask).collect();
                let vrings = queues.iter().filter_map(|queue| vrings.get(usize::from(*queue)).cloned());
                Self {
                    name: Arc::clone(name),
                    backend: Arc::clone(backend),
                    index,
                    vrings: vrings.collect(),
                    queues,
                    exit: backend.exit_event(index),
                    ended: AtomicBool::new(false),
                    home: Mutex::default(),
                }
            })
            .collect();
        let served = |queue: &u16| groups.iter().any(|group| group.event_of(*queue).is_some());
        match (0..vrings.len() as u16).find(|queue| !served(queue)) {
            None => Ok(groups),
            Some(queue) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the device's queues_per_thread leaves out queue {queue}"),
            )),
        }
    }
}

impl<B: VhostUserBackend> Group<B> {
    /// The event of a queue's kick: its place among the rings of this group.
    pub(super) fn event_of(&self, queue: u16) -> Option<u16> {
        // At most 256.
        self.queues.iter().position(|other| *other == queue).map(|event| event as u16)
    }

    /// Lets the device handle an event. It may panic, like all code of users.
    pub(super) fn handle(&self, event: u16, set: EventSet) -> io::Result<()> {
        self.backend.handle_event(event, set, &self.vrings, self.index)
    }

    /// Writes a line to the log.
    #[track_caller]
    pub(super) fn log(&self, line: Line<'_>) {
        line.device(&self.name).limited();
    }

    /// A ring of this group starts on this thread.
    ///
    /// # Errors
    /// `InvalidInput` if others of its rings run on another thread: a device expects that its
    /// events on one thread index do not overlap.
    pub(super) fn enter(&self) -> io::Result<()> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let here = thread::current().id();
        if home.rings > 0 && home.thread != Some(here) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("queues {:?} belong on one thread, so map them to one I/O thread", self.queues),
            ));
        }
        (home.thread, home.rings) = (Some(here), home.rings + 1);
        Ok(())
    }

    /// A ring of this group has stopped.
    pub(super) fn leave(&self) {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        home.rings = home.rings.saturating_sub(1);
    }

    /// The exit event, which is signalled by a write to it, if the device has one.
    pub(super) fn exit_event(&self) -> io::Result<Option<OwnedFd>> {
        let Some((consumer, _)) = &self.exit else { return Ok(None) };
        borrow(consumer).try_clone_to_owned().map(Some)
    }

    /// The exit event was signalled: the group gets no more events.
    pub(super) fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.log(Line::warn(format_args!("the device has ended thread {}", self.index)));
        }
    }

    /// Whether the exit event was signalled.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl<B: VhostUserBackend> Drop for Group<B> {
    fn drop(&mut self) {
        // As the daemon does: the device may have a thread that waits for it.
        if let Some((_, notifier)) = &self.exit {
            let _ = notifier.notify();
        }
    }
}

fn borrow(consumer: &EventConsumer) -> BorrowedFd<'_> {
    // SAFETY: the consumer owns its descriptor and keeps it open.
    unsafe { BorrowedFd::borrow_raw(consumer.as_raw_fd()) }
}
