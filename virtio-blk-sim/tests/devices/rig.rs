//! A device on an IoThread, and a guest that has its queues.

use std::any::Any;
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aio::{AioContext, EventNotifier, IoThread, Reset};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, Listening, Loops, ProtocolFeatures, RingDevice, Served, Server,
};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::Bytes;

use super::vring::{Vring, hang_up, share_ram};

/// Far beyond what any step takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// `VIRTIO_F_VERSION_1`.
pub(crate) const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;

thread_local! {
    /// What runs on this IoThread: a server and what belongs to it.
    static RUNNING: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// A name for a socket that nobody else uses.
pub(crate) fn temp_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("devices-{}-{count}.sock", std::process::id()));
    // A former process of this number may have been killed.
    let _ = std::fs::remove_file(&path);
    path
}

/// A server that runs until it is dropped.
pub(crate) struct TestServer {
    pub(crate) path: PathBuf,
    thread: Option<IoThread>,
}

impl TestServer {
    /// `more` starts what else runs on the loop, and is kept with the server.
    pub(crate) fn new<D: RingDevice>(
        served: Served<D>,
        threads: usize,
        more: impl FnOnce(&AioContext) -> Box<dyn Any> + Send + 'static,
    ) -> Self {
        Self::with_loops(served, move |_| Loops::spawn(threads, Vec::new(), &AioContext::builder()), more)
    }

    /// The same with the queues on the loops that `loops` makes for the device.
    pub(crate) fn with_loops<D: RingDevice>(
        served: Served<D>,
        loops: impl FnOnce(&D) -> std::io::Result<Loops> + Send + 'static,
        more: impl FnOnce(&AioContext) -> Box<dyn Any> + Send + 'static,
    ) -> Self {
        let path = temp_path();
        let listener = UnixListener::bind(&path).unwrap();
        let thread = IoThread::spawn_with("server", AioContext::builder(), move |context| {
            let loops = loops(&served.device)?;
            let server = Server::new(served, loops);
            let listening = server.listen(context, listener)?;
            RUNNING.with_borrow_mut(|running| {
                running.push(Box::new(listening));
                running.push(more(context));
            });
            Ok(())
        })
        .unwrap();
        Self { path, thread: Some(thread) }
    }

    /// Asks the server something, on its thread.
    pub(crate) fn ask<D: 'static, R: Send + 'static>(
        &self,
        question: impl FnOnce(&Listening<D>) -> R + Send + 'static,
    ) -> R {
        let ask = move |_: &AioContext| {
            RUNNING.with_borrow(|running| question(running[0].downcast_ref::<Listening<D>>().unwrap()))
        };
        self.thread.as_ref().unwrap().run(ask).unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let gone = thread.run(|_| drop(RUNNING.take()));
            // A test that fails already need not fail twice.
            if !std::thread::panicking() {
                gone.unwrap();
                thread.stop().unwrap();
            }
        }
    }
}

/// The VMM of a guest: a session of its own for each connection.
pub(crate) struct Vmm {
    pub(crate) frontend: Frontend,
}

/// A queue's eventfds.
pub(crate) struct Lines {
    pub(crate) kick: EventNotifier,
    call: EventNotifier,
    pub(crate) error: EventNotifier,
}

impl Vmm {
    /// Shares all RAM regions except those whose start address is in `canaries`.
    pub(crate) fn new(server: &TestServer, ram: &GuestRam, canaries: &[u64]) -> Self {
        let mut frontend = Frontend::connect(&server.path, Duration::from_secs(10)).unwrap();
        frontend.set_owner().unwrap();
        let wanted = ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::RESET_DEVICE
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::BACKEND_REQ;
        let offered = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(offered.intersection(wanted)).unwrap();
        share_ram(&mut frontend, ram, canaries);
        Self { frontend }
    }

    /// Starts a queue whose rings are laid out, from index 0.
    pub(crate) fn start(&mut self, index: u8, queue: &QueueConfig) -> Lines {
        let on = |on: bool, bit: u64| if on { bit } else { 0 };
        let features =
            VERSION_1 | F_PROTOCOL_FEATURES | on(queue.event_idx, EVENT_IDX) | on(queue.indirect, INDIRECT);
        let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
        self.frontend.set_features(features).unwrap();
        let (kick_fd, call_fd, error_fd) = (kick.as_fd(), call.as_fd(), error.as_fd());
        Vring { index, config: queue, base: 0, kick: kick_fd, call: call_fd, error: error_fd }
            .start(&mut self.frontend, true)
            .unwrap();
        Lines { kick, call, error }
    }

    /// Ends the session without stopping anything first.
    pub(crate) fn hang_up(&self) {
        hang_up(&self.frontend);
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

/// A guest's driver of one queue with buffers of [`Ring::BUFFER`] bytes.
pub(crate) struct Ring {
    pub(crate) driver: DriverQueue,
    pub(crate) lines: Lines,
    base: u64,
    free: Vec<u16>,
    /// The buffer of each chain, by its head.
    buffers: Vec<Option<u16>>,
}

impl Ring {
    pub(crate) const SIZE: u16 = 16;
    pub(crate) const BUFFER: u32 = 4096;
    /// Guest memory for one.
    pub(crate) const BYTES: u64 = 0x2000 + Self::SIZE as u64 * Self::BUFFER as u64;

    /// Lays out queue `index`, each in its own part of the guest's RAM, and starts it.
    pub(crate) fn new(vmm: &mut Vmm, ram: &GuestRam, index: u8) -> Self {
        let base = u64::from(index) * Self::BYTES;
        let config = QueueConfig { event_idx: true, ..QueueConfig::at(GuestAddress(base), Self::SIZE) };
        let driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
        let lines = vmm.start(index, &config);
        let buffers = vec![None; usize::from(Self::SIZE)];
        Self { driver, lines, base, free: (0..Self::SIZE).collect(), buffers }
    }

    fn address(&self, buffer: u16) -> GuestAddress {
        GuestAddress(self.base + 0x2000 + u64::from(buffer) * u64::from(Self::BUFFER))
    }

    fn kick(&mut self) {
        if self.driver.publish() {
            self.lines.kick.notify().unwrap();
        }
    }

    pub(crate) fn ring_doorbell(&self) {
        self.lines.kick.notify().unwrap();
    }

    /// Offers all free buffers for the device to write.
    pub(crate) fn offer(&mut self) {
        while let Some(buffer) = self.free.pop() {
            let at = self.address(buffer);
            let head = self.driver.add(&[], &[(at, Self::BUFFER)]).unwrap().unwrap();
            self.buffers[usize::from(head)] = Some(buffer);
        }
        self.kick();
    }

    /// Sends as much as there are free buffers for; returns how many bytes.
    pub(crate) fn send(&mut self, ram: &GuestRam, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for part in bytes.chunks(Self::BUFFER as usize) {
            let Some(buffer) = self.free.pop() else { break };
            let at = self.address(buffer);
            ram.memory().write_slice(part, at).unwrap();
            let head = self.driver.add(&[(at, part.len() as u32)], &[]).unwrap().unwrap();
            self.buffers[usize::from(head)] = Some(buffer);
            sent += part.len();
        }
        self.kick();
        sent
    }

    /// Takes one answer: the bytes that the device has written.
    pub(crate) fn take(&mut self, ram: &GuestRam) -> Option<Vec<u8>> {
        let (head, written) = self.driver.pop_used().unwrap()?;
        let buffer = self.buffers[usize::from(head)].take().expect("a chain that was posted");
        assert!(written <= Self::BUFFER);
        let mut bytes = vec![0; written as usize];
        ram.memory().read_slice(&mut bytes, self.address(buffer)).unwrap();
        self.free.push(buffer);
        Some(bytes)
    }

    /// Waits for an answer.
    pub(crate) fn wait(&mut self, ram: &GuestRam) -> Vec<u8> {
        let mut taken = None;
        wait_until("an answer", || {
            taken = self.take(ram);
            taken.is_some()
        });
        taken.unwrap()
    }

    /// Whether the device has interrupted since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        self.lines.call.test_and_clear().unwrap()
    }
}
