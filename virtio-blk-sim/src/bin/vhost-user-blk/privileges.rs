//! `--user` and `--group`: the process gives up what it needed to open its files.
#![expect(unsafe_code, reason = "setgroups(2), setresgid(2), setresuid(2), capset(2) and prctl(2)")]

use std::{io, ptr};

use crate::accounts;

/// Who the process will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Privileges {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Privileges {
    /// Finds the numbers. Call it before anything is opened, so that a wrong name changes nothing.
    pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, String> {
        let found_user = user.map(accounts::user).transpose()?;
        let found_group = group.map(accounts::group).transpose()?;
        let gid = found_group.or(found_user.and_then(|found| found.gid));
        match (found_user, gid) {
            (None, None) => Ok(None),
            (Some(found), None) => Err(format!("user {} has no account; name its group, too", found.uid)),
            (uid, gid) => Ok(Some(Self { uid: uid.map(|found| found.uid), gid })),
        }
    }

    /// Becomes that user, for good: without supplementary groups, without capabilities, and without
    /// a way to get them back by execve(2). Call it while there is one thread.
    pub(crate) fn take_on(self) -> Result<(), String> {
        self.change().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => {
                "changing the user or group needs root (CAP_SETUID and CAP_SETGID)".to_owned()
            }
            _ => format!("cannot change the user or group: {error}"),
        })?;
        if self.is_kept() {
            return Err("the former user or group could be taken on again".to_owned());
        }
        Ok(())
    }

    fn change(self) -> io::Result<()> {
        // SAFETY: no list of groups is read, because its length is 0.
        checked(unsafe { libc::setgroups(0, ptr::null()) })?;
        if let Some(gid) = self.gid {
            // SAFETY: takes integers.
            checked(unsafe { libc::setresgid(gid, gid, gid) })?;
        }
        if let Some(uid) = self.uid {
            // SAFETY: takes integers.
            checked(unsafe { libc::setresuid(uid, uid, uid) })?;
        }
        // setresuid(2) drops them only on the way from root to another user.
        drop_capabilities()?;
        // SAFETY: takes integers.
        checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
    }

    /// Tries to become root again. Returns true if that works.
    fn is_kept(self) -> bool {
        // SAFETY: takes integers.
        let user = || unsafe { libc::setresuid(0, 0, 0) } == 0;
        // SAFETY: takes integers.
        let group = || unsafe { libc::setresgid(0, 0, 0) } == 0;
        (self.uid.is_some_and(|uid| uid != 0) && user()) || (self.gid.is_some_and(|gid| gid != 0) && group())
    }
}

/// Drops all capabilities. The kernel takes the ambient ones with the permitted ones
/// (capabilities(7)).
fn drop_capabilities() -> io::Result<()> {
    /// _LINUX_CAPABILITY_VERSION_3 of linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    // struct __user_cap_header_struct and two of struct __user_cap_data_struct.
    let header: [u32; 2] = [VERSION_3, 0];
    let data = [0_u32; 6];
    // SAFETY: the kernel reads both, and nothing beyond them.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
