//! What all operations of the ring have in common: their identity, and the way to the ring.
//!
//! An operation owns what it was given, usually the buffer that the kernel reads or fills, from its
//! start until its last completion was reaped, whatever is dropped meanwhile. Starting one makes no
//! system call: the SQE rides on the next wait, and a queued SQE keeps the loop from sleeping
//! without it.

use super::parts::{Held, Parts};
use super::turn::AioContext;
use crate::completion::Cancel;
use crate::monitor::{MonitorInfo, UringMonitor};
use crate::token::Token;
use std::io;

/// Identity of an operation in flight, for [`AioContext::cancel`]. It has a version, so the id of
/// an operation that has completed cancels no other one, unless 2^32 were started since. To be used
/// with the context that returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub(super) Token);

/// The ring of a context, if it can take so many operations.
pub(super) fn ring_with_room(
    context: &Parts<AioContext>,
    operations: usize,
) -> io::Result<&UringMonitor<Held<AioContext>>> {
    let Some(ring) = context.monitor.ring() else {
        let MonitorInfo { kind, reason, .. } = &context.info;
        let why = format!("operations need the io_uring monitor; this context has {kind} ({reason})");
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    };
    context.check_process()?;
    ring.completions().check_room(operations)?;
    Ok(ring)
}

impl AioContext {
    /// Asks the kernel to cancel an operation (IORING_OP_ASYNC_CANCEL). Its callback runs all the
    /// same, in a later turn, with the error ECANCELED or, if it was too late, with its own result.
    /// What the operation owns stays with it until then.
    ///
    /// A [multishot operation](Self::start_multishot) is not started again after this, and its
    /// [end](crate::op::Shot::Ended) has the error ECANCELED unless it ends by itself just before.
    /// Items that the kernel had for it still come first.
    ///
    /// Returns false if the operation has completed already, also if its callback has not run yet.
    /// Home thread; no system call: it rides on the next wait. The future of
    /// [`perform`](Self::perform) is cancelled by dropping it.
    pub fn cancel(&self, operation: OperationId) -> bool {
        let Some(ring) = self.parts.monitor.ring() else { return false };
        if !self.parts.is_current() {
            return false;
        }
        let found = ring.completions().cancel(operation.0);
        if found == Cancel::InKernel {
            ring.cancel(operation.0, &self.parts.sources.stats);
        }
        found != Cancel::Over
    }
}
