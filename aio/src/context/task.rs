//! The tasks of a context, and what they hold of it.

use super::observer::{Off, On};
use super::parts::{Callback, Parts};
use super::turn::AioContext;
use crate::agenda::Item;
use crate::bottom_half::{Node, Work};
use crate::sync::Arc as ListArc;
use crate::task::Tasks;
use std::fmt;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// An [`AioContext`] as its tasks and callbacks hold it. Made by [`AioContext::local_handle`];
/// cheap to clone; home thread.
///
/// A spawned future must not borrow the context. It owns one of these, which dereferences to the
/// context: it can spawn, sleep, register, and turn the loop. Do not put an `Rc<AioContext>` into
/// a task: the context would own the task and the task the context, and neither would be dropped.
///
/// Holding one does not keep the loop: once the [`AioContext`] itself is dropped,
/// [`poll`](AioContext::poll) and every registration return `NotConnected`. The descriptors of the
/// monitor and some memory stay until the last handle is dropped.
///
/// ```
/// # use aio::AioContext;
/// # use std::time::Duration;
/// # fn main() -> std::io::Result<()> {
/// let ctx = AioContext::new()?;
/// let local = ctx.local_handle();
/// let task = ctx.spawn(async move {
///     local.sleep(Duration::from_micros(50)).await;
///     local.spawn(async { 7 }).await
/// });
/// assert_eq!(ctx.block_on(task)???, 7);
/// # Ok(())
/// # }
/// ```
pub struct LocalHandle(AioContext);

impl Clone for LocalHandle {
    fn clone(&self) -> Self {
        self.0.local_handle()
    }
}

impl Deref for LocalHandle {
    type Target = AioContext;

    fn deref(&self) -> &AioContext {
        &self.0
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalHandle").field(&self.0).finish()
    }
}

/// A context, unless nothing is left of it.
#[derive(Clone)]
pub(crate) struct WeakContext(Weak<Parts<AioContext>>);

impl WeakContext {
    /// `None` once the context was dropped.
    pub(crate) fn upgrade(&self) -> Option<LocalHandle> {
        let parts = self.0.upgrade().filter(|parts| parts.is_current())?;
        Some(LocalHandle(AioContext { parts, is_owner: false }))
    }
}

impl fmt::Debug for WeakContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakContext")
    }
}

impl AioContext {
    /// A handle that tasks and callbacks can own. No allocation.
    pub fn local_handle(&self) -> LocalHandle {
        LocalHandle(Self { parts: Rc::clone(&self.parts), is_owner: false })
    }

    pub(crate) fn downgrade(&self) -> WeakContext {
        WeakContext(Rc::downgrade(&self.parts))
    }

    /// The table of tasks, which is made when it is first asked for.
    pub(crate) fn tasks(&self) -> &Rc<Tasks> {
        let parts = &self.parts;
        parts.tasks.get_or_init(|| {
            // What other threads wake arrives by a bottom half: the usual turn has no second list
            // to look at.
            let receive: Callback<Self> = Rc::new(|context| {
                if let Some(tasks) = context.parts.tasks.get() {
                    tasks.receive();
                }
            });
            let node = ListArc::new(Node::new(Work::Half(parts.bottom_halves.create(receive))));
            let shared = Arc::clone(&parts.shared);
            let wake_loop = move || {
                Node::schedule(&node, &shared.bottom_halves);
                shared.notify();
            };
            let tasks = Tasks::new(&parts.agenda, Box::new(wake_loop));
            if parts.is_closed.get() {
                tasks.close();
            }
            tasks
        })
    }

    /// Polls tasks that are ready, without a turn. Returns how many of `most` polls are left; 0
    /// also if none is ready, or there is no loop any more.
    pub(crate) fn poll_ready_tasks(&self, most: usize) -> usize {
        if !self.parts.is_current() || !self.parts.has(Item::Tasks) {
            return 0;
        }
        let polls = if self.parts.is_observed() {
            let _nested = self.parts.observer.nested();
            self.poll_tasks::<On>(Some(most))
        } else {
            self.poll_tasks::<Off>(Some(most))
        };
        most.saturating_sub(polls)
    }
}
