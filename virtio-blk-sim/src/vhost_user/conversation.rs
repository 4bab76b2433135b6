//! The task that serves one frontend: it receives requests, carries them out one after the other,
//! and replies. A request may wait for rings; then only this frontend waits.
//!
//! A frontend that has used up the allowance of its disk (`pace.rs`) is not listened to until the
//! pause is over. Its messages wait in the socket, and when that is full, the frontend waits. If it
//! hangs up meanwhile, what it has sent is not served any more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aio::{AsyncFd, Interest, LocalHandle};

use super::caught::Panics;
use super::connection::Connection;
use super::error::ConnectionError;
use super::loops::Loops;
use super::losses::Loss;
use super::pace::{self, MESSAGES_PER_TURN};
use super::reply::{Ack, Refusal, Reply};
use super::request::Request;
use super::ring_device::RingDevice;
use super::rings::Rings;
use super::session::{Served, Session};
use super::socket::has_hung_up;
use crate::allowance::Allowance;
use crate::log;
use crate::waiters::Waiters;

/// What the server and the task share.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) rings: Rc<Rings>,
    socket: Arc<UnixStream>,
    /// The conversation is over, and its rings are being stopped.
    ending: Cell<bool>,
    /// The server wants it to end.
    cut: Cell<bool>,
    /// The configuration space has changed since the frontend was notified.
    config_changed: Cell<bool>,
    /// Rings that are to be started again where their place is now.
    moving: RefCell<Vec<u16>>,
    /// The one of them that is being started again. It is no longer in the list: its place may
    /// change once more after it was looked up.
    restarting: Cell<Option<u16>>,
    news: Waiters,
    moved: Waiters,
}

/// Why the server closed a frontend's connection.
#[derive(Debug, thiserror::Error)]
enum HangUp {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("its socket cannot be watched: {0}")]
    Socket(#[from] io::Error),
    /// The frontend waits for an answer that cannot express a failure.
    #[error("its {request} failed: {why}")]
    Refused { request: String, why: String },
    /// Where the ring was is lost with its loop. The frontend has to set it up again.
    #[error("queue {} does not run any more: the loop of {} has ended", .0.ring, .0.thread)]
    LoopEnded(Loss),
    /// The server ends it.
    #[error("the server ends")]
    Cut,
}

impl Line {
    pub(super) fn new(queues: u16, socket: UnixStream) -> Rc<Self> {
        Rc::new(Self {
            rings: Rc::new(Rings::new(queues)),
            socket: Arc::new(socket),
            ending: Cell::new(false),
            cut: Cell::new(false),
            config_changed: Cell::new(false),
            moving: RefCell::default(),
            restarting: Cell::new(None),
            news: Waiters::default(),
            moved: Waiters::default(),
        })
    }

    /// Returns true if the frontend is gone, although the task may not have noticed it yet.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.get() || self.cut.get() || has_hung_up(&self.socket)
    }

    /// Ends the conversation. The task stops the rings in order.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        self.news.wake();
    }

    /// Closes the connection and drops the rings, without waiting for what is in flight. A
    /// request that the task carries out at the moment is completed, but starts no ring.
    pub(super) fn abandon(&self) {
        self.rings.close();
        let _ = self.socket.shutdown(Shutdown::Both);
        self.cut();
    }

    /// Notifies the frontend of a change of the configuration space.
    pub(super) fn config_changed(&self) {
        self.config_changed.set(true);
        self.news.wake();
    }

    /// Starts a ring again where its place is now, if it is running, and waits for that.
    pub(super) async fn restart(&self, index: u16) {
        let waits = || self.moving.borrow().contains(&index);
        if !waits() {
            self.moving.borrow_mut().push(index);
        }
        self.news.wake();
        let is_done = || !waits() && self.restarting.get() != Some(index);
        self.moved.until(|| (self.ending.get() || is_done()).then_some(())).await;
    }

    fn has_news(&self) -> bool {
        self.cut.get() || self.config_changed.get() || !self.moving.borrow().is_empty()
    }
}

/// Serves the frontend until one of both sides ends it, and stops its rings in order. A panic of
/// the device ends it in the same way, and unwinds out of the task at the end.
pub(super) async fn serve<D: RingDevice>(
    served: Rc<Served<D>>,
    loops: Rc<Loops>,
    line: Rc<Line>,
    allowance: Rc<Allowance>,
    stream: UnixStream,
    context: LocalHandle,
) {
    let mut sitting = Sitting { line: &line, device: Some(Arc::clone(&served.device)) };
    let mut panics = Panics::default();
    let (rings, socket) = (Rc::clone(&line.rings), Arc::clone(&line.socket));
    let session = panics.catch(|| Session::new(Rc::clone(&served), loops, rings, context.clone(), socket));
    if let Some(session) = session {
        let (line, connection) = (Rc::clone(&line), Connection::new(stream));
        let mut conversation = Conversation { served, line, allowance, context, connection, session };
        panics.catch_async(conversation.talk_and_report()).await;
        let Conversation { served, line, connection, mut session, .. } = conversation;
        line.ending.set(true);
        if panics.were_caught() {
            let _ = line.socket.shutdown(Shutdown::Both);
        }
        drop(connection);
        // The writes in flight must be complete before the next frontend reads the disk. A ring
        // that panics is gone, so this ends.
        while panics.catch_async(stop_all(&served, &mut session)).await.is_none() {}
        panics.catch(|| drop(session));
    }
    panics.catch(|| sitting.end());
    drop(sitting);
    panics.resume();
}

async fn stop_all<D: RingDevice>(served: &Served<D>, session: &mut Session<D>) {
    if let Err(error) = session.stop_all().await {
        let line = format_args!("stopping the rings failed: {error}");
        served.device.log_line(log::Line::error(line).caused_by(&error));
    }
}

/// The time in which a frontend is served. However it ends, also with the loop of the server: then
/// nothing moves any more, and the device hears of it.
struct Sitting<'a, D: RingDevice> {
    line: &'a Line,
    /// `None` once the device has heard of it.
    device: Option<Arc<D>>,
}

impl<D: RingDevice> Sitting<'_, D> {
    fn end(&mut self) {
        if let Some(device) = self.device.take() {
            device.end_session();
        }
    }
}

impl<D: RingDevice> Drop for Sitting<'_, D> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        self.line.ending.set(true);
        panics.catch(|| self.line.rings.close());
        self.line.moved.wake();
        panics.catch(|| self.end());
        if !std::thread::panicking() {
            panics.resume();
        }
    }
}

/// Why a conversation goes on.
enum Woken {
    /// There is room in the channel of the backend.
    ByChannel,
    Otherwise,
}

struct Conversation<D> {
    served: Rc<Served<D>>,
    line: Rc<Line>,
    /// What the frontends of the device may use.
    allowance: Rc<Allowance>,
    context: LocalHandle,
    connection: Connection,
    session: Session<D>,
}

impl<D: RingDevice> Conversation<D> {
    async fn talk_and_report(&mut self) {
        let why = match self.listen().await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        self.line.ending.set(true);
        if !matches!(why, HangUp::Connection(ConnectionError::Closed) | HangUp::Cut) {
            let line = format_args!("closing the frontend's connection: {why}");
            let line = match why {
                HangUp::LoopEnded(_) => log::Line::error(line),
                _ => log::Line::warn(line),
            };
            self.served.device.log_line(line.caused_by(&why));
        }
    }

    async fn listen(&mut self) -> Result<std::convert::Infallible, HangUp> {
        let socket = Arc::clone(&self.line.socket);
        let socket = self.context.async_fd(socket).map_err(|refused| refused.error)?;
        loop {
            self.obey().await?;
            self.connection.flush()?;
            let (mut answered, partial) = (0, self.connection.partial());
            while answered < MESSAGES_PER_TURN
                && !self.connection.wants_write()
                && !self.allowance.is_used_up(self.context.now_ns())
                && self.answer_one().await?
            {
                answered += 1;
            }
            // A peer can send a message in thousands of pieces.
            if answered == 0 && self.connection.partial() != partial {
                self.allowance.charge(1, self.context.now_ns());
            }
            // Its rings would run until all that it has sent is served.
            if self.allowance.is_used_up(self.context.now_ns()) && has_hung_up(&self.line.socket) {
                return Err(ConnectionError::Closed.into());
            }
            if let Woken::ByChannel = self.wait(&socket).await? {
                let advanced = self.session.advance_channel();
                self.report_channel(advanced);
            }
        }
    }

    /// Waits until the socket is ready or the server wants something. What is left in the socket is
    /// found by the next turn of the loop.
    async fn wait(&self, socket: &AsyncFd<Arc<UnixStream>>) -> io::Result<Woken> {
        // Pending replies first. No more requests are read until the frontend reads its replies.
        let interest = match self.connection.wants_write() {
            true => Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let pause = if interest == Interest::READABLE { self.pause() } else { None };
        let mut ready = pin!(async {
            match pause {
                Some(length) => self.context.sleep(length).await,
                None => socket.ready(interest).await?.clear_ready(),
            }
            Ok(Woken::Otherwise)
        });
        let mut room = pin!(self.session.channel_has_room());
        let mut news = pin!(self.line.news.until(|| self.line.has_news().then_some(())));
        poll_fn(|cx| {
            if room.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::ByChannel));
            }
            if news.as_mut().poll(cx).is_ready() || self.line.rings.losses.poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::Otherwise));
            }
            ready.as_mut().poll(cx)
        })
        .await
    }

    /// Returns how long the frontend is not listened to, if it has used up its allowance.
    fn pause(&self) -> Option<Duration> {
        let pause = self.allowance.pause(self.context.now_ns())?;
        if pause.is_first {
            let rate = self.allowance.terms().rate;
            let line = format_args!("the frontend sends more than {rate} messages a second; they wait");
            self.served.device.log_line(log::Line::warn(line));
        }
        Some(pause.length)
    }

    /// Does what the server wants.
    async fn obey(&mut self) -> Result<(), HangUp> {
        if self.line.cut.get() {
            return Err(HangUp::Cut);
        }
        self.check_loops()?;
        if self.line.config_changed.take() {
            let notified = self.session.notify_config_change();
            self.report_channel(notified);
        }
        loop {
            let Some(index) = self.line.moving.borrow_mut().pop() else { return Ok(()) };
            self.line.restarting.set(Some(index));
            if let Err(error) = self.session.restart(index.into()).await {
                let line = format_args!("vring {index} cannot start on another loop: {error}");
                self.served.device.log_line(log::Line::error(line).queue(index).caused_by(&error));
            }
            self.line.restarting.set(None);
            self.line.moved.wake();
            self.check_loops()?;
        }
    }

    fn report_channel(&self, sent: io::Result<()>) {
        if let Err(error) = sent {
            let line = format_args!("cannot notify the frontend of a configuration change: {error}");
            self.served.device.log_line(log::Line::warn(line).caused_by(&error));
        }
    }

    /// Ends the conversation if the loop of a ring has ended.
    fn check_loops(&mut self) -> Result<(), HangUp> {
        let mut lost = self.line.rings.losses.take();
        for Loss { ring, .. } in &lost {
            self.line.rings.lose(*ring);
            self.session.raise_error((*ring).into());
        }
        match lost.pop() {
            Some(loss) => Err(HangUp::LoopEnded(loss)),
            None => Ok(()),
        }
    }

    /// Handles one message, if there is a complete one.
    async fn answer_one(&mut self) -> Result<bool, HangUp> {
        let Some(incoming) = self.connection.receive()? else { return Ok(false) };
        let header = incoming.header;
        let request = Request::parse(&header, incoming.body, incoming.fds);
        let tokens = request.as_ref().map_or(1, pace::tokens);
        self.allowance.charge(tokens, self.context.now_ns());
        let negotiated = self.session.negotiated();
        let outcome = match request {
            Ok(request) => {
                let name = format!("{:?}", request.code());
                self.session.handle(request).await.map_err(|why| (name, why.to_string()))
            }
            Err(error) => Err((format!("message {}", header.request), error.to_string())),
        };
        match outcome {
            Ok(Some(reply)) => self.connection.send(reply.encode())?,
            Ok(None) => {
                // Check the features both before and after the request: SET_PROTOCOL_FEATURES
                // itself may ask for an acknowledgement.
                if header.wants_ack(negotiated) || header.wants_ack(self.session.negotiated()) {
                    self.connection.send(Reply::Ack(Ack { request: header.request, ok: true }).encode())?;
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
                    self.connection.send(reply.encode())?;
                }
            }
        }
        Ok(true)
    }
}
