//! The log of what is in flight, for a transport whose queues survive a crash of this process.

/// A record of what is in flight, kept where it survives this process. None of the methods may
/// block.
pub trait InFlightLog {
    /// Called when the chain was popped, before it is carried out.
    fn popped(&mut self, head: u16);
    /// Called when the answer is on the used ring, before it is shown to the driver. Not called for
    /// a broken queue, which writes no answers.
    fn pushed(&mut self, head: u16);
    /// Called when used.idx was moved past all answers, before the next pop and the next push. Not
    /// called for a broken queue or broken guest memory, because nobody will see their used.idx.
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
