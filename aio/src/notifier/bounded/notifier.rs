//! The public type of a bounded notifier, independent of the method that enforces the bound.

use super::atomic::Atomic;
use super::calls::{BoundedStats, Calls};
use super::credit::Credit;
use super::kernel::Kernel;
use super::method::{BoundedMethod, Counting};
use crate::reset::Reset;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A counter with a maximum. Producers add to it and consumers take from it, in any thread. When
/// the counter is full, producers have to wait, so a slow consumer holds back a fast producer.
///
/// The semantics are those of `EFD_IOC_SET_MAXIMUM` (the 2026 proposal, v5), which makes the
/// overflow level of an eventfd configurable instead of fixed at 2^64 - 1. Adding `n` is admitted
/// iff `maximum > count && maximum - count > n`, so the count never exceeds `maximum - 1`. A call
/// that is not admitted sleeps or returns `WouldBlock`.
///
/// This is a cheap handle; all clones share one count. Memory writes that a producer made before a
/// notify are visible to the consumer whose take includes that notify.
///
/// ```
/// use aio::BoundedNotifier;
/// use std::io::ErrorKind;
///
/// # fn main() -> std::io::Result<()> {
/// let notifier = BoundedNotifier::new(5)?;
/// println!("bounded by the {} method", notifier.method());
/// notifier.try_notify(4)?;
/// assert_eq!(notifier.try_notify(1).unwrap_err().kind(), ErrorKind::WouldBlock);
/// let producer = notifier.clone();
/// let producer = std::thread::spawn(move || producer.notify(1));  // sleeps until there is room
/// assert_eq!(notifier.take()?, 4);
/// producer.join().expect("the producer does not panic")?;
/// assert_eq!(notifier.take()?, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Why a biased eventfd does not work
///
/// If `2^64 - 1 - maximum` is written into an eventfd of an unpatched kernel, that kernel applies
/// the same inequality to every write and to EPOLLOUT. But this bias is part of the count, which
/// causes four problems. The descriptor is always readable, so a level-triggered loop spins, and an
/// edge-triggered loop is woken by the consumer's own writes. A read also removes the bias, and
/// producers are unbounded until it is written back. If producers have added `maximum` by then, it
/// cannot be written back. A semaphore returns the bias to its readers, one unit at a time. The
/// trick only works for a consumer that reads at times of its own choice. `tests/bounded/bias.rs`
/// demonstrates this.
#[derive(Clone, Debug)]
pub struct BoundedNotifier {
    pub(crate) inner: Arc<Inner>,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<BoundedNotifier>();
};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    reset: Reset,
    pub(crate) calls: Calls,
}

#[derive(Debug)]
pub(crate) enum Engine {
    Kernel(Kernel),
    Atomic(Atomic),
    Credit(Credit),
}

macro_rules! by_engine {
    ($self:ident, $engine:ident => $call:expr) => {
        match &$self.inner.engine {
            Engine::Kernel($engine) => $call,
            Engine::Atomic($engine) => $call,
            Engine::Credit($engine) => $call,
        }
    };
}

impl BoundedNotifier {
    pub(super) fn from_engine(engine: Engine, reset: Reset) -> Self {
        Self { inner: Arc::new(Inner { engine, reset, calls: Calls::default() }) }
    }

    /// The method that enforces the bound.
    pub fn method(&self) -> BoundedMethod {
        match self.inner.engine {
            Engine::Kernel(_) => BoundedMethod::Kernel,
            Engine::Atomic(_) => BoundedMethod::Atomic,
            Engine::Credit(_) => BoundedMethod::Credit,
        }
    }

    /// Whether a take returns the whole count or one unit.
    pub fn counting(&self) -> Counting {
        by_engine!(self, engine => engine.counting())
    }

    /// The reset that was requested for the doorbell.
    pub fn reset(&self) -> Reset {
        self.inner.reset
    }

    /// Adds `n` if the bound admits it. May be called from any thread; never sleeps.
    ///
    /// # Errors
    /// `WouldBlock` if the bound does not admit `n` (an `n` of the maximum or more is never
    /// admitted); `InvalidInput` for `u64::MAX`.
    pub fn try_notify(&self, n: u64) -> io::Result<()> {
        check_n(n)?;
        let added = by_engine!(self, engine => engine.try_add(n, &self.inner.calls))?;
        if added { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WouldBlock)) }
    }

    /// Adds `n`; sleeps until the bound admits it. May be called from any thread.
    ///
    /// An `n` of the maximum or more sleeps until the maximum is raised. If several producers
    /// sleep, they may be admitted in any order.
    ///
    /// # Errors
    /// `BrokenPipe` if it would have to sleep and the notifier is [stopped](Self::stop);
    /// `InvalidInput` for `u64::MAX`.
    pub fn notify(&self, n: u64) -> io::Result<()> {
        check_n(n)?;
        by_engine!(self, engine => engine.add(n, &self.inner.calls))
    }

    /// Takes the whole count or one unit, as [`counting`](Self::counting) says. Returns `None` if
    /// the count is zero. May be called from any thread; never sleeps.
    ///
    /// # Errors
    /// The error of read(2), if the descriptor is no longer an eventfd.
    pub fn try_take(&self) -> io::Result<Option<u64>> {
        by_engine!(self, engine => engine.try_take(&self.inner.calls))
    }

    /// Takes the whole count or one unit; sleeps while the count is zero. May be called from any
    /// thread except one that runs a loop. A loop uses
    /// [`AioContext::add_bounded`](crate::AioContext::add_bounded).
    ///
    /// # Errors
    /// `BrokenPipe` if it would have to sleep and the notifier is [stopped](Self::stop).
    pub fn take(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.take(&self.inner.calls))
    }

    /// Sets the maximum (`u64::MAX` for none) and wakes every producer that waits for room, so a
    /// raised maximum takes effect at once. May be called from any thread.
    ///
    /// # Errors
    /// `InvalidInput` if the count has already reached the new maximum (always the case for zero),
    /// or if the method does not support so high a maximum.
    pub fn set_maximum(&self, maximum: u64) -> io::Result<()> {
        by_engine!(self, engine => engine.set_maximum(maximum, &self.inner.calls))
    }

    /// Returns the maximum, or `u64::MAX` if there is none.
    ///
    /// # Errors
    /// The error of ioctl(2) (kernel method), or of read(2) on the eventfd that holds the maximum
    /// (credit method).
    pub fn maximum(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.maximum(&self.inner.calls))
    }

    /// Returns the count without changing it. It may already have changed when this returns.
    ///
    /// # Errors
    /// The kernel and credit methods read /proc/self/fdinfo, which may not be mounted.
    pub fn count(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.count())
    }

    /// Ends every sleep in [`notify`](Self::notify) and [`take`](Self::take), now and later, in all
    /// processes. To be called when the other side is gone. Calls that do not have to sleep
    /// continue to work.
    ///
    /// # Errors
    /// The error of write(2).
    pub fn stop(&self) -> io::Result<()> {
        by_engine!(self, engine => engine.stop(&self.inner.calls))
    }

    /// The system calls made so far by this process.
    pub fn stats(&self) -> BoundedStats {
        self.inner.calls.snapshot()
    }

    /// Returns the descriptors with which another process can open the same count. Send them
    /// (SCM_RIGHTS) together with the method and the counting, and pass them to
    /// [`from_fds`](Self::from_fds) there, in this order.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        by_engine!(self, engine => engine.fds())
    }

    /// Opens a count that this or another process created. `reset` applies to the loops of this
    /// process.
    ///
    /// The peer is trusted to follow the protocol of the method. A peer that does not cannot make
    /// this process access invalid memory, but it can starve it, and with the atomic and credit
    /// methods it can exceed the bound.
    ///
    /// # Errors
    /// `InvalidInput` if these are not the descriptors of such a count.
    pub fn from_fds(
        method: BoundedMethod,
        counting: Counting,
        fds: Vec<OwnedFd>,
        reset: Reset,
    ) -> io::Result<Self> {
        let engine = match method {
            BoundedMethod::Kernel => Engine::Kernel(Kernel::from_fds(counting, take_fds(fds)?)?),
            BoundedMethod::Atomic => Engine::Atomic(Atomic::from_fds(counting, take_fds(fds)?, reset)?),
            BoundedMethod::Credit => Engine::Credit(Credit::from_fds(counting, take_fds(fds)?)?),
        };
        Ok(Self::from_engine(engine, reset))
    }
}

fn take_fds<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| {
        let why = format!(
            "this method needs {N} descriptors, not {}; pass what BoundedNotifier::fds returned",
            fds.len()
        );
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}

/// Rejects `u64::MAX`, as write(2) to an eventfd does (EINVAL).
fn check_n(n: u64) -> io::Result<()> {
    if n == u64::MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "2^64 - 1 cannot be added to an event count; add less",
        ));
    }
    Ok(())
}

impl AsFd for BoundedNotifier {
    /// The descriptor that a loop polls for a count; see
    /// [`AioContext::add_bounded`](crate::AioContext::add_bounded). With the atomic method it is
    /// only a doorbell, and it is rung only while a loop has armed it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        by_engine!(self, engine => engine.doorbell())
    }
}
