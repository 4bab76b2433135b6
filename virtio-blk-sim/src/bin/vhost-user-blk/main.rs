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
//!                    │   entry.rs, device.rs   one disk; adding.rs, resize.rs, relocate.rs,
//!                    │                         removing.rs: its changes
//!                    ▼
//!                 vhost_user::Server
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

/// Writes a line to the log. Unlike `eprintln!` it does not panic and does not wait.
macro_rules! say {
    ($($line:tt)*) => {
        tracing::info!(target: "vhost-user-blk", $($line)*)
    };
}

/// Writes a line about a disk, which is named first.
macro_rules! log {
    ($name:expr, $($line:tt)*) => {
        virtio_blk_sim::log::Line::info(format_args!($($line)*)).device(&$name).write()
    };
}

mod access;
mod accounts;
mod adding;
mod capabilities;
mod config;
mod control;
mod counters;
mod descriptors;
mod device;
mod end;
mod ending;
mod entry;
mod events;
mod failure;
mod host;
mod identity;
mod inherited;
mod jobs;
mod log_file;
mod logging;
mod loop_ends;
mod monitoring;
mod notifier;
mod open;
mod options;
#[cfg(test)]
mod pages;
mod pid_file;
mod placement;
mod privileges;
mod refusal;
mod reload;
mod relocate;
mod removing;
mod report;
mod resize;
mod signals;
mod spec;
mod start;
mod values;
mod wait;
mod watchdog;

use std::process::ExitCode;
use std::rc::Rc;

use ending::Ended;
use entry::Entry;
use failure::Failure;
use inherited::Inherited;
use options::Options;
use reload::Reloader;
use signals::{Signal, Signals, Stops};
use start::{Started, start};
use virtio_blk_sim::log;

fn main() -> ExitCode {
    if capabilities::are_asked_for() {
        return match capabilities::print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say!("cannot write to stdout: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = Options::of_command_line();
    let logs = options.log.start().map_err(Failure::usage);
    match logs.and_then(|()| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(target: "vhost-user-blk", "{error}");
            ExitCode::from(error.exit_code)
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    options.check().map_err(Failure::usage)?;
    // Before anything is opened: it could get the number of a descriptor that was not inherited.
    let inherited = Inherited::take(options.source.fd, options.source.config.is_some());
    let inherited = inherited.map_err(Failure::usage)?;
    let ends_with_frontend = inherited.is_connected();
    // Before any thread starts, so that all threads inherit the mask and the loop gets the signals.
    let signals = Signals::block()?;
    signals::ignore_file_size_limit()?;
    let started = start(options, inherited)?;
    let Started { host, context, daemon, control, pid_file, .. } = &started;
    let reloader = options.source.config.as_deref().map(|path| Reloader::new(path, daemon.clone()));
    let (of_signals, stops) = (Rc::clone(host), Stops::default());
    let _signals = signals.watch(context, move |signal| match signal {
        // The second one does not wait any more.
        Ok(Signal::Stop) if stops.is_second(of_signals.context.now_ns()) => of_signals.stop_by_force(),
        Ok(Signal::Stop) => of_signals.stop(),
        Ok(Signal::Report) => report::statistics(&of_signals),
        Ok(Signal::Resize) => match &reloader {
            Some(reloader) => reloader.ask(&of_signals),
            None => report::resize_all(&of_signals),
        },
        Err(error) => {
            tracing::error!(target: "vhost-user-blk", "cannot read signals, so this server ends: {error}");
            of_signals.stop();
        }
    })?;
    if let Some(interval) = daemon.stats {
        report::every(host, interval);
    }
    if let Some(pid_file) = pid_file {
        pid_file.write().map_err(Failure::other)?;
    }
    context.block_on(host.notify_ready())?;
    watchdog::start(host);
    // With an inherited connection, this process ends with it, or when its disk is removed.
    let inherited = ends_with_frontend.then(|| host.disks().first().cloned()).flatten();
    while !host.is_stopping() && inherited.as_ref().is_none_or(|disk| is_wanted(disk)) {
        context.poll(true)?;
    }
    host.shared.notifier.stopping();
    let ended = context.block_on(async {
        let ended = host.shut_down().await;
        if let Some(control) = control {
            control.drain().await;
        }
        ended
    })?;
    log::left_out();
    if ended == Ended::ByForce {
        started.leave();
    }
    // The loop does not turn any more, so these signals end the process now.
    signals::end_the_process()?;
    Ok(())
}

/// Whether the disk of an inherited connection still has something to do.
fn is_wanted(disk: &Entry) -> bool {
    let is_being_removed = disk.removal.has_begun.get() && !disk.removal.is_over.get();
    is_being_removed || disk.running().is_some_and(|running| running.server.is_connected())
}
