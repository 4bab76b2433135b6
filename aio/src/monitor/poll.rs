//! ppoll(2): an array of descriptors that is kept from wait to wait.

use super::mirror::Mirror;
use super::readiness::{Readiness, Watch};
use super::watched::{PollState, Sink, State, Table, Target, Watched};
use crate::stats::Counters;
use crate::sys::fd::descriptor_limit;
use crate::sys::{TimeoutNs, ppoll::ppoll};
use crate::token::Token;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;

/// How long a wait sleeps that cannot ask the kernel for all descriptors in one call.
const PARTS_NS: u64 = 10_000_000;

pub(crate) struct PollMonitor {
    set: RefCell<Set>,
    /// For an outer loop.
    mirror: Option<Mirror>,
}

/// Two arrays with one index: what the kernel sees, and whose it is.
#[derive(Default)]
struct Set {
    fds: Vec<libc::pollfd>,
    tokens: Vec<Token>,
}

impl std::fmt::Debug for PollMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollMonitor").field("descriptors", &self.set.borrow().tokens.len()).finish()
    }
}

/// Edges and ring reads do not get here: the reset matrix refuses them for this monitor.
fn events(watch: Watch) -> libc::c_short {
    match watch {
        Watch::Level(interest) => interest.poll_events() as libc::c_short,
        Watch::Edge | Watch::RingRead | Watch::RingReadMultishot => 0,
    }
}

fn index_of(watched: &Watched) -> Option<&Cell<Option<u32>>> {
    match &watched.state {
        State::Poll(PollState(index)) => Some(index),
        _ => None,
    }
}

impl PollMonitor {
    /// `embeddable`: an outer loop may sleep in place of `wait`.
    pub(super) fn new(embeddable: bool) -> io::Result<Self> {
        let mirror = embeddable.then(Mirror::new).transpose()?;
        Ok(Self { set: RefCell::default(), mirror })
    }

    /// What an outer loop sleeps on. It is readable while a descriptor is ready.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.mirror.as_ref().map(Mirror::descriptor)
    }

    pub(super) fn add(&self, token: Token, target: &Target, stats: &Counters) -> io::Result<State> {
        if let Some(mirror) = &self.mirror {
            mirror.add(target.fd, events(target.watch) as u32, token, stats)?;
        }
        let mut set = self.set.borrow_mut();
        // At most 2^28 handlers have a slot.
        let index = set.fds.len() as u32;
        set.fds.push(libc::pollfd { fd: target.fd, events: events(target.watch), revents: 0 });
        set.tokens.push(token);
        Ok(State::Poll(PollState(Cell::new(Some(index)))))
    }

    pub(super) fn modify(&self, watched: &Watched, stats: &Counters) -> io::Result<()> {
        if let Some(mirror) = &self.mirror {
            mirror.modify(watched.fd, events(watched.watch.get()) as u32, watched.token, stats)?;
        }
        let mut set = self.set.borrow_mut();
        let index = index_of(watched).and_then(Cell::get);
        if let Some(entry) = index.and_then(|index| set.fds.get_mut(index as usize)) {
            entry.events = events(watched.watch.get());
        }
        Ok(())
    }

    /// `replaced`: a newer handler watches the same descriptor number.
    pub(super) fn remove(&self, watched: &Watched, replaced: bool, sink: &impl Sink) {
        let Some(index) = index_of(watched).and_then(Cell::take) else {
            return;
        };
        if let Some(mirror) = &self.mirror
            && !replaced
        {
            mirror.remove(watched.fd, sink.stats());
        }
        let mut set = self.set.borrow_mut();
        set.fds.swap_remove(index as usize);
        set.tokens.swap_remove(index as usize);
        // The last entry moved into the gap.
        let live = sink.live();
        if let Some(moved) = set.tokens.get(index as usize).and_then(|token| live.get(*token))
            && let Some(place) = index_of(moved.as_ref())
        {
            place.set(Some(index));
        }
    }

    #[inline(never)]
    pub(super) fn wait(&self, timeout: TimeoutNs, sink: &impl Sink) -> io::Result<bool> {
        sink.stats().syscalls_wait.bump();
        let mut set = self.set.borrow_mut();
        let ready = match ppoll(&mut set.fds, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                wait_in_parts(&mut set.fds, timeout, sink.stats())?
            }
            result => result?,
        };
        let Set { fds, tokens } = &mut *set;
        let hits = fds.iter_mut().zip(tokens.iter()).filter(|(fd, _)| fd.revents != 0);
        let (live, mut collected) = (sink.live(), false);
        for (fd, token) in hits.take(ready) {
            if fd.revents & libc::POLLNVAL != 0 {
                // Closed while it was registered. Reported once and left out of later waits, which
                // it would otherwise end at once, for ever.
                fd.fd = -1;
            }
            let revents = std::mem::take(&mut fd.revents);
            // A removed handler is no longer in the arrays.
            if let Some(handler) = live.get(*token) {
                sink.mark(handler, Readiness::from_poll(revents as u16 as u32));
                collected = true;
            }
        }
        Ok(collected)
    }

    /// A wait has found nothing, although an outer loop may have been woken.
    pub(super) fn found_nothing(&self, stats: &Counters) -> io::Result<()> {
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let set = self.set.borrow();
        let members = || set.fds.iter().zip(&set.tokens).filter(|(entry, _)| entry.fd >= 0);
        let watched = |token| members().any(|(_, of)| *of == token);
        let of_each = members().map(|(entry, token)| (entry.fd, entry.events as u32, *token));
        mirror.renew_if_stale(watched, of_each, stats)
    }
}

/// ppoll(2) refuses more descriptors than RLIMIT_NOFILE (EINVAL), and the limit can be lowered at
/// any time. Then the monitor looks at all of them, in parts that it allows, and sleeps for a short
/// time on the first part, which has the loop's own notifier. Returns how many are ready.
#[cold]
fn wait_in_parts(fds: &mut [libc::pollfd], timeout: TimeoutNs, stats: &Counters) -> io::Result<usize> {
    let limit = descriptor_limit()?;
    let too_low = || {
        let why = format!(
            "RLIMIT_NOFILE is {limit}, and ppoll(2) refuses {} descriptors: raise the limit (ulimit -n)",
            fds.len()
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    let part = match usize::try_from(limit) {
        Ok(part @ 1..) if part < fds.len() => part,
        _ => return too_low(),
    };
    let ask = |fds: &mut [libc::pollfd], timeout| {
        stats.syscalls_wait.bump();
        match ppoll(fds, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    };
    let mut ready = 0;
    for fds in fds.chunks_mut(part) {
        ready += ask(fds, Some(0))?;
    }
    match fds.chunks_mut(part).next() {
        Some(first) if ready == 0 && timeout != Some(0) => {
            ask(first, Some(timeout.map_or(PARTS_NS, |ns| ns.min(PARTS_NS))))
        }
        _ => Ok(ready),
    }
}
