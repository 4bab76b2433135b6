//! Verified I/O: every backend on every monitor, with different negotiated features.

use std::thread;

use aio::{AioContext, MonitorKind, Reset};
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::Features;

use super::client::{Client, ClientOptions};
use super::server::{Setup, TempPath, TestServer};
use super::{DEPTH, SECTORS, Watchdog, default_options, driver, exercise, options};

pub(crate) fn monitors() -> Vec<MonitorKind> {
    let works = |kind: &MonitorKind| match AioContext::builder().monitor(*kind).build() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {kind}: {error}");
            false
        }
    };
    MonitorKind::ALL.into_iter().filter(works).collect()
}

fn serve(setup: Setup, options: ClientOptions) {
    let server = TestServer::new(setup);
    let mut client = Client::connect(server.socket(), options).unwrap();
    assert_eq!(client.capacity_sectors(), SECTORS);
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 1_000);
    assert_eq!(server.answered(), 1_000);
    assert_eq!(client.stop(0).unwrap(), 1_000);
}

#[test]
fn every_backend_keeps_the_data_on_every_monitor() {
    let _watchdog = Watchdog::new("every_backend_keeps_the_data_on_every_monitor");
    let image = TempPath::image();
    for kind in monitors() {
        for reset in [Reset::Classic, Reset::Autoreset] {
            for backend in [Backend::memory(SECTORS).unwrap(), Setup::file(&image)] {
                println!("{kind} {reset:?} {backend:?}");
                let builder = AioContext::builder().monitor(kind);
                serve(Setup { builder, reset, backend, ..Setup::default() }, default_options());
            }
        }
    }
}

#[test]
fn whatever_is_negotiated_the_data_is_kept() {
    let _watchdog = Watchdog::new("whatever_is_negotiated_the_data_is_kept");
    for indirect in [Features::NONE, Features::INDIRECT_DESC] {
        for event_idx in [Features::NONE, Features::EVENT_IDX] {
            let options = options(DEPTH, indirect | event_idx);
            // A frontend without protocol features: the ring is enabled from the start, and the
            // disk size comes from the options.
            let plain = ClientOptions { protocol: None, capacity_sectors: SECTORS, ..options.clone() };
            for options in [options, plain] {
                println!("{options:?}");
                serve(Setup::default(), options);
            }
        }
    }
}

#[test]
fn queues_on_threads_work_in_parallel() {
    let _watchdog = Watchdog::new("queues_on_threads_work_in_parallel");
    for threads in [0, 1, 2] {
        let image = TempPath::image();
        let server =
            TestServer::new(Setup { queues: 3, threads, backend: Setup::file(&image), ..Setup::default() });
        let features = Features::MQ | Features::INDIRECT_DESC | Features::EVENT_IDX;
        let mut client =
            Client::connect(server.socket(), ClientOptions { queues: 3, ..options(DEPTH, features) })
                .unwrap();
        assert_eq!(client.frontend().get_queue_num().unwrap(), 3);
        let drivers: Vec<_> = (0..3).map(|queue| driver(&mut client, queue)).collect();
        // First one after another, verified; running in parallel, their writes would conflict.
        let mut drivers = drivers;
        drivers.iter_mut().for_each(|driver| drop(exercise(driver, 200)));
        thread::scope(|scope| {
            for driver in &mut drivers {
                let reads = virtio_blk_sim::guest::Workload {
                    pattern: virtio_blk_sim::guest::Pattern::RandRead,
                    verify: false,
                    ..super::workload(500)
                };
                scope.spawn(move || virtio_blk_sim::guest::run(driver, &reads).unwrap());
            }
        });
        let stats = server.ask(|server, _| server.stats());
        let requests: Vec<_> = stats.iter().map(|(queue, stats)| (*queue, stats.requests)).collect();
        assert_eq!(requests, [(0, 700), (1, 700), (2, 700)], "{threads} threads");
    }
}
