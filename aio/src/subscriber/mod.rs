//! Devices in the shape of the crate event-manager: one `process` for all descriptors of a device.
//!
//! A device that is written for rust-vmm's event-manager, as in Firecracker, is a subscriber: its
//! `init` registers descriptors, and its `process` is called with `&mut self` and an event that
//! says which of them is ready. [`Subscriber`] has the same two methods, so such a device is ported
//! line by line. For a new device, closures for each descriptor
//! ([`add_fd`](crate::AioContext::add_fd), [`add_notifier`](crate::AioContext::add_notifier)) need
//! no map from descriptors to what they mean.
//!
//! ```
//! use aio::subscriber::{Event, Ops, Subscriber, Subscribers};
//! use aio::{AioContext, EventNotifier, Interest, Reset};
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//!
//! /// A console: the guest kicks it to send, and a client writes to its socket.
//! struct Console {
//!     kick: EventNotifier,
//!     exit: EventNotifier,
//!     client: UnixStream,
//!     kicks: u32,
//!     received: Vec<u8>,
//! }
//!
//! // What `event.data()` means.
//! const KICK: u32 = 0;
//! const EXIT: u32 = 1;
//! const CLIENT: u32 = 2;
//!
//! impl Console {
//!     fn receive(&mut self, ops: &mut Ops<'_>) -> std::io::Result<()> {
//!         let mut buffer = [0; 64];
//!         match self.client.read(&mut buffer)? {
//!             0 => ops.remove(&self.client), // the client has left
//!             n => Ok(self.received.extend_from_slice(&buffer[..n])),
//!         }
//!     }
//! }
//!
//! impl Subscriber for Console {
//!     fn init(&mut self, ops: &mut Ops<'_>) {
//!         let added = ops
//!             .add_notifier(&self.kick, KICK)
//!             .and_then(|()| ops.add_notifier(&self.exit, EXIT))
//!             .and_then(|()| ops.add(&self.client, Interest::READABLE, CLIENT));
//!         if let Err(error) = added {
//!             eprintln!("the console is off: {error}");
//!             ops.unsubscribe();
//!         }
//!     }
//!
//!     fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
//!         match event.data() {
//!             KICK => self.kicks += 1, // no read of the eventfd
//!             CLIENT => {
//!                 if let Err(error) = self.receive(ops) {
//!                     eprintln!("the client: {error}");
//!                 }
//!             }
//!             _ => ops.context().handle().stop(),
//!         }
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let ctx = AioContext::new()?;
//!     let subscribers = Subscribers::new(&ctx);
//!     let kick = EventNotifier::new(Reset::Autoreset)?;
//!     let exit = EventNotifier::new(Reset::Autoreset)?;
//!     let (client, mut peer) = UnixStream::pair()?;
//!     client.set_nonblocking(true)?;
//!     let id = subscribers.add(Console {
//!         kick: kick.clone(),
//!         exit: exit.clone(),
//!         client,
//!         kicks: 0,
//!         received: Vec::new(),
//!     })?;
//!
//!     kick.notify()?; // the guest
//!     peer.write_all(b"hello")?;
//!     while subscribers.with(id, |c, _| c.kicks == 0 || c.received.is_empty())? {
//!         ctx.poll(true)?;
//!     }
//!     exit.notify()?;
//!     ctx.run()?;
//!
//!     let console = subscribers.remove(id)?; // typed, and no longer registered
//!     assert_eq!(console.received, b"hello");
//!     Ok(())
//! }
//! ```
//!
//! # Porting from event-manager
//!
//! 1. `EventManager::new()` becomes an [`AioContext`](crate::AioContext) and
//!    [`Subscribers::new`]. `run` becomes [`AioContext::poll`](crate::AioContext::poll), which also
//!    serves timers and bottom halves.
//! 2. `impl MutEventSubscriber` becomes `impl Subscriber`, `EventOps` becomes [`Ops`], and `Events`
//!    becomes [`Event`]. `event_set()` becomes [`readiness`](Event::readiness).
//! 3. `ops.add(Events::with_data(&fd, data, EventSet::IN))` becomes
//!    `ops.add(&fd, Interest::READABLE, data)`; `modify` and `remove` likewise, or with the
//!    number of the descriptor. Without data, pass 0 and compare [`fd`](Event::fd).
//! 4. An `EventFd` that `process` reads becomes an [`EventNotifier`](crate::EventNotifier)
//!    ([`adopt`](crate::EventNotifier::adopt) takes an existing one) with
//!    [`Ops::add_notifier`]; delete the read. A `timerfd` becomes a [`Timer`](crate::Timer).
//! 5. `EventManager<Arc<Mutex<dyn MutEventSubscriber>>>`: `Arc<Mutex<dyn Subscriber>>` is a
//!    subscriber as well. But one manager takes subscribers of different types, and an id has the
//!    type of its subscriber, so they need not be boxed or shared to be mixed.
//! 6. `remove_subscriber` becomes [`Subscribers::remove`]; `subscriber_mut` and `event_ops` become
//!    [`Subscribers::with`]; `remote_endpoint` becomes [`Subscribers::handle`].
//!
//! # Nested turns
//!
//! `process` takes `&mut self`, and may turn the loop. So it is not entered again: what is ready
//! for the same subscriber meanwhile is kept back. A descriptor is not watched until the call
//! returns, and is reported again if it is still ready then. A ring of a notifier is remembered,
//! and rung again. So a nested turn that sleeps is not kept awake by the subscriber that made it,
//! and nothing is lost. Other subscribers, and callbacks of the context, run in the nested turn.
//! The same holds during [`init`](Subscriber::init) and [`with`](Subscribers::with).
//!
//! If a descriptor cannot be watched again (it was closed without being removed, a handler of the
//! context took its number, or the kernel has no memory), `process` is called once for it with a
//! readiness that [is an error](crate::Readiness::is_error). It stays added, but silent, until it
//! is modified or removed.
//!
//! # Costs
//!
//! An event costs what that of a handler of the context does: no allocation and no system call more
//! in the steady state. One that is kept back costs one write(2) for a notifier; for a descriptor
//! two changes of the interest, or, after a hang-up or an error, that it is removed and added.

mod event;
mod handle;
mod home;
mod key;
mod manager;
mod member;
mod ops;
mod registry;
mod source;
mod subscribe;

pub use self::event::Event;
pub use self::handle::SubscribersHandle;
pub use self::key::SubscriberId;
pub use self::manager::Subscribers;
pub use self::ops::Ops;
pub use self::subscribe::Subscriber;
