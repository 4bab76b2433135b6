//! Kicks and answers, the threads they happen on, and how a ring stops.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, EventNotifier, Reset};
use virtio_blk_sim::hosted::{EventSet, Hosted};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{Frontend, FrontendError, Listening, Loops, Served, Server};
use virtio_blk_sim::virtqueue::QueueConfig;

use super::device::{Answers, Echo, MAX_SIZE};
use super::rig::{Ring, TestServer, Vmm, wait_until};
use super::vring::{Vring, share_ram};
use super::{Device, hosted, nothing, serve};

fn ram(queues: u64) -> GuestRam {
    GuestRam::new((queues * Ring::BYTES) as usize).unwrap()
}

#[test]
fn each_buffer_is_answered_and_the_position_of_the_ring_is_returned() {
    let (echo, server) = serve(2);
    let ram = ram(2);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut rings = [0, 1].map(|index| Ring::new(&mut vmm, &ram, index));
    for _round in 0..5 {
        for (ring, byte) in rings.iter_mut().zip([1, 2]) {
            ring.offer();
            for _ in 0..Ring::SIZE {
                assert_eq!(ring.wait(&ram), [byte; Ring::BUFFER as usize]);
            }
            assert!(ring.interrupted());
        }
    }
    let stats = server.ask(|listening: &Listening<Device>| listening.stats());
    assert!(stats.iter().all(|(_, stats)| stats.requests == 80 && stats.drains >= 5), "{stats:?}");
    assert_eq!([0, 1].map(|index| vmm.frontend.get_vring_base(index).unwrap()), [80, 80]);
    assert!(echo.events().iter().all(|event| event.set == EventSet::IN && event.rings == 2));
}

#[test]
fn each_group_of_queues_runs_on_a_thread_of_its_own() {
    let (echo, device) = hosted(Echo::new(3, &[0b101, 0b010]));
    let loops = |device: &Device| device.loops(&AioContext::builder());
    let server = TestServer::with_loops(Served::new(device), loops, nothing);
    let ram = ram(3);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut seen = Vec::new();
    for index in 0..3 {
        let mut ring = Ring::new(&mut vmm, &ram, index);
        ring.offer();
        ring.wait(&ram);
        let event = echo.events().pop().unwrap();
        seen.push((event.event, event.rings, event.thread, event.on));
    }
    let [(_, _, _, first), (_, _, _, second), _] = seen[..] else { unreachable!() };
    assert_ne!(first, second);
    assert_eq!(seen, [(0, 2, 0, first), (0, 1, 1, second), (1, 2, 0, first)]);
}

#[test]
fn a_group_that_is_spread_over_threads_does_not_start() {
    let (_echo, device) = hosted(Echo::new(2, &[0b11]));
    let loops = |_: &Device| Loops::spawn(2, vec![0, 1], &AioContext::builder());
    let server = TestServer::with_loops(Served::new(device), loops, nothing);
    let ram = ram(2);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut first = Ring::new(&mut vmm, &ram, 0);
    let config = QueueConfig::at(GuestAddress(Ring::BYTES), Ring::SIZE);
    assert!(matches!(start(&mut vmm, 1, &config), Err(FrontendError::Refused { .. })));
    first.offer();
    assert_eq!(first.wait(&ram)[0], 1);
    // The other may run once the first has stopped.
    vmm.frontend.get_vring_base(0).unwrap();
    start(&mut vmm, 1, &config).unwrap();
}

fn start(vmm: &mut Vmm, index: u8, config: &QueueConfig) -> Result<EventNotifier, FrontendError> {
    let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
    let (kick_fd, call_fd, error_fd) = [&kick, &call, &error].map(std::os::fd::AsFd::as_fd).into();
    Vring { index, config, base: 0, kick: kick_fd, call: call_fd, error: error_fd }
        .start(&mut vmm.frontend, true)?;
    Ok(kick)
}

#[test]
fn a_device_with_queues_that_nobody_serves_is_refused() {
    for (queues, groups) in [(2, vec![0b01]), (65, vec![u64::MAX]), (0, vec![1]), (257, vec![u64::MAX; 5])] {
        let error = Hosted::new("echo", Arc::new(Echo::new(queues, &groups))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{queues}");
    }
}

#[test]
fn a_ring_larger_than_the_device_allows_is_refused() {
    let (_echo, server) = serve(1);
    let ram = ram(1);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    for (size, allowed) in [(MAX_SIZE as u32, true), (2 * MAX_SIZE as u32, false), (48, false)] {
        assert_eq!(vmm.frontend.set_vring_num(0, size).is_ok(), allowed, "{size}");
    }
}

#[test]
fn a_ring_that_stops_waits_for_the_threads_of_the_device() {
    let (echo, server) = serve(1);
    let ram = ram(1);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    echo.state().answers = Answers::Later;
    ring.offer();
    wait_until("the device takes them", || echo.state().pending.len() == usize::from(Ring::SIZE));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for an answer that does not wait.
            std::thread::sleep(Duration::from_millis(200));
            echo.finish();
        });
        assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), u32::from(Ring::SIZE));
        assert_eq!(ring.driver.used_idx(), Ring::SIZE);
    });
}

#[test]
fn the_wait_for_the_device_is_limited() {
    let (echo, device) = hosted(Echo::new(1, &[1]));
    let server = TestServer::new(Served::new(device.set_drain_limit(Duration::ZERO)), 0, nothing);
    let ram = ram(1);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    echo.state().answers = Answers::Later;
    ring.offer();
    wait_until("the device takes them", || echo.state().pending.len() == usize::from(Ring::SIZE));
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), u32::from(Ring::SIZE));
    assert_eq!(ring.driver.used_idx(), 0);
    // The memory is still there for them.
    drop(vmm);
    wait_until("the session has ended", || {
        !server.ask(|listening: &Listening<Device>| listening.is_connected())
    });
    echo.state().pending.clear();
}

#[test]
fn a_failing_event_stops_one_ring_until_it_is_set_up_again() {
    let (echo, server) = serve(2);
    let ram = ram(2);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut rings = [0, 1].map(|index| Ring::new(&mut vmm, &ram, index));
    wait_until("the first look at both", || echo.events().len() == 2);
    echo.state().answers = Answers::Never;
    rings[0].offer();
    wait_until("the error eventfd", || rings[0].lines.error.test_and_clear().unwrap());
    echo.state().answers = Answers::AtOnce;
    rings[0].ring_doorbell();
    rings[1].offer();
    assert_eq!(rings[1].wait(&ram)[0], 2);
    assert!(!rings[0].driver.has_used() && !rings[1].lines.error.test_and_clear().unwrap());
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), 0);
    let kick = rings[0].lines.kick.clone();
    vmm.frontend.set_vring_kick(0, Some(std::os::fd::AsFd::as_fd(&kick))).unwrap();
    assert_eq!(rings[0].wait(&ram)[0], 1);
}

#[test]
fn what_was_made_available_before_the_start_needs_no_kick() {
    let (_echo, server) = serve(1);
    let ram = ram(1);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut ring = Ring::new(&mut vmm, &ram, 0);
    vmm.frontend.get_vring_base(0).unwrap();
    let head = ring.driver.add(&[], &[(GuestAddress(0x2000), 16)]).unwrap().unwrap();
    ring.driver.show();
    let kick = EventNotifier::new(Reset::Classic).unwrap();
    vmm.frontend.set_vring_kick(0, Some(std::os::fd::AsFd::as_fd(&kick))).unwrap();
    wait_until("the answer", || ring.driver.has_used());
    assert_eq!(ring.driver.pop_used(), Ok(Some((head, 16))));
}

/// The kick was reset when the device panicked, and there is no other.
#[test]
fn a_device_that_panicked_gets_the_event_again() {
    let (echo, device) = hosted(Echo::new(1, &[1]));
    let context = AioContext::new().unwrap();
    let server = Server::new(Served::new(device), Loops::own());
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve(&context, theirs).unwrap();
    let ram = ram(1);
    let mut panics = 0;
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut frontend = Frontend::from_stream(ours, Duration::from_secs(60));
            share_ram(&mut frontend, &ram, &[]);
            let mut vmm = Vmm { frontend };
            let mut ring = Ring::new(&mut vmm, &ram, 0);
            wait_until("the first look", || !echo.events().is_empty());
            echo.state().answers = Answers::AfterPanic;
            ring.offer();
            ring.wait(&ram)[0]
        });
        while !guest.is_finished() {
            let turn = catch_unwind(AssertUnwindSafe(|| context.poll(false)));
            panics += u32::from(turn.is_err());
            std::thread::yield_now();
        }
        assert_eq!(guest.join().unwrap(), 1);
    });
    assert_eq!(panics, 1);
}

#[test]
fn the_exit_event_ends_the_events_of_its_group_alone() {
    let (echo, device) = hosted(Echo::new(2, &[0b01, 0b10]));
    let server = TestServer::new(Served::new(device), 0, nothing);
    let ram = ram(2);
    let mut vmm = Vmm::new(&server, &ram, &[]);
    let mut rings = [0, 1].map(|index| Ring::new(&mut vmm, &ram, index));
    for ring in &mut rings {
        ring.offer();
        ring.wait(&ram);
    }
    echo.state().exits[0].notify().unwrap();
    // The event comes before the request of this.
    vmm.frontend.get_features().unwrap();
    vmm.frontend.get_features().unwrap();
    echo.state().events.clear();
    rings[0].ring_doorbell();
    rings[1].ring_doorbell();
    wait_until("the other group's event", || !echo.events().is_empty());
    vmm.frontend.get_features().unwrap();
    assert!(echo.events().iter().all(|event| event.thread == 1), "{:?}", echo.events());
    // It does not start again, either.
    vmm.frontend.get_vring_base(0).unwrap();
    let kick = rings[0].lines.kick.clone();
    let refused = vmm.frontend.set_vring_kick(0, Some(std::os::fd::AsFd::as_fd(&kick)));
    assert!(matches!(refused, Err(FrontendError::Refused { .. })));
}
