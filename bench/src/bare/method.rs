//! The ways to wait for an eventfd and to clear it.

use super::readiness::{BlockingRead, Epoll, Ppoll, WaitCall};
use super::ring_waiter::{PollAdd, RingRead, RingReadMultishot};
use super::syscall::{Calls, EventFd};
use super::waiter::{Patience, Waiter};
use crate::error::reason;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io, thread};

/// A way to wait for an eventfd and to clear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    BlockingRead,
    PpollRead,
    EpollWaitRead,
    EpollPwait2Read,
    EpollEdgeRead,
    EpollEdge,
    PollOneshotRead,
    PollMultishotRead,
    PollMultishot,
    RingRead,
    RingReadMultishot,
}

impl Method {
    pub(crate) const ALL: [Method; 11] = [
        Method::BlockingRead,
        Method::PpollRead,
        Method::EpollWaitRead,
        Method::EpollPwait2Read,
        Method::EpollEdgeRead,
        Method::EpollEdge,
        Method::PollOneshotRead,
        Method::PollMultishotRead,
        Method::PollMultishot,
        Method::RingRead,
        Method::RingReadMultishot,
    ];

    /// The method that this one is compared with: the same system call to wait, level-triggered,
    /// and a read(2). Edge-triggered methods are measured with a read(2) and without: the
    /// difference between level and edge, both with a read, is what level triggering costs.
    pub(crate) fn baseline(self) -> Option<Method> {
        match self {
            Method::EpollEdgeRead | Method::EpollEdge => Some(Method::EpollWaitRead),
            Method::PollMultishotRead
            | Method::PollMultishot
            | Method::RingRead
            | Method::RingReadMultishot => Some(Method::PollOneshotRead),
            _ => None,
        }
    }

    /// Returns true if the method makes a read(2) for each event.
    #[cfg(test)]
    pub(crate) fn reads(self) -> bool {
        use Method::{EpollEdge, PollMultishot, RingRead, RingReadMultishot};
        !matches!(self, EpollEdge | PollMultishot | RingRead | RingReadMultishot)
    }

    /// Creates a waiter with an eventfd of its own on the calling thread and tests whether it
    /// works. The error is the reason for the report.
    pub(crate) fn open(self) -> Result<(Arc<EventFd>, Box<dyn Waiter>), String> {
        // The polling methods need a non-blocking eventfd: after a spurious wake-up read(2) would
        // block.
        let flags = if self == Method::BlockingRead { 0 } else { libc::EFD_NONBLOCK };
        let kick = Arc::new(EventFd::new(0, flags).map_err(|error| format!("eventfd: {}", reason(&error)))?);
        let mut waiter = self.waiter(Arc::clone(&kick)).map_err(|error| self.why(&error))?;
        self_test(&kick, waiter.as_mut()).map_err(|error| self.why(&error))?;
        Ok((kick, waiter))
    }

    fn waiter(self, kick: Arc<EventFd>) -> io::Result<Box<dyn Waiter>> {
        Ok(match self {
            Method::BlockingRead => Box::new(BlockingRead::new(kick)),
            Method::PpollRead => Box::new(Ppoll::new(kick)),
            Method::EpollWaitRead => Box::new(Epoll::level(kick, WaitCall::EpollWait)?),
            Method::EpollPwait2Read => Box::new(Epoll::level(kick, WaitCall::EpollPwait2)?),
            Method::EpollEdgeRead => Box::new(Epoll::edge(kick, true)?),
            Method::EpollEdge => Box::new(Epoll::edge(kick, false)?),
            Method::PollOneshotRead => Box::new(PollAdd::oneshot(kick)?),
            Method::PollMultishotRead => Box::new(PollAdd::multishot(kick, true)?),
            Method::PollMultishot => Box::new(PollAdd::multishot(kick, false)?),
            Method::RingRead => Box::new(RingRead::new(kick)?),
            Method::RingReadMultishot => Box::new(RingReadMultishot::new(kick)?),
        })
    }

    /// Explains an error of this method.
    fn why(self, error: &io::Error) -> String {
        use Method::{
            EpollPwait2Read, PollMultishot, PollMultishotRead, PollOneshotRead, RingRead, RingReadMultishot,
        };
        match (self, error.raw_os_error()) {
            (EpollPwait2Read, Some(libc::ENOSYS)) => "epoll_pwait2 needs Linux 5.11".to_owned(),
            (
                PollOneshotRead | PollMultishotRead | PollMultishot | RingRead | RingReadMultishot,
                Some(libc::ENOSYS | libc::EPERM),
            ) => format!("io_uring is not enabled here ({})", reason(error)),
            (PollMultishotRead | PollMultishot, Some(libc::EINVAL)) => {
                "multishot POLL_ADD needs Linux 5.13".to_owned()
            }
            (RingReadMultishot, Some(libc::EINVAL)) => "READ_MULTISHOT needs Linux 6.7".to_owned(),
            _ => reason(error),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Method::BlockingRead => "blocking read",
            Method::PpollRead => "ppoll + read",
            Method::EpollWaitRead => "epoll_wait level + read",
            Method::EpollPwait2Read => "epoll_pwait2 level + read",
            Method::EpollEdgeRead => "epoll_wait edge + read",
            Method::EpollEdge => "epoll_wait edge, no read",
            Method::PollOneshotRead => "POLL_ADD one-shot + read",
            Method::PollMultishotRead => "POLL_ADD multishot + read",
            Method::PollMultishot => "POLL_ADD multishot, no read",
            Method::RingRead => "ring READ re-armed",
            Method::RingReadMultishot => "ring READ_MULTISHOT",
        })
    }
}

/// Signals three times and expects an event each time. A kernel (or an emulation) that reports only
/// the change from empty to non-empty would leave an edge-triggered loop asleep forever.
fn self_test(kick: &EventFd, waiter: &mut dyn Waiter) -> io::Result<()> {
    let mut calls = Calls::default();
    for round in 1..=3 {
        kick.signal(&mut calls)?;
        if !within_reason(|| waiter.wait(Patience::Now, &mut calls))? {
            return Err(io::Error::other(format!("write {round} of 3 was not reported")));
        }
    }
    Ok(())
}

/// Polls for up to one second. A write by the same thread is reported at once if the method works.
fn within_reason(mut ask: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    for _ in 0..1_000 {
        if ask()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waiters that work on this kernel, with their eventfds. The first six need nothing newer
    /// than Linux 5.11 and no io_uring, so the list is never empty.
    fn available() -> Vec<(Method, Arc<EventFd>, Box<dyn Waiter>)> {
        let opened = Method::ALL.into_iter().filter_map(|method| match method.open() {
            Ok((kick, waiter)) => Some((method, kick, waiter)),
            Err(why) => {
                eprintln!("{method}: not available: {why}");
                None
            }
        });
        let available: Vec<_> = opened.collect();
        assert!(available.len() >= 3);
        available
    }

    /// Consume what the self-test left over: ring methods may report one more event.
    fn settle(waiter: &mut dyn Waiter) {
        let mut calls = Calls::default();
        for _ in 0..10 {
            if !waiter.wait(Patience::Now, &mut calls).unwrap() {
                return;
            }
        }
        panic!("events without end");
    }

    #[test]
    fn each_method_reports_each_signal_and_nothing_else() {
        for (method, kick, mut waiter) in available() {
            settle(waiter.as_mut());
            let mut calls = Calls::default();
            for _ in 0..100 {
                kick.signal(&mut calls).unwrap();
                assert!(waiter.wait(Patience::Forever, &mut calls).unwrap(), "{method}");
                assert!(!waiter.wait(Patience::Now, &mut calls).unwrap(), "{method}");
            }
        }
    }

    #[test]
    fn signals_coalesce() {
        for (method, kick, mut waiter) in available() {
            settle(waiter.as_mut());
            let mut calls = Calls::default();
            for _ in 0..5 {
                kick.signal(&mut calls).unwrap();
            }
            assert!(waiter.wait(Patience::Forever, &mut calls).unwrap(), "{method}");
            settle(waiter.as_mut());
        }
    }

    #[test]
    fn methods_without_a_read_make_none() {
        for (method, kick, mut waiter) in available() {
            settle(waiter.as_mut());
            let mut calls = Calls::default();
            let events = 10;
            for _ in 0..events {
                kick.signal(&mut calls).unwrap();
                waiter.wait(Patience::Forever, &mut calls).unwrap();
            }
            let reads = if method.reads() { events } else { 0 };
            assert_eq!(calls.reads, reads, "{method}");
            assert!(calls.waits + calls.enters <= events, "{method}: {calls:?}");
            assert_eq!(calls.writes, events, "{method}");
        }
    }

    #[test]
    fn a_waiter_may_be_dropped_at_any_time() {
        for (_, kick, mut waiter) in available() {
            let mut calls = Calls::default();
            settle(waiter.as_mut());
            // The method is armed and has an event that was not consumed; the kernel still holds
            // the ring methods' buffers.
            kick.signal(&mut calls).unwrap();
        }
    }

    #[test]
    fn a_method_that_reports_only_the_first_write_is_detected() {
        struct OnlyFirst(bool);
        impl Waiter for OnlyFirst {
            fn wait(&mut self, _: Patience, _: &mut Calls) -> io::Result<bool> {
                Ok(std::mem::replace(&mut self.0, false))
            }
        }
        let kick = EventFd::new(0, libc::EFD_NONBLOCK).unwrap();
        let error = self_test(&kick, &mut OnlyFirst(true)).unwrap_err();
        assert_eq!(error.to_string(), "write 2 of 3 was not reported");
    }

    #[test]
    fn errors_say_what_is_missing() {
        let error = |code| io::Error::from_raw_os_error(code);
        assert_eq!(Method::EpollPwait2Read.why(&error(libc::ENOSYS)), "epoll_pwait2 needs Linux 5.11");
        assert!(Method::RingRead.why(&error(libc::EPERM)).starts_with("io_uring is not enabled here"));
        assert_eq!(Method::RingReadMultishot.why(&error(libc::EINVAL)), "READ_MULTISHOT needs Linux 6.7");
        assert_eq!(Method::PpollRead.why(&error(libc::EMFILE)), "Too many open files");
    }

    #[test]
    fn every_method_has_a_name_of_its_own() {
        let mut names: Vec<String> = Method::ALL.iter().map(Method::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Method::ALL.len());
    }
}
