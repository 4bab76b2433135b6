//! One count in two processes: the child is this test binary again, and it inherits the
//! descriptors.
#![expect(unsafe_code, reason = "descriptors that a parent process left open for its child")]

use crate::Setup;
use crate::rules::outcome;
use aio::{BoundedMethod, BoundedNotifier, Counting, Reset};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Command};

const TOTAL: u64 = 2000;
/// The variable that tells the child what to do: a job, a method, a way to count, and descriptors.
const PART: &str = "AIO_BOUNDED_CHILD";

/// Starts the child with copies of the descriptors that are not closed by exec(2).
fn start(job: &str, notifier: &BoundedNotifier) -> Child {
    let semaphore = notifier.counting() == Counting::Semaphore;
    let mut part = format!("{job} {} {semaphore}", notifier.method());
    let mut copies = Vec::new();
    for fd in notifier.fds() {
        // SAFETY: integers only.
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 3) };
        assert!(copy >= 3, "{}", std::io::Error::last_os_error());
        // SAFETY: fresh from the kernel.
        copies.push(unsafe { OwnedFd::from_raw_fd(copy) });
        part.push_str(&format!(" {copy}"));
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::child", "--nocapture"]).env(PART, part);
    command.spawn().unwrap()
}

/// Not a test of its own: runs as the other process of the tests below.
#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else { return };
    let words: Vec<&str> = part.split(' ').collect();
    let method = BoundedMethod::ALL.into_iter().find(|m| m.to_string() == words[1]).unwrap();
    let counting = if words[2] == "true" { Counting::Semaphore } else { Counting::Counter };
    let number = |word: &&str| word.parse::<RawFd>().unwrap();
    // SAFETY: the parent has left these numbers open for us and for nobody else in this process.
    let fds = words[3..].iter().map(|word| unsafe { OwnedFd::from_raw_fd(number(word)) }).collect();
    let notifier = BoundedNotifier::from_fds(method, counting, fds, Reset::Classic).unwrap();
    crate::support::guarded("the child process", || match words[0] {
        "produce" => (0..TOTAL).for_each(|_| notifier.notify(1).unwrap()),
        "consume" => {
            let mut sum = 0;
            while let Ok(n) = notifier.take() {
                sum += n;
            }
            assert_eq!(sum, TOTAL);
        }
        "look" => {
            assert_eq!((notifier.count().unwrap(), notifier.maximum().unwrap()), (4, 5));
            assert_eq!(outcome(notifier.try_notify(1)), Some(ErrorKind::WouldBlock));
            notifier.set_maximum(7).unwrap();
        }
        job => panic!("no such job: {job}"),
    });
}

fn succeeded(mut child: Child) {
    assert!(child.wait().unwrap().success());
}

pub(crate) fn a_child_produces(setup: &Setup) {
    for notifier in [setup.counter(6), setup.semaphore(6)] {
        let child = start("produce", &notifier);
        let mut sum = 0;
        while sum < TOTAL {
            let taken = notifier.take().unwrap();
            assert!(taken < 6);
            sum += taken;
        }
        assert_eq!(sum, TOTAL);
        succeeded(child);
    }
}

pub(crate) fn a_child_consumes(setup: &Setup) {
    let notifier = setup.semaphore(6);
    let child = start("consume", &notifier);
    (0..TOTAL).for_each(|_| notifier.notify(1).unwrap());
    while notifier.count().unwrap() != 0 {
        std::thread::yield_now();
    }
    // This reaches the child while it sleeps, or before.
    notifier.stop().unwrap();
    succeeded(child);
}

pub(crate) fn a_bound_is_one_in_both_processes(setup: &Setup) {
    let notifier = setup.counter(5);
    notifier.notify(4).unwrap();
    succeeded(start("look", &notifier));
    notifier.try_notify(2).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), Some(ErrorKind::WouldBlock));
}

pub(crate) fn wrong_descriptors_are_refused(setup: &Setup) {
    let from = |fds: Vec<OwnedFd>| {
        let made = BoundedNotifier::from_fds(setup.method, Counting::Counter, fds, Reset::Classic);
        made.unwrap_err().kind()
    };
    let notifier = setup.counter(5);
    let copies = || notifier.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect::<Vec<_>>();
    assert_eq!(from(Vec::new()), ErrorKind::InvalidInput);
    assert_eq!(from(copies().split_off(1)), ErrorKind::InvalidInput);
    for wrong in 0..copies().len() {
        let mut fds = copies();
        fds[wrong] = File::open("/proc/self/exe").unwrap().into();
        assert_eq!(from(fds), ErrorKind::InvalidInput, "descriptor {wrong}");
    }
    let counting = Counting::Counter;
    BoundedNotifier::from_fds(setup.method, counting, copies(), Reset::Classic).unwrap().notify(4).unwrap();
    assert_eq!(notifier.count().unwrap(), 4);
}
