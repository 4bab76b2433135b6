//! What a read(2) costs inside the loop: a device that makes one more read per doorbell than
//! necessary.
//!
//! A clock around the loop's own read would cost about a tenth of it, prevent the processor from
//! overlapping it with its surroundings, and miss what a system call leaves behind (cold caches and
//! predictors). So the loop makes a second read: the handler of a classic arm reads a second
//! eventfd, which is non-empty and watched like the doorbell, right after the loop has read the
//! first. The additional time of an iteration is the cost of a read inside the loop; everything
//! else is as in the classic arm.
//!
//! Alternatively an arm that does not read is made to: its handler reads the doorbell where the
//! loop would. That arm differs from the classic one only in edge triggering, so the difference is
//! the cost of level triggering. Compared with the arm that does not read, it is another estimate
//! of the cost of the read.

use crate::arm::Monitor;
use crate::bare::{Calls, EpollFd, EventFd};
use aio::{AioContext, BusyPolled, EventNotifier, NotifierRegistration};
use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use virtio_blk_sim::blk::{Attached, BlkQueue};

/// Which eventfd the additional read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dose {
    /// A second one. The loop reads the doorbell.
    Second,
    /// The doorbell. The loop does not read it.
    Doorbell,
}

/// A running queue with one more read(2) per doorbell.
#[derive(Debug)]
pub(super) struct Dosed {
    device: Rc<Device>,
    _doorbell: NotifierRegistration,
}

#[derive(Debug)]
struct Device {
    queue: Attached,
    read: Read,
    reads: Cell<u64>,
}

/// What is read.
#[derive(Debug)]
enum Read {
    Second {
        /// A semaphore that counts down from 2^32 - 1 and never becomes empty: a sample makes about
        /// 10^5 reads.
        eventfd: EventFd,
        /// A read(2) of a watched eventfd walks the list of watchers (eventfd_read() in
        /// fs/eventfd.c). Under epoll the doorbell always has a watcher; under ppoll and a one-shot
        /// POLL_ADD it has none while the loop reads.
        _watcher: Option<EpollFd>,
    },
    Doorbell(EventNotifier),
}

impl Dosed {
    /// Inserts itself between the doorbell and its queue.
    pub(super) fn new(
        context: &AioContext,
        monitor: Monitor,
        dose: Dose,
        kick: &EventNotifier,
        queue: Attached,
    ) -> io::Result<Self> {
        let read = Read::of(dose, monitor, kick)?;
        let device = Rc::new(Device { queue, read, reads: Cell::new(0) });
        // This replaces the queue's own handler of the descriptor.
        let doorbell = context.add_polled_notifier(kick, Rc::clone(&device))?;
        Ok(Self { device, _doorbell: doorbell })
    }

    pub(super) fn queue(&self) -> &BlkQueue {
        &self.device.queue
    }

    /// The number of additional reads.
    pub(super) fn reads(&self) -> u64 {
        self.device.reads.get()
    }
}

impl Read {
    fn of(dose: Dose, monitor: Monitor, kick: &EventNotifier) -> io::Result<Self> {
        Ok(match dose {
            Dose::Second => {
                let eventfd = EventFd::new(u32::MAX, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)?;
                let watcher = (monitor == Monitor::Epoll).then(EpollFd::new).transpose()?;
                if let Some(epoll) = &watcher {
                    epoll.control(libc::EPOLL_CTL_ADD, eventfd.as_raw_fd(), libc::EPOLLIN, 0)?;
                }
                Self::Second { eventfd, _watcher: watcher }
            }
            Dose::Doorbell => Self::Doorbell(kick.clone()),
        })
    }

    /// Reads once. Returns the number of read(2) calls.
    #[inline]
    fn once(&self) -> io::Result<u64> {
        match self {
            Self::Second { eventfd, .. } => {
                let mut calls = Calls::default();
                eventfd.read(&mut calls)?;
                Ok(calls.reads)
            }
            // The same call that the loop makes in a classic arm.
            Self::Doorbell(kick) => kick.test_and_clear().map(|_| 1),
        }
    }
}

impl BusyPolled for Device {
    fn process(&self, context: &AioContext) {
        // No error is expected of a non-blocking eventfd; it would show as an arm without
        // additional cost.
        let reads = self.read.once().unwrap_or(0);
        self.reads.set(self.reads.get() + reads);
        self.queue.process(context);
    }

    fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }

    fn begin(&self) {
        self.queue.begin();
    }

    fn end(&self) {
        self.queue.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aio::Reset;

    #[test]
    fn the_doorbell_is_read_or_another() {
        for monitor in Monitor::ALL {
            let kick = EventNotifier::new(Reset::Classic).unwrap();
            kick.notify().unwrap();
            let second = Read::of(Dose::Second, monitor, &kick).unwrap();
            assert_eq!([second.once().unwrap(), second.once().unwrap()], [1, 1]);
            let own = Read::of(Dose::Doorbell, monitor, &kick).unwrap();
            assert!(kick.test_and_clear().unwrap(), "the other one was read");
            kick.notify().unwrap();
            assert_eq!(own.once().unwrap(), 1);
            assert!(!kick.test_and_clear().unwrap(), "the doorbell was read");
        }
    }
}
