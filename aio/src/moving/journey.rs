//! How a device leaves a loop, arrives at the next one, and comes back from one that refuses it.

use super::movable::{Home, Movable, Residence, Stay};
use super::place::{Done, InHand, Order, Passage, Place, Then, no_loop};
use crate::context::{AioContext, BottomHalf, Ending, Handle};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// The loop's own reference to a device. Owned by the callback of its bottom half.
struct Tenant<D: Movable> {
    residence: Option<Rc<Residence<D>>>,
    _agent: BottomHalf,
    _ending: Ending,
}

impl<D: Movable> Drop for Tenant<D> {
    /// The context was dropped, and the device has not left it.
    fn drop(&mut self) {
        if let Some(residence) = self.residence.take() {
            let stay = Stay::new(residence);
            // User code. The device is kept even if it panics.
            let attached = stay.residence().attached.take();
            drop(attached);
        }
    }
}

type Slot<D> = RefCell<Option<Tenant<D>>>;

/// The only reference to a device, if nothing but its loop holds it.
fn unheld<D: Movable>(slot: &Slot<D>) -> Option<Rc<Residence<D>>> {
    let tenant = slot.borrow();
    let residence = tenant.as_ref()?.residence.as_ref()?;
    (Rc::strong_count(residence) == 1).then(|| Rc::clone(residence))
}

/// The bottom half of a device: looks at its orders, and lets it go if nothing holds it.
fn look_at_orders<D: Movable>(slot: &Slot<D>, context: &AioContext) {
    let Some(residence) = unheld(slot) else { return };
    if !residence.place.is_leaving() {
        return;
    }
    // From here on nested turns find the device held. If a step unwinds, this is done again.
    let stay = Stay::new(residence);
    let residence = stay.residence();
    let is_attached = residence.attached.borrow().is_some();
    if is_attached {
        if let Some((done, result)) = residence.place.answer_in_place(&context.handle()) {
            stay.end();
            return done(result);
        }
        context.name_callback_with(|| format!("{}: detach", residence.device.name()).into());
        let attached = residence.attached.take();
        if let Some(attached) = attached {
            residence.device.detach(context, attached);
        }
    }
    stay.end();
    // `detach` may have begun something that holds the device. The end of that leads here again.
    let Some(residence) = unheld(slot) else { return };
    let tenant = slot.take();
    drop(residence);
    let residence = tenant.and_then(|mut tenant| tenant.residence.take());
    let Some(Residence { device, place, was_attached, .. }) = residence.and_then(Rc::into_inner) else {
        return;
    };
    let order = place.next_order();
    let from = was_attached.get().then(|| context.handle());
    follow(place, device, order, from);
}

/// The context is about to be dropped. The device is detached while everything works, and leaves
/// with its [`Tenant`].
fn detach_at_end<D: Movable>(slot: &Slot<D>, context: &AioContext) {
    let residence = slot.borrow().as_ref().and_then(|tenant| tenant.residence.clone());
    let Some(residence) = residence else { return };
    let stay = Stay::new(residence);
    let attached = stay.residence().attached.take();
    if let Some(attached) = attached {
        stay.detach(context, attached);
    }
}

/// A device whose loop was dropped.
fn homeless<D: Movable>(residence: Residence<D>) {
    let Residence { device, place, .. } = residence;
    if place.is_ours() {
        strand(place, device);
    }
}

/// Leaves a device on no loop, unless there is an order.
fn strand<D: Movable>(place: Arc<Place<D>>, device: D) {
    if let Some((device, order)) = place.strand(device) {
        follow(place, device, Some(order), None);
    }
}

/// Carries out an order for a device that is on no loop. If it is refused where it is to go, it
/// goes back to `from`.
fn follow<D: Movable>(place: Arc<Place<D>>, device: D, order: Option<Order<D>>, from: Option<Handle>) {
    match order {
        Some(Order::Move { to, done }) => {
            depart(place, device, Passage { done, from, refusal: None }, &to);
        }
        Some(Order::Back { to: Some(to), done, error }) => {
            depart(place, device, Passage { done, from: None, refusal: Some(error) }, &to);
        }
        Some(Order::Back { to: None, done, error }) => {
            strand(place, device);
            done(Err(error));
        }
        Some(Order::Release(then)) => {
            place.end();
            then(device);
        }
        Some(Order::Discard) => {
            place.end();
            drop(device);
        }
        None => strand(place, device),
    }
}

/// The same, and reports the journey that the order has ended.
fn follow_in_hand<D: Movable>(place: Arc<Place<D>>, InHand { device, order, from, ended }: InHand<D>) {
    follow(place, device, Some(order), from);
    // The order comes first: the report may unwind.
    ended.report();
}

/// Sends a device to a loop. It stays in its place meanwhile, so that a later order need not wait
/// for that loop.
fn depart<D: Movable>(place: Arc<Place<D>>, device: D, passage: Passage, to: &Handle) {
    match place.depart(device, passage) {
        Ok(ticket) => {
            let journey = Journey { place, ticket };
            // If the loop has ended, this drops the closure.
            to.schedule(move |context| journey.end(context));
        }
        Err(in_hand) => follow_in_hand(place, in_hand),
    }
}

/// What the loop has of a device that is on its way there. If this is dropped there, the loop has
/// ended.
struct Journey<D: Movable> {
    place: Arc<Place<D>>,
    ticket: u64,
}

impl<D: Movable> Journey<D> {
    fn end(self, context: &AioContext) {
        let Some((device, Passage { done, from, refusal })) = self.place.arrive(self.ticket) else { return };
        context.name_callback_with(|| format!("{}: attach", device.name()).into());
        match (arrive(context, Arc::clone(&self.place), device, done, from), refusal) {
            (Some((done, Ok(()))), Some(refusal)) => done(Err(refusal)),
            (Some((done, result)), _) => done(result),
            (None, _) => {}
        }
    }
}

impl<D: Movable> Drop for Journey<D> {
    fn drop(&mut self) {
        if !self.place.is_ours() {
            return;
        }
        let Some((device, Passage { done, from, refusal })) = self.place.arrive(self.ticket) else { return };
        let error = refusal.unwrap_or_else(no_loop);
        let place = Arc::clone(&self.place);
        match place.next_order() {
            Some(order) => {
                follow(place, device, Some(order), from);
                done(Err(error));
            }
            None => follow(place, device, Some(Order::Back { to: from, done, error }), None),
        }
    }
}

/// Takes up a device that could not be attached: it goes back, or stays on no loop.
struct Refusal<D: Movable> {
    stay: Option<Stay<D>>,
    back: Option<(Option<Handle>, Done)>,
}

impl<D: Movable> Refusal<D> {
    fn order(&mut self, error: io::Error) {
        if let (Some(stay), Some((to, done))) = (&self.stay, self.back.take()) {
            stay.residence().place.refuse(Order::Back { to, done, error });
        }
    }
}

impl<D: Movable> Drop for Refusal<D> {
    fn drop(&mut self) {
        self.order(io::Error::other("the device panicked as it was attached"));
    }
}

/// Attaches a device to a loop. Returns how that ended, with the callback to be called. `None` if
/// it was refused and is on its way back, which will call it.
fn arrive<D: Movable>(
    context: &AioContext,
    place: Arc<Place<D>>,
    device: D,
    done: Done,
    from: Option<Handle>,
) -> Option<(Done, io::Result<()>)> {
    let slot = Rc::new(Slot::<D>::default());
    let agent = context.bottom_half({
        let slot = Rc::clone(&slot);
        move |context| look_at_orders(&slot, context)
    });
    place.settle(context.handle(), agent.handle());
    let residence = Rc::new(Residence {
        device,
        place,
        attached: RefCell::new(None),
        was_attached: Cell::new(false),
        agent: agent.handle(),
        homeless,
    });
    let home = Home(Rc::downgrade(&residence));
    let ending = context.at_end({
        // The tenant in the slot owns this.
        let slot = Rc::downgrade(&slot);
        move |context| {
            if let Some(slot) = slot.upgrade() {
                detach_at_end(&slot, context);
            }
        }
    });
    let tenant = Tenant { residence: Some(Rc::clone(&residence)), _agent: agent, _ending: ending };
    slot.replace(Some(tenant));
    let mut refusal = Refusal { stay: Some(Stay::new(residence)), back: Some((from, done)) };
    let stay = refusal.stay.as_ref()?;
    match stay.attach(context, &home) {
        Ok(attached) => {
            stay.residence().attached.replace(Some(attached));
            stay.residence().was_attached.set(true);
            refusal.back.take().map(|(_, done)| (done, Ok(())))
        }
        Err(error) => {
            refusal.order(error);
            if let Some(stay) = refusal.stay.take() {
                stay.end();
            }
            look_at_orders(&slot, context);
            None
        }
    }
}

impl<D: Movable> Home<D> {
    /// Moves the device to another loop, as [`Hosted::move_to`](crate::Hosted::move_to) does. For
    /// its own callbacks. No effect once the device has left this loop.
    pub fn move_to(&self, target: &Handle) {
        if let Some(stay) = self.stay() {
            let place = &stay.residence().place;
            give(place, Order::Move { to: target.clone(), done: Box::new(|_| ()) });
        }
    }
}

/// Places an order, and carries it out if the device is on no loop.
pub(super) fn give<D: Movable>(place: &Arc<Place<D>>, order: Order<D>) {
    if let Some(in_hand) = place.order(order) {
        follow_in_hand(Arc::clone(place), in_hand);
    }
}

/// Attaches a device that is on no loop to this one.
pub(super) fn attach<D: Movable>(place: &Arc<Place<D>>, context: &AioContext) -> io::Result<()> {
    let device = place.take(Then::InHand)?;
    let result = Arc::new(std::sync::Mutex::new(None));
    let done: Done = {
        let result = Arc::clone(&result);
        Box::new(move |ended| *result.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(ended))
    };
    match arrive(context, Arc::clone(place), device, done, None) {
        Some((_, result)) => result,
        None => {
            let ended = result.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            ended.unwrap_or_else(|| Err(io::Error::other("refused")))
        }
    }
}
