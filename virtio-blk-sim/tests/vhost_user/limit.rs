//! A limit on requests per second. These tests do not look at a clock. They check that every
//! request completes, that not all complete at once, and that the timer resumed the queue.

use std::sync::Arc;

use virtio_blk_sim::queue::RateLimit;

use super::client::{Client, ClientOptions};
use super::server::{Setup, TestServer};
use super::{DEPTH, Watchdog, default_options, driver, exercise, finish};

#[test]
fn requests_beyond_the_burst_complete_through_the_timer() {
    let _watchdog = Watchdog::new("requests_beyond_the_burst_complete_through_the_timer");
    for threads in [0, 1] {
        // The burst is what 0.1 s allows: 100 requests, or 100 blocks.
        for limit in [RateLimit::new(Some(1_000), None), RateLimit::new(None, Some(4_096_000))] {
            let limit = Some(Arc::new(limit));
            let server = TestServer::new(Setup { queues: 2, threads, limit, ..Setup::default() });
            let mut client =
                Client::connect(server.socket(), ClientOptions { queues: 2, ..default_options() }).unwrap();
            for queue in [0, 1] {
                exercise(&mut driver(&mut client, queue), 200);
            }
            if threads == 0 {
                let timers = server.ask(|_, context| context.stats().timers);
                assert!(timers > 0, "the limit was never reached");
            }
            assert_eq!(server.answered(), 400);
        }
    }
}

#[test]
fn a_throttled_queue_can_be_stopped_and_started() {
    let _watchdog = Watchdog::new("a_throttled_queue_can_be_stopped_and_started");
    let server =
        TestServer::new(Setup { limit: Some(Arc::new(RateLimit::new(Some(20), None))), ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let mut finished = Vec::new();
    (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
    driver.kick().unwrap();
    let base = client.stop(0).unwrap();
    driver.reap(&mut finished).unwrap();
    assert_eq!(usize::from(base), finished.len());
    client.start(0).unwrap();
    finish(&mut driver, &mut finished, DEPTH.into());
}
