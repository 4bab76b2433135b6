//! A ring without a kick eventfd: the device polls it.

use std::time::{Duration, Instant};

use aio::AioContext;

use super::client::Client;
use super::server::{Setup, TempPath, TestServer};
use super::transfer::monitors;
use super::{Watchdog, default_options, driver, exercise, finish};

#[test]
fn a_ring_without_a_kick_eventfd_is_polled() {
    let _watchdog = Watchdog::new("a_ring_without_a_kick_eventfd_is_polled");
    let image = TempPath::image();
    for kind in monitors() {
        for threads in [0, 1] {
            let builder = AioContext::builder().monitor(kind);
            let setup = Setup { builder, threads, backend: Setup::file(&image), ..Setup::default() };
            let server = TestServer::new(setup);
            let mut client = Client::connect(server.socket(), default_options()).unwrap();
            let mut driver = driver(&mut client, 0);
            exercise(&mut driver, 500);
            // Kicks still go to the eventfd, where nobody is.
            client.frontend().set_vring_kick(0, None).unwrap();
            exercise(&mut driver, 500);
            // After a pause, too: the device looks less often then.
            std::thread::sleep(Duration::from_millis(20));
            driver.read(0, 0).unwrap();
            driver.kick().unwrap();
            finish(&mut driver, &mut Vec::new(), 1);
            assert_eq!(client.stop(0).unwrap(), 1_001, "{kind}, {threads} threads");
            // With an eventfd again.
            client.start(0).unwrap();
            exercise(&mut driver, 500);
        }
    }
}

/// An idle ring costs a turn of its loop every 50 µs and no more: the loop sleeps in between.
#[test]
fn an_idle_ring_is_not_spun_on() {
    let _watchdog = Watchdog::new("an_idle_ring_is_not_spun_on");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    client.frontend().set_vring_kick(0, None).unwrap();
    exercise(&mut driver, 10);
    std::thread::sleep(Duration::from_millis(10));
    let turns = || server.ask(|_, context| context.stats().turns);
    let (before, start) = (turns(), Instant::now());
    std::thread::sleep(Duration::from_millis(100));
    let looks = turns() - before;
    let most = start.elapsed().as_micros() as u64 / 50 + 10;
    assert!((10..=most).contains(&looks), "{looks} turns, {most} at most");
    client.stop(0).unwrap();
    let before = turns();
    std::thread::sleep(Duration::from_millis(20));
    assert!(turns() - before < 10, "a ring that was stopped is not looked at");
}
