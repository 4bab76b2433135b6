//! How a closure of another thread finds the manager that it is for: by its number, in a table of
//! the home thread. A manager itself cannot be sent.

use super::registry::Registry;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

thread_local! {
    static MANAGERS: RefCell<BTreeMap<u64, Weak<Registry>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Lists a manager, until [`unlist`].
pub(super) fn list(registry: &Rc<Registry>) {
    MANAGERS.with_borrow_mut(|managers| managers.insert(registry.number, Rc::downgrade(registry)));
}

/// Does nothing if the manager is not listed.
pub(super) fn unlist(registry: &Registry) {
    // A manager may be dropped by the destructor of another thread-local value; the table goes with
    // the thread then.
    let _ = MANAGERS.try_with(|managers| managers.borrow_mut().remove(&registry.number));
}

/// The manager with this number, if it is listed in this thread.
pub(super) fn find(number: u64) -> Option<Rc<Registry>> {
    MANAGERS.with_borrow(|managers| managers.get(&number)?.upgrade())
}
