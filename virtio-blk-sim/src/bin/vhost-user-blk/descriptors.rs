//! The limit on open file descriptors. If it is too low and cannot be raised, this is found out
//! before a frontend comes.
#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2)")]

use std::cell::Cell;
use std::io;

/// Descriptors of a session besides those of its queues: its socket and a copy of it, the channel
/// to the frontend, those of one message (at most 8), and the next frontend, which waits.
const SESSION: u64 = 12;

/// Kick, call and error, and the ring that signals the call. The ring for an error is made if one
/// is left.
const QUEUE: u64 = 4;

/// Connections that are refused at the same time.
const REFUSED: u64 = 4;

/// Roughly what the process has besides its disks.
const PROCESS: u64 = 64;
/// Roughly what a loop has.
const LOOP: u64 = 8;

/// Raises the soft limit before many disks are opened, as far as the hard limit allows.
/// [`Budget::add`] says if that is not enough. For each disk: how many descriptors it has itself,
/// and how many queues.
pub(crate) fn prepare(loops: u16, disks: impl Iterator<Item = (u64, u16)>) {
    let needs = disks.map(|(own, queues)| need(own, queues));
    let Ok((soft, hard)) = limits() else { return };
    let wanted = needs.fold(PROCESS + LOOP * u64::from(loops), u64::saturating_add);
    if soft < wanted {
        // If both fail, so does the first file that is too much.
        let _ = set(wanted, hard).or_else(|_| set(hard, hard));
    }
}

fn need(own: u64, queues: u16) -> u64 {
    own + SESSION + QUEUE * u64::from(queues)
}

/// How many descriptors the disks may need, in addition to those of the process itself.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What is needed at most. `None` if it is not known how many the process has.
    needed: Cell<Option<u64>>,
}

/// The need of a disk. Give it back when the disk is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need(u64);

impl Budget {
    /// Counts those that are open, of which `of_disks` belong to disks that are
    /// [added](Self::add) afterwards. Without /proc nothing is known, and nothing is refused.
    pub(crate) fn new(of_disks: u64) -> Self {
        let open = std::fs::read_dir("/proc/self/fd").ok();
        let needed = open.map(|open| (open.count() as u64 + REFUSED).saturating_sub(of_disks));
        Self { needed: Cell::new(needed) }
    }

    /// Keeps `count` descriptors free for something else.
    pub(crate) fn reserve(&self, count: u64) {
        self.needed.set(self.needed.get().map(|needed| needed.saturating_add(count)));
    }

    /// Makes sure that a disk and a frontend of it can have their descriptors. `own` are those of
    /// the disk itself. Raises the soft limit up to the hard limit if needed. `who` begins the
    /// sentence if that is not possible.
    pub(crate) fn add(&self, own: u64, queues: u16, who: &str) -> Result<Need, String> {
        let need = need(own, queues);
        let Some(needed) = self.needed.get().map(|needed| needed.saturating_add(need)) else {
            return Ok(Need(0));
        };
        raise(needed, who)?;
        self.needed.set(Some(needed));
        Ok(Need(need))
    }

    /// A disk is gone.
    pub(crate) fn remove(&self, need: Need) {
        self.needed.set(self.needed.get().map(|needed| needed.saturating_sub(need.0)));
    }
}

/// Raises the soft limit to `needed` if it is lower. `who` begins the sentence if that is not
/// possible.
fn raise(needed: u64, who: &str) -> Result<(), String> {
    let (soft, hard) = limits()
        .map_err(|error| format!("cannot read the limit on file descriptors (RLIMIT_NOFILE): {error}"))?;
    if soft >= needed {
        return Ok(());
    }
    let Err(error) = set(needed, hard) else { return Ok(()) };
    if hard < needed {
        return Err(format!(
            "{who} need {needed} file descriptors, but the limit is {hard} (RLIMIT_NOFILE); raise it (ulimit \
             -n)"
        ));
    }
    Err(format!("cannot raise the limit on file descriptors: {error}"))
}

/// The soft and the hard limit.
fn limits() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the soft limit, and the hard one if it is lower, which needs CAP_SYS_RESOURCE.
fn set(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard.max(soft) };
    // SAFETY: `limit` is only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
