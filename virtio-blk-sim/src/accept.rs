//! Accepts connections on an event loop.
//!
//! accept(2) fails while the process or the machine has no descriptor or memory left, and the
//! socket stays readable. Then it is left alone for half a second, so that the loop does not spin,
//! and one line is logged. The loop serves what it has meanwhile.
//!
//! It is also left alone for a while if connections come too fast. They wait in the backlog of the
//! socket (listen(2)), and when that is full, connect(2) waits.

use std::cell::{Cell, OnceCell};
use std::fmt::Arguments;
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::{Rc, Weak};
use std::time::Duration;

use aio::{AioContext, Interest, Registration, Timer};

use crate::allowance::{Allowance, Terms};

const REST: Duration = Duration::from_millis(500);

/// Connections that are accepted before the loop looks at everything else.
const PER_TURN: usize = 16;

/// Connections to one socket. A frontend whose server has ended tries again every second or so, and
/// a program that looks whether the socket is there does it every few milliseconds.
const CONNECTIONS: Terms = Terms { rate: 100, burst: 100, pause: PER_TURN as u64 };

type Take = dyn Fn(&AioContext, UnixStream);
type Log = dyn Fn(Arguments<'_>);

/// A listening socket on its loop. Dropping it stops listening.
#[must_use = "dropping it stops listening"]
pub(crate) struct Accepting {
    _acceptor: Rc<Acceptor>,
}

struct Acceptor {
    // Dropped before the socket that it watches.
    registration: OnceCell<Registration>,
    listener: UnixListener,
    timer: Timer,
    allowance: Rc<Allowance>,
    /// Whether the last accept(2) failed, which was logged.
    failing: Cell<bool>,
    take: Box<Take>,
    log: Box<Log>,
}

impl std::fmt::Debug for Accepting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepting").field("listener", &self._acceptor.listener).finish_non_exhaustive()
    }
}

impl Accepting {
    /// What clients of one socket, or of all sockets of a device, may use.
    pub(crate) fn allowance() -> Allowance {
        Allowance::new(CONNECTIONS)
    }

    /// Calls `take` from the loop with each connection, and `log` when there is something to say.
    ///
    /// # Errors
    /// Returns the error of setting the socket non-blocking or of registering it with the loop.
    pub(crate) fn new(
        context: &AioContext,
        listener: UnixListener,
        allowance: Rc<Allowance>,
        take: impl Fn(&AioContext, UnixStream) + 'static,
        log: impl Fn(Arguments<'_>) + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let acceptor = Rc::new_cyclic(|acceptor: &Weak<Acceptor>| {
            let acceptor = acceptor.clone();
            let timer = context.timer(move |_| {
                if let Some(acceptor) = acceptor.upgrade() {
                    acceptor.watch(Interest::READABLE);
                }
            });
            let registration = OnceCell::new();
            let (take, log) = (Box::new(take), Box::new(log));
            let failing = Cell::new(false);
            Acceptor { registration, listener, timer, allowance, failing, take, log }
        });
        let weak = Rc::downgrade(&acceptor);
        let registration =
            context.add_borrowed_fd(&acceptor.listener, Interest::READABLE, move |context, _| {
                if let Some(acceptor) = weak.upgrade() {
                    acceptor.accept(context);
                }
            })?;
        // The cell was empty.
        let _ = acceptor.registration.set(registration);
        Ok(Self { _acceptor: acceptor })
    }
}

impl Acceptor {
    /// Accepts pending connections. What is left is found by the next turn.
    fn accept(&self, context: &AioContext) {
        for _ in 0..PER_TURN {
            if let Some(pause) = self.allowance.pause(context.now_ns()) {
                if pause.is_first {
                    let rate = self.allowance.terms().rate;
                    (self.log)(format_args!("more than {rate} connections a second; the others wait"));
                }
                return self.rest(pause.length);
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.failing.set(false);
                    self.allowance.charge(1, context.now_ns());
                    (self.take)(context, stream);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    // This connection ended before it was accepted.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => return self.fail(&error),
                },
            }
        }
    }

    fn fail(&self, error: &io::Error) {
        if !self.failing.replace(true) {
            (self.log)(format_args!("cannot accept connections for now: {error}"));
        }
        self.rest(REST);
    }

    fn rest(&self, length: Duration) {
        self.watch(Interest::NONE);
        self.timer.arm_after(length);
    }

    fn watch(&self, interest: Interest) {
        if let Some(Err(error)) = self.registration.get().map(|watched| watched.set_interest(interest)) {
            (self.log)(format_args!("cannot watch the listening socket: {error}"));
        }
    }
}
