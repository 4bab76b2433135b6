//! What is printed about the disks: at the start, on signals, and every so often.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aio::MonitorInfo;
use virtio_blk_sim::blk::device::DeviceConfig;
use virtio_blk_sim::log;
use virtio_blk_sim::queue::QueueStats;
use virtio_blk_sim::vhost_user::Throttled;

use crate::counters::{Answering, Counters};
use crate::entry::{Entry, Origin};
use crate::host::{Host, log_name};
use crate::resize::resize;

/// How long SIGHUP waits for the images. What takes longer goes on in the background.
const PATIENCE: Duration = Duration::from_secs(2);

/// Describes the only disk.
pub(crate) fn start_of_one(config: &DeviceConfig, threads: u16, monitor: &MonitorInfo) {
    say!(
        "{} sectors{}, {} queues of up to {}, monitor {} ({}), {}",
        config.capacity_sectors,
        if config.read_only { ", read-only" } else { "" },
        config.num_queues,
        config.queue_size,
        monitor.kind,
        monitor.reason,
        match threads {
            0 => "one thread".to_owned(),
            n => format!("{n} I/O threads"),
        },
    );
}

/// Describes the process.
pub(crate) fn start_of_many(disks: usize, threads: u16, monitor: &MonitorInfo) {
    let loops = if threads == 0 { "one thread".to_owned() } else { format!("{threads} I/O threads") };
    say!("serving {disks} disks, monitor {} ({}), {loops}", monitor.kind, monitor.reason);
}

/// Prints the counters of all queues, in a task.
pub(crate) fn statistics(host: &Rc<Host>) {
    let of_task = Rc::clone(host);
    let task = async move {
        let mut without = 0;
        let mut answering = Answering::find(&of_task).await;
        for entry in of_task.disks() {
            let Some(running) = entry.running() else { continue };
            let name = log_name(entry.origin, entry.id());
            let Some(stats) = answering.counters(&running).await else {
                log!(name, "a loop of this disk does not answer");
                continue;
            };
            match (stats.is_empty(), entry.origin) {
                (true, Origin::CommandLine) => {
                    log!(name, "no queue is running; {} frontends so far", running.server.sessions());
                }
                (true, _) => without += 1,
                (false, _) => print(&name, &stats, None),
            }
            let throttled = running.server.throttled();
            if throttled != Throttled::default() {
                let Throttled { messages, connections, .. } = throttled;
                log!(name, "throttled: {messages} times messages, {connections} times connections");
            }
        }
        if without > 0 {
            say!("{without} disks have no queue that is running");
        }
        log::left_out();
    };
    drop(host.context.spawn(task).named("statistics"));
}

fn print(name: &str, now: &Counters, since: Option<&Counters>) {
    for &(index, now) in now {
        let before = since.and_then(|all| all.iter().find(|(queue, _)| *queue == index));
        // A queue that was restarted counts from zero again.
        let delta = before
            .filter(|(_, before)| before.requests <= now.requests)
            .map_or(now, |(_, before)| now - *before);
        let QueueStats { requests, drains, interrupts, .. } = delta;
        log!(name, "queue {index}: {requests} requests, {drains} drains, {interrupts} interrupts");
    }
}

/// Prints the counters of each interval in which they changed, from now on.
pub(crate) fn every(host: &Rc<Host>, interval: Duration) {
    let of_task = Rc::clone(host);
    let task = async move {
        let mut last: BTreeMap<String, Counters> = BTreeMap::new();
        loop {
            of_task.context.sleep(interval).await;
            let mut current = BTreeMap::new();
            let mut answering = Answering::find(&of_task).await;
            for entry in of_task.disks() {
                let Some(running) = entry.running() else { continue };
                let Some(now) = answering.counters(&running).await else { continue };
                let before = last.get(entry.id());
                if before.is_none_or(|before| *before != now) {
                    print(&log_name(entry.origin, entry.id()), &now, before);
                }
                current.insert(entry.id().to_owned(), now);
            }
            last = current;
        }
    };
    drop(host.context.spawn(task).named("statistics"));
}

/// Reads the sizes of all images again, in a task: SIGHUP without a configuration file.
pub(crate) fn resize_all(host: &Rc<Host>) {
    let of_task = Rc::clone(host);
    let task = async move {
        of_task.shared.notifier.reloading();
        let begin = |entry: Rc<Entry>| {
            let (host, this) = (Rc::clone(&of_task), Rc::clone(&entry));
            (entry, of_task.context.spawn(async move { resize_one(&host, &this).await }))
        };
        let tasks: Vec<_> = of_task.disks().into_iter().map(begin).collect();
        let end = of_task.context.now_ns().saturating_add(PATIENCE.as_nanos() as u64);
        for (entry, mut task) in tasks {
            let left = Duration::from_nanos(end.saturating_sub(of_task.context.now_ns()));
            if of_task.context.timeout(left, &mut task).await.is_err() {
                log!(log_name(entry.origin, entry.id()), "SIGHUP: the size of the image is still being read");
            }
        }
        of_task.notify_ready().await;
    };
    drop(host.context.spawn(task).named("SIGHUP"));
}

async fn resize_one(host: &Host, entry: &Entry) {
    let name = log_name(entry.origin, entry.id());
    if entry.running().is_none_or(|running| running.image.is_none()) {
        if entry.origin == Origin::CommandLine {
            log!(name, "SIGHUP: only the size of a raw image can change");
        }
        return;
    }
    match resize(host, entry, None).await {
        Ok(sectors) => log!(name, "the disk now has {sectors} sectors"),
        Err(error) => log!(name, "the disk size is unchanged: {error}"),
    }
}
