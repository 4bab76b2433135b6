//! What other threads hold of a manager.

use super::home;
use super::manager::Subscribers;
use crate::context::Handle;

/// A manager for other threads: the counterpart of event-manager's `RemoteEndpoint`. Made by
/// [`Subscribers::handle`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct SubscribersHandle {
    number: u64,
    handle: Handle,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<SubscribersHandle>();
};

impl SubscribersHandle {
    /// Runs a closure with the manager in the next turn of its loop, and wakes the loop if it
    /// sleeps. Any thread; never blocks; costs what [`Handle::schedule`] costs. The closures of one
    /// thread run in their order. For a result, let it send on a channel, and do not wait for that
    /// in the home thread.
    ///
    /// If the manager is dropped before that turn, the closure is dropped without being run.
    ///
    /// Returns false if the loop has ended; the closure is dropped then.
    pub fn schedule(&self, closure: impl FnOnce(&Subscribers) + Send + 'static) -> bool {
        let number = self.number;
        self.handle.schedule(move |_| {
            if let Some(registry) = home::find(number) {
                closure(&Subscribers::view(registry));
            }
        })
    }
}

impl Subscribers {
    /// A handle for other threads.
    pub fn handle(&self) -> SubscribersHandle {
        home::list(&self.registry);
        SubscribersHandle { number: self.registry.number, handle: self.registry.handle.clone() }
    }
}
