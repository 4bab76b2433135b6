//! The file system device of [virtiofsd], unchanged, on this project's event loop and vhost-user
//! server.
//!
//! ```text
//! vhost-user-fs --socket /run/fs.sock --shared-dir /srv/share
//! qemu-system-x86_64 ... -object memory-backend-memfd,id=memory,size=1G,share=on \
//!     -numa node,memdev=memory -chardev socket,id=fs,path=/run/fs.sock \
//!     -device vhost-user-fs-pci,chardev=fs,tag=share
//! mount -t virtiofs share /mnt
//! ```
//!
//! It has no sandbox: the guest acts with the rights of this process, inside the directory. The
//! program virtiofsd can confine itself; use that where the guest is not trusted. SIGUSR1 logs how
//! many requests each queue has taken.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aio::AioContext;
use clap::Parser;
use virtio_blk_sim::hosted::Hosted;
use virtio_blk_sim::log;
use virtio_blk_sim::vhost_user::{Daemon, Loops, Served, Server};
use virtiofsd::limits::setup_rlimit_nofile;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};

/// Descriptors that are not the guest's: the loop, the frontend's socket, and those of the rings.
const OWN_DESCRIPTORS: u64 = 128;

type Device = Hosted<Arc<VhostUserFsBackend<PassthroughFs>>>;

#[derive(Debug, Parser)]
#[command(about = "Shares a directory with a vhost-user guest over virtio-fs")]
struct Options {
    /// Path of the Unix socket that frontends connect to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The directory to share
    #[arg(long, value_name = "PATH")]
    shared_dir: PathBuf,
    /// How long the guest may cache names and attributes: auto, always, metadata or never
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    cache: CachePolicy,
    /// Threads of the device that carry out requests; 0 carries them out on the event loop
    #[arg(long, value_name = "N", default_value_t = 0)]
    thread_pool_size: usize,
    /// Serve the queues on an I/O thread, instead of the thread that serves the frontend
    #[arg(long)]
    io_thread: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let options = Options::parse();
    let limit = setup_rlimit_nofile(None)?;
    // The device may start threads, so it is made when the signals are blocked.
    let daemon = Daemon::with(&options.socket, &[libc::SIGUSR1], || {
        let device = device(&options, limit).map_err(io::Error::other)?;
        let loops = match options.io_thread {
            true => device.loops(&AioContext::builder())?,
            false => Loops::own(),
        };
        Ok((Served::new(device), loops))
    })?;
    Ok(daemon.run(|server, _usr1| log_requests(server))?)
}

fn device(options: &Options, file_limit: u64) -> Result<Device, Box<dyn Error + Send + Sync>> {
    let shared = options.shared_dir.canonicalize()?;
    let root_dir = shared.into_os_string().into_string().map_err(|_| "the path is not UTF-8")?;
    let timeout = match options.cache {
        CachePolicy::Never => Duration::ZERO,
        CachePolicy::Auto => Duration::from_secs(1),
        CachePolicy::Metadata | CachePolicy::Always => Duration::from_secs(86_400),
    };
    let config = Config {
        root_dir,
        entry_timeout: timeout,
        attr_timeout: timeout,
        readdirplus: !matches!(options.cache, CachePolicy::Never),
        cache_policy: options.cache.clone(),
        announce_submounts: true,
        guest_fd_limit: file_limit.saturating_sub(OWN_DESCRIPTORS),
        ..Config::default()
    };
    let fs = PassthroughFs::new(config)?;
    let builder = VhostUserFsBackendBuilder::default().set_thread_pool_size(options.thread_pool_size);
    let backend = builder.build(fs).map_err(|error| error.to_string())?;
    Ok(Hosted::new("vhost-user-fs", Arc::new(backend))?)
}

/// For an operator who asks, so the line is not limited.
fn log_requests(server: &Server<Device>) {
    for (queue, stats) in server.stats() {
        log::line(format_args!("queue {queue}: {} requests, {} events", stats.requests, stats.drains));
    }
}
