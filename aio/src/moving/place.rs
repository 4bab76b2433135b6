//! Where a device is, and where it is to go.
//!
//! Any thread. No user code runs and nothing of a user's is dropped while the lock is held.

use crate::context::{BottomHalfHandle, Handle};
use crate::sys::process::{Process, forked};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Called once, with how a move ended.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What is to be done with a device, once nothing keeps it where it is.
pub(super) enum Order<D> {
    Move {
        to: Handle,
        done: Done,
    },
    /// It could not be attached here.
    Back {
        to: Option<Handle>,
        done: Done,
        error: io::Error,
    },
    Release(Box<dyn FnOnce(D) + Send>),
    Discard,
}

impl<D> Order<D> {
    fn is_final(&self) -> bool {
        matches!(self, Self::Release(_) | Self::Discard)
    }

    /// Reports that this order will not be carried out. Runs user code.
    fn give_up(self, why: impl FnOnce() -> io::Error) {
        match self {
            Self::Move { done, .. } => done(Err(why())),
            Self::Back { done, error, .. } => done(Err(error)),
            Self::Release(_) | Self::Discard => {}
        }
    }
}

/// The error of a move that another one replaced.
pub(super) fn replaced() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "another call has sent the device elsewhere")
}

/// The error of a move to a loop that was dropped.
pub(super) fn no_loop() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the event loop that the device was to move to was dropped")
}

enum State<D> {
    /// On no loop.
    Nowhere(D),
    /// On this loop. Its bottom half looks for orders.
    On { context: Handle, agent: BottomHalfHandle },
    /// On its way. Whoever has it looks for orders when it arrives.
    Travelling,
    /// Handed out or dropped.
    Gone,
}

struct Inner<D> {
    state: State<D>,
    order: Option<Order<D>>,
}

pub(super) struct Place<D> {
    inner: Mutex<Inner<D>>,
    /// There is an order.
    leaving: AtomicBool,
    process: Process,
}

impl<D> Place<D> {
    pub(super) fn new(device: D) -> Self {
        let inner = Inner { state: State::Nowhere(device), order: None };
        Self { inner: Mutex::new(inner), leaving: AtomicBool::new(false), process: Process::current() }
    }

    /// Returns false in a forked child. Another thread of the parent may have held the lock.
    pub(super) fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order. The last one wins, but nothing follows one that is final. A device that is
    /// on no loop comes back with the order, for the caller to carry it out.
    pub(super) fn order(&self, order: Order<D>) -> Option<(D, Order<D>)> {
        if !self.is_ours() {
            order.give_up(forked);
            return None;
        }
        let mut inner = self.lock();
        let state = std::mem::replace(&mut inner.state, State::Travelling);
        let (state, agent) = match state {
            State::Nowhere(device) => return Some((device, order)),
            State::On { context, agent } => (State::On { context, agent: agent.clone() }, Some(agent)),
            other => (other, None),
        };
        let is_over = matches!(state, State::Gone) || inner.order.as_ref().is_some_and(Order::is_final);
        inner.state = state;
        let not_carried_out = if is_over { Some(order) } else { inner.order.replace(order) };
        self.leaving.store(inner.order.is_some(), Ordering::Release);
        drop(inner);
        if let Some(agent) = agent {
            agent.schedule();
        }
        if let Some(order) = not_carried_out {
            order.give_up(replaced);
        }
        None
    }

    /// The order, if it can be answered while the device stays on `here`: it is there already, or
    /// the loop that it is to move to was dropped.
    pub(super) fn answer_in_place(&self, here: &Handle) -> Option<(Done, io::Result<()>)> {
        let mut inner = self.lock();
        let Some(Order::Move { to, .. }) = &inner.order else { return None };
        let result = match (to.is(here), to.is_alive()) {
            (true, _) => Ok(()),
            (false, false) => Err(no_loop()),
            (false, true) => return None,
        };
        let Some(Order::Move { done, .. }) = self.take_order(&mut inner) else { return None };
        Some((done, result))
    }

    fn take_order(&self, inner: &mut Inner<D>) -> Option<Order<D>> {
        self.leaving.store(false, Ordering::Release);
        inner.order.take()
    }

    /// The device left its loop, or has come where it was to go. Returns the order to follow.
    pub(super) fn next_order(&self) -> Option<Order<D>> {
        let mut inner = self.lock();
        inner.state = State::Travelling;
        self.take_order(&mut inner)
    }

    /// The device lives on a loop from here on.
    pub(super) fn settle(&self, context: Handle, agent: BottomHalfHandle) {
        self.lock().state = State::On { context, agent };
    }

    /// The device could not be attached. A later order stands.
    pub(super) fn refuse(&self, back: Order<D>) {
        let mut inner = self.lock();
        if inner.order.is_none() {
            inner.order = Some(back);
            self.leaving.store(true, Ordering::Release);
            return;
        }
        drop(inner);
        back.give_up(replaced);
    }

    /// The device is on no loop from here on. If there is an order, it comes back instead, for the
    /// caller to carry it out.
    pub(super) fn strand(&self, device: D) -> Option<(D, Order<D>)> {
        let mut inner = self.lock();
        match self.take_order(&mut inner) {
            Some(order) => {
                inner.state = State::Travelling;
                Some((device, order))
            }
            None => {
                inner.state = State::Nowhere(device);
                None
            }
        }
    }

    /// Nothing can be ordered from here on.
    pub(super) fn end(&self) {
        self.lock().state = State::Gone;
    }

    /// Takes a device that is on no loop.
    pub(super) fn take(&self, then: Then) -> Option<D> {
        if !self.is_ours() {
            return None;
        }
        let mut inner = self.lock();
        let next = match then {
            Then::Gone => State::Gone,
            Then::Travelling => State::Travelling,
        };
        match std::mem::replace(&mut inner.state, next) {
            State::Nowhere(device) => Some(device),
            other => {
                inner.state = other;
                None
            }
        }
    }

    pub(super) fn is_on(&self, context: &Handle) -> bool {
        self.is_ours() && matches!(&self.lock().state, State::On { context: here, .. } if here.is(context))
    }
}

/// What becomes of a place whose device is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Gone,
    Travelling,
}
