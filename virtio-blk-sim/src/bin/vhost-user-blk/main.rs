//! Serves disk images to vhost-user frontends such as QEMU, cloud-hypervisor or libblkio: one disk,
//! or many in one process, with a socket to add, remove and change them.
//!
//! One AioContext, the main loop, handles the sockets. The kicks, the disk I/O and the calls
//! (interrupts) of a queue are handled by the main loop, too, or by an I/O thread with an
//! AioContext of its own.
//!
//! ```text
//!   options.rs   config.rs   control/         the three who describe a disk
//!         └──────────┼──────────┘
//!                 spec.rs                      what a disk is
//!                    │   open.rs, identity.rs  its files
//!                    ▼
//!                 host.rs                      the set of disks; placement.rs: on which loops
//!                    │   entry.rs, device.rs   one disk; resize.rs, relocate.rs: its changes
//!                    ▼
//!                 vhost_user::Server
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

/// Writes a line to stderr. Unlike `eprintln!` it does not panic and does not wait.
macro_rules! say {
    ($($line:tt)*) => {
        virtio_blk_sim::log::line(format_args!("vhost-user-blk: {}", format_args!($($line)*)))
    };
}

/// Writes a line about a disk, which is named first.
macro_rules! log {
    ($name:expr, $($line:tt)*) => {
        virtio_blk_sim::log::line(format_args!("{}: {}", $name, format_args!($($line)*)))
    };
}

mod config;
mod control;
mod descriptors;
mod device;
mod entry;
mod events;
mod failure;
mod host;
mod identity;
mod log_file;
mod open;
mod options;
mod placement;
mod refusal;
mod reload;
mod relocate;
mod report;
mod resize;
mod signals;
mod socket;
mod spec;
mod start;
mod values;
mod wait;

use std::process::ExitCode;
use std::rc::Rc;

use entry::Entry;
use failure::Failure;
use options::Options;
use reload::Reloader;
use signals::{Signal, Signals};
use start::{Started, start};
use virtio_blk_sim::log;

fn main() -> ExitCode {
    let options = Options::of_command_line();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{error}");
            ExitCode::from(error.exit_code)
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    options.check().map_err(Failure::usage)?;
    // Before anything is opened: it could get the number of a descriptor that was not inherited.
    let inherited = options.source.fd.map(socket::inherited).transpose().map_err(Failure::usage)?;
    // Before any thread starts, so that all threads inherit the mask and the loop gets the signals.
    let signals = Signals::block()?;
    signals::ignore_file_size_limit()?;
    let started = start(options, inherited)?;
    let Started { host, context, daemon, control, .. } = &started;
    let reloader = options.source.config.as_deref().map(|path| Reloader::new(path, daemon.clone()));
    let of_signals = Rc::clone(host);
    let _signals = signals.watch(context, move |signal| match signal {
        Ok(Signal::Stop) => of_signals.stop(),
        Ok(Signal::Report) => report::statistics(&of_signals),
        Ok(Signal::Resize) => match &reloader {
            Some(reloader) => reloader.ask(&of_signals),
            None => report::resize_all(&of_signals),
        },
        Err(error) => {
            say!("cannot read signals, so this server ends: {error}");
            of_signals.stop();
        }
    })?;
    if let Some(interval) = daemon.stats {
        report::every(host, interval);
    }
    // With an inherited connection, this process ends with it, or when its disk is removed.
    let inherited = options.source.fd.is_some().then(|| host.disks().first().cloned()).flatten();
    while !host.is_stopping() && inherited.as_ref().is_none_or(|disk| is_wanted(disk)) {
        context.poll(true)?;
    }
    context.block_on(async {
        host.shut_down().await;
        if let Some(control) = control {
            control.drain().await;
        }
    })?;
    log::left_out();
    Ok(())
}

/// Whether the disk of an inherited connection still has something to do.
fn is_wanted(disk: &Entry) -> bool {
    let is_being_removed = disk.removal.has_begun.get() && !disk.removal.is_over.get();
    is_being_removed || disk.running().is_some_and(|running| running.server.is_connected())
}
