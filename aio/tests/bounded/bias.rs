//! Shows why the bias trick, which seems to bound a stock eventfd, is not one of the methods.

use aio::{AioContext, Interest, MonitorKind};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

/// A non-blocking eventfd.
#[expect(unsafe_code, reason = "eventfd(2) has no wrapper in the standard library")]
fn eventfd(flags: libc::c_int) -> File {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::eventfd(0, flags | libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: fresh from the kernel.
    unsafe { OwnedFd::from_raw_fd(fd) }.into()
}

fn add(mut fd: &File, n: u64) -> Result<(), ErrorKind> {
    fd.write_all(&n.to_ne_bytes()).map_err(|e| e.kind())
}

fn take(mut fd: &File) -> Result<u64, ErrorKind> {
    let mut count = [0; 8];
    fd.read_exact(&mut count).map_err(|e| e.kind())?;
    Ok(u64::from_ne_bytes(count))
}

/// Biases the count, so that the kernel computes `maximum > count && maximum - count > n`.
const fn bias(maximum: u64) -> u64 {
    u64::MAX - maximum
}

/// What works: producers are bounded exactly.
#[test]
fn the_kernel_admits_what_a_maximum_would() {
    let fd = eventfd(0);
    add(&fd, bias(10)).unwrap();
    assert_eq!(add(&fd, 4), Ok(()));
    assert_eq!(add(&fd, 6), Err(ErrorKind::WouldBlock));
    assert_eq!(add(&fd, 5), Ok(()));
    assert_eq!(add(&fd, 1), Err(ErrorKind::WouldBlock));
    assert_eq!(add(&fd, 0), Ok(()));
    assert_eq!(take(&fd).map(|count| count - bias(10)), Ok(9));
}

/// First problem: it is always readable, so a loop spins on it with nothing to take.
#[test]
fn a_loop_spins_on_a_count_of_zero() {
    let fd = eventfd(0);
    add(&fd, bias(10)).unwrap();
    for kind in [MonitorKind::Poll, MonitorKind::Epoll] {
        let ctx = AioContext::builder().monitor(kind).build().unwrap();
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let handler =
            ctx.add_borrowed_fd(&fd, Interest::READABLE, move |_, _| count.set(count.get() + 1)).unwrap();
        (0..100).for_each(|_| assert!(ctx.poll(true).unwrap()));
        assert_eq!(calls.get(), 100, "nothing was notified");
        drop(handler);
    }
}

/// Second problem: a read also takes the bias. Until it is written back, producers are not bounded,
/// and if they have added too much by then, it cannot be written back.
#[test]
fn a_read_lifts_the_bound_and_it_cannot_always_be_put_back() {
    let fd = eventfd(0);
    add(&fd, bias(10)).unwrap();
    add(&fd, 9).unwrap();
    assert_eq!(take(&fd).map(|count| count - bias(10)), Ok(9));
    // A producer writes before the consumer's second call.
    assert_eq!(add(&fd, 10), Ok(()), "more than the maximum ever admits");
    assert_eq!(add(&fd, bias(10)), Err(ErrorKind::WouldBlock));
}

/// Third problem: a semaphore returns the bias to its readers, so a consumer of an empty queue
/// never waits.
#[test]
fn a_semaphore_hands_out_posts_that_nobody_made() {
    let fd = eventfd(libc::EFD_SEMAPHORE);
    add(&fd, bias(10)).unwrap();
    for _ in 0..100 {
        assert_eq!(take(&fd), Ok(1));
    }
}
