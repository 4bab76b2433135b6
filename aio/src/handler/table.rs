//! The table that finds handlers by token, and the queue of those that are ready.

use super::entry::{Handler, HandlerRef};
use crate::busy_poll::Member;
use crate::monitor::{Readiness, Table, Watched};
use crate::token::{Kind, Token};
use slab::Slab;
use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::io;
use std::os::fd::RawFd;

/// The handlers of one context, and the queue of those that are ready.
pub(crate) struct Handlers<A> {
    slots: RefCell<Slab<HandlerRef<A>>>,
    /// Slot by descriptor number. Only to find the handler that a new one replaces; never to
    /// dispatch.
    by_fd: RefCell<Vec<Option<u32>>>,
    versions: Cell<u32>,
    /// How many are ready.
    ready: Cell<usize>,
    /// How many of those belong to the turn that dispatches now.
    due: Cell<usize>,
    /// The first of those that are ready. Usually it is the only one, and the queue is not touched.
    first: Cell<Option<HandlerRef<A>>>,
    /// The others. All of them are live: a handler that is removed leaves the queue.
    others: RefCell<Queue<A>>,
}

impl<A> fmt::Debug for Handlers<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl<A> Default for Handlers<A> {
    fn default() -> Self {
        Self {
            slots: RefCell::default(),
            by_fd: RefCell::default(),
            versions: Cell::new(0),
            ready: Cell::new(0),
            due: Cell::new(0),
            first: Cell::new(None),
            others: RefCell::default(),
        }
    }
}

impl<A> Handlers<A> {
    /// The token that the next [`insert`](Self::insert) will use; ENOSPC if all 2^28 slots are
    /// taken.
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
    pub(crate) fn insert(&self, handler: Handler<A>) {
        let (token, fd) = (handler.watched.token, handler.watched.fd);
        let slot = self.slots.borrow_mut().insert(HandlerRef::new(handler));
        debug_assert_eq!(slot, token.slot());
        let fd = fd as usize;
        let mut by_fd = self.by_fd.borrow_mut();
        if by_fd.len() <= fd {
            by_fd.resize(fd + 1, None);
        }
        by_fd[fd] = Some(slot as u32);
    }

    /// The live handler of a token.
    pub(crate) fn get(&self, token: Token) -> Option<HandlerRef<A>> {
        self.slots.borrow().get(token.slot()).filter(|h| h.watched.token == token).cloned()
    }

    /// Borrows the table for lookups by a monitor.
    #[inline]
    pub(crate) fn live(&self) -> Live<'_, A> {
        Live(self.slots.borrow())
    }

    /// The live handler that watches this descriptor number.
    pub(crate) fn get_by_fd(&self, fd: RawFd) -> Option<HandlerRef<A>> {
        let slot = (*self.by_fd.borrow().get(usize::try_from(fd).ok()?)?)?;
        self.slots.borrow().get(slot as usize).cloned()
    }

    /// Takes a handler out; its token is stale from here on.
    pub(crate) fn remove(&self, token: Token) -> Option<HandlerRef<A>> {
        let mut slots = self.slots.borrow_mut();
        slots.get(token.slot()).filter(|h| h.watched.token == token)?;
        let handler = slots.remove(token.slot());
        let mut by_fd = self.by_fd.borrow_mut();
        if let Some(slot) = by_fd.get_mut(handler.watched.fd as usize)
            && *slot == Some(token.slot() as u32)
        {
            *slot = None;
        }
        if handler.watched.is_ready() {
            self.unqueue(&handler);
        }
        Some(handler)
    }

    /// Takes a ready handler out of the queue. Its readiness stays, for [`Handler::hand_back`].
    #[cold]
    fn unqueue(&self, handler: &HandlerRef<A>) {
        let mut others = self.others.borrow_mut();
        let first = self.first.take().filter(|first| !first.is(handler));
        others.remove(handler);
        let first = first.or_else(|| others.pop());
        self.ready.set(others.len() + usize::from(first.is_some()));
        // It may have been due or not. If not, one that is due waits for the next turn.
        self.due.set(self.due.get().saturating_sub(1));
        self.first.set(first);
    }

    /// Takes all handlers out.
    pub(crate) fn take_all(&self) -> Vec<HandlerRef<A>> {
        self.ready.set(0);
        self.due.set(0);
        self.first.set(None);
        self.others.take();
        self.by_fd.borrow_mut().clear();
        self.slots.borrow_mut().drain().collect()
    }

    /// All live handlers. None may be added or removed meanwhile.
    pub(crate) fn each(&self, mut visit: impl FnMut(&Handler<A>)) {
        self.slots.borrow().iter().for_each(|(_, handler)| visit(handler));
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Records readiness of a live handler.
    #[inline(always)]
    pub(crate) fn mark(&self, handler: &HandlerRef<A>, readiness: Readiness) {
        let ready = &handler.watched.ready;
        let before = ready.get();
        ready.set(before.union(readiness));
        if !before.is_empty() {
            return;
        }
        match self.ready.replace(self.ready.get() + 1) {
            0 => self.first.set(Some(handler.clone())),
            _ => self.others.borrow_mut().incoming.push(handler.clone()),
        }
    }

    /// A turn begins to dispatch: what is ready now belongs to it, and what becomes ready later to
    /// the next turn. If this is a nested turn, it takes over what its parent had left.
    #[inline]
    pub(crate) fn begin_dispatch(&self) {
        self.due.set(self.ready.get());
    }

    /// The next ready handler that belongs to this turn.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<HandlerRef<A>> {
        let due = self.due.get().checked_sub(1)?;
        self.due.set(due);
        // As many as are due are ready, at least.
        let left = self.ready.get().wrapping_sub(1);
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

/// First in, first out, made of two stacks: shorter code than a ring buffer's.
struct Queue<A> {
    incoming: Vec<HandlerRef<A>>,
    /// Those that come before, the first of them at the end.
    outgoing: Vec<HandlerRef<A>>,
}

impl<A> Default for Queue<A> {
    fn default() -> Self {
        Self { incoming: Vec::new(), outgoing: Vec::new() }
    }
}

impl<A> Queue<A> {
    #[inline]
    fn pop(&mut self) -> Option<HandlerRef<A>> {
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

    fn remove(&mut self, handler: &HandlerRef<A>) {
        self.incoming.retain(|other| !other.is(handler));
        self.outgoing.retain(|other| !other.is(handler));
    }
}

/// The table as a monitor sees it. None may be added or removed while it is borrowed.
pub(crate) struct Live<'a, A>(Ref<'a, Slab<HandlerRef<A>>>);

impl<A> Table for Live<'_, A> {
    type Handler = HandlerRef<A>;

    #[inline]
    fn get(&self, token: Token) -> Option<&HandlerRef<A>> {
        self.0.get(token.slot()).filter(|handler| handler.watched.token == token)
    }

    fn each(&self, mut visit: impl FnMut(&Watched)) {
        self.0.iter().for_each(|(_, handler)| visit(&handler.watched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::{Target, Watch};

    fn four() -> (Handlers<()>, [HandlerRef<()>; 4]) {
        let handlers = Handlers::default();
        let all = [10, 11, 12, 13].map(|fd| {
            let token = handlers.next_token().unwrap();
            let target = Target { fd, watch: Watch::Edge, known: true, eventfd: None };
            handlers.insert(Handler::new(Watched::for_tests(token, target), ()));
            handlers.get(token).unwrap()
        });
        (handlers, all)
    }

    fn next(handlers: &Handlers<()>) -> Option<RawFd> {
        let handler = handlers.next_due()?;
        handler.watched.take_ready();
        Some(handler.watched.fd)
    }

    #[test]
    fn handlers_come_out_as_they_went_in() {
        let (handlers, all) = four();
        all[..3].iter().for_each(|handler| handlers.mark(handler, Readiness::IN));
        handlers.begin_dispatch();
        assert_eq!(next(&handlers), Some(10));
        handlers.mark(&all[3], Readiness::IN);
        handlers.mark(&all[1], Readiness::OUT);
        handlers.begin_dispatch();
        let order = [(); 4].map(|()| next(&handlers));
        assert_eq!(order, [Some(11), Some(12), Some(13), None], "each once");
    }

    #[test]
    fn a_removed_handler_leaves_the_queue() {
        let (handlers, all) = four();
        all.iter().for_each(|handler| handlers.mark(handler, Readiness::IN));
        handlers.remove(all[0].watched.token).unwrap();
        handlers.remove(all[2].watched.token).unwrap();
        handlers.begin_dispatch();
        assert_eq!([(); 3].map(|()| next(&handlers)), [Some(11), Some(13), None]);
    }

    #[test]
    fn what_becomes_ready_in_a_turn_waits_for_the_next() {
        let (handlers, all) = four();
        all[..2].iter().for_each(|handler| handlers.mark(handler, Readiness::IN));
        handlers.begin_dispatch();
        assert_eq!(next(&handlers), Some(10));
        handlers.mark(&all[0], Readiness::IN);
        // A nested turn takes what this one had left, and what became ready before it.
        handlers.begin_dispatch();
        assert_eq!([next(&handlers), next(&handlers), next(&handlers)], [Some(11), Some(10), None]);
        handlers.mark(&all[2], Readiness::IN);
        assert_eq!(next(&handlers), None, "nothing is left for the outer turn");
        assert!(handlers.any_ready(), "but for the next one");
    }

    #[test]
    fn removing_a_handler_in_a_turn_ends_it_early_rather_than_late() {
        let (handlers, all) = four();
        all[..2].iter().for_each(|handler| handlers.mark(handler, Readiness::IN));
        handlers.begin_dispatch();
        handlers.mark(&all[2], Readiness::IN);
        handlers.remove(all[0].watched.token).unwrap();
        assert_eq!([next(&handlers), next(&handlers)], [Some(11), None]);
        handlers.begin_dispatch();
        assert_eq!([next(&handlers), next(&handlers)], [Some(12), None]);
    }
}
