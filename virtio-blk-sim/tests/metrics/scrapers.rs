//! Who asks for the text: clients of a socket, which are not trusted, and a file.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use aio::{AioContext, IoThread, Stats};
use virtio_blk_sim::blk::backend::{Backend, Null};
use virtio_blk_sim::metrics::{Exporter, Frontends, Meters, Scrapers, Written};

use super::openmetrics::Document;
use super::rig::{Guest, READ, disk};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static EXPORTER: RefCell<Option<(Rc<Exporter>, Scrapers)>> = const { RefCell::new(None) };
    static WRITTEN: RefCell<Option<Written>> = const { RefCell::new(None) };
}

/// A path of its own, removed at the end.
struct TempPath(PathBuf);

impl TempPath {
    fn new(extension: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("virtio-blk-sim-scrape-{}-{number}.{extension}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An exporter with so many disks, whose socket is served by a thread of its own.
struct Host {
    socket: TempPath,
    thread: IoThread,
}

impl Host {
    fn new(disks: usize, loops: Vec<Arc<IoThread>>) -> Self {
        let socket = TempPath::new("sock");
        let listener = UnixListener::bind(&socket.0).unwrap();
        let thread = IoThread::spawn_with("exporter", AioContext::builder(), move |context| {
            let exporter = Exporter::new(context);
            loops.iter().for_each(|thread| exporter.add_loop(thread));
            for number in 0..disks {
                exporter.add_disk(&format!("disk-{number}"), &Meters::new(1), Frontends::default);
            }
            let scrapers = exporter.listen(context, listener)?;
            EXPORTER.with_borrow_mut(|slot| *slot = Some((exporter, scrapers)));
            Ok(())
        })
        .unwrap();
        Self { socket, thread }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket.0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        match stream.write_all(request) {
            // The server has answered, or closed the connection, before it was all written.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
        read_all(&mut stream)
    }

    fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&AioContext, &Rc<Exporter>) -> R + Send + 'static,
    ) -> R {
        let run =
            move |context: &AioContext| EXPORTER.with_borrow(|slot| work(context, &slot.as_ref().unwrap().0));
        self.thread.run(run).unwrap()
    }
}

/// What a server sends until it closes the connection.
fn read_all(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        // It was closed with a request that was not read.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_client_asks_with_http_or_without() {
    let host = Host::new(2, Vec::new());
    let answer = host.exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    let media_type = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == media_type), "{head}");
    assert!(head.lines().any(|line| line == format!("Content-Length: {}", body.len())), "{head}");
    let document = Document::parse(body).unwrap();
    assert_eq!(document.get("virtio_blk_frontends_total", &[("disk", "disk-1")]), Some(0.0));

    Document::parse(&host.exchange(b"\n")).unwrap();
    let mut stream = host.connect();
    stream.shutdown(Shutdown::Write).unwrap();
    Document::parse(&read_all(&mut stream)).unwrap();

    let head = host.exchange(b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(host.exchange(b"GET /secret HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404 "));
    assert!(host.exchange(b"DELETE /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405 "));
    assert!(host.exchange(b"\x16\x03\x01\n\n").starts_with("HTTP/1.0 400 "));
}

#[test]
fn a_request_has_an_end_and_clients_have_a_number() {
    let host = Host::new(1, Vec::new());
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 1 << 14]].concat();
    assert!(host.exchange(&long).starts_with("HTTP/1.0 431 "));
    // Eight clients that say nothing take all places.
    let idle: Vec<_> = (0..8).map(|_| host.connect()).collect();
    for _ in 0..20 {
        assert_eq!(read_all(&mut host.connect()), "");
    }
    drop(idle);
    // A place is free when the loop has seen that its client is gone.
    let start = Instant::now();
    while !host.exchange(b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200") {
        assert!(start.elapsed() < PATIENCE / 2);
    }
}

#[test]
fn a_client_that_sends_or_reads_nothing_is_closed() {
    // More text than a socket takes.
    let host = Host::new(3000, Vec::new());
    let start = Instant::now();
    let mut silent = host.connect();
    let mut slow = host.connect();
    slow.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    // Another one is served meanwhile.
    let answer = host.exchange(b"\n");
    Document::parse(&answer).unwrap();
    assert!(answer.len() > 1 << 20);
    assert_eq!(read_all(&mut silent), "");
    assert!(start.elapsed() >= PATIENCE - Duration::from_millis(100));
    // The first part was in the socket; then it was closed.
    std::thread::sleep(PATIENCE / 2);
    let part = read_all(&mut slow);
    assert!(part.len() < answer.len(), "{}", part.len());
}

#[test]
fn one_loop_that_is_stuck_delays_only_the_text() {
    let loops: Vec<_> =
        ["stuck", "free"].map(|name| Arc::new(IoThread::spawn(name, AioContext::builder()).unwrap())).into();
    let host = Host::new(0, loops.clone());
    let (disk, meters) = disk(Backend::Null(Null::default()), 2);
    host.with(move |_, exporter| exporter.add_disk("vm1", &meters, Frontends::default));
    for (index, thread) in loops.iter().enumerate() {
        let disk = Arc::clone(&disk);
        thread
            .run(move |context| {
                let mut guest = Guest::new();
                let attached = guest.attach(context, &disk, index as u16);
                (0..5).for_each(|_| guest.post(READ));
                guest.finish(context);
                // Runs as long as its thread.
                std::mem::forget(attached);
            })
            .unwrap();
    }
    let requests = |document: &Document| document.sum("virtio_blk_requests_total", &[("disk", "vm1")]);
    let answered = |document: &Document, name| document.get("virtio_blk_loop_answered", &[("loop", name)]);
    let first = Document::parse(&host.exchange(b"\n")).unwrap();
    assert_eq!((requests(&first), answered(&first, "stuck")), (10.0, Some(1.0)));

    let (release, held) = channel::<()>();
    loops[0].handle().schedule(move |_| {
        let _ = held.recv();
    });
    let start = Instant::now();
    let mut client = host.connect();
    client.write_all(b"\n").unwrap();
    // The exporter's loop goes on.
    let turns = host.with(|context, _| context.stats().turns);
    assert!(
        host.with(|context, _| context.stats().turns) > turns && start.elapsed() < Duration::from_secs(1)
    );
    let second = Document::parse(&read_all(&mut client)).unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!((answered(&second, "stuck"), answered(&second, "free")), (Some(0.0), Some(1.0)));
    // Nothing goes back.
    assert_eq!(requests(&second), 10.0);
    drop(release);
    let third = Document::parse(&host.exchange(b"\n")).unwrap();
    assert_eq!((requests(&third), answered(&third, "stuck")), (10.0, Some(1.0)));
}

#[test]
fn nothing_runs_while_nobody_asks() {
    let other = Arc::new(IoThread::spawn("queues", AioContext::builder()).unwrap());
    let host = Host::new(10, vec![Arc::clone(&other)]);
    Document::parse(&host.exchange(b"\n")).unwrap();
    let stats = || {
        let look = |context: &AioContext| context.stats();
        (host.thread.run(look).unwrap(), other.run(look).unwrap())
    };
    // The end of the client has been handled by then.
    std::thread::sleep(Duration::from_millis(500));
    let before = stats();
    let again = stats();
    std::thread::sleep(Duration::from_secs(1));
    let after = stats();
    let wakeups = |later: (Stats, Stats), earlier: (Stats, Stats)| {
        ((later.0 - earlier.0).wakeups, (later.1 - earlier.1).wakeups)
    };
    // The looks themselves wake the loops, as they did without a pause.
    assert_eq!(wakeups(after, again), wakeups(again, before));
    assert_eq!(wakeups(after, again), (1, 1));
}

#[test]
fn texts_begin_a_tenth_of_a_second_apart_however_many_ask() {
    let host = Host::new(1, Vec::new());
    let start = Instant::now();
    let ask = || (0..4).for_each(|_| drop(Document::parse(&host.exchange(b"\n")).unwrap()));
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(ask))));
    // Sixteen answers. Four clients at a time share a text, so there were at least four.
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let host = Host::new(200, Vec::new());
    let path = TempPath::new("prom");
    let to = path.0.clone();
    host.with(move |context, exporter| {
        let written = exporter.write_to(context, to, Duration::from_millis(1));
        WRITTEN.with_borrow_mut(|slot| *slot = Some(written));
    });
    let mut texts = std::collections::BTreeSet::new();
    let start = Instant::now();
    while texts.len() < 5 && start.elapsed() < Duration::from_secs(20) {
        let Ok(text) = std::fs::read_to_string(&path.0) else { continue };
        Document::parse(&text).unwrap();
        texts.insert(text);
    }
    assert_eq!(texts.len(), 5);
    host.with(|_, _| drop(WRITTEN.with_borrow_mut(Option::take)));
    let temporary = path.0.with_extension("prom.tmp");
    let end = Instant::now();
    while temporary.exists() && end.elapsed() < Duration::from_secs(5) {
        std::thread::yield_now();
    }
    assert!(!temporary.exists());
}
