//! Tests of the vhost-user server against a client that plays a whole VMM and its guest. The server
//! runs in this process on a separate thread, or as the program `vhost-user-blk`.

mod abuse;
mod accept;
mod blocking_peer;
mod channel;
mod client;
mod conventions;
mod crash;
mod daemon;
mod daemon_clients;
mod daemon_config;
mod daemon_disks;
mod daemon_ends;
mod daemon_protocol;
mod daemon_reload;
mod daemon_stuck;
mod dirty_log;
mod floods;
mod flushes;
mod handover;
mod idle;
mod images;
mod images_in_use;
mod libblkio;
mod lifecycle;
mod limit;
mod log;
mod long_chains;
mod loop_ends;
mod memory;
mod mistakes;
mod more_cases;
mod newcomers;
mod no_kick;
mod options;
mod panics;
mod privileges;
mod process;
#[cfg(feature = "imago")]
mod qcow2;
mod reconnects;
mod reentry;
mod requests;
mod rings;
mod sandbox;
mod server;
mod service;
mod session;
mod setup_order;
mod shared_loop;
mod slow_page_cache;
mod status;
mod stops;
mod transfer;
#[path = "../support/vring.rs"]
mod vring;

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use client::{Client, ClientOptions};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{BlkDriver, Completion, GuestReport, Pattern, Stop, Workload, run};

/// Sectors of the disks: 1 MiB.
const SECTORS: u64 = 2048;
/// Bytes per transfer.
const BLOCK: u32 = 4096;
/// Requests in flight.
const DEPTH: u16 = 16;

/// Aborts the process when a test hangs. The limit is far above the run time of any test.
struct Watchdog(Option<Sender<()>>, Option<JoinHandle<()>>);

impl Watchdog {
    fn new(test: &'static str) -> Self {
        let (alive, gone) = channel();
        let watch = move || {
            if gone.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
                // Not eprintln!: the test harness would capture the output and never print it.
                let _ = std::io::stderr().write_all(format!("{test} hangs\n").as_bytes());
                std::process::abort();
            }
        };
        Self(Some(alive), Some(std::thread::spawn(watch)))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// Client options for a driver with `depth` requests in flight.
fn options(depth: u16, features: Features) -> ClientOptions {
    let queue_size = BlkDriver::queue_size_for(depth, features);
    let ram = BlkDriver::ram_bytes(queue_size, depth, BLOCK);
    ClientOptions { features, ..ClientOptions::new(queue_size, ram) }
}

fn default_options() -> ClientOptions {
    options(DEPTH, Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH)
}

/// Sets up a driver and starts its queue.
fn driver(client: &mut Client, queue: u16) -> BlkDriver {
    let driver = BlkDriver::new(client.ports(queue).unwrap(), DEPTH, BLOCK).unwrap();
    client.start(queue).unwrap();
    driver
}

fn workload(requests: u64) -> Workload {
    Workload {
        pattern: Pattern::RandRw,
        iodepth: DEPTH,
        stop: Stop::Requests(requests),
        verify: true,
        seed: 7,
    }
}

/// Reads and writes, verifies the data, and checks that every request completed.
fn exercise(driver: &mut BlkDriver, requests: u64) -> GuestReport {
    let report = run(driver, &workload(requests)).unwrap();
    assert_eq!(report.requests, requests);
    report
}

/// Waits until `count` requests have completed.
fn finish(driver: &mut BlkDriver, finished: &mut Vec<Completion>, count: usize) {
    driver.reap(finished).unwrap();
    while finished.len() < count {
        driver.wait().unwrap();
        driver.reap(finished).unwrap();
    }
    assert_eq!(finished.len(), count);
}
