//! In which thread an image is flushed when its last reference is dropped.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aio::MonitorKind;
use virtio_bindings::virtio_blk as vb;

use super::{Attached, assert_clean, image_of, open, read_all, run};
use crate::blk::backend::FileImage;
use crate::blk::backend::tests::CAPACITY;
use crate::blk::device::test_rig::{Posted, Rig, disk_content};

thread_local! {
    /// Counts the syncs of this thread.
    static SYNCS: RefCell<Option<Arc<AtomicUsize>>> = const { RefCell::new(None) };
}

/// Called before each sync.
pub(in crate::blk::backend::formatted) fn note_sync() {
    SYNCS.with_borrow(|count| count.iter().for_each(|count| _ = count.fetch_add(1, Ordering::SeqCst)));
}

/// A thread that runs a loop does not wait for the storage. Another one does.
#[test]
fn the_last_reference_does_not_block_a_loop() {
    for on_loop in [true, false] {
        let Some(file) = image_of(&disk_content(CAPACITY), &[]) else { return };
        let image = Arc::new(open(file.path(), &[]).unwrap());
        assert_eq!(image.files(), 1);
        let mut rig = Rig::new(image.device_config());
        let attached = Attached::new(MonitorKind::IoUring, &image);
        let write = Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&[3; 4096]).status();
        assert_eq!(run(&mut rig, &attached, &write).status(), Some(0));
        let content = read_all(&mut rig, &attached);
        let count = Arc::new(AtomicUsize::new(0));
        SYNCS.set(Some(Arc::clone(&count)));
        let Attached { context, engine, .. } = attached;
        drop(engine);
        let context = on_loop.then_some(context);
        drop(image);
        SYNCS.set(None);
        assert_eq!(count.load(Ordering::SeqCst), usize::from(!on_loop), "on a loop: {on_loop}");
        // It is locked until it is closed.
        let deadline = Instant::now() + Duration::from_secs(10);
        while FileImage::open(file.path(), false, false).unwrap().lock().is_err() {
            assert!(Instant::now() < deadline, "the image is not closed");
        }
        drop(context);
        assert_clean(&file, &content);
    }
}
