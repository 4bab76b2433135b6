//! Locks an image against other programs, in the way that QEMU does.
//!
//! QEMU knows permissions: what a user of an image does, and what it lets others do. Each has two
//! bytes of the file, which are locked and never written:
//!
//! | permission | held: byte | not shared with others: byte |
//! |---|---|---|
//! | consistent read | 100 | 200 |
//! | write | 101 | 201 |
//! | write unchanged, resize | 102, 103 | 202, 203 |
//!
//! A program takes a shared lock on the bytes of its own row entries, and then asks whether anybody
//! has locked the opposite byte. All locks are shared, so a file that is open for reading will do.
//! They are OFD locks (fcntl(2)): they belong to the open file, and end with it.
//!
//! An image is held here for reading, or for reading and writing, and in both cases others may
//! read it but not write it: bytes 100 and 201, and 101 for a writer. QEMU locks the same bytes for
//! a raw disk of a guest. So two programs can share an image if neither writes to it. A reader that
//! does not object to writers, such as `qemu-img info` of a raw image, may read it at any time.
//!
//! # Live migration
//!
//! Two processes have the image open, and one of them uses it. QEMU calls the disk of the other one
//! inactive: it is open without any permission, so without locks. The destination's disks are
//! inactive until the guest's state has arrived (`bdrv_activate`), and the source's disks become
//! inactive when the guest has stopped there (`bdrv_inactivate`). Here, the lock is taken when the
//! first ring starts and given back when the last one is stopped
//! ([`FileImage::locked_while_used`]): the frontend stops the rings of a guest that has stopped,
//! before it sends the rest of its state, and starts them when the guest continues. The content
//! goes through the page cache of the host, so both processes must be on one host, or on a file
//! system that keeps the caches of its hosts coherent.
#![expect(unsafe_code, reason = "fcntl(2) with F_OFD_SETLK and F_OFD_GETLK")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::file_image::FileImage;

/// The byte of a permission that is held.
const HELD: i64 = 100;
/// The byte of a permission that is not shared.
const NOT_SHARED: i64 = 200;
/// The number of the permission to read what is consistent.
const READ: i64 = 0;
/// The number of the permission to write.
const WRITE: i64 = 1;

/// How long the previous user of the image may take to end. The locks of a killed process remain
/// for a moment, while io_uring cancels its operations.
const ENDING: Duration = Duration::from_secs(1);

/// Why an image was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process uses it in a way that does not allow for this use.
    #[error("another process {0}")]
    InUse(&'static str),
    /// There are no such locks on this file system or in this kernel.
    #[error("OFD locks do not work on this file: {0}")]
    Unsupported(io::Error),
}

impl FileImage {
    /// Locks the image for this use of it until it is dropped. Waits up to one second for another
    /// user to end.
    ///
    /// # Errors
    /// [`LockError`]; then the image is not locked.
    pub fn lock(&self) -> Result<(), LockError> {
        let deadline = Instant::now() + ENDING;
        loop {
            match self.try_lock() {
                Err(LockError::InUse(_)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => return outcome,
            }
        }
    }
}

impl FileImage {
    /// Locks the image like [`lock`](Self::lock), but does not wait. An image that is locked stays
    /// so, whoever else tries to lock it.
    ///
    /// # Errors
    /// [`LockError`]; then the image is not locked.
    pub fn try_lock(&self) -> Result<(), LockError> {
        let mut is_locked = self.is_locked.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_locked {
            // For an image that is locked, this would find the attempts of others, and unlock it.
            try_lock(self.file(), !self.is_read_only())?;
            *is_locked = true;
        }
        Ok(())
    }

    /// Ends the lock. Nothing happens if the image is not locked.
    pub fn unlock(&self) {
        let mut is_locked = self.is_locked.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *is_locked) {
            unlock(self.file());
        }
    }

    /// Checks whether the image can be locked at all, now or later.
    ///
    /// # Errors
    /// [`LockError::Unsupported`].
    pub fn check_locking(&self) -> Result<(), LockError> {
        let mut found = range(libc::F_WRLCK, HELD, 1);
        call(self.file(), libc::F_OFD_GETLK, &mut found).map_err(LockError::Unsupported)
    }
}

fn try_lock(file: &File, write: bool) -> Result<(), LockError> {
    let outcome = lock_and_check(file, write);
    if outcome.is_err() {
        unlock(file);
    }
    outcome
}

fn unlock(file: &File) {
    // Of the whole file: this is the only place that locks it.
    let _ = call(file, libc::F_OFD_SETLK, &mut range(libc::F_UNLCK, 0, 0));
}

/// Takes the locks first and checks afterwards. Of two programs that do this at the same time, at
/// least one sees the other.
fn lock_and_check(file: &File, write: bool) -> Result<(), LockError> {
    let lock = |byte| match call(file, libc::F_OFD_SETLK, &mut range(libc::F_RDLCK, byte, 1)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Err(LockError::InUse("has locked it"))
        }
        outcome => outcome.map_err(LockError::Unsupported),
    };
    let check = |byte, why| {
        let mut found = range(libc::F_WRLCK, byte, 1);
        call(file, libc::F_OFD_GETLK, &mut found).map_err(LockError::Unsupported)?;
        if found.l_type == libc::F_UNLCK as libc::c_short { Ok(()) } else { Err(LockError::InUse(why)) }
    };
    lock(HELD + READ)?;
    if write {
        lock(HELD + WRITE)?;
    }
    lock(NOT_SHARED + WRITE)?;
    check(HELD + WRITE, "writes to it")?;
    check(NOT_SHARED + READ, "lets nobody read it")?;
    if write { check(NOT_SHARED + WRITE, "uses it and lets nobody write to it") } else { Ok(()) }
}

/// A lock on `len` bytes, or on all that follow if `len` is 0.
fn range(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    // SAFETY: zero is valid for this structure of integers; OFD locks need an `l_pid` of 0.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (start, len);
    lock
}

fn call(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and `lock` is valid and writable.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
