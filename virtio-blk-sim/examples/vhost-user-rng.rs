//! An entropy device (virtio 1.2, section 5.4) for a vhost-user frontend. It fills each buffer of
//! the guest with random bytes from the host kernel.
//!
//! ```text
//! vhost-user-rng --socket /run/rng.sock
//! qemu-system-x86_64 ... -chardev socket,id=rng,path=/run/rng.sock \
//!     -device vhost-user-rng-pci,chardev=rng
//! ```
//!
//! This is the simplest device of this crate. Its only queue completes each chain immediately, so
//! its worker implements [`Handled`]. It offers only the features of the ring and has no
//! configuration space.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use aio::AioContext;
use clap::Parser;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_blk_sim::queue::{Device, Handled, Immediate, QueueRef, RING_FEATURES};
use virtio_blk_sim::vhost_user::{Daemon, ProtocolFeatures, Served};
use virtio_blk_sim::virtqueue::Chain;

/// Maximum number of bytes written to one chain. A device may fill only part of a buffer (section
/// 5.4.6.1). With this limit, a full ring of large buffers blocks the event loop only for
/// milliseconds.
pub(crate) const MAX_BYTES: usize = 4096;

/// The device.
#[derive(Debug)]
pub(crate) struct Rng;

/// The device's side of the queue.
#[derive(Debug)]
pub(crate) struct Source;

impl Device for Rng {
    type Worker = Immediate<Source>;

    fn name(&self) -> &str {
        "vhost-user-rng"
    }

    fn queues(&self) -> u16 {
        1
    }

    fn offered(&self) -> u64 {
        RING_FEATURES
    }

    fn start(
        self: Arc<Self>,
        _index: u16,
        _context: &AioContext,
        _queue: QueueRef<Self::Worker>,
    ) -> io::Result<Self::Worker> {
        Ok(Immediate::new(Rc::new(Source)))
    }
}

impl Handled for Source {
    fn handle(&self, chain: &Chain) -> u32 {
        let mut bytes = [0; MAX_BYTES];
        let wanted = chain.writable().len_bytes().min(MAX_BYTES as u64) as usize;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..wanted).filter(|rest| !rest.is_empty()) {
            // This fails only early at boot, before the kernel's entropy pool is ready. The guest
            // then sends another request.
            match getrandom(rest, GetRandomFlags::NONBLOCK) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // At most MAX_BYTES.
        chain.writable().copy_from(0, &bytes[..filled.min(wanted)]) as u32
    }
}

#[derive(Debug, Parser)]
#[command(about = "Serves random bytes of the host to a guest over vhost-user")]
struct Options {
    /// Path of the Unix socket that frontends connect to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

/// The device as it is offered. After a reconnection QEMU 7.2's vhost-user-rng does not negotiate
/// again: it takes for granted that the new daemon knows the memory regions, and waits for the
/// acknowledgements that it agreed on with the old one.
pub(crate) fn served() -> Served<Rng> {
    let withheld = ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::REPLY_ACK;
    Served { withheld, ..Served::new(Rng) }
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    Daemon::new(served(), &options.socket, &[])?.run(|_, _| {})
}
