//! A panic inside imago, here of the storage that it calls. It ends the image, and nothing else.

use std::cell::Cell;
use std::sync::Arc;

use aio::MonitorKind;
use virtio_bindings::virtio_blk as vb;

use super::{Attached, image_of, open, run};
use crate::blk::backend::tests::CAPACITY;
use crate::blk::device::test_rig::{Posted, Rig, disk_content, range};

thread_local! {
    /// How many more operations of this thread go well. `None`: all of them.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Called before each operation.
pub(in crate::blk::backend::formatted) fn panic_if_armed() {
    match LEFT.get() {
        Some(0) => panic!("a panic for the test"),
        left => LEFT.set(left.map(|left| left - 1)),
    }
}

fn requests() -> [Posted; 5] {
    [
        Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(4096).status(),
        Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&[1; 16384]).status(),
        Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
        Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(0, 64, 0)).status(),
        Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
    ]
}

/// Wherever it comes: the request is answered with an error, and so is each later one. Nothing more
/// is written. Another image on the same loop goes on.
#[test]
fn a_panic_ends_the_image_and_nothing_else() {
    let (mut panics, mut left) = (0, 0);
    loop {
        let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
        let image = Arc::new(open(file.path(), &[]).unwrap());
        let mut rig = Rig::new(image.device_config());
        let attached = Attached::new(MonitorKind::IoUring, &image);
        LEFT.set(Some(left));
        let failed = requests().iter().position(|posted| {
            let answer = run(&mut rig, &attached, posted);
            assert!(matches!(answer.status(), Some(0 | 1)));
            answer.status() == Some(1)
        });
        LEFT.set(None);
        let Some(failed) = failed else { break };
        panics += 1;
        let content = file.content();
        for posted in requests() {
            assert_eq!(run(&mut rig, &attached, &posted).status(), Some(1), "after request {failed}");
        }
        let other = image_of(&disk_content(CAPACITY), &[]).unwrap();
        let other = Arc::new(open(other.path(), &[]).unwrap());
        let fine = Attached::new(MonitorKind::IoUring, &other);
        let read = Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(512).status();
        assert_eq!(run(&mut Rig::new(other.device_config()), &fine, &read).status(), Some(0));
        drop((attached, image));
        assert!(file.content() == content, "it was written to after the panic");
        left += 1;
    }
    assert!(panics > 5, "{panics}");
}

#[test]
fn metadata_that_makes_imago_panic_is_refused() {
    let Some(file) = image_of(&disk_content(CAPACITY), &[]) else { return };
    LEFT.set(Some(0));
    let error = open(file.path(), &[]).unwrap_err();
    LEFT.set(None);
    assert!(error.to_string().contains("the metadata is damaged"), "{error}");
    open(file.path(), &[]).unwrap();
}
