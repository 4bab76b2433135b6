//! The rows: ways to pass events from a producer to a consumer, with a maximum or without.

use super::mq::MessageQueue;
use crate::bare::{Calls, EventFd};
use crate::error::reason;
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
    /// A bounded notifier whose producer retries in a loop.
    Spin { method: BoundedMethod, maximum: u64 },
    /// A bounded notifier whose producer is an event loop: when the notifier is full, it waits for
    /// "writable" beside its other events.
    Multiplexed { method: BoundedMethod, maximum: u64 },
    /// A POSIX message queue of `maximum - 1` places.
    MessageQueue { maximum: u64 },
}

/// The proposal's maximum.
pub(super) const MAXIMUM: u64 = 10;

impl Way {
    /// The rows of a benchmark. With `semaphore` each take consumes one event; only then a message
    /// queue can take part.
    pub(super) fn all(semaphore: bool) -> Vec<Way> {
        let maximum = MAXIMUM;
        // O_NONBLOCK needs a descriptor: that of the kernel method or, without it, that of the
        // credit method.
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

    /// Opens the connection. The inner error is the reason why this machine cannot.
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
                Err(error) => Err(format!("mq_open: {}", reason(&error))),
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

/// The producer's side of a connection.
pub(super) struct Producer<'a> {
    channel: &'a Channel,
    /// How often it got EAGAIN.
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

    /// Creates the producer for the calling thread.
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

    /// Takes all events, or one (semaphore). Blocks until there is one.
    pub(super) fn take(&self) -> io::Result<u64> {
        match self {
            Channel::Eventfd(fd) => fd.read(&mut Calls::default()).map(Option::unwrap_or_default),
            Channel::MessageQueue(queue) => queue.receive().map(|()| 1),
            Channel::Bounded(notifier) | Channel::Spin(notifier) | Channel::Multiplexed(notifier) => {
                notifier.take()
            }
        }
    }

    /// Called when one side ends: wakes the other side in every kind of wait. The writer of an
    /// unbounded eventfd never sleeps. write(2) to an eventfd and a message queue have no error
    /// that this program could cause.
    pub(super) fn stop(&self) -> io::Result<()> {
        let Some(notifier) = self.notifier() else { return Ok(()) };
        notifier.stop()?;
        // This makes the notifier writable, which wakes a producer on an event loop.
        notifier.try_take().map(drop)
    }

    /// System calls of the notifier on both sides. `None` if each event and each take is one call.
    pub(super) fn stats(&self) -> Option<BoundedStats> {
        self.notifier().map(BoundedNotifier::stats)
    }
}

impl Producer<'_> {
    /// Posts one event; blocks until there is room. Returns false if the consumer has ended.
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
