//! A file whose writes sleep holds up the other disks of its loop once, and then no more for a
//! while. strace lets the call in the loop's thread sleep.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Client;
use super::daemon::{Daemon, text};
use super::memory::{answer, post};
use super::process::injecting;
use super::server::TempPath;
use super::{BLOCK, Watchdog, default_options, driver, exercise};

/// How long each call sleeps, and for how long the first one closes the gate at least.
const SLEEP: Duration = Duration::from_millis(30);
const BACKOFF: Duration = Duration::from_millis(2_900);

#[test]
fn a_file_that_sleeps_holds_up_the_other_disks_once() {
    let _watchdog = Watchdog::new("a_file_that_sleeps_holds_up_the_other_disks_once");
    for monitor in ["epoll", "io_uring"] {
        let inject = format!("pwritev2:delay_enter={}", SLEEP.as_micros());
        let Some(command) = injecting(&inject) else { return };
        let image = TempPath::image();
        let slow = format!("image = {:?}", text(&image));
        let keys = format!("loops = 1\nmonitor = {monitor:?}");
        let mut daemon = Daemon::run(command, &keys, &[("slow", &slow), ("fast", "memory = \"1m\"")]);
        let mut clients =
            ["slow", "fast"].map(|id| Client::connect(daemon.socket(id), default_options()).unwrap());
        let [mut slow, mut fast] = clients.each_mut().map(|client| driver(client, 0));
        let begun = Instant::now();
        for round in 0..100 {
            let data = slow.data(1).0;
            post(&mut slow, 1, round % 10 * 8, data, BLOCK);
            assert_eq!(answer(&mut slow), Ok(0), "{monitor}, {round}");
            exercise(&mut fast, 2);
        }
        let took = begun.elapsed();
        let counters = daemon.connect().execute("statistics", json!({"id": "slow"})).unwrap();
        let counters = &counters[0]["queues"][0];
        let [requests, calls, stalls] =
            ["requests", "submits", "stalls"].map(|name| counters[name].as_u64().unwrap());
        println!("{monitor}: {requests} requests, {calls} calls, {stalls} stalls in {took:?}");
        // The second back-off is ten times as long as the first, so there is no third one.
        let most = if took < BACKOFF { 1 } else { 2 };
        assert!(requests >= 100 && (1..=most).contains(&calls) && calls == stalls, "{counters}");
        daemon.process.wait_for_line("slow: the page cache of the image held up the loop for");
        assert_eq!(daemon.terminate().code(), Some(0));
    }
}
