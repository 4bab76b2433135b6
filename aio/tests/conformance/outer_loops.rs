//! Outer loops of the kinds that exist: they sleep on one descriptor, level-triggered or
//! edge-triggered, and the context is all that they have.

use crate::setup::Setup;
use crate::support::outer::with_outer_loop;
use crate::support::{Count, os};
use aio::{AioContext, Embedded, Prepared};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// How an outer loop sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ppoll(2), as GLib.
    Poll,
    /// epoll_wait(2), level-triggered, as calloop.
    Epoll,
    /// epoll_wait(2), edge-triggered, as tokio.
    EpollEdge,
}

/// An outer loop with its context.
pub(crate) struct OuterLoop {
    pub(crate) ctx: Embedded<AioContext>,
    kind: Kind,
    epoll: OwnedFd,
    /// How often it slept.
    pub(crate) sleeps: Count,
}

impl OuterLoop {
    pub(crate) fn new(setup: &Setup, kind: Kind) -> Self {
        Self::with(setup.context(), kind)
    }

    pub(crate) fn with(ctx: AioContext, kind: Kind) -> Self {
        let ctx = Embedded::new(ctx).expect("embedded");
        let epoll = os::epoll_of(&ctx, kind == Kind::EpollEdge);
        Self { ctx, kind, epoll, sleeps: Count::default() }
    }

    /// Runs a test with an outer loop of each kind, each in its own thread: the kernel takes a
    /// dropped ring apart later, and interrupts the sleeps of the thread that had it.
    pub(crate) fn each_kind(setup: &Setup, test: impl Fn(&Self) + Sync) {
        for kind in [Kind::Poll, Kind::Epoll, Kind::EpollEdge] {
            let test = || with_outer_loop(setup.is_embedded, || test(&Self::new(setup, kind)));
            std::thread::scope(|scope| scope.spawn(test).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    /// Sleeps until the descriptor is readable, or the time-out. Returns true if it is readable.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> bool {
        self.sleeps.bump();
        match self.kind {
            Kind::Poll => os::poll_readable(&self.ctx, timeout),
            Kind::Epoll | Kind::EpollEdge => os::epoll_wait(&self.epoll, timeout),
        }
    }

    /// One iteration, as g_main_context_iteration(). Returns true if a callback ran.
    pub(crate) fn iterate(&self, blocking: bool) -> bool {
        let prepared = self.ctx.prepare().unwrap();
        if self.kind == Kind::EpollEdge && !prepared.ready_now && self.ctx.check().unwrap() {
            return self.ctx.dispatch().unwrap();
        }
        self.sleep(if blocking { prepared.timeout() } else { Some(Duration::ZERO) });
        self.ctx.check().unwrap() && self.ctx.dispatch().unwrap()
    }

    /// Iterates until `done`, as an application would.
    pub(crate) fn iterate_until(&self, mut done: impl FnMut() -> bool) {
        while !done() {
            self.iterate(true);
        }
    }

    /// Iterates until nothing is left to do.
    pub(crate) fn settle(&self) {
        let mut quiet = 0;
        while quiet < 3 {
            quiet = if self.iterate(false) { 0 } else { quiet + 1 };
        }
    }

    /// Prepares an idle context, as just before a sleep. Nothing is due, and the descriptor is not
    /// readable.
    pub(crate) fn prepare_to_sleep(&self) -> Prepared {
        self.settle();
        loop {
            let prepared = self.ctx.prepare().unwrap();
            // What was notified before is looked at first.
            if !prepared.ready_now && !self.ctx.check().unwrap() {
                assert!(!os::poll_readable(&self.ctx, Some(Duration::ZERO)), "nothing is to be done");
                // An edge-triggered loop may have a change that is over.
                self.sleep(Some(Duration::ZERO));
                return prepared;
            }
            assert!(!self.ctx.dispatch().unwrap(), "the context is idle");
        }
    }
}

impl AsFd for OuterLoop {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.ctx.as_fd()
    }
}
