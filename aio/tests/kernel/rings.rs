//! io_uring, and the older asynchronous interface.

use crate::ring::{Ring, linux_aio_poll};
use crate::trial::Trial;
use std::io;

/// POLL_ADD, armed again after each completion.
pub(crate) fn poll_add(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    ring.poll_once(&bell.fd);
    t.silent("before any write", ring.completed());
    for _ in 0..3 {
        bell.ring();
        t.rings("a write", &bell, ring.completed());
        ring.poll_once(&bell.fd);
        let again = ring.completed();
        t.silent("armed again", again);
        if again {
            ring.poll_once(&bell.fd);
        }
    }
    bell.ring();
    bell.ring();
    t.rings("two writes", &bell, ring.completed());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn poll_add_written_before(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    bell.ring();
    ring.poll_once(&bell.fd);
    t.rings("a write before POLL_ADD", &bell, ring.completed());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn poll_multishot(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    ring.poll_multishot(&bell.fd);
    t.silent("before any write", ring.completed());
    for _ in 0..3 {
        bell.ring();
        t.rings("a write", &bell, ring.completed());
        t.silent("a second look", ring.completed());
        t.reset(&bell);
    }
    bell.ring();
    bell.ring();
    t.rings("two writes", &bell, ring.completed());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn poll_multishot_written_before(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    bell.ring();
    ring.poll_multishot(&bell.fd);
    t.rings("a write before POLL_ADD", &bell, ring.completed());
    bell.ring();
    t.rings("a write after it", &bell, ring.completed());
    t.reset(&bell);
    Ok(())
}

/// A completed READ with the value that was written.
fn has_read(ring: &mut Ring, value: u64) -> bool {
    ring.results() == [8] && ring.value() == value
}

/// IORING_OP_READ takes the count itself, whatever the flag.
pub(crate) fn read(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    for _ in 0..3 {
        ring.read(&bell.fd);
        t.silent("before a write", !ring.results().is_empty());
        bell.ring();
        if !has_read(&mut ring, 1) {
            t.lose("a write while the read waits");
            return Ok(());
        }
    }
    bell.ring();
    ring.read(&bell.fd);
    if !has_read(&mut ring, 1) {
        t.lose("a write before the read");
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn read_two_writes(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    ring.read(&bell.fd);
    t.silent("before a write", !ring.results().is_empty());
    bell.ring();
    bell.ring();
    if !has_read(&mut ring, 2) {
        t.lose("two writes before the ring is looked at");
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn read_multishot(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    ring.read_multishot(&bell.fd);
    t.silent("before a write", !ring.results().is_empty());
    for _ in 0..3 {
        bell.ring();
        if ring.results() != [8] {
            t.lose("a write");
        }
    }
    bell.ring();
    bell.ring();
    if ring.results() != [8] {
        t.lose("two writes before the ring is looked at");
    }
    t.reset(&bell);
    Ok(())
}

/// IOCB_CMD_POLL resets nothing in any kernel: its users have to read.
pub(crate) fn iocb_poll_then_read(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    for _ in 0..3 {
        if !linux_aio_poll(&bell.fd, || bell.ring())? {
            t.lose("a write after io_submit");
        }
        let _ = bell.fd.read();
        bell.ring();
        if !linux_aio_poll(&bell.fd, || ())? {
            t.lose("a write before io_submit");
        }
        let _ = bell.fd.read();
    }
    t.reset(&bell);
    Ok(())
}
