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

/// The error of calls for a device that was taken.
fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the device was taken from this Hosted; there is nothing to move")
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
    /// On its way to a loop, which takes it with this ticket when it gets to it.
    OnTheWay { device: D, passage: Passage, ticket: u64 },
    /// In the hands of a call, which looks for orders when it puts the device down.
    InHand,
    /// Handed out or dropped.
    Gone,
}

/// What a device on its way has with it.
pub(super) struct Passage {
    pub(super) done: Done,
    /// Where it goes if it is refused.
    pub(super) from: Option<Handle>,
    /// It is on its way back, because of this.
    pub(super) refusal: Option<io::Error>,
}

impl Passage {
    /// Reports that a later order has ended this journey. Runs user code.
    fn give_up(self) {
        (self.done)(Err(self.refusal.unwrap_or_else(replaced)));
    }
}

struct Inner<D> {
    state: State<D>,
    order: Option<Order<D>>,
    tickets: u64,
}

/// A device in the hands of a call, and what is to be done with it.
pub(super) struct InHand<D> {
    pub(super) device: D,
    pub(super) order: Order<D>,
    /// Where it goes if it is refused.
    pub(super) from: Option<Handle>,
    /// Called after the order was followed, because it may unwind.
    pub(super) ended: Ended,
}

/// The journey that an order has ended, if there was one.
pub(super) struct Ended(Option<Passage>);

impl Ended {
    /// Reports it. Runs user code.
    pub(super) fn report(self) {
        if let Some(passage) = self.0 {
            passage.give_up();
        }
    }
}

pub(super) struct Place<D> {
    inner: Mutex<Inner<D>>,
    /// There is an order.
    leaving: AtomicBool,
    process: Process,
}

impl<D> Place<D> {
    pub(super) fn new(device: D) -> Self {
        let inner = Inner { state: State::Nowhere(device), order: None, tickets: 0 };
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
    /// on no loop, or on its way to one, comes back with the order, for the caller to carry it out.
    pub(super) fn order(&self, order: Order<D>) -> Option<InHand<D>> {
        if !self.is_ours() {
            order.give_up(forked);
            return None;
        }
        let mut inner = self.lock();
        let state = std::mem::replace(&mut inner.state, State::InHand);
        let (state, agent) = match state {
            State::Nowhere(device) => return Some(InHand { device, order, from: None, ended: Ended(None) }),
            State::OnTheWay { device, mut passage, .. } => {
                let from = passage.from.take();
                return Some(InHand { device, order, from, ended: Ended(Some(passage)) });
            }
            State::On { context, agent } => (State::On { context, agent: agent.clone() }, Some(agent)),
            other => (other, None),
        };
        let is_gone = matches!(state, State::Gone);
        let is_over = is_gone || inner.order.as_ref().is_some_and(Order::is_final);
        inner.state = state;
        let not_carried_out = if is_over { Some(order) } else { inner.order.replace(order) };
        self.leaving.store(inner.order.is_some(), Ordering::Release);
        drop(inner);
        if let Some(agent) = agent {
            agent.schedule();
        }
        if let Some(order) = not_carried_out {
            order.give_up(if is_gone { taken } else { replaced });
        }
        None
    }

    /// Sends a device on its way. Returns its ticket. If there is an order, the device comes back
    /// with it instead, for the caller to carry it out.
    pub(super) fn depart(&self, device: D, mut passage: Passage) -> Result<u64, InHand<D>> {
        let mut inner = self.lock();
        if let Some(order) = self.take_order(&mut inner) {
            let from = passage.from.take();
            return Err(InHand { device, order, from, ended: Ended(Some(passage)) });
        }
        let ticket = inner.tickets;
        inner.tickets = ticket.wrapping_add(1);
        inner.state = State::OnTheWay { device, passage, ticket };
        Ok(ticket)
    }

    /// The device with this ticket is where it was to go, or cannot get there. `None` if an order
    /// has sent it elsewhere.
    pub(super) fn arrive(&self, ticket: u64) -> Option<(D, Passage)> {
        let mut inner = self.lock();
        match std::mem::replace(&mut inner.state, State::InHand) {
            State::OnTheWay { device, passage, ticket: own } if own == ticket => Some((device, passage)),
            other => {
                inner.state = other;
                None
            }
        }
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

    /// The device left its loop. Returns the order to follow.
    pub(super) fn next_order(&self) -> Option<Order<D>> {
        let mut inner = self.lock();
        inner.state = State::InHand;
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
                inner.state = State::InHand;
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

    /// Takes a device that is on no loop, for ever or in the hands of the caller. Reports why there
    /// is none.
    pub(super) fn take(&self, then: Then) -> io::Result<D> {
        if !self.is_ours() {
            return Err(forked());
        }
        let mut inner = self.lock();
        let next = match then {
            Then::Gone => State::Gone,
            Then::InHand => State::InHand,
        };
        let exists = |why: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        match std::mem::replace(&mut inner.state, next) {
            State::Nowhere(device) => Ok(device),
            other => {
                inner.state = other;
                match &inner.state {
                    State::Gone => Err(taken()),
                    State::On { .. } => exists("the device is on a loop already; use move_to"),
                    _ => exists("the device is on its way to a loop; use move_to"),
                }
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
    InHand,
}
