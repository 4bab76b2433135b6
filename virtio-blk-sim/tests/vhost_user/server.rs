//! A server in this process, on an IoThread.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aio::{AioContext, Builder, IoThread, Reset};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::{Backend, FileImage};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::queue::RateLimit;
use virtio_blk_sim::vhost_user::{Listening, Loops, ProtocolFeatures, Served, Server};

use super::SECTORS;

thread_local! {
    /// The server of this IoThread.
    static SERVER: RefCell<Option<Listening<Disk>>> = const { RefCell::new(None) };
}

/// A unique path in the temporary directory. The file is removed on drop.
pub(crate) struct TempPath(PathBuf);

impl TempPath {
    pub(crate) fn new(suffix: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("vhost-user-{}-{}.{suffix}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    /// A file in this directory.
    pub(crate) fn inside(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Creates an image of zeroes.
    pub(crate) fn image() -> Self {
        Self::zeroes(SECTORS * 512)
    }

    pub(crate) fn zeroes(bytes: u64) -> Self {
        let path = Self::new("img");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }
}

impl AsRef<Path> for TempPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Options for building a server.
pub(crate) struct Setup {
    pub(crate) builder: Builder,
    pub(crate) reset: Reset,
    pub(crate) backend: Backend,
    /// The device. If none, it has the size of the backend and the queues given below.
    pub(crate) device: Option<DeviceConfig>,
    pub(crate) queues: u16,
    /// Size of the largest queue, and descriptors of the longest chain.
    pub(crate) queue_size: u16,
    pub(crate) threads: usize,
    pub(crate) limit: Option<Arc<RateLimit>>,
    /// Most tests send more messages than any frontend.
    pub(crate) throttles: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            builder: AioContext::builder(),
            reset: Reset::Autoreset,
            backend: Backend::memory(SECTORS).unwrap(),
            device: None,
            queues: 1,
            queue_size: 256,
            threads: 0,
            limit: None,
            throttles: false,
        }
    }
}

impl Setup {
    pub(crate) fn file(path: &TempPath) -> Backend {
        Backend::File(Arc::new(FileImage::open(path, false, false).unwrap()))
    }
}

/// A server that runs until it is dropped.
pub(crate) struct TestServer {
    socket: TempPath,
    thread: Option<IoThread>,
}

impl TestServer {
    pub(crate) fn new(setup: Setup) -> Self {
        let socket = TempPath::new("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let Setup { builder, reset, backend, device, queues, queue_size, threads, limit, throttles } = setup;
        let sectors = match &backend {
            Backend::File(image) => image.capacity_sectors(),
            _ => SECTORS,
        };
        let builder = builder.reset(reset);
        let of_queues = builder.clone();
        let thread = IoThread::spawn_with("server", builder, move |context| {
            let sized = DeviceConfig { num_queues: queues, queue_size, ..DeviceConfig::new(sectors) };
            let config = device.unwrap_or(sized);
            let device = Arc::new(BlockDevice::new(config).unwrap());
            let loops = Loops::spawn(threads, Vec::new(), &of_queues)?;
            let device = Arc::new(Disk::shared(device, backend));
            let withheld = ProtocolFeatures::NONE;
            let server = Server::new(Served { device, limit, reset, withheld, throttles }, loops);
            let listening = server.listen(context, listener)?;
            SERVER.with_borrow_mut(|slot| *slot = Some(listening));
            Ok(())
        })
        .unwrap();
        Self { socket, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> &TempPath {
        &self.socket
    }

    /// Calls a function with the server, on the server's thread.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Listening<Disk>, &AioContext) -> R + Send + 'static,
    ) -> R {
        let ask =
            move |context: &AioContext| SERVER.with_borrow(|slot| question(slot.as_ref().unwrap(), context));
        self.thread.as_ref().unwrap().run(ask).unwrap()
    }

    /// Returns the number of requests that the running queues have completed.
    pub(crate) fn answered(&self) -> u64 {
        self.ask(|server, _| server.stats().iter().map(|(_, stats)| stats.requests).sum())
    }

    /// Waits until the server has noticed that its frontend disconnected. Each iteration is a call
    /// that its loop handles.
    pub(crate) fn wait_disconnected(&self) {
        while self.ask(|server, _| server.is_connected()) {
            std::thread::yield_now();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let gone = thread.run(|context| {
                let listening = SERVER.with_borrow_mut(Option::take);
                if let Some(listening) = listening {
                    listening.shut_down(context);
                }
            });
            // If the test has already failed, do not panic again.
            if !std::thread::panicking() {
                gone.unwrap();
                thread.stop().unwrap();
            }
        }
    }
}
