//! Options for building a bounded notifier.

use super::atomic::Atomic;
use super::credit::Credit;
use super::kernel::Kernel;
use super::method::{BoundedMethod, Counting};
use super::notifier::{BoundedNotifier, Engine};
use crate::reset::{Method, Reset, unsupported};
use std::io;

/// Options for building a [`BoundedNotifier`]. Made by [`BoundedNotifier::builder`]; the methods
/// only note what is wanted.
#[derive(Clone, Debug)]
pub struct BoundedBuilder {
    maximum: u64,
    counting: Counting,
    method: Option<BoundedMethod>,
    reset: Reset,
}

impl BoundedBuilder {
    fn new(maximum: u64) -> Self {
        Self { maximum, counting: Counting::Counter, method: None, reset: Reset::Autoreset }
    }

    /// Whether a take returns the whole count (the default) or one unit.
    #[must_use]
    pub fn counting(mut self, counting: Counting) -> Self {
        self.counting = counting;
        self
    }

    /// The method that enforces the bound. By default this is the kernel method if a self-test
    /// finds it working, else the atomic method.
    #[must_use]
    pub fn method(mut self, method: BoundedMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// How a loop resets the doorbell; by default [`Reset::Autoreset`]. The kernel and credit
    /// methods have no doorbell beside the count: there the loop takes it with a read(2), whatever
    /// the default says.
    #[must_use]
    pub fn reset(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// Makes the notifier.
    ///
    /// # Errors
    /// `Unsupported`, with the reason, if this kernel does not have the method, or if the requested
    /// reset never reads the doorbell but the method requires reading the count. `InvalidInput` for
    /// a maximum of zero or one that the method does not support. Errors of eventfd(2) and
    /// memfd_create(2).
    pub fn build(self) -> io::Result<BoundedNotifier> {
        let Self { maximum, counting, reset, .. } = self;
        if maximum == 0 {
            let why = "a maximum of 0 admits nothing; the smallest is 1";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let best = [BoundedMethod::Kernel, BoundedMethod::Atomic];
        let method = self.method.or_else(|| best.into_iter().find(|m| m.obstacle().is_none()));
        let method = method.unwrap_or(BoundedMethod::Atomic);
        if let Some(why) = method.obstacle() {
            return Err(unsupported(why));
        }
        refuse_unread(method, reset)?;
        let engine = match method {
            BoundedMethod::Kernel => Engine::Kernel(Kernel::new(maximum, counting)?),
            BoundedMethod::Atomic => Engine::Atomic(Atomic::new(maximum, counting, reset)?),
            BoundedMethod::Credit => Engine::Credit(Credit::new(maximum, counting)?),
        };
        Ok(BoundedNotifier::from_engine(engine, reset))
    }
}

impl BoundedNotifier {
    /// Creates a count of zero with this maximum, using the best method that this kernel supports.
    ///
    /// # Errors
    /// As for [`BoundedBuilder::build`].
    pub fn new(maximum: u64) -> io::Result<Self> {
        Self::builder(maximum).build()
    }

    /// Options for building a bounded notifier. A `maximum` of `u64::MAX` means no maximum.
    pub fn builder(maximum: u64) -> BoundedBuilder {
        BoundedBuilder::new(maximum)
    }
}

/// Refuses resets that do not deliver the count. With the kernel and credit methods the
/// descriptor's count is the bounded count itself, so the consumer must read it and get the value.
pub(crate) fn refuse_unread(method: BoundedMethod, reset: Reset) -> io::Result<()> {
    match (method, reset) {
        (BoundedMethod::Atomic, _) => Ok(()),
        (_, Reset::Classic | Reset::Autoreset | Reset::AutoresetBy(Method::Read)) => Ok(()),
        (_, Reset::AutoresetBy(Method::Edge)) => Err(unsupported(
            "with this reset the eventfd is never read, so nothing would lower the count and \
             its producer would stall forever after \
             maximum - 1 notifications; choose Reset::Classic, or the atomic method, whose doorbell has no maximum",
        )),
        (_, Reset::AutoresetBy(_)) => Err(unsupported(
            "with this reset the count would be read and discarded; choose Reset::Classic, or the atomic method",
        )),
    }
}
