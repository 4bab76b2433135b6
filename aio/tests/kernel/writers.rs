//! The other side: writers that sleep on a full counter, or poll for room, must be woken by a reset
//! as by a read(2).

use crate::os::{EDGE, Epoll, EventFd, IN, OUT, readable};
use crate::ring::Ring;
use crate::trial::{Bell, BlockedWriter, Trial};
use std::io;
use std::sync::atomic::AtomicBool;

/// The largest count that write(2) leaves without a maximum.
const FULL: u64 = u64::MAX - 1;

fn a_sleeper_goes_on(t: &mut Trial, look: impl FnOnce(&Bell) -> bool) -> io::Result<()> {
    let bell = t.bell_with(0)?;
    bell.fd.write(FULL)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = BlockedWriter::start(scope, &bell.fd, 1, &done);
        t.rings("a full counter", &bell, look(&bell));
        if !writer.goes_on() {
            t.lose("the writer sleeps on, although there is room");
            release(&bell.fd);
        }
    });
    t.rings("what the writer has written", &bell, readable(&bell.fd));
    Ok(())
}

/// Makes a writer that was not woken check again: a write of zero wakes it.
fn release(fd: &EventFd) {
    fd.write(0).expect("there is room");
}

pub(crate) fn woken_by_poll(t: &mut Trial) -> io::Result<()> {
    a_sleeper_goes_on(t, |bell| readable(&bell.fd))
}

pub(crate) fn woken_by_epoll(t: &mut Trial) -> io::Result<()> {
    a_sleeper_goes_on(t, |bell| {
        // A member before there was anything to report, or the proposal's reset comes with
        // EPOLL_CTL_ADD.
        let epoll = Epoll::of(&bell.fd, IN);
        epoll.readable()
    })
}

pub(crate) fn woken_by_poll_add(t: &mut Trial) -> io::Result<()> {
    let mut ring = Ring::new()?;
    a_sleeper_goes_on(t, |bell| {
        ring.poll_once(&bell.fd);
        ring.completed()
    })
}

pub(crate) fn who_polls_for_room(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, OUT | EDGE);
    assert_eq!(epoll.now(), OUT, "room at the beginning");
    bell.fd.write(FULL)?;
    assert_eq!(epoll.now(), 0, "none left");
    t.rings("a full counter", &bell, readable(&bell.fd));
    if epoll.now() != OUT {
        t.lose("who polls for room does not hear of it");
    }
    Ok(())
}
