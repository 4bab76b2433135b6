//! Opens an image in its format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::engine::Backend;
use super::file_image::FileImage;
use super::image_error::ImageError;
use super::image_format::{ImageFormat, decide};
use crate::blk::device::DeviceConfig;

impl Backend {
    /// Makes the backend of an image, and the device configuration that suits it. `path` is where
    /// `file` was opened, and should be [locked](FileImage::lock).
    ///
    /// Without a `format` the image is raw, and is refused if it has the header of another format.
    /// `allow_backing` is for qcow2 images: the directories whose files they may name as backing
    /// files and data files. Blocks on the disk.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(
        file: FileImage,
        path: &Path,
        format: Option<ImageFormat>,
        allow_backing: &[PathBuf],
    ) -> Result<(Self, DeviceConfig), ImageError> {
        match decide(&file, path, format)? {
            ImageFormat::Qcow2 if file.is_locked_while_used() => {
                Err(ImageError::LockedWhileUsed(path.into()))
            }
            ImageFormat::Qcow2 => open_qcow2(file, path, allow_backing),
            ImageFormat::Raw | ImageFormat::Auto => {
                let config = file.device_config();
                Ok((Self::File(Arc::new(file)), config))
            }
        }
    }
}

#[cfg(feature = "imago")]
fn open_qcow2(
    file: FileImage,
    path: &Path,
    allow_backing: &[PathBuf],
) -> Result<(Backend, DeviceConfig), ImageError> {
    let image = super::formatted::FormattedImage::open(file, path, allow_backing)?;
    let config = image.device_config();
    Ok((Backend::Formatted(Arc::new(image)), config))
}

#[cfg(not(feature = "imago"))]
fn open_qcow2(_: FileImage, path: &Path, _: &[PathBuf]) -> Result<(Backend, DeviceConfig), ImageError> {
    Err(ImageError::NotBuilt(path.into()))
}
