//! Metadata that makes no sense. Each change of it gives a refusal, an I/O error or wrong data, and
//! never a panic of the loop or a request without an answer.

use std::sync::Arc;

use aio::MonitorKind;
use virtio_bindings::virtio_blk as vb;

use super::{Attached, image_of, open, run};
use crate::blk::backend::image_format::ImageError;
use crate::blk::backend::tests::{CAPACITY, TempFile};
use crate::blk::device::test_rig::{Posted, Rig, disk_content, range};

/// Opens the image and uses it in every way. Returns whether it was opened, and how many requests
/// failed.
fn use_it(bytes: &[u8]) -> Option<usize> {
    let file = TempFile::with(bytes);
    let image = match open(file.path(), &[]) {
        Ok(image) => Arc::new(image),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let mut config = image.device_config();
    // A damaged size may be more than a disk can have.
    config.capacity_sectors = config.capacity_sectors.min(CAPACITY);
    let mut rig = Rig::new(config);
    let attached = Attached::new(MonitorKind::Epoll, &image);
    let sectors = rig.device.capacity_sectors();
    let len = (sectors * 512) as usize;
    let requests = [
        Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(len).status(),
        Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&vec![1; len / 2]).status(),
        Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
        Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(0, sectors as u32, 0)).status(),
        Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(0, sectors as u32 / 2, 0)).status(),
        Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&vec![2; len]).status(),
        Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
        Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(len).status(),
    ];
    let failed = |posted: &Posted| run(&mut rig, &attached, posted).status() != Some(0);
    Some(requests.iter().map(failed).filter(|failed| *failed).count())
}

/// Changes each byte of the metadata of a small image, in several ways.
#[test]
fn no_byte_of_the_metadata_can_do_harm() {
    for options in [&["-o", "cluster_size=512"][..], &["-c", "-o", "cluster_size=512"]] {
        let Some(file) = image_of(&disk_content(CAPACITY), options) else { return };
        let sound = file.content();
        assert_eq!(use_it(&sound), Some(0));
        let mut outcomes = [0; 3];
        // Header, tables and reference counts; the data follows them.
        let metadata = (0..sound.len()).filter(|&at| at < 5 * 512 && (at < 160 || sound[at] != 0));
        for at in metadata {
            for value in [0, 0x80, 0xff, sound[at] ^ 1, sound[at].wrapping_add(2)] {
                let mut damaged = sound.clone();
                damaged[at] = value;
                outcomes[match use_it(&damaged) {
                    None => 0,
                    Some(0) => 1,
                    Some(_) => 2,
                }] += 1;
            }
        }
        println!("refused, unnoticed, failed: {outcomes:?}");
        assert!(outcomes[0] > 0 && outcomes[2] > 0);
    }
}

#[test]
fn an_image_that_ends_early_is_refused_or_reads_zeros() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let sound = file.content();
    for len in (512..sound.len()).step_by(512) {
        use_it(&sound[..len]);
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let with = |at: usize, value: u8| {
        let mut bytes = file.content();
        bytes[at] = value;
        let changed = TempFile::with(&bytes);
        open(changed.path(), &[]).unwrap_err()
    };
    assert!(matches!(with(35, 1), ImageError::Encrypted(_)));
    // Incompatible features: dirty, corrupt, another compression, subclusters.
    for bit in [1, 2, 8, 16] {
        let error = with(79, bit);
        assert!(error.to_string().contains("incompatible feature"), "{error}");
    }
    assert!(with(7, 4).to_string().contains("v4 is not supported"));
}
