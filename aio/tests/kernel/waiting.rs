//! poll(2), select(2) and epoll(7): every way to wait for an eventfd without a ring.

use crate::os::{self, EDGE, EXCLUSIVE, Epoll, IN, ONE_SHOT, OUT, PATIENCE, Set, poll, readable, select};
use crate::trial::{Bell, By, Trial};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

const POLLIN: i16 = libc::POLLIN;
const POLLOUT: i16 = libc::POLLOUT;

/// What every way must do, given a check that does not wait: nothing before the first write, one
/// delivery for each write, one for two writes, nothing after the last.
fn each_write_once(t: &mut Trial, bell: &Bell, mut look: impl FnMut() -> bool) {
    t.silent("before any write", look());
    for _ in 0..3 {
        bell.ring();
        t.rings("a write", bell, look());
        t.silent("a second look", look());
    }
    bell.ring();
    bell.ring();
    t.rings("two writes", bell, look());
    t.silent("after two writes", look());
    t.reset(bell);
}

pub(crate) fn poll_level(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    each_write_once(t, &bell, || readable(&bell.fd));
    Ok(())
}

pub(crate) fn poll_asleep(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    asleep(t, &bell, || poll([(&bell.fd, POLLIN)], PATIENCE)[0] & POLLIN != 0);
    Ok(())
}

/// The same three times with the write coming while the consumer sleeps in `wait`.
fn asleep(t: &mut Trial, bell: &Bell, wait: impl Fn() -> bool) {
    for _ in 0..3 {
        let sleeper = os::thread_id();
        let delivered = std::thread::scope(|scope| {
            scope.spawn(|| {
                os::until_asleep(sleeper);
                bell.ring();
            });
            wait()
        });
        t.rings("a write to a sleeper", bell, delivered);
    }
    t.reset(bell);
}

pub(crate) fn ppoll_with_a_pending_signal(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    // In a thread of its own: the signal stays blocked there.
    let delivered = std::thread::scope(|scope| {
        let ringer = scope.spawn(|| {
            bell.ring();
            os::make_a_signal_pending();
            os::ppoll_with_all_signals(&bell.fd).unwrap_or(false)
                || os::ppoll_with_all_signals(&bell.fd).unwrap_or(false)
        });
        ringer.join().expect("no panic")
    });
    t.rings("a write and a signal", &bell, delivered);
    t.silent("afterwards", readable(&bell.fd));
    Ok(())
}

pub(crate) fn poll_for_output_takes_nothing(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    bell.ring();
    assert_eq!(poll([(&bell.fd, POLLOUT)], Duration::ZERO), [POLLOUT]);
    t.rings("a write, after a poll for output", &bell, readable(&bell.fd));
    t.reset(&bell);
    Ok(())
}

pub(crate) fn poll_same_descriptor_twice(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    for _ in 0..2 {
        bell.ring();
        let [first, second] = poll([(&bell.fd, POLLIN), (&bell.fd, POLLIN)], Duration::ZERO);
        t.rings("a write", &bell, (first | second) & POLLIN != 0);
        t.silent("a second look", readable(&bell.fd));
    }
    Ok(())
}

pub(crate) fn poll_two_consumers_one_after_the_other(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    bell.ring();
    t.rings("to the first", &bell, readable(&bell.fd));
    t.silent(
        "to the second",
        std::thread::scope(|scope| scope.spawn(|| readable(&bell.fd)).join().expect("no panic")),
    );
    Ok(())
}

pub(crate) fn select_for_input(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    each_write_once(t, &bell, || select(&bell.fd, &[Set::In]) == [Set::In]);
    bell.ring();
    t.rings(
        "in all three sets",
        &bell,
        select(&bell.fd, &[Set::In, Set::Out, Set::Except]) == [Set::In, Set::Out],
    );
    t.reset(&bell);
    Ok(())
}

pub(crate) fn select_for_output_takes_nothing(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    bell.ring();
    assert_eq!(select(&bell.fd, &[Set::Out, Set::Except]), [Set::Out]);
    t.rings("a write, after a select for output", &bell, select(&bell.fd, &[Set::In]) == [Set::In]);
    t.reset(&bell);
    Ok(())
}

/// The call that takes the count cannot write its result: poll(2), or read(2) where that is what
/// takes it.
pub(crate) fn the_taking_call_faults(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    bell.ring();
    match t.by() {
        By::Read => os::read_that_faults(&bell.fd),
        By::Flag => os::poll_that_faults(&bell.fd),
    }
    t.rings("after EFAULT", &bell, readable(&bell.fd));
    Ok(())
}

pub(crate) fn epoll_level(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    each_write_once(t, &bell, || epoll.readable());
    Ok(())
}

pub(crate) fn epoll_edge(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN | EDGE);
    each_write_once(t, &bell, || epoll.readable());
    Ok(())
}

pub(crate) fn epoll_asleep(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    asleep(t, &bell, || !epoll.wait(1, PATIENCE).is_empty());
    Ok(())
}

pub(crate) fn epoll_input_and_output(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN | OUT);
    for _ in 0..3 {
        bell.ring();
        t.rings("a write", &bell, epoll.now() == IN | OUT);
        t.silent("input after that", epoll.now() != OUT);
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_one_shot(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN | ONE_SHOT);
    for _ in 0..3 {
        bell.ring();
        t.rings("a write", &bell, epoll.readable());
        // Disarmed: written to meanwhile, reported when armed again.
        bell.ring();
        t.silent("while disarmed", epoll.readable());
        epoll.modify(&bell.fd, IN | ONE_SHOT);
        t.rings("a write while disarmed", &bell, epoll.readable());
        epoll.modify(&bell.fd, IN | ONE_SHOT);
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_written_before_add(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    bell.ring();
    let epoll = Epoll::of(&bell.fd, IN);
    t.rings("a write before EPOLL_CTL_ADD", &bell, epoll.readable());
    t.silent("afterwards", epoll.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_written_before_mod(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    for events in [IN | EDGE, IN, IN | OUT] {
        bell.ring();
        epoll.modify(&bell.fd, events);
        t.rings("a write before EPOLL_CTL_MOD", &bell, epoll.readable());
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_deleted_and_added(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    bell.ring();
    epoll.delete(&bell.fd);
    t.silent("while it is no member", epoll.readable());
    epoll.add(&bell.fd, IN);
    t.rings("a write before DEL and ADD", &bell, epoll.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_exclusive(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let sets = [Epoll::of(&bell.fd, IN | EXCLUSIVE), Epoll::of(&bell.fd, IN | EXCLUSIVE)];
    for _ in 0..3 {
        bell.ring();
        let delivered = sets.iter().any(Epoll::readable);
        t.rings("a write", &bell, delivered);
        t.silent("a second look", sets.iter().any(Epoll::readable));
    }
    bell.ring();
    let late = Epoll::of(&bell.fd, IN | EXCLUSIVE);
    t.rings("a write before an exclusive ADD", &bell, late.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_two_sets(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let sets = [Epoll::of(&bell.fd, IN), Epoll::of(&bell.fd, IN)];
    for turn in 0..4 {
        bell.ring();
        t.rings("to the first that looks", &bell, sets[turn % 2].readable());
        t.silent("to the other", sets[1 - turn % 2].readable());
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_nested(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let inner = Epoll::of(&bell.fd, IN);
    let outer = Epoll::of(&inner, IN);
    for _ in 0..3 {
        bell.ring();
        if !outer.readable() {
            t.lose("the outer set does not hear of it");
        }
        t.rings("a write", &bell, inner.readable());
        t.silent("a second look", inner.readable());
    }
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_added_to_another(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let inner = Epoll::of(&bell.fd, IN);
    bell.ring();
    let outer = Epoll::of(&inner, IN);
    if !outer.readable() {
        t.lose("the outer set does not hear of it");
    }
    t.rings("a write before the set was added to another", &bell, inner.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn poll_of_an_epoll_descriptor(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    bell.ring();
    assert!(readable(&epoll), "poll(2) of the set");
    t.rings("epoll_wait after poll of the set", &bell, epoll.readable());
    bell.ring();
    assert_eq!(select(&epoll, &[Set::In]), [Set::In]);
    t.rings("epoll_wait after select of the set", &bell, epoll.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_wait_faults(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    bell.ring();
    let fault = epoll.wait_that_faults();
    assert_eq!(fault.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    t.rings("epoll_wait after EFAULT", &bell, epoll.readable());
    t.reset(&bell);
    Ok(())
}

pub(crate) fn epoll_one_event_at_a_time(t: &mut Trial) -> io::Result<()> {
    let bells = [t.bell()?, t.bell()?, t.bell()?];
    let epoll = Epoll::new();
    for bell in &bells {
        epoll.add(&bell.fd, IN);
        bell.ring();
    }
    let mut seen = Vec::new();
    for _ in &bells {
        for (number, _) in epoll.wait(1, Duration::ZERO) {
            seen.push(number);
            bells.iter().filter(|bell| bell.fd.as_raw_fd() == number).for_each(Bell::heard);
        }
    }
    for bell in &bells {
        if !seen.contains(&bell.fd.as_raw_fd()) {
            t.lose("one of three, of which each wait reports one");
        }
        t.reset(bell);
    }
    t.silent("a fourth", !epoll.wait(1, Duration::ZERO).is_empty());
    Ok(())
}
