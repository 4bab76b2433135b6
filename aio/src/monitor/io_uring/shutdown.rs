//! The end of the ring: everything is cancelled, and nothing is freed before the kernel is done
//! with it.

use super::ring_monitor::{UringMonitor, state_of};
use crate::monitor::readiness::Readiness;
use crate::monitor::watched::{Sink, Table, Watched};
use crate::stats::Counters;
use crate::sys::monotonic_ns;
use crate::token::Token;

/// How long the shutdown waits for its cancelled operations before it leaks their buffers.
const SHUTDOWN_NS: u64 = 10_000_000_000;

impl<T> UringMonitor<T> {
    fn has_memory_in_flight(&self) -> bool {
        self.reads.any_in_flight() || !self.completions.in_flight().is_empty()
    }

    /// For a forked child, which shares the ring with its parent: it is not touched any more. What
    /// the operations hold is the child's own copy, so it may be dropped.
    pub(crate) fn abandon(&self) {
        self.is_down.set(true);
        self.completions.close();
        self.ring.borrow_mut().abandon();
    }

    /// Cancels everything and waits until the kernel is done with every buffer and has no reference
    /// to a file. Calls no user code and drops nothing that operations hold. Doing it again does
    /// nothing.
    ///
    /// What does not end (a disk that does not answer) is leaked after ten seconds: memory that the
    /// kernel may still write to must not be used again.
    pub(crate) fn shutdown(&self, sink: &impl Sink) {
        self.flush_rings(sink.stats());
        if self.is_down.replace(true) {
            return;
        }
        self.completions.close();
        self.queued.borrow_mut().clear();
        // Closing the ring would end the polls, too, but at some time after that.
        let polls = armed_polls(sink);
        for token in self.reads.in_flight().into_iter().chain(self.completions.in_flight()).chain(polls) {
            self.cancel(token, sink.stats());
        }
        let deadline_ns = monotonic_ns().saturating_add(SHUTDOWN_NS);
        let is_busy = || self.has_memory_in_flight() || !armed_polls(sink).is_empty();
        while is_busy() && monotonic_ns() < deadline_ns {
            // What ends is not armed again: `queue_token`.
            if self.wait(Some(100_000_000), sink).is_err() {
                break;
            }
        }
        if self.has_memory_in_flight() {
            self.reads.leak();
            self.completions.leak();
        } else {
            self.reads.withdraw_counters(&mut self.ring.borrow_mut());
        }
    }
}

/// The polls that the kernel has.
fn armed_polls(sink: &impl Sink) -> Vec<Token> {
    let mut armed = Vec::new();
    sink.live().each(|watched| {
        let is_poll = state_of(watched).is_some_and(|state| state.read.get().is_none() && state.is_armed());
        armed.extend(is_poll.then_some(watched.token));
    });
    armed
}

impl<T> Drop for UringMonitor<T> {
    /// The fields are dropped after this: first the kernel is done with what they hold.
    fn drop(&mut self) {
        self.shutdown(&NoContext::default());
    }
}

/// In place of the context of a ring that has none any more.
#[derive(Default)]
pub(super) struct NoContext(Counters);

impl Sink for NoContext {
    type Handler = Watched;
    type Live<'a> = NoHandlers;

    fn live(&self) -> NoHandlers {
        NoHandlers
    }

    fn mark(&self, _: &Watched, _: Readiness) {}

    fn stats(&self) -> &Counters {
        &self.0
    }
}

pub(super) struct NoHandlers;

impl Table for NoHandlers {
    type Handler = Watched;

    fn get(&self, _: Token) -> Option<&Watched> {
        None
    }

    fn each(&self, _: impl FnMut(&Watched)) {}
}

impl AsRef<Watched> for Watched {
    fn as_ref(&self) -> &Watched {
        self
    }
}
