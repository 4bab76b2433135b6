//! A thread that waits until the server disconnects or reports a broken ring, and then wakes the
//! driver.
#![expect(unsafe_code, reason = "poll(2) is a libc call")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use aio::{EventNotifier, Reset};

use crate::queue::Irqfd;

/// The thread. It ends on drop.
#[derive(Debug)]
pub(super) struct Watch {
    stop: EventNotifier,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the session's `socket` and the vring's error eventfd. When one of them fires, sets
    /// `needs_reset` and interrupts the driver through `irq`, once.
    pub(super) fn start(
        socket: BorrowedFd<'_>,
        broken: EventNotifier,
        irq: Irqfd,
        needs_reset: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let socket = socket.try_clone_to_owned()?;
        let stop = EventNotifier::new(Reset::Classic)?;
        let stopped = stop.clone();
        let wait = move || {
            // POLLHUP is always reported. No other events are requested: replies on the socket
            // belong to the session.
            let polled = wait_for_any(&mut [
                (socket.as_fd(), 0),
                (broken.as_fd(), libc::POLLIN),
                (stopped.as_fd(), libc::POLLIN),
            ]);
            if polled != Some(2) {
                needs_reset.store(true, Ordering::Release);
                irq.signal();
            }
        };
        let thread = Builder::new().name("vhost-user-watch".to_owned()).spawn(wait)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.stop.notify().is_err() {
            // The thread cannot be woken up; it ends with the process.
            return;
        }
        if let Some(thread) = self.thread.take() {
            // The thread does not panic, and a drop could not report it.
            let _ = thread.join();
        }
    }
}

/// Waits for an event on any of the descriptors. Returns the index of the last one that has an
/// event, or `None` if poll(2) fails.
fn wait_for_any(fds: &mut [(BorrowedFd<'_>, libc::c_short)]) -> Option<usize> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }).collect();
    loop {
        // SAFETY: `polled` has as many entries as the length passed, and the borrowed descriptors
        // stay open during the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if ready >= 0 {
            return polled.iter().rposition(|entry| entry.revents != 0);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}
