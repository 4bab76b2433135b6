//! The tables of a manager: its subscribers, and the descriptors that they have added. Only
//! [`Registry::remove`] and [`Registry::close`] reach into the loop, and no borrow is held then.

use super::key::{Key, next_number};
use super::source::{Source, Target, unknown_descriptor};
use crate::context::{AioContext, Handle, WeakContext};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

pub(super) struct Registry {
    pub(super) context: WeakContext,
    /// For the closures of other threads.
    pub(super) handle: Handle,
    /// What other threads call the manager.
    pub(super) number: u64,
    /// The manager was dropped: nothing would remove a subscriber that is added.
    is_closed: Cell<bool>,
    targets: RefCell<Slab<(Key, Rc<dyn Target>)>>,
    /// By descriptor number. Only for changes; never to dispatch.
    sources: RefCell<BTreeMap<RawFd, Rc<Source>>>,
}

impl Registry {
    pub(super) fn new(context: &AioContext) -> Self {
        Self {
            context: context.downgrade(),
            handle: context.handle(),
            number: next_number(),
            is_closed: Cell::new(false),
            targets: RefCell::default(),
            sources: RefCell::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Makes a subscriber and puts it into a slot.
    pub(super) fn insert<T: Target>(&self, make: impl FnOnce(Key) -> T) -> (Key, Rc<T>) {
        let mut targets = self.targets.borrow_mut();
        let slot = targets.vacant_entry();
        let key = Key::next(slot.key());
        let target = Rc::new(make(key));
        slot.insert((key, Rc::clone(&target) as Rc<dyn Target>));
        (key, target)
    }

    /// `None` once it was removed.
    pub(super) fn get(&self, key: Key) -> Option<Rc<dyn Target>> {
        let targets = self.targets.borrow();
        targets.get(key.slot).filter(|(other, _)| *other == key).map(|(_, target)| Rc::clone(target))
    }

    pub(super) fn len(&self) -> usize {
        self.targets.borrow().len()
    }

    /// Takes a descriptor number for a source.
    pub(super) fn claim(&self, source: &Rc<Source>) -> io::Result<()> {
        let mut sources = self.sources.borrow_mut();
        if sources.contains_key(&source.fd) {
            let why = "a subscriber of this manager has added a descriptor of this number already";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        sources.insert(source.fd, Rc::clone(source));
        Ok(())
    }

    /// The source of a descriptor number, if it belongs to this subscriber.
    pub(super) fn source(&self, owner: Key, fd: RawFd) -> io::Result<Rc<Source>> {
        let sources = self.sources.borrow();
        sources.get(&fd).filter(|source| source.owner == owner).cloned().ok_or_else(unknown_descriptor)
    }

    /// Ends a source; its descriptor number is free again.
    pub(super) fn release(&self, source: &Source) {
        let mut sources = self.sources.borrow_mut();
        let released = match sources.get(&source.fd) {
            Some(other) if std::ptr::eq(&raw const **other, source) => sources.remove(&source.fd),
            _ => None,
        };
        drop(sources);
        source.remove();
        drop(released);
    }

    /// Takes a subscriber out and ends its sources. Calls nothing of it.
    pub(super) fn remove(&self, key: Key) -> Option<Rc<dyn Target>> {
        let target = self.get(key)?;
        self.targets.borrow_mut().try_remove(key.slot);
        target.leave();
        self.end_sources(|source| source.owner == key);
        Some(target)
    }

    /// Takes all subscribers out and ends all sources. Calls nothing of them.
    pub(super) fn close(&self) -> Vec<Rc<dyn Target>> {
        self.is_closed.set(true);
        let targets = self.targets.take();
        let targets = targets.into_iter().map(|(_, (_, target))| target).collect::<Vec<_>>();
        targets.iter().for_each(|target| target.leave());
        self.end_sources(|_| true);
        targets
    }

    fn end_sources(&self, ends: impl Fn(&Source) -> bool) {
        let mut ended = Vec::new();
        self.sources.borrow_mut().retain(|_, source| {
            let ends = ends(source);
            if ends {
                ended.push(Rc::clone(source));
            }
            !ends
        });
        ended.iter().for_each(|source| source.remove());
    }
}
