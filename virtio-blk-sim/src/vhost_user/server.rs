//! The server: accepts one frontend at a time on a socket. Each frontend is served by a task of the
//! server's loop, see `conversation.rs`.

use std::cell::{Cell, RefCell};
use std::fmt::Arguments;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aio::{AioContext, LocalHandle};

use super::conversation::{self, Line};
use super::loops::Loops;
use super::pace;
use super::ring_device::RingDevice;
use super::session::Served;
use super::socket::has_hung_up;
use crate::accept::Accepting;
use crate::allowance::Allowance;
use crate::queue::QueueStats;
use crate::waiters::Waiters;
use crate::{log, loop_thread};

/// Serves one device to the frontends that connect, one frontend at a time. While a frontend is
/// connected, further connections are closed; after it disconnects, the next one is served. Use it
/// only on the home thread of its event loop, which may serve other devices at the same time: a
/// server never blocks the loop, except where a method says so.
///
/// Dropping it closes the connection and stops the rings, without waiting for what is in flight.
pub struct Server<D> {
    served: Rc<Served<D>>,
    /// How many queues the device has, which does not change.
    queues: u16,
    loops: Rc<Loops>,
    /// The connected frontend. Also present while its rings are being stopped.
    line: RefCell<Option<Rc<Line>>>,
    /// A connection that arrived while the last frontend was about to end, and is served next. Only
    /// one waits, because each costs a descriptor, and only one can be served.
    next: RefCell<Option<UnixStream>>,
    /// Number of frontends served so far.
    sessions: Cell<u64>,
    /// Who waits for the end of a frontend.
    ended: Waiters,
    /// What the frontends may use of the server's time.
    messages: Rc<Allowance>,
    connections: Rc<Allowance>,
}

/// How often a server let its frontends wait because they asked for too much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Throttled {
    /// Pauses in which no message was read.
    pub messages: u64,
    /// Pauses in which no connection was accepted.
    pub connections: u64,
}

/// A server together with its listening socket. Dropping it stops listening.
#[must_use = "dropping it stops listening"]
pub struct Listening<D> {
    server: Rc<Server<D>>,
    _accepting: Accepting,
}

impl<D> std::fmt::Debug for Server<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("line", &self.line).finish_non_exhaustive()
    }
}

impl<D> std::fmt::Debug for Listening<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("server", &self.server).finish_non_exhaustive()
    }
}

impl<D: RingDevice> Server<D> {
    /// Creates a server for a device. Its queues run on `loops`.
    pub fn new(served: Served<D>, loops: Loops) -> Rc<Self> {
        let queues = served.device.queues();
        let (messages, connections) = match served.throttles {
            true => (pace::of_messages(queues), Accepting::allowance()),
            false => (Allowance::unlimited(), Allowance::unlimited()),
        };
        Rc::new(Self {
            queues,
            messages: Rc::new(messages),
            connections: Rc::new(connections),
            served: Rc::new(served),
            loops: Rc::new(loops),
            line: RefCell::default(),
            next: RefCell::default(),
            sessions: Cell::new(0),
            ended: Waiters::default(),
        })
    }

    /// Accepts frontends from a listening socket.
    ///
    /// # Errors
    /// Returns the error of setting the socket non-blocking or of registering it with the loop.
    pub fn listen(self: &Rc<Self>, context: &AioContext, listener: UnixListener) -> io::Result<Listening<D>> {
        let (server, device) = (Rc::clone(self), Arc::clone(&self.served.device));
        // Connections that arrive while a frontend is served are closed at once.
        let take = move |context: &AioContext, stream| {
            if let Err(error) = server.serve(context, stream) {
                let line = format_args!("a frontend cannot be served: {error}");
                server.served.device.log_line(log::Line::warn(line).caused_by(&error));
            }
        };
        let (allowance, log) = (Rc::clone(&self.connections), move |line: Arguments<'_>| device.log(line));
        let accepting = Accepting::new(context, listener, allowance, take, log)?;
        Ok(Listening { server: Rc::clone(self), _accepting: accepting })
    }

    /// Serves a frontend that is already connected. While another frontend is served, the new
    /// connection is closed. While the rings of the last frontend are being stopped, one connection
    /// waits and is served next.
    ///
    /// # Errors
    /// Returns `AddrInUse` if another frontend is being served or waits, and the error of setting
    /// the socket up.
    pub fn serve(self: &Rc<Self>, context: &AioContext, stream: UnixStream) -> io::Result<()> {
        loop_thread::note(context);
        let (is_taken, is_ending) = match &*self.line.borrow() {
            Some(line) => (true, line.is_ending()),
            None => (false, false),
        };
        if is_ending {
            if self.next.borrow().as_ref().is_none_or(has_hung_up) {
                let gone = self.next.replace(Some(stream));
                drop(gone);
                return Ok(());
            }
            let why = "another frontend waits already until the last one has ended";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        if is_taken {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another frontend is connected; disconnect it first",
            ));
        }
        stream.set_nonblocking(true)?;
        let line = Line::new(self.queues, stream.try_clone()?);
        self.line.replace(Some(Rc::clone(&line)));
        self.sessions.set(self.sessions.get() + 1);
        let (served, loops, allowance) =
            (Rc::clone(&self.served), Rc::clone(&self.loops), Rc::clone(&self.messages));
        let context = context.local_handle();
        let ended = Ended { server: Rc::downgrade(self), context: context.clone() };
        // A panic of the device unwinds out of the loop, as that of a callback, because nobody
        // waits for the task.
        let spawner = context.clone();
        drop(spawner.spawn(async move {
            let _ended = ended;
            conversation::serve(served, loops, line, allowance, stream, context).await;
        }));
        Ok(())
    }

    /// Returns true while a frontend is being served.
    pub fn is_connected(&self) -> bool {
        self.line.borrow().is_some()
    }

    /// Returns how many frontends have been served, including the current one.
    pub fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// Returns how often frontends had to wait, since the server was made.
    pub fn throttled(&self) -> Throttled {
        Throttled { messages: self.messages.pauses(), connections: self.connections.pauses() }
    }

    /// Returns the counters of each running queue, by queue index. Blocks until the loops that run
    /// the queues have answered.
    pub fn stats(&self) -> Vec<(usize, QueueStats)> {
        let Some(line) = self.line() else { return Vec::new() };
        let asked = line.rings.ask_all(|ring| ring.stats());
        asked.into_iter().filter_map(|(index, stats)| Some((index, stats.wait()?))).collect()
    }

    /// The same, without blocking.
    pub async fn query_stats(&self) -> Vec<(usize, QueueStats)> {
        let asked = self.line().map(|line| line.rings.ask_all(|ring| ring.stats()));
        let mut stats = Vec::new();
        for (index, asked) in asked.into_iter().flatten() {
            stats.extend(asked.answer().await.map(|answer| (index, answer)));
        }
        stats
    }

    /// Returns the device.
    pub fn device(&self) -> &D {
        &self.served.device
    }

    /// Returns the loops that its queues run on.
    pub fn loops(&self) -> &Loops {
        &self.loops
    }

    /// Moves a queue to another of the server's [loops](Loops). If it is running, it stops taking
    /// requests, waits for those in flight, and starts on the other loop, where it finds what the
    /// driver made available meanwhile. The other queues go on.
    ///
    /// # Errors
    /// Returns `InvalidInput` if there is no such queue or thread. A queue that cannot be started
    /// there is logged, and stays stopped, as one that cannot be started for the frontend.
    pub async fn move_queue(&self, queue: u16, thread: usize) -> io::Result<()> {
        if queue >= self.queues {
            let message = format!("queue {queue} does not exist");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if self.loops.set_place(queue, thread)?
            && let Some(line) = self.line()
        {
            line.restart(queue).await;
        }
        Ok(())
    }

    /// Notifies the frontend, if one is connected and has set up a backend channel, that the
    /// configuration space has changed. It is sent in this turn of the loop or the next one.
    pub fn config_changed(&self) {
        if let Some(line) = self.line() {
            line.config_changed();
        }
    }

    /// Stops all queues, waits until the requests in flight have been answered, and closes the
    /// connection, and the one that waits to be served next.
    pub async fn disconnect(&self) {
        let waiting = self.next.take();
        drop(waiting);
        if let Some(line) = self.line() {
            line.cut();
            let is_over = || self.line().is_none_or(|current| !Rc::ptr_eq(&current, &line));
            self.ended.until(|| is_over().then_some(())).await;
        }
    }

    /// Closes the connection, and the one that waits to be served next, and stops the queues
    /// without waiting for what is in flight: as if the server was dropped, whoever else holds it.
    /// A queue that is being stopped ends when that is done, and none starts any more.
    pub fn abandon(&self) {
        let waiting = self.next.take();
        drop(waiting);
        if let Some(line) = self.line() {
            line.abandon();
        }
    }

    /// Like [`disconnect`](Self::disconnect), and turns the loop meanwhile.
    pub fn shut_down(&self, context: &AioContext) {
        if let Err(error) = context.block_on(self.disconnect()) {
            let line = format_args!("the event loop failed while the rings were stopped: {error}");
            self.served.device.log_line(log::Line::error(line).caused_by(&error));
        }
    }

    fn line(&self) -> Option<Rc<Line>> {
        self.line.borrow().clone()
    }
}

/// The end of a frontend's task, however it ends. Runs no code of the device.
struct Ended<D: RingDevice> {
    server: Weak<Server<D>>,
    context: LocalHandle,
}

impl<D: RingDevice> Drop for Ended<D> {
    fn drop(&mut self) {
        let Some(server) = self.server.upgrade() else { return };
        server.line.take();
        server.ended.wake();
        let next = server.next.take();
        if let Some(Err(error)) = next.map(|next| server.serve(&self.context, next)) {
            let line = format_args!("a frontend cannot be served: {error}");
            log::Line::warn(line).caused_by(&error).limited();
        }
    }
}

impl<D> Drop for Server<D> {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            line.abandon();
        }
    }
}

impl<D> std::ops::Deref for Listening<D> {
    type Target = Rc<Server<D>>;

    fn deref(&self) -> &Rc<Server<D>> {
        &self.server
    }
}
