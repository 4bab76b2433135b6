//! A memfd with a fixed size.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use memfd::{FileSeal, MemfdOptions};

/// Creates a memfd of `size` zero bytes that cannot shrink or grow (memfd_create(2), "File
/// sealing").
///
/// `name` is shown in `/proc/self/fd`. The descriptor is closed on exec. Pages are allocated when
/// they are first touched.
///
/// # Errors
/// `InvalidInput` if the name is not UTF-8, else the error of memfd_create(2), ftruncate(2) or
/// fcntl(2).
pub(crate) fn sealed_memfd(name: &CStr, size: u64) -> io::Result<File> {
    let name = name.to_str().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let memfd = MemfdOptions::new().allow_sealing(true).close_on_exec(true).create(name).map_err(os_error)?;
    memfd.as_file().set_len(size)?;
    memfd.add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal]).map_err(os_error)?;
    Ok(memfd.into_file())
}

/// The error of the system call, without the wrapper of the `memfd` crate.
fn os_error(error: memfd::Error) -> io::Error {
    match error {
        memfd::Error::Create(error) | memfd::Error::AddSeals(error) | memfd::Error::GetSeals(error) => error,
    }
}
