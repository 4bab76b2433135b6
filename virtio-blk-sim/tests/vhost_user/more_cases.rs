//! Cases of the list of malformed guests that need more than one chain.

use std::sync::Barrier;

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::queue::Kick;
use virtio_blk_sim::vhost_user::{FrontendError, VringAddr};
use vm_memory::Bytes;

use super::client::{Client, ClientOptions};
use super::memory::{answer, post};
use super::requests::{BACKGROUND, CAPACITY, IOERR, OK, Vm, disk, disk_content, image_of, read, write};
use super::server::{Setup, TempPath, TestServer};
use super::{BLOCK, DEPTH, Watchdog, abuse, default_options, driver, exercise, finish, options, rings};

/// The number of a case, and its test.
pub(crate) const MORE: [(u32, fn()); 18] = [
    (14, rings::a_chain_may_have_4_gib_and_not_a_byte_more),
    (16, rings::an_indirect_descriptor_that_was_not_negotiated_is_refused),
    (22, rings::a_table_may_be_longer_than_the_ring_up_to_the_longest_chain),
    (29, rings::rings_that_overlap_harm_only_their_guest),
    (31, abuse::rings_that_cannot_be_do_not_start),
    (32, abuse::rings_that_cannot_be_do_not_start),
    (33, abuse::rings_that_cannot_be_do_not_start),
    (34, a_running_ring_stays_as_it_was_set_up),
    (35, what_was_made_available_before_the_ring_was_enabled_is_served),
    (36, rings::a_storm_of_spurious_kicks_finds_an_empty_ring_and_changes_nothing),
    (37, a_ring_that_there_is_not_has_no_doorbell),
    (38, a_reset_waits_for_what_is_in_flight_and_then_nothing_changes),
    (78, one_buffer_on_two_queues),
    (79, cache_mode_changed_in_flight),
    (80, writeback_byte_of_any_value),
    (81, config_read_past_the_end),
    (82, event_index_wraps),
    (84, a_failed_read_shows_nothing_that_is_not_the_disks),
];

#[test]
fn cases_of_more_than_one_chain_get_the_expected_reaction() {
    let mut last = None;
    for (case, check) in MORE {
        let _watchdog = Watchdog::new("cases_of_more_than_one_chain_get_the_expected_reaction");
        println!("case {case}"); // printed when the test fails
        // Run a test that covers several cases only once.
        if last.replace(check as usize) != Some(check as usize) {
            check();
        }
    }
}

fn is_refused<T>(outcome: Result<T, FrontendError>) -> bool {
    matches!(outcome, Err(FrontendError::Refused { .. }))
}

fn a_running_ring_stays_as_it_was_set_up() {
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 100);
    let user = client.region().user_addr;
    let elsewhere =
        VringAddr { index: 0, flags: 0, descriptor: user, used: user + 8192, available: user + 4096, log: 0 };
    let frontend = client.frontend();
    for size in [1, 2, 1024, 65_535] {
        assert!(is_refused(frontend.set_vring_num(0, size)));
    }
    for base in [7, 99, 101, 65_535] {
        assert!(is_refused(frontend.set_vring_base(0, base)));
    }
    assert!(is_refused(frontend.set_vring_addr(elsewhere)));
    exercise(&mut driver, 100);
    assert_eq!(client.stop(0).unwrap(), 200);
}

fn what_was_made_available_before_the_ring_was_enabled_is_served() {
    let server = TestServer::new(Setup::default());
    for lost in [false, true] {
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = BlkDriver::new(client.ports(0).unwrap(), DEPTH, BLOCK).unwrap();
        driver.read(0, 0).unwrap();
        driver.kick().unwrap();
        if lost {
            // The kick is consumed by something that does not serve this queue.
            let Kick::Plain(kick) = &driver.ports().kick else { panic!("bounded") };
            assert!(kick.test_and_clear().unwrap());
        }
        assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
        client.start(0).unwrap();
        finish(&mut driver, &mut Vec::new(), 1);
        // The same on a ring that is disabled for a while.
        client.frontend().set_vring_enable(0, false).unwrap();
        driver.read(0, 0).unwrap();
        driver.kick().unwrap();
        assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
        assert!(!driver.queue_mut().has_used());
        client.frontend().set_vring_enable(0, true).unwrap();
        finish(&mut driver, &mut Vec::new(), 1);
        drop(client);
        server.wait_disconnected();
    }
}

fn a_ring_that_there_is_not_has_no_doorbell() {
    let server = TestServer::new(Setup { queues: 2, ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let kick = driver.ports().kick.clone();
    for index in [2, 3, 200, 255] {
        assert!(is_refused(client.frontend().set_vring_kick(index, kick.fd())), "{index}");
        assert!(is_refused(client.frontend().set_vring_enable(index.into(), true)), "{index}");
    }
    // The second ring has a kick eventfd, but no addresses.
    client.frontend().set_vring_kick(1, kick.fd()).unwrap();
    client.frontend().set_vring_enable(1, true).unwrap();
    exercise(&mut driver, 100);
    let running = server.ask(|server, _| server.stats()).iter().map(|(queue, _)| *queue).collect::<Vec<_>>();
    assert_eq!(running, [0]);
}

fn a_reset_waits_for_what_is_in_flight_and_then_nothing_changes() {
    let image = TempPath::image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    for _ in 0..10 {
        let mut driver = driver(&mut client, 0);
        (0..DEPTH).for_each(|slot| driver.read(slot, u64::from(slot) * 8).unwrap());
        driver.kick().unwrap();
        client.frontend().reset_device().unwrap();
        let size = client.region().size as usize;
        let all = |client: &Client| {
            let mut bytes = vec![0; size];
            client.ram().memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes
        };
        let before = all(&client);
        // Run the loop, so that any late write would happen now.
        (0..100).for_each(|_| server.ask(|_, _| ()));
        assert!(before == all(&client), "the device wrote to guest memory after its reset");
        let bits = client.features().bits() | virtio_blk_sim::vhost_user::F_PROTOCOL_FEATURES;
        client.frontend().set_features(bits).unwrap();
    }
    exercise(&mut driver(&mut client, 0), 100);
}

/// The guest causes this race itself. It may get any mix of the two sectors, but nothing else may
/// happen.
fn one_buffer_on_two_queues() {
    const ROUNDS: usize = 200;
    let content = disk_content(CAPACITY);
    for threads in [0, 2] {
        let image = image_of(&content);
        let backend = Setup::file(&image);
        let server = TestServer::new(Setup { queues: 2, threads, backend, ..Setup::default() });
        let options = ClientOptions { queues: 2, ..default_options() };
        let mut client = Client::connect(server.socket(), options).unwrap();
        let mut drivers = [0, 1].map(|queue| driver(&mut client, queue));
        let shared = drivers[0].data(DEPTH - 1).0;
        let barrier = &Barrier::new(2);
        std::thread::scope(|scope| {
            for (sector, driver) in (0..).zip(&mut drivers) {
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..ROUNDS {
                        post(driver, 0, sector, shared, 512);
                        assert_eq!(answer(driver), Ok(0));
                    }
                });
            }
        });
        let mut found = [0; 512];
        client.ram().memory().read_slice(&mut found, GuestAddress(shared)).unwrap();
        for (at, byte) in found.iter().enumerate() {
            assert!([content[at], content[512 + at]].contains(byte), "byte {at} comes from neither sector");
        }
        assert!(std::fs::read(&image).unwrap() == content);
    }
}

fn cache_mode_changed_in_flight() {
    let image = TempPath::image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let features = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH | Features::CONFIG_WCE;
    let mut client = Client::connect(server.socket(), options(DEPTH, features)).unwrap();
    let mut driver = driver(&mut client, 0);
    let guest = std::thread::spawn(move || exercise(&mut driver, 1_000));
    for round in 0..100_u8 {
        client.frontend().set_config(32, &[round % 2]).unwrap();
        assert_eq!(client.frontend().get_config(32, 1).unwrap(), [round % 2]);
    }
    guest.join().unwrap();
}

fn writeback_byte_of_any_value() {
    let server = TestServer::new(Setup::default());
    let options = options(DEPTH, Features::FLUSH | Features::CONFIG_WCE);
    let mut client = Client::connect(server.socket(), options).unwrap();
    for value in 0..=255 {
        client.frontend().set_config(32, &[value]).unwrap();
        assert_eq!(client.frontend().get_config(32, 1).unwrap(), [u8::from(value != 0)]);
    }
    exercise(&mut driver(&mut client, 0), 100);
}

fn config_read_past_the_end() {
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let frontend = client.frontend();
    // Bytes after the last field read as zero. Reading past the end of the space is refused.
    assert_eq!(frontend.get_config(72, 184).unwrap(), [0; 184]);
    for (offset, size) in [(0, 257), (255, 2), (256, 1), (u32::MAX, 1), (8, u32::MAX)] {
        assert!(is_refused(frontend.get_config(offset, size)), "{offset} {size}");
    }
    exercise(&mut driver(&mut client, 0), 100);
}

fn event_index_wraps() {
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 1 << 16 | 100);
    assert_eq!(client.stop(0).unwrap(), 100);
}

/// The image is truncated after it was opened.
fn a_failed_read_shows_nothing_that_is_not_the_disks() {
    let image = image_of(&disk_content(CAPACITY));
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let mut vm = Vm::new(&server, Features::NONE);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    let failed = |read: &[u8]| {
        let mut found = read.to_vec();
        found.resize(1024, BACKGROUND);
        (read.len() as u32 + 1, [found, vec![IOERR.unwrap()]].concat())
    };
    file.set_len(512).unwrap();
    // Data that was read before the error came from the disk, and is counted.
    assert_eq!(vm.run(&read(0, 1024)), failed(&disk(0, 1)));
    file.set_len(0).unwrap();
    assert_eq!(vm.run(&read(0, 1024)), failed(&[]));
    assert_eq!(vm.run(&write(0, 512)), (1, vec![OK.unwrap()]), "a write must extend the file again");
}
