//! The format of an image.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::file_image::FileImage;
use super::image_error::ImageError;

/// What the content of an image file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The bytes of the file are those of the disk.
    Raw,
    /// QEMU's format, version 2 or 3. Needs the feature `imago`.
    Qcow2,
    /// What the header says. A file without a known header is raw, which is accepted only for
    /// reading: a guest that can write to a raw disk can write a header to it, and so choose the
    /// format of the next start.
    ///
    /// Use it only for images that were never a guest's raw disk.
    Auto,
}

impl FromStr for ImageFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("{name}: the format of an image is raw, qcow2 or auto")),
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Auto => "auto",
        })
    }
}

/// Returns raw or qcow2.
pub(super) fn decide(
    file: &FileImage,
    path: &Path,
    wanted: Option<ImageFormat>,
) -> Result<ImageFormat, ImageError> {
    if wanted == Some(ImageFormat::Raw) {
        return Ok(ImageFormat::Raw);
    }
    let found = file.foreign_format().map_err(|error| ImageError::Header { path: path.into(), error })?;
    match (wanted, found) {
        (Some(ImageFormat::Qcow2 | ImageFormat::Auto), Some("qcow2")) => Ok(ImageFormat::Qcow2),
        (Some(ImageFormat::Qcow2), _) => Err(ImageError::NotQcow2(path.into())),
        (Some(ImageFormat::Auto), None) if !file.is_read_only() => Err(ImageError::Guess(path.into())),
        (_, None) => Ok(ImageFormat::Raw),
        (_, Some(format)) => Err(ImageError::Foreign { path: path.into(), format }),
    }
}

#[cfg(test)]
mod tests;
