//! The log of what is in flight, for a transport whose queues survive a crash of this process.

/// A record of what is in flight, kept where it survives this process. None of the methods may
/// block.
pub trait InFlightLog {
    /// The chain was popped and is about to be carried out.
    fn popped(&mut self, head: u16);
    /// The answer is on the used ring and not yet shown to the driver.
    fn pushed(&mut self, head: u16);
    /// Everything that was pushed has been shown; nothing was popped or pushed since.
    fn published(&mut self);
}

/// What a former process left in flight, and where to record what comes.
pub struct InFlight {
    /// The record.
    pub log: Box<dyn InFlightLog>,
    /// Heads that were taken and not answered, in the order in which they were taken. They are
    /// carried out before anything new.
    pub resubmit: Vec<u16>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("resubmit", &self.resubmit).finish_non_exhaustive()
    }
}
