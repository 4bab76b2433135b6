//! The eventfd that tells a frontend that a ring does not work (SET_VRING_ERR).

use std::sync::{Arc, Mutex, PoisonError};

use aio::EventNotifier;

/// The error line of one ring. Clones are the same line: the session sets the eventfd, and the
/// thread that runs the ring raises the error.
///
/// The frontend may send the eventfd at any time. If the ring has failed before, the eventfd is
/// signalled at once.
#[derive(Debug, Clone, Default)]
pub(super) struct ErrorLine(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    eventfd: Option<EventNotifier>,
    raised: bool,
}

impl ErrorLine {
    /// Sets or removes the eventfd.
    pub(super) fn set(&self, eventfd: Option<EventNotifier>) {
        let raised = self.change(|state| {
            state.eventfd = eventfd;
            state.raised
        });
        if raised {
            self.signal();
        }
    }

    /// Reports that the ring does not work.
    pub(super) fn raise(&self) {
        self.change(|state| state.raised = true);
        self.signal();
    }

    /// The ring starts again.
    pub(super) fn clear(&self) {
        self.change(|state| state.raised = false);
    }

    fn signal(&self) {
        if let Some(eventfd) = self.change(|state| state.eventfd.clone()) {
            // An eventfd that the peer sent. If it does not work, there is no other way to inform
            // the peer.
            let _ = eventfd.notify();
        }
    }

    fn change<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use aio::Reset;

    use super::*;

    fn eventfd() -> EventNotifier {
        EventNotifier::new(Reset::Classic).unwrap()
    }

    #[test]
    fn an_eventfd_that_comes_after_the_error_is_signalled_at_once() {
        let (line, first, second) = (ErrorLine::default(), eventfd(), eventfd());
        line.set(Some(first.clone()));
        assert!(!first.test_and_clear().unwrap());
        line.clone().raise();
        assert!(first.test_and_clear().unwrap());
        line.set(Some(second.clone()));
        assert!(second.test_and_clear().unwrap() && !first.test_and_clear().unwrap());
        line.set(None);
        line.raise();
        assert!(!second.test_and_clear().unwrap());
    }

    #[test]
    fn a_ring_that_starts_again_has_no_error() {
        let (line, eventfd) = (ErrorLine::default(), eventfd());
        line.raise();
        line.clear();
        line.set(Some(eventfd.clone()));
        assert!(!eventfd.test_and_clear().unwrap());
    }
}
