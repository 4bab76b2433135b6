//! The control socket: programs add, remove and change disks while the process runs.
//!
//! The protocol is in the manner of QMP: JSON, one object a line. The server sends a greeting. Each
//! request gets one answer, in the order of the requests of that client. Events come between the
//! answers, to all clients.
//!
//! ```text
//! lines.rs ─► message.rs ─► commands.rs ─► change.rs ─► host.rs
//!    ▲         a request       │            may wait
//!  client.rs                   ▼
//!    └◄ outbox.rs ◄──────── an answer,  an event (notice.rs)
//! ```
//!
//! What a client can do wrong costs nobody else anything:
//!
//! | mistake | reaction |
//! |---|---|
//! | a line that is no request | an error; the client stays |
//! | a line of more than 64 KiB | an error, then the connection is closed |
//! | many requests at once | one of a client in each turn of the loop, the next after its answer was sent |
//! | it does not read | no more requests of it are read; it is closed after 10 seconds, or when 256 KiB wait for it |
//! | a command that waits for storage | the client may hang up; 16 clients are served besides those that wait |
//! | more than 16 clients, or 40 commands that wait | an error, and for a client the connection is closed |

mod change;
mod client;
mod commands;
mod lines;
mod message;
mod notice;
mod outbox;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use aio::{AsyncFd, Interest};

use crate::host::Host;
use crate::refusal::{Class, Refusal};
use change::{Changes, MAX_CHANGES};
use client::Client;

/// The names of all commands.
#[cfg(test)]
pub(crate) fn command_names() -> impl Iterator<Item = &'static str> {
    commands::names()
}

/// Clients at the same time, besides those that wait for a change of a disk.
const MAX_CLIENTS: usize = 16;

/// Descriptors of the control socket: itself, its clients, and one that is refused.
pub(crate) const DESCRIPTORS: u64 = 2 + (MAX_CLIENTS + MAX_CHANGES) as u64;

/// Events that are passed on before other handlers of the loop get their turn.
const PIECE: usize = 32;

/// How long no connection is accepted after accept(2) has failed.
const REST: Duration = Duration::from_millis(500);

/// How long the clients get at the end to read what was sent to them.
const GRACE: Duration = Duration::from_secs(1);

/// The clients that are connected.
#[derive(Debug, Default)]
struct Clients {
    all: RefCell<Vec<Rc<Client>>>,
    changes: Rc<Changes>,
}

/// A control socket that is served.
#[derive(Debug)]
pub(crate) struct Control {
    host: Rc<Host>,
    clients: Rc<Clients>,
}

impl Control {
    /// Serves the control socket from now on. Returns at once.
    ///
    /// # Errors
    /// What registering the socket with the loop returns.
    pub(crate) fn serve(host: &Rc<Host>, listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = host.context.async_fd(listener)?;
        let this = Self { host: Rc::clone(host), clients: Rc::default() };
        let (events_of, of_events) = (Rc::clone(host), Rc::clone(&this.clients));
        drop(host.context.spawn(pass_events_on(events_of, of_events)).named("control: events"));
        let accept = accept(Rc::clone(host), Rc::clone(&this.clients), listener);
        drop(host.context.spawn(accept).named("control: accept"));
        Ok(this)
    }

    /// Waits until the clients have what was sent to them, for a second at most: the process is
    /// about to end.
    pub(crate) async fn drain(&self) {
        // What has just happened becomes an event in this turn.
        self.host.context.yield_now().await;
        let all = async {
            for client in self.clients.all() {
                client.drained().await;
            }
        };
        let _ = self.host.context.timeout(GRACE, all).await;
    }
}

impl Clients {
    fn all(&self) -> Vec<Rc<Client>> {
        self.all.borrow().clone()
    }

    /// Whether one more is served.
    fn have_room(&self) -> bool {
        // All of them: some of those that wait may be done soon.
        let all = self.all.borrow();
        let waiting = all.iter().filter(|client| client.is_waiting()).count();
        all.len() - waiting < MAX_CLIENTS && all.len() < MAX_CLIENTS + MAX_CHANGES
    }
}

async fn pass_events_on(host: Rc<Host>, clients: Rc<Clients>) {
    for count in 1_usize.. {
        if count.is_multiple_of(PIECE) {
            host.context.yield_now().await;
        }
        let event = host.shared.events.next().await;
        let line = notice::line(&event);
        for client in clients.all() {
            client.send(&line);
        }
    }
}

/// Accepts one connection in each turn.
async fn accept(host: Rc<Host>, clients: Rc<Clients>, listener: AsyncFd<UnixListener>) {
    let mut is_failing = false;
    loop {
        match listener.io(Interest::READABLE, UnixListener::accept).await {
            Ok((stream, _)) => {
                is_failing = false;
                if let Err(error) = begin(&host, &clients, stream) {
                    say!("a client of the control socket cannot be served: {error}");
                }
            }
            // This connection ended before it was accepted.
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    say!("the control socket accepts no connections for now: {error}");
                }
                host.context.sleep(REST).await;
            }
        }
        host.context.yield_now().await;
    }
}

fn begin(host: &Rc<Host>, clients: &Rc<Clients>, stream: UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    if !clients.have_room() {
        let why = format!("{MAX_CLIENTS} clients are connected, and no more are served");
        let answer = message::answer(Err(&Refusal::new(Class::GenericError, why)), None);
        // A new socket has room for it.
        let _ = (&stream).write(answer.as_bytes());
        return Ok(());
    }
    let client = Client::new(host.context.async_fd(stream)?, host.context.local_handle());
    clients.all.borrow_mut().push(Rc::clone(&client));
    host.shared.events.set_open(true);
    client.send(&message::greeting());
    drop(host.context.spawn(client::write(Rc::clone(&client))).named("control: to a client"));
    let (host, clients) = (Rc::clone(host), Rc::clone(clients));
    let context = host.context.clone();
    let talk = async move {
        client::read(Rc::clone(&client), Rc::clone(&host), Rc::clone(&clients.changes)).await;
        clients.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, &client));
        if clients.all.borrow().is_empty() {
            host.shared.events.set_open(false);
        }
    };
    drop(context.spawn(talk).named("control: from a client"));
    Ok(())
}
