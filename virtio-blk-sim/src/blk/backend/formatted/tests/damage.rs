//! Metadata that makes no sense. Each change of it gives a refusal, an I/O error or wrong data, and
//! never a panic of the loop or a request without an answer.

use std::sync::Arc;

use aio::MonitorKind;
use virtio_bindings::virtio_blk as vb;

use super::{Attached, image_of, open, run};
use crate::blk::backend::image_error::ImageError;
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

/// Bytes and entries of the metadata of a small image, each with what it is changed to: header,
/// tables and reference counts are in the first five clusters.
fn changes(sound: &[u8]) -> Vec<Vec<u8>> {
    let changed = |at: usize, bytes: &[u8]| {
        let mut damaged = sound.to_vec();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    let mut changes = Vec::new();
    for at in (0..5 * 512).filter(|&at| at < 160 || sound[at] != 0) {
        for value in [0, 0x80, 0xff, sound[at] ^ 1, sound[at].wrapping_add(2)] {
            changes.push(changed(at, &[value]));
        }
    }
    // Entries that lead to the metadata itself, to the end of the file, and far behind it, with the
    // flags of an entry (QEMU's docs/interop/qcow2.txt): in use, compressed, zeros.
    let offsets = [0, 512, 1024, 1536, 2048, 2560, sound.len() as u64, 1 << 50, 0x00ff_ffff_ffff_fe00];
    for at in (512..5 * 512).step_by(8).filter(|&at| sound[at..at + 8] != [0; 8]) {
        for offset in offsets {
            for flags in [0, 1 << 63, 1 << 62, 1] {
                changes.push(changed(at, &u64::to_be_bytes(offset | flags)));
            }
        }
    }
    changes
}

/// Every so many of the changes is tried, another share of them each time. `DAMAGE_EACH=1` tries
/// all, which takes minutes.
fn each() -> usize {
    std::env::var("DAMAGE_EACH").ok().and_then(|each| each.parse().ok()).unwrap_or(23)
}

#[test]
fn no_change_of_the_metadata_can_do_harm() {
    for options in [&["-o", "cluster_size=512"][..], &["-c", "-o", "cluster_size=512"]] {
        let Some(file) = image_of(&disk_content(CAPACITY), options) else { return };
        let sound = file.content();
        assert_eq!(use_it(&sound), Some(0));
        let mut outcomes = [0; 3];
        let each = each();
        for damaged in changes(&sound).iter().skip(std::process::id() as usize % each).step_by(each) {
            outcomes[match use_it(damaged) {
                None => 0,
                Some(0) => 1,
                Some(_) => 2,
            }] += 1;
        }
        println!("refused, unnoticed, failed: {outcomes:?}");
        assert!(outcomes[0] > 0 && outcomes[2] > 0);
    }
}

#[test]
fn an_image_that_ends_early_is_refused_or_reads_zeros() {
    let Some(file) = image_of(&disk_content(CAPACITY), &["-o", "cluster_size=512"]) else { return };
    let sound = file.content();
    for len in (512..sound.len()).step_by(5 * 512) {
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
