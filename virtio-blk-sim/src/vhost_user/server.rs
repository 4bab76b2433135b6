//! The server: accepts one frontend at a time on a socket, and passes the messages between the
//! frontend and the device. Everything here runs on one AioContext.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, Interest, Registration};

use super::connection::Connection;
use super::error::ConnectionError;
use super::loops::Loops;
use super::reply::{Ack, Refusal, Reply};
use super::request::Request;
use super::ring_device::RingDevice;
use super::session::{Served, Session};
use crate::accept::Accepting;
use crate::queue::QueueStats;

/// Messages of one frontend that are handled before other handlers of the loop get their turn.
const MESSAGES_PER_TURN: usize = 16;

/// Frontends that may wait while the rings of the last one are being stopped.
const MAX_WAITING: usize = 16;

/// Serves one device to the frontends that connect, one frontend at a time. While a frontend is
/// connected, further connections are closed; after it disconnects, the next one is served. Use it
/// only on the home thread of its event loop.
pub struct Server<D> {
    served: Rc<Served<D>>,
    loops: Rc<Loops>,
    live: RefCell<Option<Live<D>>>,
    /// Whether a frontend is being served. Also true while `live` is empty because it is in use.
    taken: Cell<bool>,
    /// Whether the frontend has disconnected and its rings are being stopped.
    ending: Cell<bool>,
    /// Connections that arrived while `ending` was set. The first one that is still open is served
    /// next.
    next: RefCell<Vec<UnixStream>>,
    /// Number of frontends served so far.
    sessions: Cell<u64>,
    /// The configuration space changed while a request was being handled. The frontend is notified
    /// afterwards.
    config_changed: Cell<bool>,
}

/// The connected frontend.
struct Live<D> {
    // Declared first so that it is dropped before the socket that it watches.
    registration: Registration,
    connection: Connection,
    session: Session<D>,
}

/// A server together with its listening socket. Dropping it stops listening.
#[must_use = "dropping it stops listening"]
pub struct Listening<D> {
    server: Rc<Server<D>>,
    _accepting: Accepting,
}

impl<D> std::fmt::Debug for Server<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<D> std::fmt::Debug for Listening<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why the server closed a frontend's connection.
#[derive(Debug, thiserror::Error)]
enum HangUp {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The frontend waits for an answer that cannot express a failure.
    #[error("its {request} failed: {why}")]
    Refused { request: String, why: String },
}

impl<D: RingDevice> Server<D> {
    /// Creates a server for a device. Its queues run on `loops`.
    pub fn new(served: Served<D>, loops: Loops) -> Rc<Self> {
        Rc::new(Self {
            served: Rc::new(served),
            loops: Rc::new(loops),
            live: RefCell::default(),
            taken: Cell::new(false),
            ending: Cell::new(false),
            next: RefCell::default(),
            sessions: Cell::new(0),
            config_changed: Cell::new(false),
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
                server.served.device.log(format_args!("a frontend cannot be served: {error}"));
            }
        };
        let accepting = Accepting::new(context, listener, take, move |line| device.log(line))?;
        Ok(Listening { server: Rc::clone(self), _accepting: accepting })
    }

    /// Serves a frontend that is already connected. While another frontend is served, the new
    /// connection is closed. While the rings of the last frontend are being stopped, the new
    /// connection waits and is served next.
    ///
    /// # Errors
    /// Returns `AddrInUse` if another frontend is being served, and the error of registering the
    /// socket.
    pub fn serve(self: &Rc<Self>, context: &AioContext, stream: UnixStream) -> io::Result<()> {
        // The current frontend may have disconnected a moment ago, which the loop has not noticed
        // yet.
        self.ready(context);
        if self.ending.get() && self.next.borrow().len() < MAX_WAITING {
            self.next.borrow_mut().push(stream);
            return Ok(());
        }
        if self.taken.get() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another frontend is connected; disconnect it first",
            ));
        }
        stream.set_nonblocking(true)?;
        let weak = Rc::downgrade(self);
        let registration = context.add_borrowed_fd(&stream, Interest::READABLE, move |context, _| {
            if let Some(server) = weak.upgrade() {
                server.ready(context);
            }
        })?;
        let session = Session::new(Rc::clone(&self.served), Rc::clone(&self.loops), stream.try_clone()?);
        self.live.replace(Some(Live { registration, connection: Connection::new(stream), session }));
        self.taken.set(true);
        self.sessions.set(self.sessions.get() + 1);
        Ok(())
    }

    /// Returns true while a frontend is being served.
    pub fn is_connected(&self) -> bool {
        self.taken.get()
    }

    /// Returns how many frontends have been served, including the current one.
    pub fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// Returns the counters of each running queue, by queue index.
    pub fn stats(&self) -> Vec<(usize, QueueStats)> {
        self.live.borrow().as_ref().map(|live| live.session.stats()).unwrap_or_default()
    }

    /// Returns the device.
    pub fn device(&self) -> &D {
        &self.served.device
    }

    /// Notifies the frontend, if one is connected and has set up a backend channel, that the
    /// configuration space has changed.
    ///
    /// # Errors
    /// Returns the error of sending to the frontend.
    pub fn config_changed(&self) -> io::Result<()> {
        match &mut *self.live.borrow_mut() {
            Some(live) => live.session.notify_config_change(),
            None => {
                // A nested loop turn during a request: `ready` notifies the frontend after the
                // request.
                self.config_changed.set(self.taken.get());
                Ok(())
            }
        }
    }

    /// Stops all queues, waits until the requests in flight have been answered, and closes the
    /// connection. Runs the event loop while it waits.
    pub fn shut_down(&self, context: &AioContext) {
        let live = self.live.borrow_mut().take();
        if let Some(live) = live {
            self.end(live, context);
        }
        self.next.take();
    }

    fn ready(self: &Rc<Self>, context: &AioContext) {
        // Empty in a nested loop turn, while a request waits for the rings. See `carry_out`.
        let Some(mut live) = self.live.borrow_mut().take() else { return };
        match self.talk(&mut live, context) {
            Ok(()) => {
                if self.config_changed.take()
                    && let Err(error) = live.session.notify_config_change()
                {
                    self.served
                        .device
                        .log(format_args!("cannot notify the frontend of a configuration change: {error}"));
                }
                let interest = match live.connection.wants_write() {
                    // Send the pending replies first. No more requests are read until the frontend
                    // reads its replies.
                    true => Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                if let Err(error) = live.registration.set_interest(interest) {
                    self.served.device.log(format_args!("cannot watch the frontend's socket: {error}"));
                }
                self.live.replace(Some(live));
            }
            Err(why) => {
                if !matches!(why, HangUp::Connection(ConnectionError::Closed)) {
                    self.served.device.log(format_args!("closing the frontend's connection: {why}"));
                }
                self.end(live, context);
                for next in self.next.take() {
                    if let Err(error) = self.serve(context, next) {
                        self.served.device.log(format_args!("a frontend cannot be served: {error}"));
                    }
                }
            }
        }
    }

    /// Stops the rings after the frontend has disconnected, and waits for the requests in flight.
    /// Their writes must be complete before the next frontend reads the disk.
    fn end(&self, live: Live<D>, context: &AioContext) {
        let Live { connection, mut session, registration } = live;
        drop((registration, connection));
        self.ending.set(true);
        if let Err(error) = session.stop_all(context) {
            self.served.device.log(format_args!("stopping the rings failed: {error}"));
        }
        drop(session);
        self.served.device.end_session();
        self.ending.set(false);
        self.taken.set(false);
        self.config_changed.set(false);
    }

    /// Sends pending replies, then handles the messages that have arrived.
    fn talk(&self, live: &mut Live<D>, context: &AioContext) -> Result<(), HangUp> {
        live.connection.flush()?;
        for _ in 0..MESSAGES_PER_TURN {
            if live.connection.wants_write() {
                break;
            }
            let Some(incoming) = live.connection.receive()? else { break };
            let header = incoming.header;
            let request = Request::parse(&header, incoming.body, incoming.fds);
            let negotiated = live.session.negotiated();
            let outcome = match request {
                Ok(request) => {
                    let name = format!("{:?}", request.code());
                    carry_out(live, request, context).map_err(|why| (name, why))
                }
                Err(error) => Err((format!("message {}", header.request), error.to_string())),
            };
            match outcome {
                Ok(Some(reply)) => live.connection.send(reply.encode())?,
                Ok(None) => {
                    // Check the features both before and after the request: SET_PROTOCOL_FEATURES
                    // itself may ask for an acknowledgement.
                    if header.wants_ack(negotiated) || header.wants_ack(live.session.negotiated()) {
                        live.connection
                            .send(Reply::Ack(Ack { request: header.request, ok: true }).encode())?;
                    }
                }
                Err((request, why)) => {
                    let refusal = Refusal::of(&header, negotiated);
                    if let Refusal::Close = refusal {
                        return Err(HangUp::Refused { request, why });
                    }
                    self.served.device.log(format_args!("refused {request}: {why}"));
                    // A frontend that did not ask for an answer stays connected too: the guest can
                    // reset its device, and without a connection it could not.
                    if let Refusal::Reply(reply) = refusal {
                        live.connection.send(reply.encode())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Handles one request. If it may wait for rings to finish, it runs the event loop, and reading
/// from the frontend is disabled meanwhile.
fn carry_out<D: RingDevice>(
    live: &mut Live<D>,
    request: Request,
    context: &AioContext,
) -> Result<Option<Reply>, String> {
    if !Session::<D>::may_wait(&request) {
        return live.session.handle(request, context).map_err(|error| error.to_string());
    }
    let deaf = live.registration.set_interest(Interest::NONE);
    let outcome = live.session.handle(request, context).map_err(|error| error.to_string());
    deaf.map_err(|error| error.to_string())?;
    outcome
}

impl<D> std::ops::Deref for Listening<D> {
    type Target = Rc<Server<D>>;

    fn deref(&self) -> &Rc<Server<D>> {
        &self.server
    }
}
