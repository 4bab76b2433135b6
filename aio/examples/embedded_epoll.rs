//! A context inside an epoll loop of one's own.
//!
//! The program already has a loop: here it serves a control socket. A device emulation on
//! [`AioContext`] moves in as one more descriptor and a deadline. The device has a doorbell, which
//! a guest rings, and a timer; the control socket schedules a bottom half of it.
#![expect(unsafe_code, reason = "epoll system calls on integers and on events that live across them")]

use aio::{AioContext, Embedded, EventNotifier, Reset};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

const KICKS: u64 = 1_000;
const COMMANDS: u64 = 100;

/// Which of its descriptors the loop was woken for.
const CONTEXT: u64 = 0;
const CONTROL: u64 = 1;

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: the call takes one integer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned it; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Level-triggered.
    fn add(&self, fd: &impl AsFd, name: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: name };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: a live event, which the call only reads.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The names of the descriptors that are readable. Time-outs are rounded up: rounded down, the
    /// loop would spin through the last millisecond.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<u64>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        let ms = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(i32::MAX));
        // SAFETY: room for eight events, which live across the call.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 8, ms) };
        match usize::try_from(n) {
            Ok(n) => Ok(events.iter().take(n).map(|event| event.u64).collect()),
            // A completion that arrives in the ring ends the sleep, too.
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
                e => Err(e),
            },
        }
    }
}

fn main() -> io::Result<()> {
    let ctx = Embedded::new(AioContext::builder().embeddable().build()?)?;
    println!("{}: {}", ctx.monitor().kind, ctx.monitor().reason);

    // The device: a guest kicks, and waits for the answer.
    let (answer, answered) = mpsc::channel();
    let kick = EventNotifier::new(Reset::Autoreset)?;
    let kicks = Rc::new(Cell::new(0));
    let _doorbell = ctx.add_notifier(&kick, {
        let kicks = Rc::clone(&kicks);
        move |_| {
            kicks.set(kicks.get() + 1);
            // The guest may have ended.
            let _ = answer.send(());
        }
    })?;
    let guest = std::thread::spawn(move || {
        for _ in 0..KICKS {
            kick.notify()?;
            if answered.recv().is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    let expired = Rc::new(Cell::new(false));
    let timer = ctx.timer({
        let expired = Rc::clone(&expired);
        move |_| expired.set(true)
    });
    timer.arm_after(Duration::from_millis(5));

    // The program: a control socket, whose commands are carried out by a bottom half of the device.
    let (mut control, mut client) = UnixStream::pair()?;
    let commands = Rc::new(Cell::new(0));
    let command = ctx.bottom_half({
        let commands = Rc::clone(&commands);
        move |_| commands.set(commands.get() + 1)
    });
    let user = std::thread::spawn(move || {
        for _ in 0..COMMANDS {
            client.write_all(b"!")?;
            client.read_exact(&mut [0])?;
        }
        // Open until the loop has ended: the end of a stream is readable for ever.
        io::Result::Ok(client)
    });

    let epoll = Epoll::new()?;
    epoll.add(&ctx, CONTEXT)?;
    epoll.add(&control, CONTROL)?;
    let mut iterations = 0;
    while kicks.get() < KICKS || commands.get() < COMMANDS || !expired.get() {
        iterations += 1;
        let prepared = ctx.prepare()?;
        let ready = epoll.wait(prepared.timeout())?;
        // Between `prepare` and `dispatch`, too, the program may do what it likes with the context.
        if ready.contains(&CONTROL) && control.read(&mut [0])? == 1 {
            command.schedule();
            control.write_all(b".")?;
        }
        if ctx.check()? {
            ctx.dispatch()?;
        }
    }
    guest.join().expect("the guest does not panic")?;
    user.join().expect("the user does not panic")?;
    let stats = ctx.stats();
    println!("{iterations} iterations; {stats:?}");
    assert_eq!((kicks.get(), commands.get()), (KICKS, COMMANDS));
    // Nobody polls: an iteration is for a kick, a command, its bottom half, or the timer, and an
    // interrupted sleep doubles it.
    assert!(iterations <= 2 * (KICKS + 2 * COMMANDS + 10), "{iterations} iterations");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
