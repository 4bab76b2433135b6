//! A frontend that clears O_NONBLOCK of its eventfds and fills their counters. A server that wrote
//! to one of them would sleep until the frontend reads it, and serve nobody meanwhile.
#![expect(unsafe_code, reason = "fcntl(2) and write(2) on eventfds of the test")]

use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;

use virtio_blk_sim::guest::BlkDriver;

use super::client::Client;
use super::process::{Process, injecting};
use super::server::{Setup, TempPath, TestServer};
use super::transfer::monitors;
use super::{Watchdog, default_options, driver, exercise};
use aio::{AioContext, Reset};

/// Clears O_NONBLOCK, and fills the counter.
fn fill(eventfd: &impl AsFd) {
    let fd = eventfd.as_fd().as_raw_fd();
    // SAFETY: integers only.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    let mut count = 0u64;
    // SAFETY: eight writable bytes.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
    let most = u64::MAX - 1;
    // SAFETY: eight readable bytes.
    let written = unsafe { libc::write(fd, (&raw const most).cast(), 8) };
    // SAFETY: integers only; 0 clears the flag.
    assert_eq!((written, unsafe { libc::fcntl(fd, libc::F_SETFL, 0) }), (8, 0));
}

fn request(driver: &mut BlkDriver, slot: u16) {
    driver.read(slot, 0).unwrap();
    driver.show();
    driver.kick().unwrap();
}

#[test]
fn a_frontend_that_fills_its_eventfds_blocks_nobody() {
    let _watchdog = Watchdog::new("a_frontend_that_fills_its_eventfds_blocks_nobody");
    for monitor in monitors() {
        for reset in [Reset::Classic, Reset::Autoreset] {
            let builder = AioContext::builder().monitor(monitor);
            let server = TestServer::new(Setup { builder, reset, ..Setup::default() });
            let mut client = Client::connect(server.socket(), default_options()).unwrap();
            let mut driver = driver(&mut client, 0);
            for slot in 0..3 {
                fill(&driver.ports().irq);
                request(&mut driver, slot);
                // The kick is not filled: the loop would hear it again and again.
                while server.answered() < u64::from(slot) + 1 {
                    std::thread::yield_now();
                }
            }
            // The loop serves its other sources: it answers, and it ends.
            client.frontend().get_features().unwrap();
            drop(driver);
            drop(client);
            server.wait_disconnected();
        }
    }
}

/// As a seccomp filter does that is set up later than the server.
#[test]
fn interrupts_arrive_if_io_uring_enter_is_refused() {
    let _watchdog = Watchdog::new("interrupts_arrive_if_io_uring_enter_is_refused");
    for monitor in ["epoll", "poll"] {
        for error in ["EPERM", "ENOSYS"] {
            let (socket, image) = (TempPath::new("sock"), TempPath::image());
            let Some(mut command) = injecting(&format!("io_uring_enter:error={error}")) else { return };
            command.arg("--socket").arg(socket.as_ref()).arg("--image").arg(image.as_ref());
            let mut server = Process::run(command.args(["--monitor", monitor]), &socket, Stdio::piped());
            server.wait_for_line("listening on");
            let mut client = Client::connect(&socket, default_options()).unwrap();
            exercise(&mut driver(&mut client, 0), 100);
            server.signal(libc::SIGTERM);
            assert_eq!(server.wait().code(), Some(0));
        }
    }
}
