//! Users and groups, by name or by number.
#![expect(unsafe_code, reason = "getpwnam_r(3), getpwuid_r(3) and getgrnam_r(3)")]

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::{io, ptr};

/// A user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// Its primary group. `None` for a number that no account has.
    pub(crate) gid: Option<u32>,
}

/// The largest entry of the databases that is read.
const MOST: usize = 1 << 20;

/// Finds a user. Blocks as the databases of nsswitch.conf(5) do.
pub(crate) fn user(text: &str) -> Result<User, String> {
    let found = match number(text)? {
        Some(uid) => lookup::<libc::passwd>(|entry, buffer, size, result| {
            // SAFETY: `entry` and `result` are ours, and `buffer` has `size` bytes.
            unsafe { libc::getpwuid_r(uid, entry, buffer, size, result) }
        }),
        None => {
            let name = c_string(text)?;
            lookup::<libc::passwd>(|entry, buffer, size, result| {
                // SAFETY: as above, and `name` is a C string.
                unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, size, result) }
            })
        }
    };
    match (found.map_err(|error| format!("user {text}: {error}"))?, number(text)?) {
        (Some(entry), _) => Ok(User { uid: entry.pw_uid, gid: Some(entry.pw_gid) }),
        (None, Some(uid)) => Ok(User { uid, gid: None }),
        (None, None) => Err(format!("there is no user {text}")),
    }
}

/// Finds the number of a group. Blocks as the databases of nsswitch.conf(5) do.
pub(crate) fn group(text: &str) -> Result<u32, String> {
    if let Some(gid) = number(text)? {
        return Ok(gid);
    }
    let name = c_string(text)?;
    let found = lookup::<libc::group>(|entry, buffer, size, result| {
        // SAFETY: `entry` and `result` are ours, `buffer` has `size` bytes, and `name` is a C
        // string.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, size, result) }
    });
    let found = found.map_err(|error| format!("group {text}: {error}"))?;
    found.map(|entry| entry.gr_gid).ok_or_else(|| format!("there is no group {text}"))
}

/// A text of digits is a number. The last number means "no change" to chown(2) and setresuid(2).
fn number(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Err("a name or a number is missing".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|number| *number != u32::MAX);
    number.map(Some).ok_or_else(|| format!("{text} is no number of a user or group"))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a name has no byte 0".to_owned())
}

/// Calls `find` with a buffer that is large enough. Only the numbers in the entry are of use
/// afterwards: its pointers lead into the buffer, which is gone.
fn lookup<T: Copy>(
    find: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> libc::c_int,
) -> io::Result<Option<T>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let (mut entry, mut result) = (MaybeUninit::<T>::uninit(), ptr::null_mut());
        let error = find(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut result);
        match error {
            0 if result.is_null() => return Ok(None),
            // SAFETY: the call has succeeded and found an entry, so it has filled `entry`.
            0 => return Ok(Some(unsafe { entry.assume_init() })),
            libc::EINTR => {}
            libc::ERANGE if buffer.len() < MOST => buffer.resize(buffer.len() * 2, 0),
            // What the databases report for a name that they do not have (getpwnam(3), ERRORS).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(user("root"), Ok(User { uid: 0, gid: Some(0) }));
        assert_eq!(user("0"), user("root"));
        assert_eq!(user("3999999999"), Ok(User { uid: 3_999_999_999, gid: None }));
        assert_eq!((group("root"), group("0"), group("3999999999")), (Ok(0), Ok(0), Ok(3_999_999_999)));
        assert_eq!(user("no such user").unwrap_err(), "there is no user no such user");
        assert_eq!(group("no such group").unwrap_err(), "there is no group no such group");
        for text in ["", "4294967295", "99999999999", "a\0b"] {
            assert!(user(text).is_err() && group(text).is_err(), "{text:?}");
        }
    }
}
