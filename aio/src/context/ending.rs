//! Callbacks before a context is dropped, while all of it still works.

use super::panics::Panics;
use slab::Slab;
use std::cell::RefCell;
use std::rc::Rc;

/// The callbacks of one context. `C` is what they get: the context.
pub(super) struct Endings<C>(RefCell<Slab<Ending<C>>>);

type Ending<C> = Rc<dyn Fn(&C)>;

impl<C> Default for Endings<C> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<C> Endings<C> {
    /// Adds a callback, and returns its key.
    pub(super) fn add(&self, callback: Rc<dyn Fn(&C)>) -> usize {
        self.0.borrow_mut().insert(callback)
    }

    /// Forgets a callback.
    pub(super) fn remove(&self, key: usize, callback: &Rc<dyn Fn(&C)>) {
        let mut endings = self.0.borrow_mut();
        // The slot may be another's, if the context has ended and calls back.
        let is_own = endings.get(key).is_some_and(|other| Rc::ptr_eq(other, callback));
        let removed = is_own.then(|| endings.remove(key));
        drop(endings);
        drop(removed);
    }

    /// Forgets all callbacks, and calls those that were there if `call`, whatever one of them does.
    pub(super) fn end(&self, context: &C, call: bool, panics: &mut Panics) {
        let callbacks: Vec<_> = self.0.borrow_mut().drain().collect();
        if call {
            callbacks.iter().for_each(|callback| panics.catch(|| callback(context)));
        }
        panics.drop_each(callbacks);
    }
}
