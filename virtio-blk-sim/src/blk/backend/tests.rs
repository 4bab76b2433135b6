//! Compares the backends with one model: for any sequence of requests, each must give the same
//! answers and end with the same content.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use virtio_bindings::virtio_blk as vb;

use super::{FileImage, Memory, Null, OpenError};
use crate::blk::device::test_rig::{BACKGROUND, Posted, Rig, disk_content, range};
use crate::blk::device::{DeviceConfig, FinishedRequest, PendingRequest, SECTOR_SIZE};

pub(super) const CAPACITY: u64 = 64;

/// A unique path in the temporary directory. The file is removed on drop.
#[derive(Debug)]
pub(super) struct TempFile(PathBuf);

impl TempFile {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("virtio-blk-sim-{}-{number}.img", std::process::id())))
    }

    pub(super) fn with(content: &[u8]) -> Self {
        let file = Self::new();
        std::fs::write(&file.0, content).unwrap();
        file
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn content(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Not all tests create the file.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens an image with direct I/O. Returns `None`, after printing the reason, if the file system of
/// the temporary directory does not support it.
pub(super) fn open_direct(file: &TempFile) -> Option<FileImage> {
    match FileImage::open(file.path(), false, true) {
        Ok(image) => Some(image),
        Err(OpenError::NoDirect(path)) => {
            eprintln!("skipped: no direct I/O on {}", path.display());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Read { sector: u64, sectors: u64, cut: usize },
    Write { sector: u64, sectors: u64, cut: usize, fill: u8 },
    Discard(Vec<(u64, u32)>),
    WriteZeroes(Vec<(u64, u32, bool)>),
    Flush,
    WriteThrough(bool),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let run = || (0..CAPACITY).prop_flat_map(|sector| (Just(sector), 1..=(CAPACITY - sector).min(20)));
    let short =
        || (0..CAPACITY).prop_flat_map(|sector| (Just(sector), 0..=(CAPACITY - sector).min(12) as u32));
    prop_oneof![
        4 => (run(), any::<usize>()).prop_map(|((sector, sectors), cut)| Step::Read { sector, sectors, cut }),
        4 => (run(), any::<usize>(), 1..200_u8)
            .prop_map(|((sector, sectors), cut, fill)| Step::Write { sector, sectors, cut, fill }),
        1 => prop::collection::vec(short(), 1..4).prop_map(Step::Discard),
        2 => prop::collection::vec((short(), any::<bool>()), 1..4).prop_map(|list| {
            let list = list.into_iter().map(|((sector, sectors), unmap)| (sector, sectors, unmap));
            Step::WriteZeroes(list.collect())
        }),
        1 => Just(Step::Flush),
        1 => any::<bool>().prop_map(Step::WriteThrough),
    ]
}

/// The content by sector number; missing sectors are zeros.
#[derive(Default)]
struct Model(BTreeMap<u64, [u8; SECTOR_SIZE as usize]>);

impl Model {
    fn write(&mut self, sector: u64, data: &[u8]) {
        for (sector, data) in (sector..).zip(data.chunks_exact(SECTOR_SIZE as usize)) {
            self.0.insert(sector, data.try_into().unwrap());
        }
    }

    fn zero(&mut self, sector: u64, sectors: u64) {
        for sector in sector..sector + sectors {
            self.0.remove(&sector);
        }
    }

    fn read(&self, sector: u64, sectors: u64) -> Vec<u8> {
        (sector..sector + sectors)
            .flat_map(|sector| self.0.get(&sector).copied().unwrap_or([0; 512]))
            .collect()
    }
}

/// Runs the steps on a backend whose initial content is [`disk_content`]. Compares every answer
/// with the model, and the whole disk at the end.
pub(super) fn conforms(
    rig: &mut Rig,
    steps: &[Step],
    mut execute: impl FnMut(PendingRequest) -> FinishedRequest,
) {
    let mut model = Model::default();
    model.write(0, &disk_content(CAPACITY));
    let last = Step::Read { sector: 0, sectors: CAPACITY, cut: 1 };
    for step in steps.iter().chain([&last]) {
        let posted = match step {
            Step::Read { sector, sectors, cut } => {
                let len = (sectors * SECTOR_SIZE) as usize;
                let first = 1 + cut % (len - 1);
                Posted::request(vb::VIRTIO_BLK_T_IN, *sector).writable(first).writable(len - first).status()
            }
            Step::Write { sector, sectors, cut, fill } => {
                let data: Vec<u8> =
                    (0..sectors * SECTOR_SIZE).map(|at| fill.wrapping_add((at / 8) as u8)).collect();
                let (first, second) = data.split_at(1 + cut % (data.len() - 1));
                model.write(*sector, &data);
                Posted::request(vb::VIRTIO_BLK_T_OUT, *sector).readable(first).readable(second).status()
            }
            Step::Discard(list) => {
                list.iter().for_each(|&(sector, sectors)| model.zero(sector, sectors.into()));
                let list: Vec<u8> =
                    list.iter().flat_map(|&(sector, sectors)| range(sector, sectors, 0)).collect();
                Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&list).status()
            }
            Step::WriteZeroes(list) => {
                list.iter().for_each(|&(sector, sectors, _)| model.zero(sector, sectors.into()));
                let list: Vec<u8> = list
                    .iter()
                    .flat_map(|&(sector, sectors, unmap)| range(sector, sectors, unmap.into()))
                    .collect();
                Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&list).status()
            }
            Step::Flush => Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
            Step::WriteThrough(on) => {
                rig.device.write_config(32, &[u8::from(!on)]);
                continue;
            }
        };
        let answer = rig.run(&posted, &mut execute);
        assert_eq!((answer.error, answer.status()), (None, Some(0)), "{step:?}");
        if let Step::Read { sector, sectors, .. } = step {
            assert!(answer.data() == model.read(*sector, *sectors), "{step:?} returned wrong data");
            assert_eq!(u64::from(answer.written), sectors * SECTOR_SIZE + 1);
        } else {
            assert_eq!(answer.written, 1, "{step:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_conforms(steps in prop::collection::vec(step(), 1..30)) {
        let mut backend = Memory::new(CAPACITY).unwrap();
        backend.content_mut().copy_from_slice(&disk_content(CAPACITY));
        conforms(&mut Rig::new(DeviceConfig::new(CAPACITY)), &steps, |request| backend.execute(request));
    }

    /// Discarded sectors of a file read as zeros if the file system can punch holes; the common
    /// ones can.
    #[test]
    fn file_conforms(steps in prop::collection::vec(step(), 1..30)) {
        let file = TempFile::with(&disk_content(CAPACITY));
        let image = FileImage::open(file.path(), false, false).unwrap();
        conforms(&mut Rig::new(image.device_config()), &steps, |request| image.execute(request));
    }

    /// The buffers are at unaligned addresses, so direct I/O must copy.
    #[test]
    fn direct_file_conforms(steps in prop::collection::vec(step(), 1..30)) {
        let file = TempFile::with(&disk_content(CAPACITY));
        let Some(image) = open_direct(&file) else { return Ok(()) };
        let config = image.device_config();
        prop_assume!(config.request_alignment == 512);
        conforms(&mut Rig::new(config), &steps, |request| image.execute(request));
    }
}

#[test]
fn null_answers_without_touching_the_data() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let null = Null::default();
    let answer =
        rig.run(&Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(4096).status(), |r| null.execute(r));
    assert_eq!((answer.status(), answer.written), (Some(0), 1));
    assert_eq!(answer.data(), [BACKGROUND; 4096]);
    let others = [
        Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&[1; 4096]).status(),
        Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status(),
        Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(0, 1, 0)).status(),
        Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(0, 1, 0)).status(),
    ];
    for posted in others {
        let answer = rig.run(&posted, |request| null.execute(request));
        assert_eq!((answer.status(), answer.written, answer.error), (Some(0), 1, None));
    }
}

#[test]
fn null_reads_zeros_when_asked_to() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let null = Null { read_zeroes: true };
    // Longer than one chunk of zeros, in parts that do not divide it.
    let posted = Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(4100).writable(10236).status();
    let answer = rig.run(&posted, |request| null.execute(request));
    assert_eq!((answer.status(), answer.written), (Some(0), 14337));
    assert_eq!(answer.data(), [0; 14336]);
}

#[test]
fn requests_beyond_the_end_of_a_memory_disk_fail() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let mut backend = Memory::new(8).unwrap();
    let posted = [
        Posted::request(vb::VIRTIO_BLK_T_IN, 7).writable(1024).status(),
        Posted::request(vb::VIRTIO_BLK_T_OUT, 7).readable(&[1; 1024]).status(),
        Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(7, 2, 0)).status(),
    ];
    for posted in posted {
        let answer = rig.run(&posted, |request| backend.execute(request));
        assert_eq!((answer.status(), answer.written), (Some(1), 1));
        assert!(answer.data().iter().all(|&byte| byte == BACKGROUND));
    }
    assert_eq!(backend.content(), [0; 8 * 512]);
}

#[test]
fn memory_too_large_is_an_error() {
    for sectors in [1 << 50, u64::MAX / 512, u64::MAX] {
        Memory::new(sectors).unwrap_err();
    }
    assert_eq!(Memory::new(0).unwrap().capacity_sectors(), 0);
    assert_eq!(format!("{:?}", Memory::new(3).unwrap()), "Memory { capacity_sectors: 3, .. }");
}

/// The file, read through another descriptor, has the written data.
#[test]
fn written_sectors_are_in_the_file() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let image = FileImage::open(file.path(), false, false).unwrap();
    let mut rig = Rig::new(image.device_config());
    let posted = Posted::request(vb::VIRTIO_BLK_T_OUT, 3).readable(&[9; 512]).status();
    assert_eq!(rig.run(&posted, |request| image.execute(request)).status(), Some(0));
    let mut expected = disk_content(CAPACITY);
    expected[3 * 512..4 * 512].fill(9);
    assert!(file.content() == expected);
    assert_eq!(File::open(file.path()).unwrap().metadata().unwrap().len(), CAPACITY * 512);
}
