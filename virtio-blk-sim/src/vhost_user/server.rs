//! The server: a socket, one frontend at a time, and the messages between them and the device, all on one AioContext.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use aio::{AioContext, Interest, Registration};

use super::connection::Connection;
use super::error::ConnectionError;
use super::loops::Loops;
use super::reply::{Ack, Refusal, Reply};
use super::request::Request;
use super::session::{Served, Session};
use crate::memory::GuestMemoryMmap;
use crate::queue::{Device, QueueStats, Worker};

/// Messages of one frontend that are carried out before other handlers of the loop have their turn.
const MESSAGES_PER_TURN: usize = 16;

/// Frontends that wait while the rings of the last one finish.
const MAX_WAITING: usize = 16;

/// Serves one disk to whoever connects, one frontend at a time. A second one is hung up on; when the first has gone, the next
/// is served. Home thread of its loop.
pub struct Server<D> {
    served: Rc<Served<D>>,
    loops: Rc<Loops>,
    live: RefCell<Option<Live<D>>>,
    /// A frontend is being served, also while `live` is empty because it is being worked on.
    taken: Cell<bool>,
    /// The frontend has gone, and its rings finish.
    ending: Cell<bool>,
    /// Who came meanwhile. The first of them that is still there is served next.
    next: RefCell<Vec<UnixStream>>,
    /// Frontends that were served.
    sessions: Cell<u64>,
    /// The configuration space changed while a request was carried out; the frontend is told after it.
    config_changed: Cell<bool>,
}

/// The frontend that is connected.
struct Live<D> {
    // Dropped before the socket it watches.
    registration: Registration,
    connection: Connection,
    session: Session<D>,
}

/// A server on its listening socket. Dropping it stops listening.
#[must_use = "dropping it stops listening"]
pub struct Listening<D> {
    server: Rc<Server<D>>,
    _registration: Registration,
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

/// Why a frontend was hung up on.
#[derive(Debug, thiserror::Error)]
enum HangUp {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// It waits for an answer that cannot be given, or its guest would wait for a ring that does not run.
    #[error("its {request} cannot be carried out: {why}")]
    Refused { request: String, why: String },
}

impl<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>> Server<D> {
    /// A server for a device whose queues run on `loops`.
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
    /// What registering the socket says.
    pub fn listen(self: &Rc<Self>, context: &AioContext, listener: UnixListener) -> io::Result<Listening<D>> {
        listener.set_nonblocking(true)?;
        let (server, listener) = (Rc::clone(self), Rc::new(listener));
        let accept_from = Rc::clone(&listener);
        let registration = context.add_fd(&*listener, Interest::READABLE, move |context, _| {
            // All that wait: those that come while one is served are hung up on at once, not after it.
            while let Ok((stream, _)) = accept_from.accept() {
                if let Err(error) = server.serve(context, stream) {
                    server.served.device.log(format_args!("a frontend cannot be served: {error}"));
                }
            }
        })?;
        Ok(Listening { server: Rc::clone(self), _registration: registration })
    }

    /// Serves a frontend that is connected already. One that comes while another is served is hung up on; one that comes
    /// while the rings of the last one finish is served after that.
    ///
    /// # Errors
    /// `AddrInUse` in that case; what registering the socket says.
    pub fn serve(self: &Rc<Self>, context: &AioContext, stream: UnixStream) -> io::Result<()> {
        // It may have hung up a moment ago, and be found to have done so later in this turn.
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
        let registration = context.add_fd(&stream, Interest::READABLE, move |context, _| {
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

    /// True while a frontend is connected.
    pub fn is_connected(&self) -> bool {
        self.taken.get()
    }

    /// How many frontends have been served, the present one included.
    pub fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// What each running queue has counted.
    pub fn stats(&self) -> Vec<(usize, QueueStats)> {
        self.live.borrow().as_ref().map(|live| live.session.stats()).unwrap_or_default()
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.served.device
    }

    /// Tells the frontend, if there is one and it wants to know, that the configuration space has changed.
    ///
    /// # Errors
    /// What sending to the frontend returns.
    pub fn config_changed(&self) -> io::Result<()> {
        match &mut *self.live.borrow_mut() {
            Some(live) => live.session.notify_config_change(),
            None => {
                // In a nested turn of a request: `ready` tells the frontend when that is done.
                self.config_changed.set(self.taken.get());
                Ok(())
            }
        }
    }

    /// Stops every queue, waits until what was taken has been answered, and hangs up. Turns the loop meanwhile.
    pub fn shut_down(&self, context: &AioContext) {
        let live = self.live.borrow_mut().take();
        if let Some(live) = live {
            self.end(live, context);
        }
        self.next.take();
    }

    fn ready(self: &Rc<Self>, context: &AioContext) {
        // Absent in a nested turn, while a request waits for the rings: see `carry_out`.
        let Some(mut live) = self.live.borrow_mut().take() else { return };
        match self.talk(&mut live, context) {
            Ok(()) => {
                if self.config_changed.take()
                    && let Err(error) = live.session.notify_config_change()
                {
                    self.served.device.log(format_args!("the frontend's backend channel: {error}"));
                }
                let interest = match live.connection.wants_write() {
                    // Answers first: a frontend that does not read them is not listened to.
                    true => Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                if let Err(error) = live.registration.set_interest(interest) {
                    self.served.device.log(format_args!("the frontend's socket: {error}"));
                }
                self.live.replace(Some(live));
            }
            Err(why) => {
                if !matches!(why, HangUp::Connection(ConnectionError::Closed)) {
                    self.served.device.log(format_args!("the frontend is hung up on: {why}"));
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

    /// Lets the rings finish, with the frontend gone: what is written must be on the disk before the next frontend reads it.
    fn end(&self, live: Live<D>, context: &AioContext) {
        let Live { connection, mut session, registration } = live;
        drop((registration, connection));
        self.ending.set(true);
        if let Err(error) = session.stop_all(context) {
            self.served.device.log(format_args!("the rings did not stop in order: {error}"));
        }
        drop(session);
        self.ending.set(false);
        self.taken.set(false);
        self.config_changed.set(false);
    }

    /// Sends what waits, and carries out what has come.
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
                    // As it was when the request came, and as it is now: SET_PROTOCOL_FEATURES itself may ask for an answer.
                    if header.wants_ack(negotiated) || header.wants_ack(live.session.negotiated()) {
                        live.connection
                            .send(Reply::Ack(Ack { request: header.request, ok: true }).encode())?;
                    }
                }
                Err((request, why)) => match Refusal::of(&header, negotiated) {
                    Refusal::Reply(reply) => {
                        self.served.device.log(format_args!("{request} is refused: {why}"));
                        live.connection.send(reply.encode())?;
                    }
                    // Nobody would learn of it, and the guest would wait for what does not happen.
                    Refusal::Silence | Refusal::Close => return Err(HangUp::Refused { request, why }),
                },
            }
        }
        Ok(())
    }
}

/// Carries out one request. While it waits for rings to finish it turns the loop, in which the frontend is not listened to.
fn carry_out<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>>(
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
