//! The cells that are measured. Those of a section take turns, so drift affects all of them alike.

use crate::arm::Monitor;
use crate::report::one_percent::{Cell, Disk};

/// How many CPUs guest and device have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpus {
    One,
    Two,
}

/// Cells that are measured together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) cells: Vec<(Cpus, Cell)>,
}

/// The sections, with `full` all of their cells.
pub(super) fn sections(full: bool) -> Vec<Section> {
    use Cpus::{One, Two};
    use Disk::{Cached, Direct, LinuxAio, Null, Sleep, Spin};
    use Monitor::{Epoll, IoUring, Poll};
    let cells = |cpus: Cpus, monitor: Monitor, disks: &[Disk]| -> Vec<(Cpus, Cell)> {
        disks.iter().map(|&disk| (cpus, Cell::new(monitor, disk))).collect()
    };
    let mut sections = Vec::new();
    let mut section = |name, cells: Vec<Vec<(Cpus, Cell)>>| {
        sections.push(Section { name, cells: cells.concat() });
    };

    let swept: &[Disk] = if full {
        &[Null, Spin(1), Spin(2), Spin(5), Spin(10), Spin(20), Spin(50), Spin(100), Spin(200)]
    } else {
        &[Null, Spin(2), Spin(5), Spin(10), Spin(20), Spin(50), Spin(100), Spin(200)]
    };
    section("the iteration swept", vec![cells(One, Epoll, swept)]);
    let few: &[Disk] = if full { swept } else { &[Null, Spin(20), Spin(100)] };
    let slept: &[Disk] = if full { &[Sleep(20), Sleep(50), Sleep(100), Sleep(200)] } else { &[Sleep(100)] };
    section(
        "other loops and places",
        vec![
            cells(One, IoUring, few),
            cells(One, Poll, &[Null]),
            cells(Two, Epoll, few),
            cells(One, Epoll, slept),
        ],
    );
    if full {
        section(
            "two CPUs",
            vec![cells(Two, IoUring, few), cells(Two, Epoll, slept), cells(Two, Poll, &[Null])],
        );
    }

    let monitors: &[Monitor] = if full { &[Epoll, IoUring] } else { &[Epoll] };
    let mut crowded = Vec::new();
    for &monitor in monitors {
        let null = Cell::new(monitor, Null);
        for cpus in [One, Two] {
            for (iodepth, event_idx, busy_poll) in
                [(1, false, false), (1, true, true), (32, true, false), (32, false, false), (32, true, true)]
            {
                // By default leave out what other cells show already.
                if full
                    || !(iodepth, event_idx, cpus).eq(&(1, false, Two))
                        && !(iodepth, busy_poll, cpus).eq(&(32, true, One))
                {
                    crowded.push((cpus, Cell { iodepth, event_idx, busy_poll, ..null }));
                }
            }
        }
    }
    section("many requests, busy polling", vec![crowded]);

    let mut files = vec![cells(One, Epoll, &[Cached, Direct]), cells(One, IoUring, &[Cached, Direct])];
    if full {
        files.extend([cells(Two, Epoll, &[Cached, Direct]), cells(Two, IoUring, &[Cached, Direct])]);
        let deep = [Epoll, IoUring].map(|monitor| (One, Cell { iodepth: 32, ..Cell::new(monitor, Direct) }));
        files.push(deep.to_vec());
    }
    for cpus in [One, Two] {
        files.extend([Poll, Epoll, IoUring].map(|monitor| cells(cpus, monitor, &[LinuxAio])));
    }
    section("files, and the configuration of 2020", files);
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proposals_point_and_the_configuration_of_2020_are_always_there() {
        for full in [false, true] {
            let cells: Vec<(Cpus, Cell)> =
                sections(full).into_iter().flat_map(|section| section.cells).collect();
            for (index, cell) in cells.iter().enumerate() {
                assert!(!cells[..index].contains(cell), "{cell:?} twice");
            }
            let has = |monitor, disk| cells.contains(&(Cpus::One, Cell::new(monitor, disk)));
            assert!(has(Monitor::Epoll, Disk::Spin(100)) && has(Monitor::Poll, Disk::LinuxAio));
            assert!(has(Monitor::Epoll, Disk::Null) && has(Monitor::IoUring, Disk::Direct));
        }
        assert!(sections(true).len() > sections(false).len());
    }

    /// The default run must answer this: each axis of the question has cells that differ only in
    /// it.
    #[test]
    fn every_axis_is_in_the_default_run() {
        use Cpus::{One, Two};
        use Monitor::{Epoll, IoUring, Poll};
        let cells: Vec<(Cpus, Cell)> =
            sections(false).into_iter().flat_map(|section| section.cells).collect();
        let null = |monitor| Cell::new(monitor, Disk::Null);
        let deep = Cell { iodepth: 32, ..null(Epoll) };
        let mut wanted = vec![
            (One, null(Epoll)),
            (One, null(IoUring)),
            (One, null(Poll)),
            (Two, null(Epoll)),
            (One, Cell { event_idx: false, ..null(Epoll) }),
            (One, Cell { busy_poll: true, ..null(Epoll) }),
            (Two, Cell { busy_poll: true, ..null(Epoll) }),
            (One, deep),
            (Two, deep),
            (One, Cell { event_idx: false, ..deep }),
            (Two, Cell { event_idx: false, ..deep }),
            (Two, Cell { busy_poll: true, ..deep }),
            (One, Cell::new(Epoll, Disk::Sleep(100))),
        ];
        for monitor in [Epoll, IoUring] {
            wanted.extend([Disk::Cached, Disk::Direct].map(|disk| (One, Cell::new(monitor, disk))));
        }
        for cpus in [One, Two] {
            wanted.extend([Poll, Epoll, IoUring].map(|monitor| (cpus, Cell::new(monitor, Disk::LinuxAio))));
        }
        for cell in wanted {
            assert!(cells.contains(&cell), "{cell:?}");
        }
        // The sweep, from nothing to 200 us.
        let spun = |disk: &Disk| cells.contains(&(One, Cell::new(Epoll, *disk)));
        assert!([2, 5, 10, 20, 50, 100, 200].map(Disk::Spin).iter().all(spun));
    }

    #[test]
    fn every_cell_is_read_back_from_its_name() {
        for (_, cell) in sections(true).into_iter().flat_map(|section| section.cells) {
            for place in ["one CPU (0)", "two CPUs (0, 1)"] {
                assert_eq!(Cell::parse(&format!("{cell} on {place}")), Some((cell, place)));
            }
        }
    }
}
