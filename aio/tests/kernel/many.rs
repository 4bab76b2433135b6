//! Several producers or consumers at once. Nothing here depends on who is faster.

use crate::os::{EDGE, Epoll, IN, ONE_SHOT, PATIENCE, poll};
use crate::ring::Ring;
use crate::trial::{Bell, By, Trial};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const POLLIN: i16 = libc::POLLIN;

/// Rounds of a stress test; KERNEL_TESTS_SCALE multiplies them. Few by default: a system call takes
/// 100 us in User-Mode Linux.
fn rounds() -> u64 {
    let scale = std::env::var("KERNEL_TESTS_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    200 * scale
}

const PRODUCERS: usize = 3;

/// What each producer has published, and what the consumer has seen of it.
#[derive(Default)]
struct Mail {
    published: [AtomicU64; PRODUCERS],
    seen: [AtomicU64; PRODUCERS],
    given_up: AtomicBool,
}

impl Mail {
    /// Publishes a number and rings, and stops at every fifth until the consumer has seen it: a
    /// ring lost before that is not made up for by a later one.
    fn produce(&self, i: usize, bell: &Bell, last: u64) {
        for number in 1..=last {
            self.published[i].store(number, Ordering::Release);
            bell.ring();
            while number % 5 == 0 && self.seen[i].load(Ordering::Acquire) != number {
                if self.given_up.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::yield_now();
            }
        }
    }

    /// Takes what has been published; returns true when that was the last of every producer.
    fn consume(&self, last: u64) -> bool {
        let mut all = true;
        for (published, seen) in self.published.iter().zip(&self.seen) {
            let number = published.load(Ordering::Acquire);
            seen.store(number, Ordering::Release);
            all &= number == last;
        }
        all
    }
}

/// One consumer that waits with `wait`, several producers; the last number of each must be seen.
fn sequence_numbers(t: &mut Trial, bell: &Bell, mut wait: impl FnMut() -> bool) {
    let (mail, last) = (Mail::default(), rounds());
    std::thread::scope(|scope| {
        for i in 0..PRODUCERS {
            let mail = &mail;
            scope.spawn(move || mail.produce(i, bell, last));
        }
        loop {
            if !wait() {
                t.lose("a number was published, and its ring never came");
                mail.given_up.store(true, Ordering::Relaxed);
                break;
            }
            bell.heard();
            if mail.consume(last) {
                break;
            }
        }
    });
}

pub(crate) fn sequence_by_poll(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    sequence_numbers(t, &bell, || poll([(&bell.fd, POLLIN)], PATIENCE)[0] != 0);
    Ok(())
}

pub(crate) fn sequence_by_epoll(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN);
    sequence_numbers(t, &bell, || !epoll.wait(1, PATIENCE).is_empty());
    Ok(())
}

pub(crate) fn sequence_by_epoll_edge(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, IN | EDGE);
    sequence_numbers(t, &bell, || !epoll.wait(1, PATIENCE).is_empty());
    Ok(())
}

pub(crate) fn sequence_by_epoll_one_shot(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell()?;
    let epoll = Epoll::of(&bell.fd, 0);
    sequence_numbers(t, &bell, || {
        epoll.modify(&bell.fd, IN | ONE_SHOT);
        !epoll.wait(1, PATIENCE).is_empty()
    });
    Ok(())
}

/// Waits on a ring, in small steps, for something to complete.
fn completes(ring: &mut Ring) -> bool {
    let begin = Instant::now();
    while !ring.completed() {
        if begin.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

pub(crate) fn sequence_by_poll_add(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    sequence_numbers(t, &bell, || {
        ring.poll_once(&bell.fd);
        completes(&mut ring)
    });
    Ok(())
}

pub(crate) fn sequence_by_poll_multishot(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    ring.poll_multishot(&bell.fd);
    sequence_numbers(t, &bell, || completes(&mut ring));
    Ok(())
}

pub(crate) fn sequence_by_read(t: &mut Trial) -> io::Result<()> {
    let (bell, mut ring) = (t.bell()?, Ring::new()?);
    let (mail, last) = (Mail::default(), rounds());
    std::thread::scope(|scope| {
        for i in 0..PRODUCERS {
            let (mail, bell) = (&mail, &bell);
            scope.spawn(move || mail.produce(i, bell, last));
        }
        loop {
            ring.read(&bell.fd);
            if !completes(&mut ring) {
                t.lose("a number was published, and its ring never came");
                mail.given_up.store(true, Ordering::Relaxed);
                break;
            }
            if mail.consume(last) {
                break;
            }
        }
    });
    Ok(())
}

/// EFD_SEMAPHORE: as many deliveries as posts, to one consumer.
pub(crate) fn semaphore(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell_with(libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)?;
    let (epoll, mut ring) = (Epoll::of(&bell.fd, IN), Ring::new()?);
    let mut looks: [Box<dyn FnMut() -> bool>; 3] = [
        Box::new(|| crate::os::readable(&bell.fd)),
        Box::new(|| epoll.readable()),
        Box::new(|| {
            ring.poll_once(&bell.fd);
            ring.completed()
        }),
    ];
    for look in &mut looks[..] {
        bell.fd.write(3)?;
        for _ in 0..3 {
            t.rings("one of three posts", &bell, look());
        }
        t.reset(&bell);
    }
    t.silent("a tenth", looks[1]());
    Ok(())
}

/// EFD_SEMAPHORE: as many deliveries as posts, to two consumers that race for them.
pub(crate) fn semaphore_shared(t: &mut Trial) -> io::Result<()> {
    let bell = t.bell_with(libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)?;
    let (posts, taken) = (rounds(), AtomicU64::new(0));
    let by = t.by();
    let consume = || {
        let epoll = Epoll::of(&bell.fd, IN);
        let begin = Instant::now();
        let step = Duration::from_millis(20);
        for turn in 0.. {
            let reported = if turn % 2 == 0 {
                poll([(&bell.fd, POLLIN)], step)[0] != 0
            } else {
                !epoll.wait(1, step).is_empty()
            };
            // A consumer that reads may find that the other was faster; with the autoreset, a
            // notified consumer owns the delivery.
            if reported && (by == By::Flag || bell.fd.read().is_ok()) {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            if !reported && taken.load(Ordering::Relaxed) >= posts || begin.elapsed() > 5 * PATIENCE {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(consume);
        scope.spawn(consume);
        for _ in 0..posts {
            bell.ring();
        }
    });
    let taken = taken.into_inner();
    if taken < posts {
        t.lose("fewer deliveries than posts");
    }
    t.silent("more deliveries than posts", taken > posts);
    t.reset(&bell);
    Ok(())
}
