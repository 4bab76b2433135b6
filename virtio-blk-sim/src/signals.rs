//! Signals as events of the loop: signalfd(2).
#![expect(unsafe_code, reason = "signal masks and signalfd(2)")]

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::{mem, ptr};

use aio::{AioContext, Interest, Registration};

/// How many signals one turn of the loop reads.
const MOST_AT_ONCE: usize = 64;

/// Signals of this process that are read by its loop instead of interrupting a thread.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals {
    /// Blocks these signals for the calling thread and for the threads that it starts from now on.
    /// Call it before any thread starts, or another thread may get the signal.
    ///
    /// # Errors
    /// What sigaddset(3), pthread_sigmask(3) or signalfd(2) returns.
    pub fn block(signals: &[libc::c_int]) -> io::Result<Self> {
        // SAFETY: all-zero is a valid sigset_t, which sigemptyset makes an empty one.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is ours.
        unsafe { libc::sigemptyset(&mut set) };
        for &signal in signals {
            // SAFETY: `set` is ours; the number is checked by the call.
            if unsafe { libc::sigaddset(&mut set, signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: `set` is only read; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: `set` is only read.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Calls `act` with the number of each signal, from the loop. If the signals cannot be read,
    /// `act` gets the error, once. A program should then end, because it would not notice the
    /// signals that are sent to it. The loop does not sleep from there on.
    ///
    /// # Errors
    /// What registering the descriptor returns.
    pub fn watch(
        self,
        context: &AioContext,
        act: impl Fn(io::Result<libc::c_int>) + 'static,
    ) -> io::Result<Registration> {
        let this = Rc::new(self);
        let (source, failed) = (Rc::clone(&this), Cell::new(false));
        Ok(context.add_borrowed_fd(&*this, Interest::READABLE, move |_, _| {
            // A signal that arrives meanwhile makes the descriptor readable again.
            for _ in 0..MOST_AT_ONCE {
                match source.next() {
                    Ok(signal) => act(Ok(signal)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        if !failed.replace(true) {
                            act(Err(error));
                        }
                        return;
                    }
                }
            }
        })?)
    }

    fn next(&self) -> io::Result<libc::c_int> {
        // SAFETY: all-zero is a valid value of this structure of integers.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&info);
        // SAFETY: `info` is ours and has `size` bytes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        match usize::try_from(read) {
            // Signal numbers fit in an int.
            Ok(read) if read == size => Ok(info.ssi_signo as libc::c_int),
            Ok(_) => Err(io::Error::other("a signalfd gave a part of a signal")),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_blocked_signal_reaches_the_loop() {
        let signals = Signals::block(&[libc::SIGUSR2, libc::SIGWINCH]).unwrap();
        let context = AioContext::new().unwrap();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let record = Rc::clone(&seen);
        let _registration =
            signals.watch(&context, move |signal| record.borrow_mut().push(signal.unwrap())).unwrap();
        for signal in [libc::SIGWINCH, libc::SIGUSR2] {
            // SAFETY: sends a signal that this thread blocks to this thread.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
            context.poll(true).unwrap();
        }
        assert_eq!(*seen.borrow(), [libc::SIGWINCH, libc::SIGUSR2]);
    }

    #[test]
    fn signals_that_cannot_be_read_are_reported_once() {
        // A socket stands for the signalfd: its peer closes with data unread, so read(2) fails with
        // ECONNRESET, and then finds the end.
        let (mut ours, peer) = UnixStream::pair().unwrap();
        ours.write_all(b"unread").unwrap();
        drop(peer);
        ours.set_nonblocking(true).unwrap();
        let context = AioContext::new().unwrap();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let record = Rc::clone(&seen);
        let signals = Signals(ours.into());
        let _registration = signals.watch(&context, move |signal| record.borrow_mut().push(signal)).unwrap();
        for _ in 0..3 {
            context.poll(true).unwrap();
        }
        let seen = seen.borrow();
        let [Err(error)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(Signals::block(&[4711]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
