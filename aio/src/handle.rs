//! What other threads hold of a context: wake it, give it work, stop it.

use crate::bottom_half::{List, Node, OnceCallback, Work};
use crate::context::AioContext;
use crate::notifier::EventNotifier;
use crate::sync::Arc as ListArc;
use crate::wake_gate::WakeGate;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

/// The part of a context that any thread may touch.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: WakeGate,
    pub(crate) bottom_halves: List<Work>,
    pub(crate) notifier: EventNotifier,
    /// Writes to the notifier.
    pub(crate) wakes: AtomicU64,
    stop: AtomicBool,
    /// The context has been dropped: nobody will take from the list any more.
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(notifier: EventNotifier) -> Self {
        Self {
            gate: WakeGate::new(),
            bottom_halves: List::new(),
            notifier,
            wakes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Makes the home thread look at what the caller has published; a write(2) only if it sleeps or is about to.
    pub(crate) fn notify(&self) {
        if self.gate.notify() {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            // The eventfd is ours and lives as long as `self`: the write cannot fail for any reason that a caller could
            // mend, and `notified` is set, so at worst the loop looks at its next turn.
            let woken: io::Result<()> = self.notifier.notify();
            debug_assert!(woken.is_ok(), "write to the loop's own eventfd: {woken:?}");
        }
    }

    /// Home thread, as its context is dropped: drops what is scheduled, and what will be. Whoever waits for a closure to
    /// run, as [`IoThread::run`](crate::IoThread::run) does, learns so that it will not.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.drop_scheduled();
    }

    /// Either this fence comes before the one in `close`, whose look at the list then finds what the caller has pushed, or
    /// the caller finds `closed` set.
    fn drop_if_closed(&self) {
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.drop_scheduled();
        }
    }

    fn drop_scheduled(&self) {
        fence(Ordering::SeqCst);
        // Any thread may take now: each gets what it takes for itself.
        self.bottom_halves.take(|node| {
            if let Work::Once(closure) = &node.value {
                let closure = closure.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(closure);
            }
        });
    }

    /// Takes a stop request.
    pub(crate) fn take_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire) && self.stop.swap(false, Ordering::AcqRel)
    }
}

/// A context as other threads see it. Cheap to clone; may outlive the context, and then does nothing.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<Handle>();
    assert_send_and_sync::<crate::BottomHalfHandle>();
    assert_send_and_sync::<EventNotifier>();
};

impl Handle {
    /// Wakes the loop: a blocking poll returns (perhaps without progress), or the next one does not block. Lock-free.
    pub fn notify(&self) {
        self.shared.notify();
    }

    /// Runs a closure once in the home thread, in its next turn. Never blocks; one allocation.
    ///
    /// The order of closures from one thread is not kept (as for all bottom halves). If the context is dropped first, the
    /// closure is dropped without being run.
    pub fn schedule(&self, work: impl FnOnce(&AioContext) + Send + 'static) {
        let work: Box<OnceCallback> = Box::new(work);
        let node = ListArc::new(Node::new(Work::Once(Mutex::new(Some(work)))));
        Node::schedule(&node, &self.shared.bottom_halves);
        self.shared.notify();
        self.shared.drop_if_closed();
    }

    /// Makes [`AioContext::run`] return after the turn it is in. A request that finds no `run` ends the next one.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.notify();
    }
}
