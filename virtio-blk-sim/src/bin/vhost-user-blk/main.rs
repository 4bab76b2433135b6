//! Serves a disk image to a vhost-user frontend such as QEMU, cloud-hypervisor or libblkio. One
//! AioContext handles the socket, the kicks, the disk I/O and the calls (interrupts). With
//! `--threads`, the queues run on I/O threads, and each thread has its own AioContext.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

/// Writes a line to stderr. Unlike `eprintln!` it does not panic and does not wait.
macro_rules! say {
    ($($line:tt)*) => {
        virtio_blk_sim::log::line(format_args!("vhost-user-blk: {}", format_args!($($line)*)))
    };
}

mod descriptors;
mod options;
mod signals;
mod socket;

use std::cell::Cell;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use aio::AioContext;
use clap::Parser;
use options::{Options, Source};
use signals::{Signal, Signals};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::FileImage;
use virtio_blk_sim::log;
use virtio_blk_sim::queue::QueueStats;
use virtio_blk_sim::sandbox::Sandbox;
use virtio_blk_sim::vhost_user::{Loops, Server, SocketFile};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{error}");
            ExitCode::from(error.exit_code)
        }
    }
}

/// Why the server failed to start, or stopped.
#[derive(Debug)]
struct Failure {
    message: String,
    exit_code: u8,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// The command line is invalid, or names something that cannot be opened.
    fn usage(message: impl std::fmt::Display) -> Self {
        Self { message: message.to_string(), exit_code: 2 }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { message: error.to_string(), exit_code: 1 }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    options.check().map_err(Failure::usage)?;
    // Before anything is opened: it could get the number of a descriptor that was not inherited.
    let inherited = options.source.fd.map(socket::inherited).transpose().map_err(Failure::usage)?;
    // Before any thread starts, so that all threads inherit the mask and the loop gets the signals.
    let signals = Signals::block()?;
    signals::ignore_file_size_limit()?;
    let (served, image) = options.disk().map_err(Failure::usage)?;
    let frontends = Frontends::of(&options.source, inherited).map_err(Failure::usage)?;
    // Everything the server needs is open now. This must also come before any thread starts.
    let sandbox = options.sandbox.then(|| Sandbox::restrict_files(options.source.socket.as_deref()));
    let no_sandbox = |error| Failure::usage(format!("--sandbox on: {error}; --sandbox off turns it off"));
    let sandbox = sandbox.transpose().map_err(no_sandbox)?;
    let builder = options.builder();
    let context = builder.clone().build().map_err(Failure::usage)?;
    let loops =
        Loops::spawn(options.threads.into(), options.mapping.clone(), &builder).map_err(Failure::usage)?;
    descriptors::ensure(served.device.device.config().num_queues).map_err(Failure::usage)?;
    report_start(options, &served.device, &context);
    if let Some(sandbox) = sandbox {
        let in_force = sandbox.restrict_calls(options.monitor, &[]).map_err(no_sandbox)?;
        say!("sandbox: {in_force}");
    }
    let server = Server::new(served, loops);

    let _socket_file;
    let _listening;
    match frontends {
        Frontends::Come(path, listener, file) => {
            _socket_file = Some(file);
            _listening = Some(server.listen(&context, listener)?);
            say!("listening on {}", path.display());
        }
        Frontends::IsHere(stream) => {
            server.serve(&context, stream)?;
            (_socket_file, _listening) = (None, None);
        }
    }

    let stop = Rc::new(Cell::new(false));
    let (flag, of_signals) = (Rc::clone(&stop), Rc::clone(&server));
    let _signals = signals.watch(&context, move |signal| match signal {
        Ok(Signal::Stop) => flag.set(true),
        Ok(Signal::Report) => {
            report(&of_signals, None);
            log::left_out();
        }
        Ok(Signal::Resize) => resize(&of_signals, image.as_deref()),
        Err(error) => {
            say!("cannot read signals, so this server ends: {error}");
            flag.set(true);
        }
    })?;
    let _statistics = options.stats.map(|interval| start_statistics(&context, Rc::clone(&server), interval));

    let only_one = options.source.fd.is_some();
    while !stop.get() && (!only_one || server.is_connected()) {
        context.poll(true)?;
    }
    server.shut_down(&context);
    log::left_out();
    Ok(())
}

/// How frontends reach the server; the socket is already open.
enum Frontends<'a> {
    Come(&'a Path, UnixListener, SocketFile),
    IsHere(UnixStream),
}

impl<'a> Frontends<'a> {
    fn of(source: &'a Source, inherited: Option<UnixStream>) -> Result<Self, String> {
        match (&source.socket, inherited) {
            (Some(path), _) => {
                let (listener, file) = socket::bind(path)?;
                Ok(Self::Come(path, listener, file))
            }
            (None, Some(stream)) => Ok(Self::IsHere(stream)),
            (None, None) => Err("give --socket PATH or --fd N".to_owned()),
        }
    }
}

fn report_start(options: &Options, disk: &Disk, context: &AioContext) {
    let config = disk.device.config();
    let monitor = context.monitor();
    say!(
        "{} sectors{}, {} queues of up to {}, monitor {} ({}), {}",
        config.capacity_sectors,
        if config.read_only { ", read-only" } else { "" },
        config.num_queues,
        config.queue_size,
        monitor.kind,
        monitor.reason,
        match options.threads {
            0 => "one thread".to_owned(),
            n => format!("{n} I/O threads"),
        },
    );
}

/// Handles SIGHUP: reads the size of the image again and tells the guest.
fn resize(server: &Server<Disk>, image: Option<&FileImage>) {
    let Some(image) = image else {
        say!("SIGHUP: only the size of a raw image can change");
        return;
    };
    let resized = image.current_sectors().and_then(|sectors| {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        server.device().device.resize(sectors).map_err(invalid)?;
        server.config_changed();
        Ok(sectors)
    });
    match resized {
        Ok(sectors) => say!("the disk now has {sectors} sectors"),
        Err(error) => say!("the disk size is unchanged: {error}"),
    }
}

fn report(server: &Server<Disk>, since: Option<&[(usize, QueueStats)]>) {
    let stats = server.stats();
    if stats.is_empty() {
        say!("no queue is running; {} frontends so far", server.sessions());
    }
    for (index, now) in stats {
        let before = since.and_then(|all| all.iter().find(|(queue, _)| *queue == index));
        // A queue that was restarted counts from zero again.
        let delta = before
            .filter(|(_, before)| before.requests <= now.requests)
            .map_or(now, |(_, before)| now - *before);
        let QueueStats { requests, drains, interrupts, .. } = delta;
        say!("queue {index}: {requests} requests, {drains} drains, {interrupts} interrupts");
    }
}

/// Prints the counters of each interval in which they changed.
fn start_statistics(context: &AioContext, server: Rc<Server<Disk>>, interval: Duration) -> Rc<aio::Timer> {
    let slot: Rc<std::cell::OnceCell<std::rc::Weak<aio::Timer>>> = Rc::default();
    let (own, last) = (Rc::clone(&slot), std::cell::RefCell::new(Vec::new()));
    let timer = Rc::new(context.timer(move |_| {
        let now = server.stats();
        if *last.borrow() != now {
            report(&server, Some(&last.borrow()));
        }
        last.replace(now);
        if let Some(timer) = own.get().and_then(std::rc::Weak::upgrade) {
            timer.arm_after(interval);
        }
    }));
    let _ = slot.set(Rc::downgrade(&timer));
    timer.arm_after(interval);
    timer
}
