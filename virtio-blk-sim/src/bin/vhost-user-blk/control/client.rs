//! One client of the control socket. One task reads its requests and carries them out, and another
//! one sends it the answers and the events.

use std::cell::Cell;
use std::fmt;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use aio::{AsyncFd, Interest, LocalHandle};

use super::change::{Change, Changes};
use super::commands::{self, Step};
use super::lines::{Lines, MAX_LINE};
use super::message::{self, Request};
use super::outbox::Outbox;
use crate::host::Host;
use crate::refusal::{Class, Refusal};
use crate::wait::unless;

/// How long a client may not read while something waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of one read(2).
const PIECE: usize = 4096;

pub(super) struct Client {
    stream: AsyncFd<UnixStream>,
    outbox: Outbox,
    context: LocalHandle,
    /// A command of it is being carried out that may wait.
    is_waiting: Cell<bool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(stream: AsyncFd<UnixStream>, context: LocalHandle) -> Rc<Self> {
        let (outbox, is_waiting) = (Outbox::default(), Cell::new(false));
        Rc::new(Self { stream, outbox, context, is_waiting })
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    /// Has a change carried out, and waits for its outcome. `None` if the client has hung up before
    /// that: then the change goes on.
    async fn wait_for(
        &self,
        change: Change,
        host: &Rc<Host>,
        changes: &Changes,
    ) -> Option<Result<String, Refusal>> {
        let ongoing = match changes.begin(&change) {
            Ok(ongoing) => ongoing,
            Err(refusal) => return Some(Err(refusal)),
        };
        self.is_waiting.set(ongoing.may_wait());
        let of_task = Rc::clone(host);
        let task = host.context.spawn(async move {
            let _ongoing = ongoing;
            change.carry_out(&of_task).await
        });
        // Not for a client that has only shut down its side: it may read the answer.
        let hung_up = async { _ = self.stream.ready(Interest::NONE).await };
        let outcome = unless(task, hung_up).await;
        self.is_waiting.set(false);
        // A panic has been reported.
        outcome.map(|outcome| outcome.unwrap_or_else(|error| Err(error.to_string().into())))
    }

    /// Sends a line, later. Closes the connection if the client reads too little.
    pub(super) fn send(&self, line: &str) {
        if !self.outbox.push(line) {
            say!("a client of the control socket does not read its events; closing the connection");
            self.close();
        }
    }

    /// Waits until everything is sent, or nothing more can be.
    pub(super) async fn drained(&self) {
        self.outbox.drained().await;
    }

    fn close(&self) {
        self.outbox.close();
        // The other task reads the end of the stream.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}

/// Sends what waits for the client, until the connection is closed.
pub(super) async fn write(client: Rc<Client>) {
    while let Some(bytes) = client.outbox.take().await {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let write = client.stream.io(Interest::WRITABLE, |mut stream| stream.write(rest));
            let Ok(Ok(count)) = client.context.timeout(PATIENCE, write).await else {
                return client.close();
            };
            rest = rest.get(count..).unwrap_or_default();
        }
        client.outbox.sent();
    }
}

/// Carries out the requests of the client, until the connection is closed.
pub(super) async fn read(client: Rc<Client>, host: Rc<Host>, changes: Rc<Changes>) {
    let mut lines = Lines::default();
    let mut piece = vec![0; PIECE];
    loop {
        let next = lines.next();
        let Some(line) = next else {
            let read = client.stream.io(Interest::READABLE, |mut stream| stream.read(&mut piece)).await;
            match read {
                Ok(count) if count > 0 => lines.push(piece.get(..count).unwrap_or_default()),
                // A half line at the end is not carried out.
                _ => break,
            }
            host.context.yield_now().await;
            continue;
        };
        let Ok(line) = line else {
            let why = format!("the line is longer than {MAX_LINE} bytes");
            client.send(&message::answer(Err(&Refusal::new(Class::InvalidRequest, why)), None));
            break;
        };
        let mut stop = None;
        if let Some(Request { id, command }) = Request::parse(line) {
            let step = match command {
                Ok(command) => commands::execute(&host, command).await,
                Err(refusal) => Err(refusal),
            };
            let outcome = match step {
                Ok(Step::Answer(answer)) => Ok(answer),
                Ok(Step::Change(change)) => match client.wait_for(change, &host, &changes).await {
                    Some(outcome) => outcome,
                    None => break,
                },
                Ok(Step::Stop { force }) => {
                    stop = Some(force);
                    Ok("{}".to_owned())
                }
                Err(refusal) => Err(refusal),
            };
            client.send(&message::answer(outcome.as_ref().map(String::as_str), id));
        }
        // A client that does not read its answers gets no more of them.
        client.drained().await;
        match stop {
            // What was read before the end of the process is not begun any more.
            None if host.is_stopping() => break,
            None => host.context.yield_now().await,
            Some(false) => {
                host.stop();
                break;
            }
            Some(true) => {
                host.stop_by_force();
                break;
            }
        }
    }
    client.drained().await;
    client.close();
}
