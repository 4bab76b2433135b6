//! What a device holds of its place among those that hear of the end of a context.

use super::ending::Endings;
use super::turn::AioContext;
use std::fmt;
use std::rc::Rc;

/// Keeps a callback for the end of its context. Dropping this forgets it.
pub(crate) struct Ending {
    endings: Rc<Endings<AioContext>>,
    callback: Rc<dyn Fn(&AioContext)>,
    key: usize,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.endings.remove(self.key, &self.callback);
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}

impl AioContext {
    /// Calls `callback` once when this context is dropped, before anything of it is taken down,
    /// also while the thread unwinds. Not in a forked child.
    pub(crate) fn at_end(&self, callback: impl Fn(&Self) + 'static) -> Ending {
        let endings = Rc::clone(&self.parts.endings);
        let callback: Rc<dyn Fn(&Self)> = Rc::new(callback);
        let key = endings.add(Rc::clone(&callback));
        Ending { endings, callback, key }
    }
}
