//! The two CPUs on which the threads of a measurement run.

use super::cpus::CpuSet;
use std::{fmt, fs};

/// Where the two threads of a measurement run: the one that kicks (a guest's vCPU) and the one that
/// is kicked (the device's event loop).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) guest: usize,
    pub(crate) device: usize,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.guest == self.device {
            write!(f, "one CPU ({})", self.guest)
        } else {
            write!(f, "two CPUs ({}, {})", self.guest, self.device)
        }
    }
}

/// Both placements if the machine has two CPUs: both threads on one CPU, and on two. The second CPU
/// is preferably on another core. Empty only for an empty set.
pub(crate) fn default_placements(allowed: &CpuSet) -> Vec<Placement> {
    let siblings = allowed.iter().next().map(siblings);
    choose(allowed, siblings.as_ref())
}

fn choose(allowed: &CpuSet, siblings_of_first: Option<&CpuSet>) -> Vec<Placement> {
    let Some(first) = allowed.iter().next() else {
        return Vec::new();
    };
    let mut placements = vec![Placement { guest: first, device: first }];
    let others = || allowed.iter().filter(|&cpu| cpu != first);
    let other_core = others().find(|&cpu| siblings_of_first.is_none_or(|siblings| !siblings.contains(cpu)));
    if let Some(second) = other_core.or_else(|| others().next()) {
        placements.push(Placement { guest: first, device: second });
    }
    placements
}

/// The hardware threads of the core of `cpu`; empty if the kernel does not report them.
fn siblings(cpu: usize) -> CpuSet {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    CpuSet::parse_list(&fs::read_to_string(path).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cpus_are_taken_from_two_cores_if_there_are_two() {
        let choose = |allowed: &str, siblings: &str| -> Vec<(usize, usize)> {
            let chosen = choose(&CpuSet::parse_list(allowed), Some(&CpuSet::parse_list(siblings)));
            chosen.iter().map(|placement| (placement.guest, placement.device)).collect()
        };
        assert_eq!(choose("0-3", "0,2"), [(0, 0), (0, 1)]);
        assert_eq!(choose("0-3", "0-1"), [(0, 0), (0, 2)]);
        assert_eq!(choose("4,9", "4,9"), [(4, 4), (4, 9)]);
        assert_eq!(choose("7", "7"), [(7, 7)]);
        assert_eq!(choose("3,5", ""), [(3, 3), (3, 5)]);
    }

    #[test]
    fn placements_have_names() {
        assert_eq!(Placement { guest: 2, device: 2 }.to_string(), "one CPU (2)");
        assert_eq!(Placement { guest: 0, device: 1 }.to_string(), "two CPUs (0, 1)");
    }
}
