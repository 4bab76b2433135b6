//! Drops rights that the server no longer needs once it is set up. This limits the damage if a
//! guest manages to take over the process.
//!
//! - no_new_privs: no set-user-ID programs and no file capabilities. Set before the first thread
//!   starts.
//! - landlock(7): no file, device or TCP port that is not already open. In the socket's directory,
//!   removing a file is still allowed. Set before the first thread starts, because new threads
//!   inherit it.
//! - seccomp(2): no system calls other than those that serving needs. Set for all threads at once
//!   (TSYNC) when they are running.
//!
//! **A call that is not on the list kills the process** with SIGSYS; the kernel log has an audit
//! line with the number of the call. Returning an error instead would let an attacker try the next
//! call. Killing the process is safe for the guest: writes that were reported as completed are on
//! the disk, and the next server finds the others in the in-flight region. A few calls are made by
//! libraries on rare paths, where failure is tolerated. Those are answered with ENOSYS
//! instead.
//!
//! seccomp does not see operations that an io_uring performs. landlock still applies to them: to
//! files since Linux 5.13, to TCP ports since 6.7. A loop on the epoll monitor has no io_uring, and
//! the filter then allows none of its calls.

use std::collections::BTreeMap;
use std::path::Path;

use aio::MonitorKind;
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The calls that serving needs, with any arguments.
const ALWAYS: &[i64] = &[
    // The loop: its monitor, its notifiers, and the probes that find out what this kernel supports.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_preadv2,       // a peer's eventfd, or the image, with RWF_NOWAIT
    libc::SYS_clock_gettime, // in the vDSO, unless the clock source is not supported there
    // The frontend, its file descriptors, and the reply to GET_INFLIGHT_FD.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat, // fstat(3) and File::metadata, through AT_EMPTY_PATH
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat, // /proc/self/fd: checks whether a descriptor is an eventfd
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    // The image.
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_getrusage, // whether a call has slept
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    // Memory. mmap and mprotect are in `calls`, with conditions.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads, which the pool starts on demand. clone is in `calls`, with conditions.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity, // pthread_getattr_np(3), and malloc(3) for its number of arenas
    libc::SYS_sched_yield,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    // Signals, and waits that the kernel restarts after SIGCONT.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Exit.
    libc::SYS_flock,           // the directory of the socket, while its name is removed
    libc::SYS_clock_nanosleep, // while another server has that lock
    libc::SYS_unlinkat,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older calls, which libraries prefer on architectures that have them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_readlink, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// The calls of a loop with an io_uring. Set-up is included: the method of a notifier is probed on
/// a separate ring, and a peer's eventfd is signalled through one. Without io_uring they return
/// ENOSYS.
const RING: &[i64] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Calls that return ENOSYS, as on a kernel that does not have them.
const ABSENT: &[i64] = &[
    // No file can be opened any more. In a new thread, malloc(3) reads the number of online CPUs
    // (arena.c of glibc), and before it frees memory it reads the overcommit policy
    // (malloc-sysdep.h). A notifier reads its fdinfo, and a panic reads debug information.
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_getcwd, // a panic
    // Its flags are in memory, which a filter cannot read. Libraries fall back to clone(2).
    libc::SYS_clone3,
];

/// The rules of the filter that kills the process: what it lets through. `own` are the device's own
/// calls.
fn calls(own: &[i64]) -> Result<Rules, BackendError> {
    let mut rules: Rules =
        [ALWAYS, OLDER, RING, own, ABSENT].into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    let executable = libc::PROT_EXEC as u64;
    let thread = libc::CLONE_THREAD as u64;
    rules.extend([
        // No new executable memory.
        (libc::SYS_mmap, vec![only(2, executable, 0)?]),
        (libc::SYS_mprotect, vec![only(2, executable, 0)?]),
        // Threads only, no new processes.
        (libc::SYS_clone, vec![only(0, thread, thread)?]),
        // The limit on the size of a file, and on descriptors. It is only read.
        (libc::SYS_prlimit64, vec![absent(2)?]),
        // Only to this process: raise(3) and abort(3).
        (libc::SYS_tgkill, vec![equal(0, std::process::id().into())?]),
        // `set_nonblocking` of a socket, and the maximum of an eventfd (EFD_IOC_SET_MAXIMUM and
        // EFD_IOC_GET_MAXIMUM, on a kernel that has them). From the maximum the loop learns whether
        // it must read a doorbell.
        (
            libc::SYS_ioctl,
            vec![
                equal(1, u64::from(libc::FIONBIO as u32))?,
                equal(1, u64::from(libc::_IOW::<u64>(b'J'.into(), 0) as u32))?,
                equal(1, u64::from(libc::_IOR::<u64>(b'J'.into(), 1) as u32))?,
            ],
        ),
        // A new thread sets its name, and glibc and std name some of their mappings.
        (libc::SYS_prctl, vec![equal(0, libc::PR_SET_NAME as u64)?, equal(0, libc::PR_SET_VMA as u64)?]),
    ]);
    Ok(rules)
}

/// A rule for an argument whose bits in `mask` must equal `value`.
fn only(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let comparison = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)?])
}

/// A rule for a pointer that must be null.
fn absent(argument: u8) -> Result<SeccompRule, BackendError> {
    let (len, comparison) = (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq);
    SeccompRule::new(vec![SeccompCondition::new(argument, len, comparison, 0)?])
}

/// A rule for a 32-bit argument that must equal `value`.
fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    only(argument, u32::MAX.into(), value)
}

/// Builds the two filter programs, in the order of installation, and counts the allowed calls.
/// `ring` allows io_uring.
fn programs(ring: bool, own: &[i64]) -> Result<([BpfProgram; 2], usize), BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let rings = if ring { &[] } else { RING };
    let absent: Rules = [ABSENT, rings].into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = calls(own)?;
    let count = rules.len() - absent.len();
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, enosys, arch)?;
    let allowed = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    // If two filters disagree, the stricter action wins (seccomp(2)). The second filter does not
    // allow another one to be installed.
    Ok(([absent.try_into()?, allowed.try_into()?], count))
}

/// Why the sandbox could not be set up. Nothing was restricted by the step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The directory of the socket cannot be opened.
    #[error("the file system cannot be restricted: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// landlock(7) refused.
    #[error("the file system cannot be restricted: {0}")]
    Landlock(#[from] RulesetError),
    /// The filter cannot be made for this architecture.
    #[error("the system calls cannot be restricted: {0}")]
    Filter(#[from] BackendError),
    /// seccomp(2) refused.
    #[error("the system calls cannot be restricted: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// A process that can no longer open files, if the kernel has landlock.
#[derive(Debug)]
#[must_use = "the system calls are not restricted yet"]
pub struct Sandbox {
    landlock: String,
}

impl Sandbox {
    /// Forbids opening files to the calling thread and to threads that it starts later. The name of
    /// `socket` can still be removed.
    ///
    /// # Errors
    /// See [`SandboxError`]. A kernel without landlock is no error;
    /// [`restrict_calls`](Self::restrict_calls) reports it.
    pub fn restrict_files(socket: Option<&Path>) -> Result<Self, SandboxError> {
        let directory = socket.map(parent).map(PathFd::new).transpose()?;
        let status = enforce(directory)?;
        let landlock = match (status.ruleset, status.landlock) {
            (
                RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
                LandlockStatus::Available { effective_abi, .. },
            ) => format!("landlock ABI {effective_abi}"),
            (_, LandlockStatus::NotEnabled) => {
                "no landlock: this kernel has it, and it is switched off (add it to lsm= of the command line)"
                    .to_owned()
            }
            _ => "no landlock: this kernel does not have it (Linux 5.13 with CONFIG_SECURITY_LANDLOCK does)"
                .to_owned(),
        };
        Ok(Self { landlock })
    }

    /// Takes every system call away that serving does not need, from all threads of the process.
    /// `monitor` is the monitor that was asked for. `own` are the numbers of further calls that the
    /// device makes, such as those by which it reaches what it serves. Returns one line that says
    /// what is in force.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn restrict_calls(self, monitor: Option<MonitorKind>, own: &[i64]) -> Result<String, SandboxError> {
        let ring = monitor.is_none_or(|kind| kind == MonitorKind::IoUring);
        let (programs, count) = programs(ring, own)?;
        for program in &programs {
            seccompiler::apply_filter_all_threads(program)?;
        }
        Ok(format!("no_new_privs, seccomp ({count} system calls), {}", self.landlock))
    }
}

/// Returns the directory of the last component of `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

/// Applies everything that this kernel's landlock can forbid. Also sets no_new_privs, even if there
/// is no landlock.
fn enforce(directory: Option<PathFd>) -> Result<landlock::RestrictionStatus, RulesetError> {
    let newest = ABI::V10;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?;
    if let Some(directory) = directory {
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    rules.restrict_self()
}

#[cfg(test)]
mod tests;
