//! The table that finds handlers by token, and the queue of those that are ready.

use super::{Handler, Readiness};
use crate::token::{Kind, Token};
use slab::Slab;
use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

/// The handlers of one context, and the queue of those that are ready.
#[derive(Default)]
pub(crate) struct Handlers {
    slots: RefCell<Slab<Rc<Handler>>>,
    /// Slot by descriptor number. Only to find the handler that a new one replaces; never to dispatch.
    by_fd: RefCell<Vec<Option<u32>>>,
    versions: Cell<u32>,
    /// How many are ready.
    ready: Cell<usize>,
    /// The first of those. Usually it is the only one, and the queue is not touched.
    first: Cell<Option<Rc<Handler>>>,
    /// The others. All of them are live: a handler that is removed leaves the queue.
    others: RefCell<Queue>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Handlers {
    /// The token that the next [`insert`](Self::insert) will use; ENOSPC when all 2^28 slots are taken.
    pub(crate) fn next_token(&self) -> io::Result<Token> {
        let slot = self.slots.borrow().vacant_key();
        if slot >= Token::MAX_SLOTS {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let version = self.versions.get().wrapping_add(1);
        self.versions.set(version);
        Ok(Token::new(Kind::Handler, slot, version))
    }

    /// Puts a handler, which a monitor watches already, into the slot of its token.
    pub(crate) fn insert(&self, handler: Handler) {
        let (token, fd) = (handler.token, handler.fd);
        let slot = self.slots.borrow_mut().insert(Rc::new(handler));
        debug_assert_eq!(slot, token.slot());
        let fd = fd as usize;
        let mut by_fd = self.by_fd.borrow_mut();
        if by_fd.len() <= fd {
            by_fd.resize(fd + 1, None);
        }
        by_fd[fd] = Some(slot as u32);
    }

    /// The live handler of a token.
    pub(crate) fn get(&self, token: Token) -> Option<Rc<Handler>> {
        self.slots.borrow().get(token.slot()).filter(|h| h.token == token).cloned()
    }

    /// The live handlers, to look some up. None may come or go meanwhile.
    #[inline]
    pub(crate) fn live(&self) -> Live<'_> {
        Live(self.slots.borrow())
    }

    /// The live handler that watches this descriptor number.
    pub(crate) fn get_by_fd(&self, fd: RawFd) -> Option<Rc<Handler>> {
        let slot = (*self.by_fd.borrow().get(usize::try_from(fd).ok()?)?)?;
        self.slots.borrow().get(slot as usize).cloned()
    }

    /// Takes a handler out; its token is stale from here on.
    pub(crate) fn remove(&self, token: Token) -> Option<Rc<Handler>> {
        let mut slots = self.slots.borrow_mut();
        slots.get(token.slot()).filter(|h| h.token == token)?;
        let handler = slots.remove(token.slot());
        let mut by_fd = self.by_fd.borrow_mut();
        if let Some(slot) = by_fd.get_mut(handler.fd as usize)
            && *slot == Some(token.slot() as u32)
        {
            *slot = None;
        }
        if handler.is_ready() {
            self.unqueue(&handler);
        }
        Some(handler)
    }

    /// Takes a handler that is ready out of the queue; its readiness stays, for [`Handler::hand_back`].
    #[cold]
    fn unqueue(&self, handler: &Rc<Handler>) {
        let mut others = self.others.borrow_mut();
        let first = self.first.take().filter(|first| !Rc::ptr_eq(first, handler));
        others.remove(handler);
        let first = first.or_else(|| others.pop());
        self.ready.set(others.len() + usize::from(first.is_some()));
        self.first.set(first);
    }

    /// Takes all handlers out.
    pub(crate) fn clear(&self) -> Vec<Rc<Handler>> {
        self.ready.set(0);
        self.first.set(None);
        self.others.take();
        self.by_fd.borrow_mut().clear();
        self.slots.borrow_mut().drain().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// A copy of all live handlers, for the monitor that has to start afresh.
    pub(crate) fn all(&self) -> Vec<Rc<Handler>> {
        self.slots.borrow().iter().map(|(_, h)| Rc::clone(h)).collect()
    }

    /// Records readiness of a live handler.
    #[inline(always)]
    pub(crate) fn mark(&self, handler: &Rc<Handler>, readiness: Readiness) {
        let before = handler.ready.get();
        handler.ready.set(before.union(readiness));
        if !before.is_empty() {
            return;
        }
        match self.ready.replace(self.ready.get() + 1) {
            0 => self.first.set(Some(Rc::clone(handler))),
            _ => self.others.borrow_mut().incoming.push(Rc::clone(handler)),
        }
    }

    #[inline]
    pub(crate) fn next_ready(&self) -> Option<Rc<Handler>> {
        let left = self.ready.get().checked_sub(1)?;
        self.ready.set(left);
        match left {
            0 => self.first.take(),
            _ => self.first.replace(self.others.borrow_mut().pop()),
        }
    }

    #[inline]
    pub(crate) fn any_ready(&self) -> bool {
        self.ready.get() != 0
    }
}

/// First in, first out, of two stacks: shorter code than a ring buffer's.
#[derive(Default)]
struct Queue {
    incoming: Vec<Rc<Handler>>,
    /// Those that come before, the first of them at the end.
    outgoing: Vec<Rc<Handler>>,
}

impl Queue {
    #[inline]
    fn pop(&mut self) -> Option<Rc<Handler>> {
        if self.outgoing.is_empty() {
            self.turn_over();
        }
        self.outgoing.pop()
    }

    #[inline(never)]
    fn turn_over(&mut self) {
        std::mem::swap(&mut self.incoming, &mut self.outgoing);
        self.outgoing.reverse();
    }

    fn len(&self) -> usize {
        self.incoming.len() + self.outgoing.len()
    }

    fn remove(&mut self, handler: &Rc<Handler>) {
        let is_other = |other: &Rc<Handler>| !Rc::ptr_eq(other, handler);
        self.incoming.retain(is_other);
        self.outgoing.retain(is_other);
    }
}

/// A look at the live handlers.
pub(crate) struct Live<'a>(Ref<'a, Slab<Rc<Handler>>>);

impl Live<'_> {
    /// The handler of a token; `None` if it has gone.
    #[inline]
    pub(crate) fn get(&self, token: Token) -> Option<&Rc<Handler>> {
        self.0.get(token.slot()).filter(|handler| handler.token == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::OnFd;
    use crate::context::AioContext;
    use crate::handler::Watch;

    #[test]
    fn handlers_come_out_as_they_went_in() {
        let handlers = Handlers::default();
        let all = [10, 11, 12, 13].map(|fd| {
            let token = handlers.next_token().unwrap();
            let action = Box::new(OnFd(|_: &AioContext, _: Readiness| ()));
            handlers.insert(Handler::new(token, fd, Watch::Edge, Default::default(), action));
            handlers.get(token).unwrap()
        });
        let next = || handlers.next_ready().map(|handler| (handler.take_ready(), handler.fd).1);
        all[..3].iter().for_each(|handler| handlers.mark(handler, Readiness::IN));
        assert_eq!(next(), Some(10));
        handlers.mark(&all[3], Readiness::IN);
        handlers.mark(&all[1], Readiness::OUT);
        assert_eq!([next(), next(), next(), next()], [Some(11), Some(12), Some(13), None], "each once");
    }
}
