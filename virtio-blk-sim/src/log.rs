//! Lines for the operator, on stderr. The only place of this crate that writes there.
//!
//! A line that cannot be written is lost, and nothing else happens: stderr may be closed, full, or
//! a pipe that nobody reads. A line is written only if poll(2) says that this does not wait, so
//! that a log that is not read does not stop the guest's disk. (If another process writes to the
//! same pipe, it may fill it in between.)
//!
//! A line that a guest or a peer can cause is limited: each place of the code that writes such
//! lines may write ten of them in ten seconds. The rest is counted. The count is printed before the
//! next line of the same place, and by [`left_out`].
#![expect(unsafe_code, reason = "poll(2), to write only what does not block")]

use std::fmt::Arguments;
use std::io::Write;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one place per [`PERIOD`].
const BURST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// The longest line, with its line feed. poll(2) reports a pipe as writable if this much fits, and
/// a write of this size is not mixed with others (PIPE_BUF of pipe(7)).
const LONGEST: usize = 4096;

/// Lines that stderr did not take.
static LOST: AtomicU64 = AtomicU64::new(0);

static PLACES: Mutex<Vec<Place>> = Mutex::new(Vec::new());

/// Writes a line. For lines that only the operator can cause.
pub fn line(text: Arguments<'_>) {
    let lost = LOST.swap(0, Ordering::Relaxed);
    let note = (lost > 0).then(|| format!("({lost} lines of the log were lost: stderr did not take them)\n"));
    let mut text = text.to_string();
    // Whole characters, and at most LONGEST - 1 bytes.
    let end = (0..LONGEST.min(text.len() + 1)).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text.push('\n');
    let written = note.is_none_or(|note| write(note.as_bytes())) && write(text.as_bytes());
    if !written {
        LOST.fetch_add(lost + 1, Ordering::Relaxed);
    }
}

/// Writes a line that a guest or a peer can cause, unless its place in the code has written too
/// many of late.
#[track_caller]
pub fn limited(text: Arguments<'_>) {
    let place = Location::caller();
    let verdict = {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let index = places.iter().position(|known| known.location == place).unwrap_or(places.len());
        if index == places.len() {
            places.push(Place::new(place, Instant::now()));
        }
        places.get_mut(index).map_or(Verdict::Drop, |place| place.judge(Instant::now()))
    };
    match verdict {
        Verdict::Write { left_out: 0 } => line(text),
        Verdict::Write { left_out } => {
            line(format_args!("({left_out} lines like the next one were left out)"));
            line(text);
        }
        Verdict::Announce => {
            line(text);
            line(format_args!("(more lines like this one are left out for up to {} s)", PERIOD.as_secs()));
        }
        Verdict::Drop => {}
    }
}

/// Prints how many lines were left out, if that was not printed yet.
pub fn left_out() {
    let total: u64 = {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter_mut().map(|place| std::mem::take(&mut place.left_out)).sum()
    };
    if total > 0 {
        line(format_args!("({total} lines of the log were left out: there were too many of a kind)"));
    }
}

/// A place in the code that writes limited lines.
#[derive(Debug)]
struct Place {
    location: &'static Location<'static>,
    /// When the present period began.
    since: Instant,
    written: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Write the line, after a note about those that were left out before it.
    Write {
        left_out: u64,
    },
    /// Write the line: the last one of this period.
    Announce,
    Drop,
}

impl Place {
    fn new(location: &'static Location<'static>, now: Instant) -> Self {
        Self { location, since: now, written: 0, left_out: 0 }
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.written) = (now, 0);
        }
        if self.written == BURST {
            self.left_out += 1;
            return Verdict::Drop;
        }
        self.written += 1;
        match self.written {
            BURST => Verdict::Announce,
            _ => Verdict::Write { left_out: std::mem::take(&mut self.left_out) },
        }
    }
}

/// Writes to stderr if that does not wait. Returns true if everything was written.
fn write(bytes: &[u8]) -> bool {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one live and writable pollfd.
    let ready = unsafe { libc::poll(&raw mut stderr, 1, 0) };
    // A pipe without a reader is writable and returns EPIPE; the Rust runtime ignores SIGPIPE.
    ready == 1 && stderr.revents & libc::POLLOUT != 0 && std::io::stderr().write_all(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_ten_lines_in_ten_seconds_and_counts_the_rest() {
        let start = Instant::now();
        let mut place = Place::new(Location::caller(), start);
        for _ in 1..BURST {
            assert_eq!(place.judge(start), Verdict::Write { left_out: 0 });
        }
        assert_eq!(place.judge(start), Verdict::Announce);
        let last = start + PERIOD - Duration::from_nanos(1);
        for _ in 0..1000 {
            assert_eq!(place.judge(last), Verdict::Drop);
        }
        assert_eq!(place.judge(start + PERIOD), Verdict::Write { left_out: 1000 });
        assert_eq!(place.judge(start + PERIOD), Verdict::Write { left_out: 0 });
    }

    #[test]
    fn each_place_has_its_own_limit() {
        let count = |line: u32| {
            let places = PLACES.lock().unwrap();
            let of_line = |place: &&Place| place.location.file() == file!() && place.location.line() == line;
            places.iter().find(of_line).map(|place| (place.written, place.left_out))
        };
        let noisy = line!() + 1;
        (0..50).for_each(|_| limited(format_args!("a test of the log: many")));
        let quiet = line!() + 1;
        limited(format_args!("a test of the log: one"));
        assert_eq!(count(noisy), Some((BURST, 40)));
        assert_eq!(count(quiet), Some((1, 0)));
    }
}
