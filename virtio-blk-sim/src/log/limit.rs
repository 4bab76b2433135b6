//! The limit on lines that a guest or a peer can cause: so many for each place of the code.

use std::panic::Location;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one place per [`PERIOD`].
const BURST: u32 = 10;
pub(super) const PERIOD: Duration = Duration::from_secs(10);

static PLACES: Mutex<Vec<Place>> = Mutex::new(Vec::new());

/// A place in the code that writes limited lines.
#[derive(Debug)]
struct Place {
    location: &'static Location<'static>,
    /// When the present period began.
    since: Instant,
    written: u32,
    left_out: u64,
}

/// What is to be done with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write the line, after a note about those that were left out before it.
    Write {
        left_out: u64,
    },
    /// Write the line: the last one of this period.
    Announce,
    Drop,
}

/// Counts a line of this place, and decides whether it is written.
pub(super) fn judge(location: &'static Location<'static>) -> Verdict {
    let now = Instant::now();
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = places.iter().position(|known| known.location == location).unwrap_or(places.len());
    if index == places.len() {
        places.push(Place::new(location, now));
    }
    places.get_mut(index).map_or(Verdict::Drop, |place| place.judge(now))
}

/// How many lines were left out since they were last counted, of all places.
pub(super) fn take_left_out() -> u64 {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    places.iter_mut().map(|place| std::mem::take(&mut place.left_out)).sum()
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

#[cfg(test)]
mod tests {
    use super::super::limited;
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
