//! The rows: ways to hand events from a producer to a consumer, with a bound or without.

use super::mq::MessageQueue;
use crate::bare::{Calls, EventFd};
use aio::{AioContext, BoundedMethod, BoundedNotifier, BoundedStats, Counting, WritableRegistration};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A row of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A stock eventfd: blocking write(2) and read(2), as the proposal's first rows.
    Eventfd,
    /// A bounded notifier whose producer sleeps while it is full.
    Bounded { method: BoundedMethod, maximum: u64 },
    /// One whose producer tries again and again.
    Spin { method: BoundedMethod, maximum: u64 },
    /// One whose producer is an event loop: it tries, and waits for "writable" beside whatever else it has.
    Multiplexed { method: BoundedMethod, maximum: u64 },
    /// A POSIX message queue of `maximum - 1` places.
    MessageQueue { maximum: u64 },
}

/// The proposal's maximum.
pub(super) const MAXIMUM: u64 = 10;

impl Way {
    /// The rows of a benchmark. `semaphore`: each take takes one, which is what a message queue can do.
    pub(super) fn all(semaphore: bool) -> Vec<Way> {
        let maximum = MAXIMUM;
        // O_NONBLOCK means a descriptor: the kernel's own, or what stands for it here.
        let descriptor = match BoundedMethod::Kernel.obstacle() {
            None => BoundedMethod::Kernel,
            Some(_) => BoundedMethod::Credit,
        };
        let mut ways = vec![
            Way::Eventfd,
            Way::Bounded { method: BoundedMethod::Kernel, maximum },
            Way::Bounded { method: BoundedMethod::Atomic, maximum: u64::MAX },
            Way::Bounded { method: BoundedMethod::Atomic, maximum },
            Way::Bounded { method: BoundedMethod::Credit, maximum },
        ];
        if semaphore {
            ways.push(Way::MessageQueue { maximum });
        }
        ways.push(Way::Spin { method: descriptor, maximum });
        ways.push(Way::Multiplexed { method: descriptor, maximum });
        ways
    }

    /// Makes the connection. `Err` inside: why this machine cannot.
    pub(super) fn open(self, semaphore: bool) -> io::Result<Result<Channel, String>> {
        let counting = if semaphore { Counting::Semaphore } else { Counting::Counter };
        let bounded = |method: BoundedMethod, maximum| {
            if let Some(why) = method.obstacle() {
                return Ok(Err(why.to_owned()));
            }
            BoundedNotifier::builder(maximum).method(method).counting(counting).build().map(Ok)
        };
        Ok(match self {
            Way::Eventfd => {
                let flags = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
                Ok(Channel::Eventfd(EventFd::new(0, flags)?))
            }
            Way::Bounded { method, maximum } => bounded(method, maximum)?.map(Channel::Bounded),
            Way::Spin { method, maximum } => bounded(method, maximum)?.map(Channel::Spin),
            Way::Multiplexed { method, maximum } => bounded(method, maximum)?.map(Channel::Multiplexed),
            Way::MessageQueue { maximum } => match MessageQueue::new(maximum - 1) {
                Ok(queue) => Ok(Channel::MessageQueue(queue)),
                Err(error) => Err(format!("mq_open: {error}")),
            },
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |maximum| match maximum {
            u64::MAX => "unlimited".to_owned(),
            _ => format!("maximum {maximum}"),
        };
        let text = match self {
            Way::Eventfd => "eventfd, unlimited".to_owned(),
            Way::Bounded { method, maximum } => format!("{method}, {}", bound(*maximum)),
            Way::Spin { method, maximum } => format!("{method}, {}, O_NONBLOCK + spin", bound(*maximum)),
            Way::Multiplexed { method, maximum } => {
                format!("{method}, {}, O_NONBLOCK + POLLOUT", bound(*maximum))
            }
            Way::MessageQueue { maximum } => format!("POSIX mqueue, maximum {maximum}"),
        };
        f.pad(&text)
    }
}

/// A connection, shared by its two threads.
#[derive(Debug)]
pub(super) enum Channel {
    Eventfd(EventFd),
    Bounded(BoundedNotifier),
    Spin(BoundedNotifier),
    Multiplexed(BoundedNotifier),
    MessageQueue(MessageQueue),
}

/// What the producer's thread holds.
pub(super) struct Producer<'a> {
    channel: &'a Channel,
    /// Times that it was told EAGAIN.
    pub(super) refused: u64,
    calls: Calls,
    event_loop: Option<EventLoop>,
}

impl fmt::Debug for Producer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("channel", self.channel).finish_non_exhaustive()
    }
}

struct EventLoop {
    // Dropped before its loop.
    writable: WritableRegistration,
    room: Rc<Cell<bool>>,
    context: AioContext,
}

impl Channel {
    fn notifier(&self) -> Option<&BoundedNotifier> {
        match self {
            Channel::Bounded(notifier) | Channel::Spin(notifier) | Channel::Multiplexed(notifier) => {
                Some(notifier)
            }
            Channel::Eventfd(_) | Channel::MessageQueue(_) => None,
        }
    }

    /// For the calling thread.
    pub(super) fn producer(&self) -> io::Result<Producer<'_>> {
        let event_loop = match self {
            Channel::Multiplexed(notifier) => {
                let context = AioContext::new()?;
                let room = Rc::new(Cell::new(false));
                let flag = Rc::clone(&room);
                let writable = context.add_writable(notifier, move |_| flag.set(true))?;
                Some(EventLoop { writable, room, context })
            }
            _ => None,
        };
        Ok(Producer { channel: self, refused: 0, calls: Calls::default(), event_loop })
    }

    /// Takes what there is, or one; sleeps until there is some.
    pub(super) fn take(&self) -> io::Result<u64> {
        match self {
            Channel::Eventfd(fd) => fd.read(&mut Calls::default()).map(Option::unwrap_or_default),
            Channel::MessageQueue(queue) => queue.receive().map(|()| 1),
            Channel::Bounded(notifier) | Channel::Spin(notifier) | Channel::Multiplexed(notifier) => {
                notifier.take()
            }
        }
    }

    /// One side goes: wakes the other from whatever sleep it is in. An unbounded eventfd's writer never sleeps, and its
    /// write(2), like a message queue's, has no error that this program could meet.
    pub(super) fn stop(&self) -> io::Result<()> {
        let Some(notifier) = self.notifier() else { return Ok(()) };
        notifier.stop()?;
        // One that waits for room on a loop hears of that.
        notifier.try_take().map(drop)
    }

    /// System calls of the notifier, both sides; `None` where each event and each take are one.
    pub(super) fn stats(&self) -> Option<BoundedStats> {
        self.notifier().map(BoundedNotifier::stats)
    }
}

impl Producer<'_> {
    /// Notifies of one event, however long that takes. False: the consumer has gone.
    #[inline]
    pub(super) fn post(&mut self, gone: &AtomicBool) -> io::Result<bool> {
        let result = match self.channel {
            Channel::Eventfd(fd) => fd.add(1, &mut self.calls),
            Channel::MessageQueue(queue) => queue.send(),
            Channel::Bounded(notifier) => notifier.notify(1),
            Channel::Spin(notifier) => loop {
                match notifier.try_notify(1) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && !gone.load(Ordering::Relaxed) => {
                        self.refused += 1
                    }
                    result => break result,
                }
            },
            Channel::Multiplexed(notifier) => loop {
                match notifier.try_notify(1) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && !gone.load(Ordering::Relaxed) => {
                        self.refused += 1;
                        self.wait_for_room(gone)?;
                    }
                    result => break result,
                }
            },
        };
        match result {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::WouldBlock) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn wait_for_room(&self, gone: &AtomicBool) -> io::Result<()> {
        let Some(event_loop) = &self.event_loop else { return Ok(()) };
        event_loop.room.set(false);
        event_loop.writable.arm()?;
        while !event_loop.room.get() && !gone.load(Ordering::Relaxed) {
            event_loop.context.poll(true)?;
        }
        Ok(())
    }
}
