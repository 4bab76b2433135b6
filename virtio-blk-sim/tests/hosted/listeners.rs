//! Descriptors that a device waits for besides its queues.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use aio::AioContext;
use virtio_blk_sim::hosted::EventSet;

use super::device::{Answers, Echo};
use super::{Device, hosted};

/// Beyond the queues and the exit event.
const EVENT: u16 = 100;

fn listen(queues: usize, groups: &[u64]) -> (Arc<Echo>, Device, AioContext, UnixStream, UnixStream) {
    let (echo, device) = hosted(Echo::new(queues, groups));
    let (ours, theirs) = UnixStream::pair().unwrap();
    (echo, device, AioContext::new().unwrap(), ours, theirs)
}

#[test]
fn a_device_gets_its_own_events_with_the_rings_of_its_group() {
    let (echo, device, context, mut ours, theirs) = listen(3, &[0b100, 0b011]);
    let mut reader = theirs.try_clone().unwrap();
    let registration = device.register_listener(&context, 1, theirs, EventSet::IN, EVENT).unwrap();
    ours.write_all(&[1]).unwrap();
    for _level_triggered in 0..2 {
        context.poll(false).unwrap();
    }
    reader.read_exact(&mut [0]).unwrap();
    context.poll(false).unwrap();
    let events: Vec<_> =
        echo.events().iter().map(|event| (event.event, event.set, event.rings, event.thread)).collect();
    assert_eq!(events, [(EVENT, EventSet::IN, 2, 1); 2]);
    drop(ours);
    context.poll(false).unwrap();
    let set = echo.events().pop().unwrap().set;
    assert!(set.contains(EventSet::IN | EventSet::HANG_UP), "{set:?}");
    drop(registration);
    let count = echo.events().len();
    context.poll(false).unwrap();
    assert_eq!(echo.events().len(), count);
}

#[test]
fn an_event_that_fails_is_not_watched_any_more() {
    let (echo, device, context, mut ours, theirs) = listen(1, &[1]);
    echo.state().answers = Answers::Never;
    let registration = device.register_listener(&context, 0, theirs, EventSet::IN, EVENT).unwrap();
    ours.write_all(&[1]).unwrap();
    for _ in 0..3 {
        context.poll(false).unwrap();
    }
    assert_eq!(echo.events().len(), 1);
    assert!(!registration.is_live());
}

#[test]
fn events_of_queues_and_unknown_kinds_are_refused() {
    let (_echo, device, context, _ours, theirs) = listen(2, &[0b11]);
    let refused = |thread, events, event| {
        let fd = theirs.try_clone().unwrap();
        let registered = device.register_listener(&context, thread, fd, events, event);
        registered.map(drop).map_err(|error| error.kind())
    };
    for event in 0..3 {
        assert_eq!(refused(0, EventSet::IN, event), Err(ErrorKind::InvalidInput), "{event}");
    }
    assert_eq!(refused(0, EventSet::IN, 3), Ok(()));
    assert_eq!(refused(1, EventSet::IN, 3), Err(ErrorKind::InvalidInput));
    for events in [EventSet::IN | EventSet::EDGE_TRIGGERED, EventSet::PRIORITY, EventSet::ONE_SHOT] {
        assert_eq!(refused(0, events, 3), Err(ErrorKind::InvalidInput), "{events:?}");
    }
    assert_eq!(refused(0, EventSet::IN | EventSet::OUT, 3), Ok(()));
}
