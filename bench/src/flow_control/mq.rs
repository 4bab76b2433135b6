//! A POSIX message queue: the existing kernel interface for a bounded queue of messages
//! (mq_overview(7)).
#![expect(unsafe_code, reason = "the mq_* calls have no safe form")]

use std::ffi::CString;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// A queue of messages of one byte, removed on drop.
#[derive(Debug)]
pub(super) struct MessageQueue(libc::mqd_t);

/// Repeats the call while a signal interrupts it. A negative result means an error in errno.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<()> {
    while call() < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

impl MessageQueue {
    /// Creates a queue with `places`. /proc/sys/fs/mqueue/msg_max limits them to ten for
    /// unprivileged users.
    pub(super) fn new(places: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("/bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name)?;
        // SAFETY: all-zero is a valid mq_attr: plain integers.
        let mut attributes: libc::mq_attr = unsafe { mem::zeroed() };
        attributes.mq_maxmsg = places.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        attributes.mq_msgsize = 1;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: a C string and a live mq_attr, as O_CREAT demands.
        let queue =
            unsafe { libc::mq_open(name.as_ptr(), flags, 0o600 as libc::mode_t, &raw mut attributes) };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a C string; the queue lives on until it is closed.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        Ok(Self(queue))
    }

    /// Sends a message; sleeps until there is a place.
    pub(super) fn send(&self) -> io::Result<()> {
        // SAFETY: one readable byte.
        retry(|| unsafe { libc::mq_send(self.0, ptr::from_ref(&0u8).cast(), 1, 0) } as libc::ssize_t)
    }

    /// Takes a message; sleeps until there is one.
    pub(super) fn receive(&self) -> io::Result<()> {
        let mut byte = 0u8;
        // SAFETY: one writable byte, the size of a message.
        retry(|| unsafe { libc::mq_receive(self.0, (&raw mut byte).cast(), 1, ptr::null_mut()) })
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        // SAFETY: ours, and not used again.
        unsafe { libc::mq_close(self.0) };
    }
}
