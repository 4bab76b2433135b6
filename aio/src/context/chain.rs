//! Chains: operations of the ring that run one after another (feature `raw-sqe`).
#![expect(unsafe_code, reason = "the SQEs of a user, whose pointers the user vouches for")]

use super::operation::{OperationId, ring_with_room};
use super::parts::Owner;
use super::raw::check_flags;
use super::turn::AioContext;
use crate::refused::Refused;
use io_uring::{cqueue, squeue};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// When an operation of a chain starts: for [`AioContext::submit_chain`]. See io_uring_enter(2).
/// Feature `raw-sqe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// When the one before it has succeeded (IOSQE_IO_LINK). If one fails, or reads or writes less
    /// than it was asked to, all after it complete with `-ECANCELED`.
    IfSuccessful,
    /// When the one before it has completed, also if it has failed (IOSQE_IO_HARDLINK).
    Always,
}

impl Link {
    fn flag(self) -> squeue::Flags {
        match self {
            Self::IfSuccessful => squeue::Flags::IO_LINK,
            Self::Always => squeue::Flags::IO_HARDLINK,
        }
    }
}

/// The callback of a chain, and the results that have come.
struct Chain<T, F> {
    results: RefCell<Vec<i32>>,
    left: Cell<usize>,
    held: Cell<Option<(T, F)>>,
}

impl<T, F: FnOnce(&AioContext, Vec<i32>, T)> Owner<AioContext> for Chain<T, F> {
    fn complete(&self, context: &AioContext, key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        if let Some(place) = self.results.borrow_mut().get_mut(key) {
            *place = result;
        }
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0
            && let Some((held, callback)) = self.held.take()
        {
            callback(context, self.results.take(), held);
        }
    }
}

impl AioContext {
    /// Queues operations that run one after another, as one unit: the kernel gets all of them with
    /// one enter, whatever else is queued.
    ///
    /// The callback gets the results in the order of the entries, and `held`, when all have
    /// completed. It runs in a later turn, never inside this call. Returns an id for each entry;
    /// cancelling the one that runs ends the chain. Home thread; no system call; feature `raw-sqe`.
    ///
    /// # Errors
    /// `InvalidInput` for a chain that is empty, or longer than the ring's queue
    /// ([`Builder::ring_entries`](crate::Builder::ring_entries)), else as for
    /// [`Operations::submit`](crate::Operations::submit); `held` comes back.
    ///
    /// # Safety
    /// As for [`Operations::submit`](crate::Operations::submit), for each entry, until the callback
    /// runs.
    pub unsafe fn submit_chain<T: 'static>(
        &self,
        entries: impl IntoIterator<Item = squeue::Entry>,
        link: Link,
        held: T,
        callback: impl FnOnce(&AioContext, Vec<i32>, T) + 'static,
    ) -> Result<Vec<OperationId>, Refused<T>> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        let checked = self.check_chain(&entries).and_then(|()| ring_with_room(&self.parts, entries.len()));
        let ring = match checked {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: held }),
        };
        let last = entries.len() - 1;
        for entry in &mut entries[..last] {
            *entry = entry.clone().flags(link.flag());
        }
        let owner = Rc::new(Chain {
            results: RefCell::new(vec![0; entries.len()]),
            left: Cell::new(entries.len()),
            held: Cell::new(Some((held, callback))),
        });
        let held = |key| (Rc::clone(&owner) as Rc<dyn Owner<Self>>, key);
        // SAFETY: the caller's promise; the owner keeps `held` until the last completion of all.
        let tokens = unsafe { ring.submit_chain(entries, held, &self.parts.sources.stats) };
        Ok(tokens.into_iter().map(OperationId).collect())
    }

    fn check_chain(&self, entries: &[squeue::Entry]) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let room = self.parts.monitor.ring().map_or(usize::MAX, |ring| ring.entries());
        if entries.is_empty() {
            return refuse("a chain without operations".to_owned());
        }
        if entries.len() > room {
            let len = entries.len();
            return refuse(format!(
                "a chain of {len} operations does not fit a ring of {room} entries; see Builder::ring_entries"
            ));
        }
        entries.iter().try_for_each(check_flags)
    }
}
