//! The same model as for the other backends, on images that `qemu-img` makes and checks. Without
//! `qemu-img` these tests print that they skip.

pub(super) mod closing;
mod damage;
pub(super) mod panics;
mod references;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use proptest::prelude::*;
use virtio_bindings::virtio_blk as vb;

use super::FormattedImage;
use crate::blk::backend::image_error::ImageError;
use crate::blk::backend::tests::{CAPACITY, TempFile, conforms, step};
use crate::blk::backend::{Backend, Engine, FileImage};
use crate::blk::device::test_rig::{Answer, Posted, Rig, disk_content, range};
use crate::blk::device::{FinishedRequest, PendingRequest};

/// Runs `qemu-img`. `None`, after printing the reason, if it is not installed.
pub(super) fn qemu_img(arguments: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: qemu-img: {error}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes a qcow2 image of [`disk_content`] with these options of `qemu-img convert`.
fn image_of(content: &[u8], options: &[&str]) -> Option<TempFile> {
    let (raw, image) = (TempFile::with(content), TempFile::new());
    let paths = [text(raw.path()), text(image.path())];
    let output = qemu_img(&[&["convert", "-f", "raw", "-O", "qcow2"], options, &paths[..]].concat())?;
    assert!(output.status.success(), "{}", said(&output));
    Some(image)
}

/// No errors, no leaks, and this content. Without locks (-U): a child of another test may have the
/// file open until its execve(2).
fn assert_clean(image: &TempFile, expected: &[u8]) {
    let Some(check) = qemu_img(&["check", "-U", "-f", "qcow2", text(image.path())]) else { return };
    assert!(check.status.success(), "{}", said(&check));
    let raw = TempFile::with(expected);
    let compare = ["compare", "-U", "-f", "qcow2", "-F", "raw", text(image.path()), text(raw.path())];
    let compared = qemu_img(&compare).unwrap();
    assert!(compared.status.success(), "{}", said(&compared));
}

fn open(path: &Path, allow: &[PathBuf]) -> Result<FormattedImage, ImageError> {
    open_as(path, false, allow)
}

fn open_as(path: &Path, read_only: bool, allow: &[PathBuf]) -> Result<FormattedImage, ImageError> {
    let file = FileImage::open(path, read_only, false)?;
    file.lock().unwrap();
    FormattedImage::open(file, path, allow)
}

/// A loop with an image attached to it.
struct Attached {
    context: AioContext,
    engine: Engine,
    finished: Rc<RefCell<Vec<FinishedRequest>>>,
}

impl Attached {
    fn new(monitor: MonitorKind, image: &Arc<FormattedImage>) -> Self {
        let context = AioContext::builder().monitor(monitor).build().unwrap();
        let finished: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();
        let answers = Rc::clone(&finished);
        let done = move |_: &AioContext, batch: &mut Vec<FinishedRequest>| {
            answers.borrow_mut().append(batch);
        };
        let engine = Backend::Formatted(Arc::clone(image)).attach(&context, Rc::new(done)).unwrap();
        Self { context, engine, finished }
    }

    fn execute(&self, request: PendingRequest) -> FinishedRequest {
        assert!(self.engine.submit(request).is_none());
        loop {
            if let Some(finished) = self.finished.borrow_mut().pop() {
                return finished;
            }
            self.context.poll(true).unwrap();
        }
    }
}

fn run(rig: &mut Rig, attached: &Attached, posted: &Posted) -> Answer {
    rig.run(posted, |request| attached.execute(request))
}

fn read_all(rig: &mut Rig, attached: &Attached) -> Vec<u8> {
    let len = (CAPACITY * 512) as usize;
    let answer = run(rig, attached, &Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(len).status());
    assert_eq!(answer.status(), Some(0));
    answer.data().to_vec()
}

/// The kinds of images: options of `qemu-img convert`. Clusters of one sector, so that the model's
/// discards are whole clusters.
const KINDS: &[&[&str]] = &[
    &["-o", "cluster_size=512"],
    &["-c", "-o", "cluster_size=512"],
    &["-o", "cluster_size=512,preallocation=metadata"],
    &["-o", "cluster_size=512,refcount_bits=1"],
    &["-o", "cluster_size=512,refcount_bits=64,lazy_refcounts=on"],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn formatted_image_conforms(steps in prop::collection::vec(step(), 1..30), kind in 0..KINDS.len()) {
        for monitor in [MonitorKind::IoUring, MonitorKind::Epoll] {
            let Some(file) = image_of(&disk_content(CAPACITY), KINDS[kind]) else { return Ok(()) };
            let image = Arc::new(open(file.path(), &[]).unwrap());
            let mut rig = Rig::new(image.device_config());
            let attached = Attached::new(monitor, &image);
            conforms(&mut rig, &steps, |request| attached.execute(request));
            let content = read_all(&mut rig, &attached);
            drop((attached, image));
            assert_clean(&file, &content);
        }
    }
}

/// A cluster that is written in part has the rest of its content from below: from nothing, from a
/// backing file, from compressed data.
#[test]
fn clusters_of_all_sizes_are_filled_up() {
    for (cluster, version) in [("512", "1.1"), ("64k", "1.1"), ("2M", "1.1"), ("64k", "0.10"), ("2M", "0.10")]
    {
        for compressed in [&[][..], &["-c"]] {
            let options = format!("cluster_size={cluster},compat={version}");
            let options = [compressed, &["-o", &options]].concat();
            let mut content = disk_content(CAPACITY);
            let Some(file) = image_of(&content, &options) else { return };
            let image = Arc::new(open(file.path(), &[]).unwrap());
            assert_eq!(image.device_config().discard, version == "1.1");
            let mut rig = Rig::new(image.device_config());
            let attached = Attached::new(MonitorKind::IoUring, &image);
            assert!(read_all(&mut rig, &attached) == content, "{options:?}");
            let posted = Posted::request(vb::VIRTIO_BLK_T_OUT, 5).readable(&[7; 700]).readable(&[7; 324]);
            assert_eq!(run(&mut rig, &attached, &posted.status()).status(), Some(0));
            content[5 * 512..7 * 512].fill(7);
            assert!(read_all(&mut rig, &attached) == content, "{options:?}");
            drop((attached, image));
            assert_clean(&file, &content);
        }
    }
}

/// What was answered is in the file, without a flush and without the image being closed.
#[test]
fn the_metadata_is_written_before_the_answer() {
    let Some(file) = image_of(&vec![0; (CAPACITY * 512) as usize], &["-o", "cluster_size=512"]) else {
        return;
    };
    let image = Arc::new(open(file.path(), &[]).unwrap());
    let mut rig = Rig::new(image.device_config());
    let attached = Attached::new(MonitorKind::IoUring, &image);
    let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&[3; 4096]).status();
    assert_eq!(run(&mut rig, &attached, &write).status(), Some(0));
    // A copy, because the image itself is locked.
    let copy = TempFile::with(&file.content());
    let mut expected = vec![0; (CAPACITY * 512) as usize];
    expected[..4096].fill(3);
    assert_clean(&copy, &expected);
}

/// A discard makes clusters free: the next writes use them again, and the file does not grow.
#[test]
fn discarded_clusters_are_used_again() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let image = Arc::new(open(file.path(), &[]).unwrap());
    let mut rig = Rig::new(image.device_config());
    let attached = Attached::new(MonitorKind::IoUring, &image);
    let size = file.content().len();
    for round in 0..20_u8 {
        let discard = Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(0, 32, 0)).status();
        let flush = Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status();
        let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&vec![round; 32 * 512]).status();
        for posted in [discard, flush, write] {
            assert_eq!(run(&mut rig, &attached, &posted).status(), Some(0));
        }
    }
    let mut expected = disk_content(CAPACITY);
    expected[..32 * 512].fill(19);
    drop((attached, image));
    assert!(file.content().len() <= size + 48 * 512, "{} after {size}", file.content().len());
    assert_clean(&file, &expected);
}

#[test]
fn a_read_only_image_is_not_changed() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let before = file.content();
    let image = Arc::new(open_as(file.path(), true, &[]).unwrap());
    assert!(image.device_config().read_only);
    let mut rig = Rig::new(image.device_config());
    let attached = Attached::new(MonitorKind::IoUring, &image);
    assert!(read_all(&mut rig, &attached) == disk_content(CAPACITY));
    let flush = Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status();
    assert_eq!(run(&mut rig, &attached, &flush).status(), Some(0));
    drop((attached, image));
    assert!(file.content() == before);
}

/// Two loops in two threads, each with a queue of the same image. Each writes its own sectors,
/// which are in clusters that both write.
#[test]
fn queues_on_several_loops_share_an_image() {
    let Some(file) = image_of(&vec![0; (CAPACITY * 512) as usize], &["-o", "cluster_size=4k"]) else {
        return;
    };
    let image = Arc::new(open(file.path(), &[]).unwrap());
    let work = |parity: u64, monitor| {
        let mut rig = Rig::new(image.device_config());
        let attached = Attached::new(monitor, &image);
        for round in 1..=10_u8 {
            for sector in (parity..CAPACITY).step_by(2) {
                let bytes = [round.wrapping_mul(3).wrapping_add(sector as u8); 512];
                let write = Posted::request(vb::VIRTIO_BLK_T_OUT, sector).readable(&bytes).status();
                assert_eq!(run(&mut rig, &attached, &write).status(), Some(0));
                let read = Posted::request(vb::VIRTIO_BLK_T_IN, sector).writable(512).status();
                assert_eq!(run(&mut rig, &attached, &read).data(), bytes);
            }
            let flush = Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status();
            assert_eq!(run(&mut rig, &attached, &flush).status(), Some(0));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0, MonitorKind::IoUring));
        scope.spawn(|| work(1, MonitorKind::Epoll));
    });
    drop(image);
    let expected: Vec<u8> =
        (0..CAPACITY).flat_map(|sector| [30_u8.wrapping_add(sector as u8); 512]).collect();
    assert_clean(&file, &expected);
}

/// A loop that ends drops its tasks. Others go on with the image, and it stays sound.
#[test]
fn a_loop_may_end_with_requests_in_flight() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let image = Arc::new(open(file.path(), &[]).unwrap());
    for turns in 0..12 {
        for monitor in [MonitorKind::IoUring, MonitorKind::Epoll] {
            let mut rig = Rig::new(image.device_config());
            let attached = Attached::new(monitor, &image);
            let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 8).readable(&[9; 8192]).status();
            let request = rig.begin_pending(&write);
            assert!(attached.engine.submit(request).is_none());
            for _ in 0..turns {
                attached.context.poll(false).unwrap();
            }
            drop(attached);
            let attached = Attached::new(monitor, &image);
            let mut rig = Rig::new(image.device_config());
            let again = run(&mut rig, &attached, &write);
            assert_eq!(again.status(), Some(0));
            let discard = Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(8, 16, 0)).status();
            assert_eq!(run(&mut rig, &attached, &discard).status(), Some(0));
        }
    }
    drop(image);
    let mut expected = disk_content(CAPACITY);
    expected[8 * 512..24 * 512].fill(0);
    assert_clean(&file, &expected);
}
