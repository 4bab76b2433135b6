//! Devices in the shape of the crate event-manager.

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
