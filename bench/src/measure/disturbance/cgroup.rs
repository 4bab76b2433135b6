//! The CPU quotas that apply to this process: the `cpu.stat` files of its cgroup and of those above
//! it, in both versions of cgroups (see cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

/// The `cpu.stat` files that count throttled periods.
#[derive(Debug)]
pub(super) struct Quotas {
    files: Vec<PathBuf>,
}

impl Quotas {
    /// Finds the files of this process. None is found where there is no quota, and no cgroups.
    pub(super) fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let folders = folders(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let files = folders.into_iter().map(|folder| folder.join("cpu.stat"));
        // A root cgroup has no quota.
        let counts = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| throttled(&text).is_some());
        Self { files: files.filter(counts).collect() }
    }

    /// How many periods were throttled, in all of these cgroups together.
    pub(super) fn throttled(&self) -> u64 {
        let counts = self.files.iter().filter_map(|file| throttled(&fs::read_to_string(file).ok()?));
        counts.fold(0, u64::saturating_add)
    }
}

/// `nr_throttled` of a cpu.stat file; `None` if it has no such line.
fn throttled(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse().ok())
}

/// The folders of the cgroups with a CPU controller that this process is in, and of those above
/// them: a quota applies to everything below. The texts are those of /proc/self/cgroup and
/// /proc/self/mountinfo.
fn folders(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in cgroup.lines() {
        // ID:CONTROLLERS:PATH. Version 2 has the number 0, and no controllers.
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = id == "0" && controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        for (root, mount) in mountinfo.lines().filter_map(|line| mount(line, unified)) {
            // The mount may show a part of the tree only, as it does in a container.
            let Ok(below) = Path::new(path).strip_prefix(&root) else {
                folders.push(mount);
                continue;
            };
            // Only names: a process outside of its cgroup namespace has a path with "..".
            if below.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
                folders.extend(below.ancestors().map(|part| mount.join(part)));
            } else {
                folders.push(mount);
            }
        }
    }
    folders.dedup();
    folders
}

/// The root and the place of a mount, if the line of mountinfo is one of version 2, or of version 1
/// with a CPU controller.
fn mount(line: &str, unified: bool) -> Option<(PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, place) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let has_cpu = options.split(',').any(|option| option == "cpu");
    let fits = if unified { kind == "cgroup2" } else { kind == "cgroup" && has_cpu };
    fits.then(|| (PathBuf::from(root), PathBuf::from(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(cgroup: &str, mountinfo: &str) -> Vec<String> {
        folders(cgroup, mountinfo)
            .iter()
            .map(|path| path.to_string_lossy().trim_end_matches('/').to_owned())
            .collect()
    }

    #[test]
    fn throttled_periods_are_found_in_both_formats() {
        let second = "usage_usec 9\nuser_usec 5\nnr_periods 42\nnr_throttled 41\nthrottled_usec 1234\n";
        assert_eq!(throttled(second), Some(41));
        assert_eq!(throttled("nr_periods 0\nnr_throttled 3\nthrottled_time 0\n"), Some(3));
        assert_eq!(throttled("usage_usec 9\n"), None, "the root of version 2");
    }

    #[test]
    fn version_two_has_one_tree() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = paths("0::/user.slice/user-0.slice\n", mountinfo);
        assert_eq!(
            found,
            ["/sys/fs/cgroup/user.slice/user-0.slice", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]
        );
        // In a cgroup namespace the process is at the root; outside of it, the path leads upwards.
        assert_eq!(paths("0::/\n", mountinfo), ["/sys/fs/cgroup"]);
        assert_eq!(paths("0::/../other\n", mountinfo), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn version_one_has_a_tree_for_the_cpu() {
        let mountinfo = "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         34 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let cgroup = "5:memory:/m\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/s\n";
        let root = "/sys/fs/cgroup/cpu,cpuacct";
        assert_eq!(
            paths(cgroup, mountinfo),
            [format!("{root}/docker/abc"), format!("{root}/docker"), root.to_owned()]
        );
        // In a container, the mount begins at the container's cgroup.
        let inside = "33 24 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(paths(cgroup, inside), ["/sys/fs/cgroup/cpu"]);
    }

    #[test]
    fn no_cgroups_are_no_quota() {
        assert_eq!(paths("", ""), [""; 0]);
        assert_eq!(paths("0::/a\n", "nonsense\n\n"), [""; 0]);
        assert_eq!(paths("nonsense\n4:cpuset:/x\n", "1 2 0:3 / /c rw - cgroup c rw,cpu\n"), [""; 0]);
    }
}
