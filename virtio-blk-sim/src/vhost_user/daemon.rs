//! A whole daemon for one device, for programs that need nothing special.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use aio::AioContext;

use super::bind::{SocketFile, bind};
use super::loops::Loops;
use super::ring_device::RingDevice;
use super::server::{Listening, Server};
use super::session::Served;
use crate::signals::Signals;

/// A device that is served at a socket, on one loop in this thread, until SIGTERM or SIGINT.
///
/// ```no_run
/// # use virtio_blk_sim::blk::{Disk, backend::Backend, device::{BlockDevice, DeviceConfig}};
/// # use virtio_blk_sim::vhost_user::{Daemon, Served};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Disk::new(BlockDevice::new(DeviceConfig::new(2048))?, Backend::memory(2048)?);
/// Daemon::new(Served::new(device), "/tmp/disk.sock".as_ref(), &[])?.run(|_, _| {})?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Daemon<D> {
    // Fields are dropped in this order: the server first, and the context last.
    listening: Listening<D>,
    signals: Signals,
    _file: SocketFile,
    context: AioContext,
}

impl<D: RingDevice> Daemon<D> {
    /// Listens at `path`. Blocks SIGTERM, SIGINT and the signals of `more` for this thread, so call
    /// it before any thread starts.
    ///
    /// # Errors
    /// As for [`bind`], [`Signals::block`] and [`AioContext::new`].
    pub fn new(served: Served<D>, path: &Path, more: &[libc::c_int]) -> io::Result<Self> {
        Self::with(path, more, || Ok((served, Loops::own())))
    }

    /// The same for a device whose queues run on other loops, or which starts threads itself.
    /// `make` makes the device and the loops. It is called when the signals are blocked, so that
    /// the threads it starts inherit that.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and what `make` returns.
    pub fn with(
        path: &Path,
        more: &[libc::c_int],
        make: impl FnOnce() -> io::Result<(Served<D>, Loops)>,
    ) -> io::Result<Self> {
        let signals = Signals::block(&[&[libc::SIGTERM, libc::SIGINT], more].concat())?;
        let (listener, file) = bind(path)?;
        let context = AioContext::new()?;
        let (served, loops) = make()?;
        let server = Server::new(served, loops);
        Ok(Self { listening: server.listen(&context, listener)?, signals, _file: file, context })
    }

    /// The loop, for what else the device waits for.
    pub fn context(&self) -> &AioContext {
        &self.context
    }

    /// Serves frontends until SIGTERM or SIGINT, then stops the queues in order. `act` is called
    /// for each other signal.
    ///
    /// # Errors
    /// What [`AioContext::poll`] returns.
    pub fn run(self, act: impl Fn(&Server<D>, libc::c_int) + 'static) -> io::Result<()> {
        // Local variables are dropped last to first, so this is the order of the fields.
        let Self { context, _file, signals, listening } = self;
        let stop = Rc::new(Cell::new(false));
        let (flag, server) = (Rc::clone(&stop), Rc::clone(&listening));
        let _registration = signals.watch(&context, move |signal| match signal {
            Ok(libc::SIGTERM | libc::SIGINT) => flag.set(true),
            Ok(other) => act(&server, other),
            Err(error) => {
                crate::log::line(format_args!("cannot read signals, so this server ends: {error}"));
                flag.set(true);
            }
        })?;
        while !stop.get() {
            context.poll(true)?;
        }
        listening.shut_down(&context);
        Ok(())
    }
}
