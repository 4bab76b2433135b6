//! One client of the control socket. One task reads its requests and carries them out, and another
//! one sends it the answers and the events.

use std::fmt;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use aio::{AsyncFd, Interest, LocalHandle};

use super::commands::{self, After};
use super::lines::{Lines, MAX_LINE};
use super::message::{self, Request};
use super::outbox::Outbox;
use crate::host::Host;
use crate::refusal::{Class, Refusal};

/// How long a client may not read while something waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of one read(2).
const PIECE: usize = 4096;

pub(super) struct Client {
    stream: AsyncFd<UnixStream>,
    outbox: Outbox,
    context: LocalHandle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(stream: AsyncFd<UnixStream>, context: LocalHandle) -> Rc<Self> {
        Rc::new(Self { stream, outbox: Outbox::default(), context })
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
pub(super) async fn read(client: Rc<Client>, host: Rc<Host>) {
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
        let after = match Request::parse(line) {
            None => After::Continue,
            Some(Request { id, command }) => {
                let (outcome, after) = match command {
                    Ok(command) => commands::execute(&host, command).await,
                    Err(refusal) => (Err(refusal), After::Continue),
                };
                let outcome = outcome.as_ref().map(String::as_str);
                client.send(&message::answer(outcome, id));
                after
            }
        };
        // A client that does not read its answers gets no more of them.
        client.drained().await;
        match after {
            // What was read before the end of the process is not begun any more.
            After::Continue if host.is_stopping() => break,
            After::Continue => host.context.yield_now().await,
            After::Stop => {
                host.stop();
                break;
            }
        }
    }
    client.drained().await;
    client.close();
}
