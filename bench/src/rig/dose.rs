//! What a read(2) costs in place: a device whose loop makes one more of them for each doorbell than it must.
//!
//! A clock around the loop's own read would cost about as much as a tenth of it, stop the processor from overlapping it
//! with its surroundings, and miss what a system call leaves behind (cold caches, cold predictors). So the dose is doubled: the
//! handler of a classic arm reads a second eventfd, as full and as watched as the doorbell, right after the loop has read the
//! first. What an iteration then takes longer is what a read takes in it; all else is the classic arm.
//!
//! Or an arm that does not read is made to: its handler reads the doorbell as the loop would, where the loop would. That arm is
//! the classic one but for how the doorbell is watched, an edge where that has a level; so the one tells what the level costs,
//! and, beside the arm that does not read, once more what the read does.

use crate::arm::Monitor;
use crate::bare::{Calls, EpollFd, EventFd};
use aio::{AioContext, BusyPolled, EventNotifier, NotifierRegistration};
use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use virtio_blk_sim::blk_queue::{Attached, BlkQueue};

/// Which eventfd is read once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dose {
    /// Another than the doorbell, which the loop reads.
    Second,
    /// The doorbell, which the loop does not read.
    Doorbell,
}

/// A running queue whose doorbell costs one read(2) more.
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
        /// Counts down from 2^32 - 1 and is never empty: a semaphore gives one at a time. A sample reads some 10^5 times.
        eventfd: EventFd,
        /// A read(2) of an eventfd that somebody watches goes along the watchers (eventfd_read() in fs/eventfd.c). Under epoll
        /// the doorbell always has one; under ppoll and a one-shot POLL_ADD nobody watches while the loop reads.
        _watcher: Option<EpollFd>,
    },
    Doorbell(EventNotifier),
}

impl Dosed {
    /// Puts itself between the doorbell and the queue that answers it.
    pub(super) fn new(
        context: &AioContext,
        monitor: Monitor,
        dose: Dose,
        kick: &EventNotifier,
        queue: Attached,
    ) -> io::Result<Self> {
        let read = Read::of(dose, monitor, kick)?;
        let device = Rc::new(Device { queue, read, reads: Cell::new(0) });
        // The descriptor has a handler already, the queue's, which this one takes the place of.
        let doorbell = context.add_polled_notifier(kick, Rc::clone(&device))?;
        Ok(Self { device, _doorbell: doorbell })
    }

    pub(super) fn queue(&self) -> &BlkQueue {
        &self.device.queue
    }

    /// The reads that need not have been.
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

    /// Reads, and says how many read(2) that took.
    #[inline]
    fn once(&self) -> io::Result<u64> {
        match self {
            Self::Second { eventfd, .. } => {
                let mut calls = Calls::default();
                eventfd.read(&mut calls)?;
                Ok(calls.reads)
            }
            // The very call that the loop makes in a classic arm.
            Self::Doorbell(kick) => kick.test_and_clear().map(|_| 1),
        }
    }
}

impl BusyPolled for Device {
    fn process(&self, context: &AioContext) {
        // An error would show as an arm that costs nothing more; there is none to expect of an eventfd that does not block.
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
