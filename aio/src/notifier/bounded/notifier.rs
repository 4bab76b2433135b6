//! A count with a maximum, whatever keeps its bound.

use super::atomic::Atomic;
use super::calls::{BoundedStats, Calls};
use super::credit::Credit;
use super::kernel::Kernel;
use super::method::{BoundedMethod, Counting};
use crate::reset::Reset;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A count with a maximum, which producers raise and consumers take, in any thread, so that a fast
/// producer feels a slow consumer.
///
/// The semantics are those of `EFD_IOC_SET_MAXIMUM` (the 2026 proposal, v5), which turns the
/// overflow level of an eventfd, 2^64 - 1, into a number of choice: `n` is admitted iff `maximum >
/// count && maximum - count > n`, so the count reaches `maximum - 1` at most; what is not admitted
/// waits, or would block.
///
/// A cheap handle: clones share one count. What a producer wrote to memory before a notify is
/// visible to the consumer whose take contains it.
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
/// let producer = std::thread::spawn(move || producer.notify(1));       // sleeps until there is room
/// assert_eq!(notifier.take()?, 4);
/// producer.join().expect("the producer does not panic")?;
/// assert_eq!(notifier.take()?, 1);
/// # Ok(())
/// # }
/// ```
///
/// # The way that looks right and is not
///
/// Writing `2^64 - 1 - maximum` into a stock eventfd makes its kernel compute the very same
/// inequality for every write, and EPOLLOUT too. But the bias is a count: the descriptor is
/// readable for ever, so a level-triggered loop spins and an edge-triggered one is woken by the
/// consumer's own writes; a read takes the bias along, and until it is written back producers are
/// unbounded; if they have written `maximum` by then it cannot be written back; and a semaphore
/// hands the bias out, one by one. It serves a consumer that reads at times of its own and nothing
/// else. (`tests/bounded/bias.rs` shows it.)
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

    /// How the bound is kept.
    pub fn method(&self) -> BoundedMethod {
        match self.inner.engine {
            Engine::Kernel(_) => BoundedMethod::Kernel,
            Engine::Atomic(_) => BoundedMethod::Atomic,
            Engine::Credit(_) => BoundedMethod::Credit,
        }
    }

    /// What a take takes.
    pub fn counting(&self) -> Counting {
        by_engine!(self, engine => engine.counting())
    }

    /// How the doorbell is reset, as it was asked for.
    pub fn reset(&self) -> Reset {
        self.inner.reset
    }

    /// Adds `n` if the bound admits it. Any thread; never sleeps.
    ///
    /// # Errors
    /// `WouldBlock` if it does not (an `n` of the maximum or more never fits); `InvalidInput` for
    /// `u64::MAX`.
    pub fn try_notify(&self, n: u64) -> io::Result<()> {
        check_n(n)?;
        let added = by_engine!(self, engine => engine.try_add(n, &self.inner.calls))?;
        if added { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WouldBlock)) }
    }

    /// Adds `n`, and sleeps until the bound admits it. Any thread.
    ///
    /// An `n` of the maximum or more sleeps until the maximum is raised. Of several that sleep any
    /// may come first.
    ///
    /// # Errors
    /// `BrokenPipe` if it would sleep and the notifier is [stopped](Self::stop); `InvalidInput` for
    /// `u64::MAX`.
    pub fn notify(&self, n: u64) -> io::Result<()> {
        check_n(n)?;
        by_engine!(self, engine => engine.add(n, &self.inner.calls))
    }

    /// Takes the count, or one of it; `None` if there is none. Any thread; never sleeps.
    ///
    /// # Errors
    /// What read(2) says of a descriptor that is no longer an eventfd.
    pub fn try_take(&self) -> io::Result<Option<u64>> {
        by_engine!(self, engine => engine.try_take(&self.inner.calls))
    }

    /// Takes the count, or one of it, and sleeps until there is one. Any thread but that of a loop;
    /// a loop has [`AioContext::add_bounded`](crate::AioContext::add_bounded).
    ///
    /// # Errors
    /// `BrokenPipe` if it would sleep and the notifier is [stopped](Self::stop).
    pub fn take(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.take(&self.inner.calls))
    }

    /// Sets the maximum (`u64::MAX` for none) and wakes whoever waits for room, so a raised one
    /// acts at once. Any thread.
    ///
    /// # Errors
    /// `InvalidInput` if the count has reached the new maximum already, which for zero it always
    /// has, or if the method does not go so high.
    pub fn set_maximum(&self, maximum: u64) -> io::Result<()> {
        by_engine!(self, engine => engine.set_maximum(maximum, &self.inner.calls))
    }

    /// The maximum; `u64::MAX` for none.
    ///
    /// # Errors
    /// What ioctl(2), or read(2) of the credit method's record, says.
    pub fn maximum(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.maximum(&self.inner.calls))
    }

    /// The count, left as it is: old by the time that it is returned.
    ///
    /// # Errors
    /// The kernel and credit methods look in /proc/self/fdinfo, which may not be mounted.
    pub fn count(&self) -> io::Result<u64> {
        by_engine!(self, engine => engine.count())
    }

    /// Ends every sleep in [`notify`](Self::notify) and [`take`](Self::take), now and later, in all
    /// processes: the other side has gone. Whatever does not sleep goes on to work.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn stop(&self) -> io::Result<()> {
        by_engine!(self, engine => engine.stop(&self.inner.calls))
    }

    /// The system calls made so far by this process.
    pub fn stats(&self) -> BoundedStats {
        self.inner.calls.snapshot()
    }

    /// The descriptors that make the same count in another process: send them (SCM_RIGHTS) with
    /// method and counting, and give them to [`from_fds`](Self::from_fds) there in this order.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        by_engine!(self, engine => engine.fds())
    }

    /// The count that another process, or this one, made. `reset` is for this process's loops.
    ///
    /// The peer is trusted to keep the rules of the method: it cannot make this process touch
    /// memory it should not, but it can starve it, or with the atomic and credit methods exceed the
    /// bound.
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
            "this method has {N} descriptors, not {}; pass what BoundedNotifier::fds gave",
            fds.len()
        );
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}

/// A write(2) of this value to an eventfd is EINVAL, too.
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
    /// What a loop polls for a count: see
    /// [`AioContext::add_bounded`](crate::AioContext::add_bounded). With the atomic method it is
    /// only a doorbell, which rings while a loop has asked for that.
    fn as_fd(&self) -> BorrowedFd<'_> {
        by_engine!(self, engine => engine.doorbell())
    }
}
