//! The bounded counter, EFD_IOC_SET_MAXIMUM: what the proposal's own selftests check, and what they
//! do not. A check panics.

use crate::os::{
    EDGE, EFD_AUTORESET, ERR, Epoll, EventFd, GET_MAXIMUM, IN, OUT, SET_MAXIMUM, Set, poll, readable, select,
    sleeps,
};
use crate::ring::Ring;
use crate::trial::BlockedWriter;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const NONBLOCK: i32 = libc::EFD_NONBLOCK;
const SEMAPHORE: i32 = libc::EFD_SEMAPHORE;

fn bounded(flags: i32, maximum: u64) -> EventFd {
    let fd = EventFd::new(flags).unwrap();
    fd.set_maximum(maximum).unwrap();
    fd
}

fn errno<T: std::fmt::Debug>(r: io::Result<T>) -> i32 {
    r.unwrap_err().raw_os_error().unwrap()
}

/// A write that finds no room.
#[track_caller]
fn refused(fd: &EventFd, n: u64) {
    assert_eq!(errno(fd.write(n)), libc::EAGAIN, "a write of {n} at {}", fd.count());
}

// What the selftests of the proposal check.

pub(crate) fn fresh_is_unbounded() {
    assert_eq!(EventFd::new(0).unwrap().maximum().unwrap(), u64::MAX);
}

pub(crate) fn what_was_set_can_be_asked() {
    assert_eq!(bounded(0, 1000).maximum().unwrap(), 1000);
}

pub(crate) fn set_refuses_what_is_reached() {
    let fd = EventFd::new(NONBLOCK).unwrap();
    fd.write(5).unwrap();
    assert_eq!(errno(fd.set_maximum(5)), libc::EINVAL);
    assert_eq!(errno(fd.set_maximum(3)), libc::EINVAL);
    assert_eq!(fd.maximum().unwrap(), u64::MAX, "unchanged");
    fd.set_maximum(10).unwrap();
    fd.set_maximum(6).unwrap();
    assert_eq!(fd.maximum().unwrap(), 6);
}

pub(crate) fn a_write_stays_below() {
    let fd = bounded(NONBLOCK, 5);
    fd.write(4).unwrap();
    refused(&fd, 1);
    assert_eq!(fd.read().unwrap(), 4);
    fd.write(1).unwrap();
}

pub(crate) fn epoll_tells_of_room() {
    let fd = EventFd::new(NONBLOCK).unwrap();
    let epoll = Epoll::of(&fd, IN | OUT | ERR);
    fd.set_maximum(5).unwrap();
    assert_eq!(epoll.now(), OUT);
    fd.write(4).unwrap();
    assert_eq!(epoll.now(), IN);
    fd.read().unwrap();
    assert_eq!(epoll.now(), OUT);
}

pub(crate) fn fdinfo_has_it() {
    let fd = EventFd::new(0).unwrap();
    assert_eq!(fd.info("eventfd-maximum").unwrap().trim(), "ffffffffffffffff");
    fd.set_maximum(12_345).unwrap();
    assert_eq!(fd.info("eventfd-maximum").unwrap(), format!(" {:16x}", 12_345));
}

pub(crate) fn unknown_commands_are_enotty() {
    let fd = EventFd::new(0).unwrap();
    assert_eq!(errno(fd.ioctl_nowhere(libc::_IO(b'J' as u32, 0xff))), libc::ENOTTY);
}

// What they do not.

pub(crate) fn bad_addresses_are_efault() {
    let fd = EventFd::new(0).unwrap();
    assert_eq!(errno(fd.ioctl_nowhere(SET_MAXIMUM)), libc::EFAULT);
    assert_eq!(errno(fd.ioctl_nowhere(GET_MAXIMUM)), libc::EFAULT);
    assert_eq!(fd.maximum().unwrap(), u64::MAX);
}

pub(crate) fn zero_is_refused() {
    assert_eq!(errno(EventFd::new(0).unwrap().set_maximum(0)), libc::EINVAL);
}

pub(crate) fn one_admits_nothing_but_nothing() {
    let fd = bounded(NONBLOCK, 1);
    refused(&fd, 1);
    fd.write(0).unwrap();
    assert_eq!(poll([(&fd, libc::POLLIN | libc::POLLOUT)], Duration::ZERO), [0]);
}

pub(crate) fn too_much_at_once_is_eagain_and_not_einval() {
    let fd = bounded(NONBLOCK, 10);
    refused(&fd, 10);
    refused(&fd, u64::MAX - 1);
    assert_eq!(errno(fd.write(u64::MAX)), libc::EINVAL);
    fd.write(9).unwrap();
    fd.write(0).unwrap();
    assert_eq!(errno(fd.transfer_short(true)), libc::EINVAL);
    assert_eq!(errno(fd.transfer_short(false)), libc::EINVAL);
    assert_eq!(fd.count(), 9);
}

pub(crate) fn a_write_is_all_or_nothing() {
    let fd = bounded(NONBLOCK, 10);
    fd.write(4).unwrap();
    refused(&fd, 6);
    assert_eq!(fd.count(), 4);
    fd.write(5).unwrap();
}

pub(crate) fn the_largest_is_what_it_was() {
    let fd = EventFd::new(NONBLOCK).unwrap();
    fd.write(u64::MAX - 1).unwrap();
    refused(&fd, 1);
    assert_eq!(poll([(&fd, libc::POLLIN | libc::POLLOUT)], Duration::ZERO), [libc::POLLIN]);
    assert_eq!(fd.read().unwrap(), u64::MAX - 1);
}

pub(crate) fn poll_and_select_tell_of_room() {
    let fd = bounded(NONBLOCK, 3);
    let both = libc::POLLIN | libc::POLLOUT;
    assert_eq!(poll([(&fd, both)], Duration::ZERO), [libc::POLLOUT]);
    assert_eq!(select(&fd, &[Set::In, Set::Out]), [Set::Out]);
    fd.write(2).unwrap();
    assert_eq!(poll([(&fd, both)], Duration::ZERO), [libc::POLLIN]);
    assert_eq!(select(&fd, &[Set::In, Set::Out]), [Set::In]);
    fd.set_maximum(4).unwrap();
    assert_eq!(poll([(&fd, both)], Duration::ZERO), [both]);
    assert_eq!(select(&fd, &[Set::In, Set::Out]), [Set::In, Set::Out]);
}

pub(crate) fn an_edge_tells_of_room_after_a_read_and_a_set() {
    let fd = bounded(NONBLOCK, 3);
    let epoll = Epoll::of(&fd, OUT | EDGE);
    assert_eq!(epoll.now(), OUT);
    fd.write(2).unwrap();
    assert_eq!(epoll.now(), 0);
    fd.set_maximum(5).unwrap();
    assert_eq!(epoll.now(), OUT, "after SET");
    fd.write(2).unwrap();
    fd.read().unwrap();
    assert_eq!(epoll.now(), OUT, "after a read");
}

pub(crate) fn the_kernel_fills_up_and_no_further() {
    let (fd, mut ring) = (bounded(NONBLOCK, 3), Ring::new().unwrap());
    let epoll = Epoll::of(&fd, IN | OUT | EDGE);
    assert_eq!(epoll.now(), OUT);
    ring.signal(&fd, 2);
    assert_eq!((fd.count(), epoll.now()), (2, IN));
    ring.signal(&fd, 1);
    assert_eq!((fd.count(), epoll.now()), (3, IN | ERR), "overflow");
    ring.signal(&fd, 1);
    assert_eq!((fd.count(), epoll.now()), (3, IN | ERR), "saturated, and still it wakes");
    refused(&fd, 0);
    assert_eq!(errno(fd.set_maximum(3)), libc::EINVAL);
    assert_eq!(fd.read().unwrap(), 3);
    assert_eq!(epoll.now(), OUT);
}

pub(crate) fn a_semaphore_is_a_bounded_queue() {
    let fd = bounded(NONBLOCK | SEMAPHORE, 4);
    for _ in 0..3 {
        fd.write(1).unwrap();
    }
    refused(&fd, 1);
    for _ in 0..2 {
        assert_eq!(fd.read().unwrap(), 1);
        fd.write(1).unwrap();
        refused(&fd, 1);
    }
    let epoll = Epoll::of(&fd, OUT | EDGE);
    assert_eq!(epoll.now(), 0);
    fd.read().unwrap();
    assert_eq!(epoll.now(), OUT, "one place");
}

/// A blocking writer at the bound, and what lets it go on.
fn goes_on_after(maximum: u64, n: u64, event: impl FnOnce(&EventFd)) {
    let (fd, done) = (bounded(0, maximum), AtomicBool::new(false));
    fd.write(maximum - 1).unwrap();
    std::thread::scope(|scope| {
        let writer = BlockedWriter::start(scope, &fd, n, &done);
        event(&fd);
        let woken = writer.goes_on();
        if !woken {
            let _ = fd.set_maximum(u64::MAX);
        }
        assert!(woken, "the writer sleeps on");
    });
}

pub(crate) fn a_read_wakes_a_writer() {
    goes_on_after(5, 1, |fd| assert_eq!(fd.read().unwrap(), 4));
}

pub(crate) fn a_raised_maximum_wakes_a_writer() {
    goes_on_after(5, 3, |fd| fd.set_maximum(8).unwrap());
}

pub(crate) fn a_signal_interrupts_a_writer() {
    let (fd, done) = (bounded(0, 2), AtomicBool::new(false));
    fd.write(1).unwrap();
    std::thread::scope(|scope| {
        let writer = BlockedWriter::start(scope, &fd, 1, &done);
        crate::os::interrupt(writer.tid);
        assert!(writer.goes_on());
    });
    assert_eq!(fd.count(), 1, "without having written");
}

pub(crate) fn a_raise_that_is_not_enough_wakes_nobody() {
    let (fd, done) = (bounded(0, 5), AtomicBool::new(false));
    fd.write(4).unwrap();
    std::thread::scope(|scope| {
        let writer = BlockedWriter::start(scope, &fd, 3, &done);
        fd.set_maximum(7).unwrap();
        crate::os::until_asleep(writer.tid);
        assert!(!writer.is_done() && fd.count() == 4);
        fd.set_maximum(8).unwrap();
        assert!(writer.goes_on());
    });
    assert_eq!(fd.count(), 7);
}

pub(crate) fn a_small_write_passes_a_large_one_that_waits() {
    let (fd, large, small) = (bounded(0, 5), AtomicBool::new(false), AtomicBool::new(false));
    fd.write(4).unwrap();
    std::thread::scope(|scope| {
        let large = BlockedWriter::start(scope, &fd, 4, &large);
        let small = BlockedWriter::start(scope, &fd, 1, &small);
        // Room for one of the two, and not for the first in the queue.
        fd.set_maximum(6).unwrap();
        assert!(small.goes_on());
        assert!(!large.is_done());
        assert_eq!(fd.read().unwrap(), 5);
        assert!(large.goes_on());
    });
    assert_eq!(fd.count(), 4);
}

pub(crate) fn writers_go_on_one_by_one() {
    const WRITERS: usize = 6;
    let fd = bounded(0, 2);
    fd.write(1).unwrap();
    let done: [AtomicBool; WRITERS] = Default::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = done.iter().map(|done| BlockedWriter::start(scope, &fd, 1, done)).collect();
        // One place each time; the last writer's count is left.
        let before: Vec<u64> = writers.iter().map(|writer| sleeps(writer.tid)).collect();
        for turn in 1..=WRITERS {
            assert_eq!(fd.read().unwrap(), 1);
            until(|| writers.iter().filter(|writer| writer.is_done()).count() >= turn);
            let asleep = writers.iter().zip(&before).filter(|(writer, _)| !writer.is_done());
            for (writer, before) in asleep {
                crate::os::until_asleep(writer.tid);
                let woken = sleeps(writer.tid) - before;
                assert_eq!(woken, 0, "a writer was woken, although there was no room for it");
            }
        }
    });
    assert_eq!(fd.count(), 1);
}

pub(crate) fn one_read_lets_all_in_that_fit() {
    let fd = bounded(0, 4);
    fd.write(3).unwrap();
    let done: [AtomicBool; 5] = Default::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = done.iter().map(|done| BlockedWriter::start(scope, &fd, 1, done)).collect();
        let finished = || writers.iter().filter(|writer| writer.is_done()).count();
        assert_eq!(fd.read().unwrap(), 3);
        until(|| finished() == 3);
        assert_eq!(fd.read().unwrap(), 3);
        until(|| finished() == 5);
    });
    assert_eq!(fd.count(), 2);
}

pub(crate) fn nothing_is_lost_between_writers_and_a_reader() {
    const WRITERS: usize = 3;
    const EACH: u64 = 100;
    let fd = bounded(0, 4);
    let read = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let fd = &fd;
            scope.spawn(move || (0..EACH).for_each(|i| fd.write(1 + (i + writer as u64) % 3).unwrap()));
        }
        let total: u64 =
            (0..WRITERS).flat_map(|writer| (0..EACH).map(move |i| 1 + (i + writer as u64) % 3)).sum();
        let mut read = 0;
        while read < total {
            let count = fd.read().unwrap();
            assert!((1..=3).contains(&count), "{count} with a maximum of 4");
            read += count;
        }
        read - total
    });
    assert_eq!((read, fd.count()), (0, 0));
}

fn until(done: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !done() {
        assert!(begin.elapsed() < 10 * crate::os::PATIENCE, "it never comes");
        std::thread::yield_now();
    }
}

// Together with EFD_AUTORESET that reads at delivery.

fn drained_by(look: impl Fn(&EventFd) -> bool) {
    let done = AtomicBool::new(false);
    let fd = bounded(EFD_AUTORESET, 3);
    fd.write(2).unwrap();
    std::thread::scope(|scope| {
        let writer = BlockedWriter::start(scope, &fd, 2, &done);
        assert!(look(&fd));
        let woken = writer.goes_on();
        if !woken {
            fd.set_maximum(u64::MAX).unwrap();
        }
        assert!(woken, "the delivery has made room, and the writer sleeps on");
    });
    assert_eq!(fd.count(), 2);
}

pub(crate) fn autoreset_wakes_a_writer_at_the_bound() {
    drained_by(readable);
    drained_by(|fd| select(fd, &[Set::In]) == [Set::In]);
    drained_by(|fd| Epoll::of(fd, IN).readable());
    drained_by(|fd| {
        let mut ring = Ring::new().unwrap();
        ring.poll_once(fd);
        ring.completed()
    });
}

pub(crate) fn autoreset_ends_an_overflow() {
    let (fd, mut ring) = (bounded(NONBLOCK | EFD_AUTORESET, 2), Ring::new().unwrap());
    let epoll = Epoll::of(&fd, IN | OUT);
    ring.signal(&fd, 2);
    assert_eq!(epoll.wait(1, Duration::ZERO), [(fd.as_raw_fd(), IN | ERR)]);
    assert_eq!(epoll.now(), OUT);
}
