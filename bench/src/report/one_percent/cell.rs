//! A cell of the grid: the loop's monitor, the disk, and the number of requests in flight. Its name
//! is the group of its rows in a report, and is parsed from there.

use crate::arm::{Arm, Monitor, Reset};
use std::fmt;

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) monitor: Monitor,
    pub(crate) disk: Disk,
    pub(crate) iodepth: u16,
    pub(crate) event_idx: bool,
    pub(crate) busy_poll: bool,
}

/// What a request does. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Null,
    /// Spins for this time.
    Spin(u32),
    /// Answers after this time; the loop sleeps.
    Sleep(u32),
    Cached,
    Direct,
    /// O_DIRECT with Linux AIO, as QEMU used it in 2020.
    LinuxAio,
}

impl Cell {
    /// One request in flight, EVENT_IDX, no busy polling.
    pub(crate) fn new(monitor: Monitor, disk: Disk) -> Self {
        Self { monitor, disk, iodepth: 1, event_idx: true, busy_poll: false }
    }

    /// The arm that reads.
    pub(crate) fn classic(self) -> String {
        format!("{}/{}", self.monitor, Reset::Classic)
    }

    /// The arm that reads once more than necessary.
    pub(crate) fn dosed(self) -> String {
        format!("{} + a read", self.classic())
    }

    /// The arm that does not read; `None` if the monitor has none.
    pub(crate) fn autoreset(self) -> Option<Arm> {
        let reset = if self.monitor == Monitor::Poll { Reset::KernelFlag } else { Reset::Edge };
        Arm::new(self.monitor, reset)
    }

    /// The arm that does not read, if it is edge-triggered.
    pub(crate) fn edge(self) -> Option<Arm> {
        self.autoreset().filter(|arm| arm.reset() == Reset::Edge)
    }

    /// Returns true for the simplest iteration of a loop: only what every request needs.
    pub(crate) fn is_simplest(self) -> bool {
        self == Self::new(self.monitor, Disk::Null)
    }

    /// Parses a group's name: the cell, and where its threads ran.
    pub(crate) fn parse(group: &str) -> Option<(Self, &str)> {
        let (cell, place) = group.split_once(" on ")?;
        let mut words = cell.split(", ");
        let monitor = words.next()?;
        let monitor = Monitor::ALL.into_iter().find(|known| known.to_string() == monitor)?;
        let disk = Disk::parse(words.next()?)?;
        let iodepth = words.next()?.strip_prefix("iodepth ")?.parse().ok()?;
        let mut parsed = Self { iodepth, ..Self::new(monitor, disk) };
        for word in words {
            match word {
                NO_EVENT_IDX => parsed.event_idx = false,
                BUSY_POLLING => parsed.busy_poll = true,
                _ => return None,
            }
        }
        Some((parsed, place))
    }
}

/// The edge-triggered arm that reads nevertheless: it differs from the classic one only in the
/// triggering.
pub(crate) fn and_its_read(edge: Arm) -> String {
    format!("{edge} + its read")
}

const NO_EVENT_IDX: &str = "no EVENT_IDX";
const BUSY_POLLING: &str = "busy polling";

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, iodepth {}", self.monitor, self.disk, self.iodepth)?;
        if !self.event_idx {
            write!(f, ", {NO_EVENT_IDX}")?;
        }
        if self.busy_poll {
            write!(f, ", {BUSY_POLLING}")?;
        }
        Ok(())
    }
}

impl Disk {
    /// Returns true if the time of a request is given by the disk.
    pub(crate) fn is_swept(self) -> bool {
        matches!(self, Self::Null | Self::Spin(_) | Self::Sleep(_))
    }

    fn parse(text: &str) -> Option<Self> {
        let micros = |rest: &str| rest.strip_suffix("us")?.parse().ok();
        match text.split_once(' ') {
            Some(("spin", time)) => micros(time).map(Self::Spin),
            Some(("sleep", time)) => micros(time).map(Self::Sleep),
            _ => [Self::Null, Self::Cached, Self::Direct, Self::LinuxAio]
                .into_iter()
                .find(|disk| disk.to_string() == text),
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Spin(us) => write!(f, "spin {us}us"),
            Self::Sleep(us) => write!(f, "sleep {us}us"),
            Self::Cached => f.write_str("cached file"),
            Self::Direct => f.write_str("O_DIRECT file"),
            Self::LinuxAio => f.write_str("O_DIRECT file by Linux AIO"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_something_else_is_no_cell() {
        for other in [
            "",
            "one thread, CPU 0",
            "epoll, null on x",
            "epoll, tape, iodepth 1 on x",
            "epoll, null, iodepth 1, so on x",
        ] {
            assert_eq!(Cell::parse(other), None, "{other}");
        }
    }

    #[test]
    fn ppoll_cannot_do_without_the_kernel() {
        let cell = |monitor| Cell::new(monitor, Disk::Null);
        assert_eq!(cell(Monitor::Poll).autoreset().unwrap().to_string(), "poll/kernel-flag");
        assert_eq!(cell(Monitor::Epoll).autoreset().unwrap().to_string(), "epoll/edge");
        assert_eq!(cell(Monitor::IoUring).dosed(), "io_uring/classic + a read");
        assert_eq!(cell(Monitor::Epoll).edge().map(and_its_read).unwrap(), "epoll/edge + its read");
        assert_eq!(cell(Monitor::Poll).edge(), None);
    }
}
