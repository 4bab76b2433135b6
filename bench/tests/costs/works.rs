//! The works that are counted, and the part of them that counts.

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::time::Duration;
use tempfile::NamedTempFile;
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::{Backend, FileImage, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::guest::{BlkDriver, Completion, QueueShape, VhostUserDisk, Waiting};
use virtio_blk_sim::vhost_user::{Loops, Served, Server};

/// Exit code of a process whose kernel does not have what the work needs.
pub(crate) const CANNOT: u8 = 3;
/// How often the counted part repeats what is counted once.
pub(crate) const ROUNDS: u64 = 64;
/// Rounds before that, in which everything reaches its final size.
const WARM_UP: u64 = 32;
/// Paths that do not exist. A call that names one separates what counts from the rest.
pub(crate) const MARKS: [&str; 2] = ["/counted/begin", "/counted/end"];

const BLOCK: u32 = 4096;
const IMAGE_BYTES: usize = 1 << 20;
/// How long a server may take to answer a message, also under a tool that slows it down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `work`. Callgrind counts the instructions in here, and strace's output is read between the
/// marks. Never inlined, or callgrind would not know it.
#[inline(never)]
pub(crate) fn counted(work: &mut dyn FnMut() -> io::Result<bool>) -> io::Result<bool> {
    black_box(work())
}

/// A mark in strace's output.
fn mark(path: &str) {
    let _ = std::fs::metadata(path);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskKind {
    Null,
    /// A file in the page cache.
    Cached,
    /// A file past the page cache.
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A turn that answers one notifier by a callback.
    Turn(MonitorKind),
    /// A turn that answers one notifier by a task that awaits it.
    Awaited(MonitorKind),
    /// Requests of a guest at a vhost-user server. The guest kicks once for `depth` of them, and
    /// the next ones follow when all are answered.
    Requests { disk: DiskKind, write: bool, depth: u16, waiting: Waiting },
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Turn(kind) => write!(f, "turn, {kind}"),
            Work::Awaited(kind) => write!(f, "awaited event, {kind}"),
            Work::Requests { disk, write, depth, waiting } => {
                let disk = match disk {
                    DiskKind::Null => "null",
                    DiskKind::Cached => "cached",
                    DiskKind::Direct => "direct",
                };
                let way = if *write { "write" } else { "read" };
                let client = match waiting {
                    Waiting::Sleeping => "sleeping",
                    Waiting::Spinning => "spinning",
                };
                write!(f, "{disk} {way}, depth {depth}, {client}")
            }
        }
    }
}

impl Work {
    pub(crate) fn all() -> Vec<Self> {
        let mut works: Vec<_> =
            MonitorKind::ALL.into_iter().flat_map(|kind| [Self::Turn(kind), Self::Awaited(kind)]).collect();
        for waiting in [Waiting::Sleeping, Waiting::Spinning] {
            for depth in [1, 4, 32] {
                for (disk, write) in [
                    (DiskKind::Null, false),
                    (DiskKind::Null, true),
                    (DiskKind::Cached, false),
                    (DiskKind::Cached, true),
                ] {
                    // Worker threads of the kernel write to the page cache, so several writes
                    // end in an order of their own, which is different each time.
                    if disk == DiskKind::Cached && write && depth > 1 {
                        continue;
                    }
                    works.push(Self::Requests { disk, write, depth, waiting });
                }
            }
            // More in flight complete as the disk likes, which is different each time.
            for write in [false, true] {
                works.push(Self::Requests { disk: DiskKind::Direct, write, depth: 1, waiting });
            }
        }
        works
    }

    /// How many turns, events or requests the counted part has.
    pub(crate) fn units(self) -> u64 {
        match self {
            Work::Turn(_) | Work::Awaited(_) => ROUNDS,
            Work::Requests { depth, .. } => ROUNDS * u64::from(depth),
        }
    }

    /// Does the work. An error means that it cannot be done here.
    pub(crate) fn run(self) -> io::Result<()> {
        // The first call of its kind makes one more.
        mark(MARKS[1]);
        match self {
            Work::Turn(kind) => bell(kind, false),
            Work::Awaited(kind) => bell(kind, true),
            Work::Requests { disk, write, depth, waiting } => requests(disk, write, depth, waiting),
        }
    }
}

/// Rings and turns.
fn bell(kind: MonitorKind, awaited: bool) -> io::Result<()> {
    let ctx = AioContext::builder().monitor(kind).build()?;
    let (kick, rings) = (EventNotifier::new(Reset::Autoreset)?, Rc::new(Cell::new(0u64)));
    let count = Rc::clone(&rings);
    let _registration = if awaited {
        let mut doorbell = ctx.doorbell(&kick)?;
        drop(ctx.spawn(async move {
            loop {
                doorbell.rung().await;
                count.set(count.get() + 1);
            }
        }));
        None
    } else {
        Some(ctx.add_notifier(&kick, move |_| count.set(count.get() + 1))?)
    };
    let ring = |counts: bool| {
        kick.notify()?;
        let before = rings.get();
        while rings.get() == before {
            turn(&ctx, counts)?;
        }
        Ok::<_, io::Error>(())
    };
    (0..WARM_UP).try_for_each(|_| ring(false))?;
    (0..ROUNDS).try_for_each(|_| ring(true))
}

/// One turn that may sleep.
fn turn(ctx: &AioContext, counts: bool) -> io::Result<()> {
    if !counts {
        return ctx.poll(true).map(drop);
    }
    mark(MARKS[0]);
    let result = counted(&mut || ctx.poll(true));
    mark(MARKS[1]);
    result.map(drop)
}

fn requests(disk: DiskKind, write: bool, depth: u16, waiting: Waiting) -> io::Result<()> {
    let ctx = AioContext::builder().monitor(MonitorKind::IoUring).build()?;
    let (mut image, file) = (NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?, disk != DiskKind::Null);
    image.write_all(&vec![0xa5; if file { IMAGE_BYTES } else { 0 }])?;
    image.as_file().sync_all()?;
    let (config, backend) = if file {
        let opened = FileImage::open(image.path(), false, disk == DiskKind::Direct);
        let opened = opened.map_err(|e| io::Error::new(io::ErrorKind::Unsupported, e.to_string()))?;
        // Not `File`: whether it makes calls in the loop's thread depends on how long they take.
        (opened.device_config(), Backend::IoUring(Arc::new(opened)))
    } else {
        (DeviceConfig::new(IMAGE_BYTES as u64 / 512), Backend::Null(Null::default()))
    };
    let device = BlockDevice::new(config).map_err(|e| other(&e))?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    let server = Server::new(Served::new(Disk::new(device, backend)), Loops::own());
    let _listening = server.listen(&ctx, UnixListener::bind(&path)?)?;
    let (_disk, mut driver) = connect(&ctx, &path, depth)?;
    driver.set_waiting(waiting);

    let mut finished: Vec<Completion> = Vec::new();
    let mut round = |counts: bool| {
        for slot in 0..depth {
            let sector = u64::from(slot) * u64::from(BLOCK / 512);
            if write { driver.write(slot, sector) } else { driver.read(slot, sector) }
                .map_err(|e| other(&e))?;
        }
        driver.kick().map_err(|e| other(&e))?;
        while finished.len() < usize::from(depth) {
            turn(&ctx, counts)?;
            driver.reap(&mut finished).map_err(|e| other(&e))?;
        }
        if finished.drain(..).any(|completion| completion.status != 0) {
            return Err(io::Error::other("a request failed"));
        }
        Ok(())
    };
    (0..WARM_UP).try_for_each(|_| round(false))?;
    (0..ROUNDS).try_for_each(|_| round(true))
}

/// Connects a guest to the server of `ctx`, which is turned meanwhile.
fn connect(ctx: &AioContext, path: &Path, depth: u16) -> io::Result<(VhostUserDisk, BlkDriver)> {
    let features = Features::INDIRECT_DESC | Features::FLUSH | Features::EVENT_IDX;
    let shape = QueueShape { size: 256, slots: depth, block_bytes: BLOCK, features };
    let (connected, result) = mpsc::channel();
    let path = path.to_owned();
    let frontend = std::thread::spawn(move || {
        let outcome = VhostUserDisk::connect(path, PATIENCE, shape);
        // If it cannot be sent, the main thread has failed.
        let _ = connected.send(outcome);
    });
    let outcome = loop {
        // Not a sleep in io_uring_enter(2): valgrind runs one thread at a time, and does not let
        // another one run during that call.
        ctx.poll(false)?;
        std::thread::sleep(Duration::from_millis(1));
        match result.try_recv() {
            Ok(outcome) => break outcome,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the frontend has panicked")),
        }
    };
    let _ = frontend.join();
    outcome.map_err(|e| other(&e))
}

fn other(error: &dyn fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
