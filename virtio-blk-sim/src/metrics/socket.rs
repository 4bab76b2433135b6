//! The text on a Unix socket, for `curl --unix-socket`, socat, and proxies of Prometheus.
//!
//! A client asks with HTTP (`GET /metrics`), or sends an empty line or nothing and closes its side:
//! then it gets the text without headers. Clients are not trusted. There are at most eight, further
//! ones are closed; a request has at most 8 KiB; and a client that has not sent its request or not
//! read the answer in five seconds is closed.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use aio::{AioContext, AsyncFd, Interest, LocalHandle};

use super::exporter::Exporter;
use super::http::{self, LONGEST, Wanted};
use crate::accept::Accepting;
use crate::log::Line;

/// Clients of a socket at a time; further ones are closed.
pub const MAX_CLIENTS: usize = 8;

/// How long a client may take to send its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that are written before the loop looks at everything else.
const PER_TURN: usize = 1 << 16;

/// A socket that serves the text of an [`Exporter`]. Dropping it stops listening; clients that are
/// being served get their answer.
#[must_use = "dropping it stops listening"]
#[derive(Debug)]
pub struct Scrapers {
    _accepting: Accepting,
}

impl Exporter {
    /// Serves the text to clients of a listening socket.
    ///
    /// # Errors
    /// Returns the error of setting the socket non-blocking or of registering it with the loop.
    pub fn listen(self: &Rc<Self>, context: &AioContext, listener: UnixListener) -> io::Result<Scrapers> {
        let (exporter, clients) = (Rc::clone(self), Rc::new(Cell::new(0)));
        let take = move |context: &AioContext, stream: UnixStream| {
            if clients.get() >= MAX_CLIENTS {
                return drop(stream);
            }
            clients.set(clients.get() + 1);
            let place = Place(Rc::clone(&clients));
            let (exporter, local) = (Rc::clone(&exporter), context.local_handle());
            drop(context.spawn(async move {
                let _place = place;
                // The client is gone, or is not worth more patience.
                let _ = serve(&exporter, &local, stream).await;
            }));
        };
        let log = |line: std::fmt::Arguments<'_>| Line::warn(line).device("metrics").limited();
        Ok(Scrapers {
            _accepting: Accepting::new(context, listener, Accepting::allowance().into(), take, log)?,
        })
    }
}

/// The place of a client.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn serve(exporter: &Exporter, context: &LocalHandle, stream: UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let socket = context.async_fd(stream).map_err(|refused| refused.error)?;
    let late = |_| io::Error::from(ErrorKind::TimedOut);
    let wanted = context.timeout(PATIENCE, request(&socket)).await.map_err(late)??;
    let text = match wanted {
        Wanted::Refusal(_) => Ok("".into()),
        _ => exporter.text().await,
    };
    let (head, body) = match (wanted, text) {
        (_, Err(error)) => {
            let line = format_args!("there is no text: {error}");
            Line::warn(line).device("metrics").caused_by(&error).limited();
            (http::headers("500 Internal Server Error", 0), None)
        }
        (Wanted::Refusal(status), _) => (http::headers(status, 0), None),
        (Wanted::Headers, Ok(text)) => (http::headers("200 OK", text.len()), None),
        (Wanted::Text, Ok(text)) => (http::headers("200 OK", text.len()), Some(text)),
        (Wanted::Plain | Wanted::More, Ok(text)) => (String::new(), Some(text)),
    };
    let answer = async {
        write(context, &socket, head.as_bytes()).await?;
        match &body {
            Some(text) => write(context, &socket, text.as_bytes()).await,
            None => Ok(()),
        }
    };
    context.timeout(PATIENCE, answer).await.map_err(late)??;
    socket.get_ref().shutdown(Shutdown::Write)
}

/// Reads a request, and no more than that.
async fn request(socket: &AsyncFd<UnixStream>) -> io::Result<Wanted> {
    let mut buffer = [0; LONGEST];
    let mut length = 0;
    loop {
        // There is room, or `parse` would not want more.
        let free = buffer.get_mut(length..).unwrap_or_default();
        let count = socket.io(Interest::READABLE, |mut stream| stream.read(free)).await?;
        length += count;
        match http::parse(buffer.get(..length).unwrap_or_default(), count == 0) {
            Wanted::More => {}
            wanted => return Ok(wanted),
        }
    }
}

async fn write(context: &LocalHandle, socket: &AsyncFd<UnixStream>, mut bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while !bytes.is_empty() {
        if written >= PER_TURN {
            written = 0;
            context.sleep(Duration::from_nanos(1)).await;
        }
        let some = bytes.get(..PER_TURN).unwrap_or(bytes);
        let count = socket.io(Interest::WRITABLE, |mut stream| stream.write(some)).await?;
        if count == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        written += count;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}
