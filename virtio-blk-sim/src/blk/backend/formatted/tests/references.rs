//! Files that an image names: backing files and data files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aio::MonitorKind;
use virtio_bindings::virtio_blk as vb;

use super::{Attached, assert_clean, open, open_as, qemu_img, read_all, run, said, text};
use crate::blk::backend::FileImage;
use crate::blk::backend::image_error::ImageError;
use crate::blk::backend::tests::{CAPACITY, TempFile};
use crate::blk::device::test_rig::{Posted, Rig, disk_content};

/// A directory of its own.
struct Directory(PathBuf, #[expect(dead_code, reason = "its name is not given away")] TempFile);

impl Directory {
    fn new() -> Self {
        let name = TempFile::new();
        let path = name.path().with_extension("d");
        std::fs::create_dir(&path).unwrap();
        Self(path, name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes an image that names `backing` as it is given. `None` without `qemu-img`.
    fn overlay(&self, name: &str, backing: &str, format: &str) -> Option<PathBuf> {
        let path = self.file(name);
        // -u: the backing file need not exist. A relative name starts at the image.
        let size = (CAPACITY * 512).to_string();
        let create = ["create", "-u", "-f", "qcow2", "-b", backing, "-F", format, text(&path), &size];
        let output = qemu_img(&create)?;
        assert!(output.status.success(), "{}", said(&output));
        Some(path)
    }

    fn allowed(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn why(path: &Path, allow: &[PathBuf]) -> String {
    match open(path, allow) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn backing_files_are_read_and_not_written() {
    let dir = Directory::new();
    let base = dir.file("base.raw");
    let mut content = disk_content(CAPACITY);
    // Shorter than the disk above it.
    std::fs::write(&base, &content[..40 * 512]).unwrap();
    content[40 * 512..].fill(0);
    let Some(_) = dir.overlay("middle.qcow2", "base.raw", "raw") else { return };
    let top = dir.overlay("top.qcow2", text(&dir.file("middle.qcow2")), "qcow2").unwrap();
    let middle = std::fs::read(dir.file("middle.qcow2")).unwrap();
    for monitor in [MonitorKind::IoUring, MonitorKind::Epoll] {
        let image = Arc::new(open(&top, &dir.allowed()).unwrap());
        assert_eq!(image.files(), 3);
        let mut rig = Rig::new(image.device_config());
        let attached = Attached::new(monitor, &image);
        assert!(read_all(&mut rig, &attached) == content);
        let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 33).readable(&[5; 1024]).status();
        assert_eq!(run(&mut rig, &attached, &write).status(), Some(0));
        content[33 * 512..35 * 512].fill(5);
        assert!(read_all(&mut rig, &attached) == content);
        // Others may read the backing files, and not write to them.
        let locked = FileImage::open(&base, false, false).unwrap();
        assert!(locked.lock().is_err());
        open_as(&dir.file("middle.qcow2"), true, &dir.allowed()).unwrap();
    }
    assert!(std::fs::read(&base).unwrap() == disk_content(CAPACITY)[..40 * 512]);
    assert!(std::fs::read(dir.file("middle.qcow2")).unwrap() == middle);
    let expected = TempFile::with(&content);
    let compare = ["compare", "-U", "-f", "qcow2", "-F", "raw", text(&top), text(expected.path())];
    let compared = qemu_img(&compare).unwrap();
    assert!(compared.status.success(), "{}", said(&compared));
}

#[test]
fn only_allowed_files_are_opened() {
    let (dir, other) = (Directory::new(), Directory::new());
    std::fs::write(dir.file("base.raw"), disk_content(CAPACITY)).unwrap();
    std::fs::write(other.file("secret.raw"), disk_content(CAPACITY)).unwrap();
    std::os::unix::fs::symlink(other.file("secret.raw"), dir.file("link.raw")).unwrap();
    let Some(fine) = dir.overlay("fine.qcow2", "base.raw", "raw") else { return };
    assert!(why(&fine, &[]).contains("--allow-backing"));
    open(&fine, &dir.allowed()).unwrap();
    let secret = other.file("secret.raw");
    let up = format!("../{}/secret.raw", text(Path::new(other.0.file_name().unwrap())));
    for name in [text(&secret), &up, "link.raw"] {
        let image = dir.overlay("bad.qcow2", name, "raw").unwrap();
        let why = why(&image, &dir.allowed());
        assert!(why.contains("not inside a directory of --allow-backing"), "{name}: {why}");
        // Allowed where it really is.
        open(&image, &[dir.0.clone(), other.0.clone()]).unwrap();
    }
    let gone = dir.overlay("gone.qcow2", "nothing.raw", "raw").unwrap();
    assert!(why(&gone, &dir.allowed()).contains("No such file"));
    for name in ["nbd://localhost/x", "json:{\"driver\":\"null-co\"}", "fat:/etc"] {
        let image = dir.overlay("protocol.qcow2", name, "raw").unwrap();
        assert!(why(&image, &dir.allowed()).contains("without a protocol"), "{name}");
    }
    let vmdk = dir.overlay("vmdk.qcow2", "base.raw", "vmdk").unwrap();
    assert!(why(&vmdk, &dir.allowed()).contains("\"vmdk\" is not supported"));
    assert!(matches!(open(&fine, &[dir.file("no")]), Err(ImageError::AllowedDirectory { .. })));
}

#[test]
fn chains_end() {
    let dir = Directory::new();
    let Some(own) = dir.overlay("own.qcow2", "own.qcow2", "qcow2") else { return };
    // Locked by itself, as a writer.
    assert!(why(&own, &dir.allowed()).contains("in use"));
    let looped = |path: &Path| open_as(path, true, &dir.allowed()).unwrap_err();
    assert!(matches!(looped(&own), ImageError::Loop(_)));
    dir.overlay("a.qcow2", "b.qcow2", "qcow2").unwrap();
    let b = dir.overlay("b.qcow2", "a.qcow2", "qcow2").unwrap();
    assert!(matches!(looped(&b), ImageError::Loop(_)));

    std::fs::write(dir.file("0"), disk_content(CAPACITY)).unwrap();
    let most = super::super::layers::MOST_LAYERS;
    for number in 1..=most {
        let format = if number == 1 { "raw" } else { "qcow2" };
        dir.overlay(&number.to_string(), &(number - 1).to_string(), format).unwrap();
    }
    open(&dir.file(&(most - 1).to_string()), &dir.allowed()).unwrap();
    assert!(why(&dir.file(&most.to_string()), &dir.allowed()).contains("too many files"));
}

/// The format of a backing file is not guessed: with a header in a raw one, its guest would choose.
#[test]
fn a_backing_file_without_a_format_is_refused() {
    let dir = Directory::new();
    std::fs::write(dir.file("base.raw"), disk_content(CAPACITY)).unwrap();
    let Some(image) = dir.overlay("top.qcow2", "base.raw", "raw") else { return };
    let mut bytes = std::fs::read(&image).unwrap();
    // The header extension "backing file format" becomes one that nobody knows.
    let extension = 0xe279_2aca_u32.to_be_bytes();
    let at = bytes.windows(4).position(|window| window == extension).unwrap();
    bytes[at] = 0x11;
    std::fs::write(&image, bytes).unwrap();
    assert!(why(&image, &dir.allowed()).contains("qemu-img rebase -u"));
}

#[test]
fn a_data_file_needs_permission_and_has_the_data() {
    let dir = Directory::new();
    let (image, data) = (dir.file("image.qcow2"), dir.file("data.raw"));
    let options = format!("data_file={},data_file_raw=on", text(&data));
    let size = (CAPACITY * 512).to_string();
    let Some(made) = qemu_img(&["create", "-f", "qcow2", "-o", &options, text(&image), &size]) else {
        return;
    };
    assert!(made.status.success(), "{}", said(&made));
    assert!(why(&image, &[]).contains("--allow-backing"));
    let opened = Arc::new(open(&image, &dir.allowed()).unwrap());
    assert_eq!(opened.files(), 2);
    let mut rig = Rig::new(opened.device_config());
    let attached = Attached::new(MonitorKind::IoUring, &opened);
    let mut content = vec![0; (CAPACITY * 512) as usize];
    let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 2).readable(&[4; 4096]).status();
    assert_eq!(run(&mut rig, &attached, &write).status(), Some(0));
    content[1024..1024 + 4096].fill(4);
    assert!(read_all(&mut rig, &attached) == content);
    drop((attached, opened));
    assert!(std::fs::read(&data).unwrap()[..content.len()] == content);
    let copy = TempFile::with(&std::fs::read(&image).unwrap());
    assert_clean(&copy, &content);
}
