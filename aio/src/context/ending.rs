//! Who is told that a context is about to be dropped, while all of it still works.

use super::panics::Panics;
use super::turn::AioContext;
use slab::Slab;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// The callbacks of one context. `C` is what they get: the context.
pub(super) struct Endings<C>(RefCell<Slab<Rc<dyn Fn(&C)>>>);

impl<C> Default for Endings<C> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<C> Endings<C> {
    /// Forgets all callbacks, and calls those that were there if `call`, whatever one of them does.
    pub(super) fn end(&self, context: &C, call: bool, panics: &mut Panics) {
        let callbacks: Vec<_> = self.0.borrow_mut().drain().collect();
        if call {
            callbacks.iter().for_each(|callback| panics.catch(|| callback(context)));
        }
        panics.drop_each(callbacks);
    }
}

/// Keeps a callback for the end of its context. Dropping this forgets it.
pub(crate) struct Ending {
    endings: Rc<Endings<AioContext>>,
    callback: Rc<dyn Fn(&AioContext)>,
    key: usize,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // The slot may be another's, if the context has ended and calls back.
        let mut endings = self.endings.0.borrow_mut();
        let is_own = endings.get(self.key).is_some_and(|callback| Rc::ptr_eq(callback, &self.callback));
        let callback = is_own.then(|| endings.remove(self.key));
        drop(endings);
        drop(callback);
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}

impl AioContext {
    /// Calls `callback` once when this context is dropped, before anything of it is taken down, also
    /// while the thread unwinds. Not in a forked child.
    pub(crate) fn at_end(&self, callback: impl Fn(&Self) + 'static) -> Ending {
        let endings = Rc::clone(&self.parts.endings);
        let callback: Rc<dyn Fn(&Self)> = Rc::new(callback);
        let key = endings.0.borrow_mut().insert(Rc::clone(&callback));
        Ending { endings, callback, key }
    }
}
