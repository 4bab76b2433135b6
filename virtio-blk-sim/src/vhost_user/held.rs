//! A running ring on its loop, and the table of those that an I/O thread runs.
//!
//! A ring is code of the device. In a call it may ask a ring, stop one, or turn the loop, which may
//! stop it. So nothing is borrowed during a call, and a ring that is stopped during a call of it
//! stops when that call has returned.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use aio::AioContext;

use super::losses::{Loss, Losses};
use super::ring_device::{RunningRing, Stopping};
use crate::waiters::Waiters;

/// A running ring on its loop. Dropping it stops the ring, at the end of a call that it is in.
#[derive(Clone)]
pub(super) struct Held {
    ring: Rc<Box<dyn RunningRing>>,
    /// Who waits for the end of a call.
    called: Rc<Waiters>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// A call of a ring. Keeps the ring until the call has returned or unwound.
struct Call(Option<Held>);

impl Drop for Call {
    fn drop(&mut self) {
        let Some(Held { ring, called }) = self.0.take() else { return };
        // It may be the last reference, and then this is the end of the ring.
        let ended = catch_unwind(AssertUnwindSafe(|| drop(ring)));
        called.wake();
        match ended {
            Ok(()) => {}
            // A second panic would abort the process.
            Err(payload) if std::thread::panicking() => std::mem::forget(payload),
            Err(payload) => resume_unwind(payload),
        }
    }
}

impl Held {
    pub(super) fn new(ring: Box<dyn RunningRing>) -> Self {
        Self { ring: Rc::new(ring), called: Rc::default() }
    }

    /// Asks the ring. Nothing may be borrowed.
    pub(super) fn ask<R>(&self, question: impl FnOnce(&dyn RunningRing) -> R) -> R {
        let _call = Call(Some(self.clone()));
        question(&**self.ring)
    }

    /// Stops the ring: in this call, or when the call that it is in has returned.
    pub(super) fn stop(self, context: &AioContext) -> Stopping {
        let Self { ring, called } = self;
        let ring = match Rc::try_unwrap(ring) {
            Ok(ring) => return ring.stop(context),
            Err(ring) => ring,
        };
        let context = context.local_handle();
        Box::pin(async move {
            let mut kept = Some(ring);
            let look = || match Rc::try_unwrap(kept.take()?) {
                Ok(ring) => Some(ring),
                Err(ring) => {
                    kept = Some(ring);
                    None
                }
            };
            let ring = called.until(look).await;
            ring.stop(&context).await
        })
    }
}

thread_local! {
    /// The rings of this I/O thread, by id.
    static RINGS: RefCell<Table> = const { RefCell::new(Table(BTreeMap::new())) };
}

/// Dropped when the thread ends: then these rings are lost.
struct Table(BTreeMap<u64, Place>);

struct Place {
    ring: Held,
    loss: Loss,
    losses: Arc<Losses>,
}

impl Drop for Table {
    fn drop(&mut self) {
        for (_, Place { ring, loss, losses }) in std::mem::take(&mut self.0) {
            // First, so that nothing is in flight when the session ends. A panic in the destructor
            // of a thread local would abort the process.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(ring))) {
                std::mem::forget(payload);
            }
            losses.add(loss);
        }
    }
}

/// Adds a ring to the table of this thread. If the thread ends before it is removed, it is dropped,
/// and then `losses` gets `loss`.
pub(super) fn add(id: u64, ring: Box<dyn RunningRing>, loss: Loss, losses: Arc<Losses>) {
    let place = Place { ring: Held::new(ring), loss, losses };
    let former = RINGS.with_borrow_mut(|rings| rings.0.insert(id, place));
    drop(former);
}

/// Returns a ring of this thread.
pub(super) fn find(id: u64) -> Option<Held> {
    RINGS.with_borrow(|rings| rings.0.get(&id).map(|place| place.ring.clone()))
}

/// Takes a ring out of the table of this thread.
pub(super) fn remove(id: u64) -> Option<Held> {
    RINGS.with_borrow_mut(|rings| rings.0.remove(&id)).map(|place| place.ring)
}
