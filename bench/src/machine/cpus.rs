//! The CPUs that this process may use, and pinning a thread to one of them.
#![expect(unsafe_code, reason = "sched_setaffinity(2) and its kin take C bit masks and structures")]

use std::{fmt, io, mem};

/// 8192 CPUs: the largest NR_CPUS that Linux can be configured for on any architecture.
const WORDS: usize = 8192 / BITS;
const BITS: usize = libc::c_ulong::BITS as usize;

/// A set of CPUs in the kernel's format. Larger than glibc's `cpu_set_t`, with which
/// sched_getaffinity(2) fails on a kernel configured for more than 1024 CPUs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CpuSet([libc::c_ulong; WORDS]);

impl CpuSet {
    /// The CPUs that the calling thread may run on. Because of cgroups, taskset and containers
    /// these may be fewer than the machine has, and not the first ones.
    pub(crate) fn allowed() -> io::Result<Self> {
        let mut set = Self([0; WORDS]);
        // SAFETY: the mask is ours, is written for at most the given number of bytes, and any bits
        // are a valid value.
        let result =
            unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set.0), set.0.as_mut_ptr().cast()) };
        if result == 0 { Ok(set) } else { Err(io::Error::last_os_error()) }
    }

    /// Parses the kernel's list format, such as `0-3,8` (cpuset(7), "List format"). Malformed parts
    /// are ignored.
    pub(crate) fn parse_list(list: &str) -> Self {
        let mut set = Self([0; WORDS]);
        for range in list.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
                (first..=last.min(WORDS * BITS - 1)).for_each(|cpu| set.insert(cpu));
            }
        }
        set
    }

    fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / BITS) {
            *word |= 1 << (cpu % BITS);
        }
    }

    pub(crate) fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / BITS).is_some_and(|word| word & (1 << (cpu % BITS)) != 0)
    }

    /// The CPUs in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..WORDS * BITS).filter(|&cpu| self.contains(cpu))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// The list format again: `0-3,8`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

/// Pins the calling thread to one CPU until it ends or is pinned again.
pub(crate) fn pin_current_thread(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet([0; WORDS]);
    set.insert(cpu);
    // SAFETY: the mask is ours and is only read, for the given number of bytes.
    let result = unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set.0), set.0.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps the calling thread from preempting others when it wakes up (SCHED_BATCH, sched(7)): a
/// thread on the same CPU that woke it continues until it sleeps. Needs no privilege.
pub(crate) fn let_others_finish() -> io::Result<()> {
    // SAFETY: an all-zero `sched_param` is a valid value of that plain C structure, on every libc.
    let parameters: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: `parameters` is ours and is only read; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_printed_as_the_kernel_does() {
        for list in ["0", "0-3", "1,3,5-7", "0-1023,8191"] {
            assert_eq!(CpuSet::parse_list(list).to_string(), list);
        }
        assert_eq!(CpuSet::parse_list("2,1\n").to_string(), "1-2");
        for nothing in ["", "x", "3-", "5-2", "99999"] {
            assert_eq!(CpuSet::parse_list(nothing).len(), 0, "{nothing}");
        }
        assert_eq!(CpuSet::parse_list("8190-99999999").to_string(), "8190-8191");
    }

    #[test]
    fn a_thread_is_pinned_to_each_cpu_that_is_allowed() {
        let allowed = CpuSet::allowed().unwrap();
        assert!(allowed.len() >= 1);
        for cpu in allowed.iter() {
            // A thread of its own, so that the test runner's thread keeps its mask.
            let pinned = std::thread::spawn(move || {
                pin_current_thread(cpu).unwrap();
                CpuSet::allowed().unwrap()
            });
            assert_eq!(pinned.join().unwrap().to_string(), cpu.to_string());
        }
    }

    #[test]
    fn a_thread_can_be_kept_from_preempting() {
        let policy = std::thread::spawn(|| {
            let_others_finish().unwrap();
            // The 41st field (proc_pid_stat(5)) is the policy; SCHED_BATCH is 3. The name, in
            // brackets, may hold spaces.
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(38).unwrap().to_owned()
        });
        assert_eq!(policy.join().unwrap(), "3");
    }

    #[test]
    fn an_absent_cpu_is_an_error() {
        let result = std::thread::spawn(|| pin_current_thread(8_191)).join().unwrap();
        assert!(result.is_err());
        let result = std::thread::spawn(|| pin_current_thread(usize::MAX)).join().unwrap();
        assert!(result.is_err());
    }
}
