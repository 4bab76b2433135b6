//! The checks of an eventfd that somebody else made.

use crate::reset::{AutoresetFlag, Method, Reset, autoreset_flag, resets_itself, unsupported};
use crate::sys::fd::is_nonblocking;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Refuses a descriptor that cannot be a doorbell, or not with this reset mode. Returns whether the
/// eventfd resets by itself.
pub(super) fn inspect(fd: BorrowedFd<'_>, reset: Reset) -> io::Result<bool> {
    let number = fd.as_raw_fd();
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("fd {number} {why}")));
    if !is_nonblocking(number)? {
        return refuse("is a blocking eventfd, which could stop the event loop; create it with EFD_NONBLOCK");
    }
    // Without /proc these two checks are left out: the first read or write of eight bytes will
    // fail.
    if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}"))
        && target.as_os_str() != "anon_inode:[eventfd]"
    {
        return refuse(&format!("is not an eventfd but {}; register it with add_fd", target.display()));
    }
    if let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
        && info.lines().any(|l| l.starts_with("eventfd-semaphore:") && l.trim_end().ends_with('1'))
    {
        return refuse(
            "is an EFD_SEMAPHORE eventfd, whose counts a doorbell does not keep; register it with add_fd",
        );
    }
    // Observed. The count that this takes away is put back by the ring at its end.
    let flag = autoreset_flag();
    let resets = flag != AutoresetFlag::Absent && resets_itself(fd)?;
    match reset {
        Reset::AutoresetBy(Method::KernelFlag) if flag == AutoresetFlag::Absent => {
            Err(unsupported("this kernel has no EFD_AUTORESET; ask for Reset::Autoreset instead"))
        }
        Reset::AutoresetBy(Method::KernelFlag) if !resets => Err(unsupported(
            "this eventfd was created without EFD_AUTORESET; ask for Reset::Autoreset instead",
        )),
        Reset::AutoresetBy(Method::KernelFlag) => Ok(true),
        // The read(2) that decides whether it was rung would find it empty.
        Reset::Classic if resets => refuse("was created with EFD_AUTORESET; adopt it with Reset::Autoreset"),
        _ if resets && flag == AutoresetFlag::AtPoll => refuse(
            "was created with EFD_AUTORESET, which this kernel resets inside poll; adopt it by Method::KernelFlag, for ppoll",
        ),
        _ => Ok(resets),
    }
}
