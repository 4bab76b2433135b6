use super::*;
#[cfg(not(feature = "imago"))]
use crate::blk::backend::Backend;
use crate::blk::backend::tests::{CAPACITY, TempFile};
use crate::blk::device::test_rig::disk_content;

/// The beginning of a qcow2 image, without the rest of it.
fn with_header() -> TempFile {
    let mut content = disk_content(CAPACITY);
    content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    TempFile::with(&content)
}

fn decided(file: &TempFile, read_only: bool, format: Option<ImageFormat>) -> Result<ImageFormat, ImageError> {
    let image = FileImage::open(file.path(), read_only, false).unwrap();
    decide(&image, file.path(), format)
}

#[test]
fn formats_have_names() {
    for format in [ImageFormat::Raw, ImageFormat::Qcow2, ImageFormat::Auto] {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("vmdk".parse::<ImageFormat>().unwrap_err().contains("raw, qcow2 or auto"));
}

#[test]
fn a_writable_raw_image_is_not_guessed() {
    let raw = TempFile::with(&disk_content(CAPACITY));
    let auto = Some(ImageFormat::Auto);
    assert!(matches!(decided(&raw, false, auto), Err(ImageError::Guess(_))));
    assert_eq!(decided(&raw, true, auto).unwrap(), ImageFormat::Raw);
    for read_only in [false, true] {
        assert_eq!(decided(&with_header(), read_only, auto).unwrap(), ImageFormat::Qcow2);
        assert_eq!(decided(&raw, read_only, None).unwrap(), ImageFormat::Raw);
        let vmdk = TempFile::with(&[&b"KDMV"[..], &[0; 4096]].concat());
        assert!(matches!(decided(&vmdk, read_only, auto), Err(ImageError::Foreign { format: "VMDK", .. })));
    }
}

#[test]
fn a_named_format_is_obeyed() {
    let (raw, qcow2) = (TempFile::with(&disk_content(CAPACITY)), with_header());
    assert_eq!(decided(&qcow2, false, Some(ImageFormat::Raw)).unwrap(), ImageFormat::Raw);
    assert_eq!(decided(&qcow2, false, Some(ImageFormat::Qcow2)).unwrap(), ImageFormat::Qcow2);
    assert!(matches!(decided(&raw, false, Some(ImageFormat::Qcow2)), Err(ImageError::NotQcow2(_))));
    assert!(matches!(decided(&qcow2, false, None), Err(ImageError::Foreign { format: "qcow2", .. })));
}

/// Without the feature the header is recognised and the image refused, with what to do.
#[cfg(not(feature = "imago"))]
#[test]
fn a_build_without_the_feature_says_so() {
    let file = with_header();
    for format in [ImageFormat::Qcow2, ImageFormat::Auto] {
        let image = FileImage::open(file.path(), false, false).unwrap();
        let error = Backend::open(image, file.path(), Some(format), &[]).unwrap_err().to_string();
        assert!(error.contains("cargo feature `imago`"), "{error}");
    }
}
