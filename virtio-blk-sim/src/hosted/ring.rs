//! A running ring of a hosted device.
//!
//! The device takes chains off the ring and returns them itself. This file sets the ring up, calls
//! the device for each kick, and stops the ring at a position from which it can continue:
//!
//! ```text
//! kick, or the start ─► handle_event ─► memory lost?  ► the session ends
//!                                       an error?     ► the ring fails
//! stop: no more kicks ─► next_avail == next_used, or the limit ─► disabled, its position is kept
//! ```

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio::{AioContext, BottomHalf, Interest, NotifierRegistration, Registration};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue_017::QueueT;
use vmm_sys_util::epoll::EventSet;

use super::group::Group;
use crate::queue::{Interrupt, Kick, QueueStats, Stopped};
use crate::vhost_user::{RingLink, RingOrder, RunningRing, Stopping};
use crate::virtqueue::DirtyPages;

/// How often a ring that stops looks whether the device has returned its chains.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A ring on its loop. Dropping it stops it.
pub(super) struct Attached<B: VhostUserBackend + 'static> {
    ring: Rc<Ring<B>>,
    drain_limit: Duration,
}

pub(super) struct Ring<B: VhostUserBackend + 'static> {
    group: Arc<Group<B>>,
    vring: B::Vring,
    index: u16,
    /// The ring's event on its group's thread.
    event: u16,
    link: RingLink,
    /// The ring does not work any more.
    failed: Cell<bool>,
    /// The avail index when the device was last called.
    seen: Cell<u16>,
    stats: Cell<QueueStats>,
    kick: RefCell<Option<NotifierRegistration>>,
    exit: RefCell<Option<Registration>>,
    /// A look without a kick: when the ring starts, and after the device has panicked.
    look: RefCell<Option<BottomHalf>>,
}

impl<B: VhostUserBackend + 'static> Ring<B> {
    /// Starts ring `index`, whose kicks are `event` in its group.
    pub(super) fn start(
        group: Arc<Group<B>>,
        vring: B::Vring,
        (index, event): (u16, u16),
        order: RingOrder,
        drain_limit: Duration,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        if group.has_ended() {
            return Err(io::Error::other("the device has ended this queue's thread"));
        }
        let RingOrder { queue, config, kick, interrupt, link, .. } = order;
        let Kick::Plain(kick) = kick else {
            let message = "this device needs a kick eventfd; it cannot poll its ring";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        let call = file_of(&interrupt)?;
        let kick_file = File::from(kick.as_fd().try_clone_to_owned()?);
        let exit_event = group.exit_event()?;
        group.enter()?;
        let ring = Rc::new(Self {
            group,
            vring,
            index,
            event,
            link,
            failed: Cell::new(false),
            seen: Cell::new(queue.next_avail()),
            stats: Cell::default(),
            kick: RefCell::default(),
            exit: RefCell::default(),
            look: RefCell::default(),
        });
        // From here on, dropping it takes everything back.
        let attached = Box::new(Attached { ring: Rc::clone(&ring), drain_limit });
        let vring = &ring.vring;
        vring.set_queue_size(config.size);
        vring
            .set_queue_info(config.desc_table.0, config.avail_ring.0, config.used_ring.0)
            .map_err(io::Error::other)?;
        vring.set_queue_next_avail(queue.next_avail());
        vring.set_queue_next_used(queue.next_used());
        vring.set_queue_event_idx(config.event_idx);
        vring.set_call(call);
        vring.set_kick(Some(kick_file));
        vring.set_enabled(true);
        vring.set_queue_ready(true);

        let weak = Rc::downgrade(&ring);
        let on_kick = move |_: &AioContext| _ = weak.upgrade().map(|ring| ring.handle());
        let registration = context.add_notifier(&kick, on_kick)?;
        ring.kick.replace(Some(registration));
        if let Some(exit_event) = exit_event {
            let weak = Rc::downgrade(&ring);
            let on_exit = move |_: &AioContext, _| _ = weak.upgrade().map(|ring| ring.end());
            let registration = context.add_fd(exit_event, Interest::READABLE, on_exit)?;
            ring.exit.replace(Some(registration));
        }
        let weak = Rc::downgrade(&ring);
        let look = context.bottom_half(move |_| _ = weak.upgrade().map(|ring| ring.handle()));
        look.schedule();
        ring.look.replace(Some(look));
        Ok(attached)
    }

    /// Lets the device look at its ring.
    fn handle(&self) {
        if self.failed.get() || self.group.has_ended() {
            return;
        }
        let unwound = LookAgain(self);
        let handled = self.group.handle(self.event, EventSet::IN);
        std::mem::forget(unwound);
        self.count();
        if self.link.is_memory_lost() {
            self.group.log(format_args!("stopping queue {}: its memory is gone", self.index));
            self.link.hang_up();
            self.fail();
        } else if let Err(error) = handled {
            self.group.log(format_args!("stopping queue {}: {error}", self.index));
            self.link.fail();
            self.fail();
        }
    }

    fn count(&self) {
        let next_avail = self.vring.queue_next_avail();
        let taken = next_avail.wrapping_sub(self.seen.replace(next_avail));
        let mut stats = self.stats.get();
        stats.drains += 1;
        stats.requests += u64::from(taken);
        self.stats.set(stats);
    }

    /// The device takes nothing more off the ring until it is set up again.
    fn fail(&self) {
        self.failed.set(true);
        self.disable();
    }

    /// The exit event was signalled. It stays readable, so it is not watched any more.
    fn end(&self) {
        self.group.end();
        self.disable();
    }

    /// Takes back what calls the device.
    fn disable(&self) {
        let kick = self.kick.take();
        let exit = self.exit.take();
        let look = self.look.take();
        drop((kick, exit, look));
        self.vring.set_queue_ready(false);
        self.vring.set_enabled(false);
    }

    /// How many chains the device has taken and not returned.
    fn in_flight(&self) -> u16 {
        let state = self.vring.get_ref();
        let queue = state.get_queue();
        queue.next_avail().wrapping_sub(queue.next_used())
    }

    /// Waits until the device has returned all chains, or the limit is over.
    async fn drain(&self, limit: Duration, context: &AioContext) {
        // The device returns chains on threads of its own, and tells nobody but the guest.
        let start = Instant::now();
        while !self.failed.get() && self.in_flight() > 0 {
            if start.elapsed() >= limit {
                let (index, count) = (self.index, self.in_flight());
                self.group.log(format_args!("queue {index} stops with {count} chains in flight"));
                break;
            }
            context.sleep(LOOK_AGAIN).await;
        }
    }
}

/// Looks at the ring again in the next turn if the device panics: its kick has been reset.
struct LookAgain<'a, B: VhostUserBackend + 'static>(&'a Ring<B>);

impl<B: VhostUserBackend + 'static> Drop for LookAgain<'_, B> {
    fn drop(&mut self) {
        self.0.look.borrow().iter().for_each(BottomHalf::schedule);
    }
}

impl<B: VhostUserBackend + 'static> RunningRing for Attached<B> {
    fn set_interrupt(&self, interrupt: Interrupt) {
        match file_of(&interrupt) {
            Ok(call) => self.ring.vring.set_call(call),
            Err(error) => {
                self.ring
                    .group
                    .log(format_args!("queue {} keeps its call eventfd: {error}", self.ring.index));
            }
        }
        interrupt.signal();
    }

    fn set_dirty_log(&self, _: Option<DirtyPages>) {
        // Never called with a log: LOG_SHMFD is not offered.
    }

    fn stats(&self) -> QueueStats {
        self.ring.stats.get()
    }

    fn stop(self: Box<Self>, context: &AioContext) -> Stopping {
        self.ring.kick.take();
        self.ring.look.take();
        let context = context.local_handle();
        Box::pin(async move {
            let ring = &self.ring;
            ring.drain(self.drain_limit, &context).await;
            ring.disable();
            let next_avail = ring.vring.queue_next_avail();
            let next_used = ring.vring.get_ref().get_queue().next_used();
            Stopped { next_avail, next_used, stats: ring.stats.get() }
        })
    }
}

impl<B: VhostUserBackend + 'static> Drop for Attached<B> {
    fn drop(&mut self) {
        self.ring.disable();
        self.ring.vring.set_kick(None);
        self.ring.vring.set_call(None);
        self.ring.group.leave();
    }
}

/// The call eventfd as a device takes it: a descriptor of its own.
fn file_of(interrupt: &Interrupt) -> io::Result<Option<File>> {
    match interrupt {
        Interrupt::Call(eventfd) => Ok(Some(eventfd.as_fd().try_clone_to_owned()?.into())),
        // The server makes no others.
        Interrupt::Irqfd(_) | Interrupt::Level(_) | Interrupt::None => Ok(None),
    }
}
