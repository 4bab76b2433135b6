//! Fewer rights for a server once it is set up, in case a guest finds a way in. For any vhost-user device.
//!
//! | part | what it takes away | when |
//! |---|---|---|
//! | no_new_privs | set-user-ID programs and file capabilities | before the first thread starts |
//! | landlock(7) | every file, device and TCP port that is not open yet; in the socket's directory everything but removing a name | before the first thread starts, because threads inherit it |
//! | seccomp(2) | every system call that serving does not need | when the threads run, for all of them (TSYNC) |
//!
//! **A call that is not allowed ends the process** (SIGSYS; the kernel's log has an audit line with its
//! number). An error would let an intruder try the next call. What the guest was told is written is written;
//! the server's successor finds the rest in the in-flight region. A few calls that libraries make on rare
//! paths, and whose failure they tolerate, are answered with ENOSYS instead.
//!
//! seccomp does not see what an io_uring carries out. landlock does: no file from Linux 5.13 on, no TCP port
//! from 6.7 on. A loop on the epoll monitor has no io_uring, and then the filter allows none of its calls.

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

/// The calls of serving, whatever their arguments.
const ALWAYS: &[i64] = &[
    // The loop: its monitor, its notifiers, and the probes of what this kernel does with them.
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_clock_gettime, // in the vDSO, unless the clock source has none
    // The frontend, its descriptors, and the answer to GET_INFLIGHT_FD.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat, // fstat(3) and File::metadata by way of AT_EMPTY_PATH
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat, // /proc/self/fd: is it an eventfd?
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    // The image.
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    // Memory. mmap and mprotect are in `calls`.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads, which the pool starts when it needs them. clone is in `calls`.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity, // pthread_getattr_np(3); malloc(3), for the number of its arenas
    libc::SYS_sched_yield,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    // Signals, and a wait that SIGCONT goes on with.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // The end.
    libc::SYS_unlinkat,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older calls that libraries prefer where there are any.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_readlink, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// The calls of a loop with an io_uring. Set-up too: a notifier's method is probed on a ring of its own.
const RING: &[i64] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Calls that are answered with ENOSYS, as by a kernel that does not have them.
const ABSENT: &[i64] = &[
    // Nothing is opened any more. malloc(3) of a thread asks how many CPUs are online (arena.c of glibc), and what the
    // policy of overcommitting is before it gives memory back (malloc-sysdep.h); a notifier asks for its fdinfo, a panic for
    // debug information.
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_getcwd, // a panic, again
    // Its flags are in memory, which a filter cannot read. Libraries take clone(2) then.
    libc::SYS_clone3,
];

/// What [`calls`] lets through.
fn calls(ring: bool, own: &[i64]) -> Result<Rules, BackendError> {
    let rings = if ring { RING } else { &[] };
    let mut rules: Rules =
        [ALWAYS, OLDER, rings, own, ABSENT].into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    let executable = libc::PROT_EXEC as u64;
    let thread = libc::CLONE_THREAD as u64;
    rules.extend([
        // No code but the program's own.
        (libc::SYS_mmap, vec![only(2, executable, 0)?]),
        (libc::SYS_mprotect, vec![only(2, executable, 0)?]),
        // No processes.
        (libc::SYS_clone, vec![only(0, thread, thread)?]),
        // To this process: raise(3) and abort(3).
        (libc::SYS_tgkill, vec![equal(0, std::process::id().into())?]),
        // `set_nonblocking` of a socket; the maximum of an eventfd (EFD_IOC_SET_MAXIMUM and _GET_MAXIMUM of a kernel that has
        // them), by which the loop knows that a doorbell must be read.
        (
            libc::SYS_ioctl,
            vec![
                equal(1, u64::from(libc::FIONBIO as u32))?,
                equal(1, u64::from(libc::_IOW::<u64>(b'J'.into(), 0) as u32))?,
                equal(1, u64::from(libc::_IOR::<u64>(b'J'.into(), 1) as u32))?,
            ],
        ),
        // A new thread gives itself, and glibc and std some mappings, a name.
        (libc::SYS_prctl, vec![equal(0, libc::PR_SET_NAME as u64)?, equal(0, libc::PR_SET_VMA as u64)?]),
    ]);
    Ok(rules)
}

/// An argument of which the bits of `mask` are `value`.
fn only(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
    let comparison = SeccompCmpOp::MaskedEq(mask);
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)?])
}

/// A 32-bit argument.
fn equal(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    only(argument, u32::MAX.into(), value)
}

/// The two programs, in the order in which they are installed, and how many calls they leave.
fn programs(ring: bool, own: &[i64]) -> Result<([BpfProgram; 2], usize), BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let absent = ABSENT.iter().map(|&call| (call, Vec::new())).collect();
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = calls(ring, own)?;
    let count = rules.len() - ABSENT.len();
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, enosys, arch)?;
    let allowed = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    // The stricter answer of the two counts (seccomp(2)). The second one refuses to install another.
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

/// A process that can open nothing any more, if the kernel has landlock.
#[derive(Debug)]
#[must_use = "the system calls are not restricted yet"]
pub struct Sandbox {
    landlock: String,
}

impl Sandbox {
    /// Takes the file system away from the calling thread and from the threads that it starts from now on.
    /// The name of `socket` can still be removed.
    ///
    /// # Errors
    /// See [`SandboxError`]. A kernel without landlock is no error; [`restrict_calls`](Self::restrict_calls)
    /// reports it.
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

    /// Takes every system call away that serving does not need, from all threads of the process. `monitor`
    /// is the monitor that was asked for. `own` are the numbers of further calls that the device makes, such
    /// as those by which it reaches what it serves. Returns one line that says what is in force.
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

/// The directory that a path's last name is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

/// All that this kernel's landlock can forbid. Sets no_new_privs whether there is a landlock or not.
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
