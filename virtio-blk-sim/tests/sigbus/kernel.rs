//! Accesses by the kernel on behalf of this process: they fail with EFAULT, which becomes an I/O
//! error, and raise no signal.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, FileImage};
use virtio_blk_sim::blk::device::{
    BlockDevice, DeviceConfig, FinishedRequest, PendingRequest, RequestSlot, Started, Status,
};
use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::vhost_user::MemoryTable;
use virtio_blk_sim::vhost_user::sigbus::faults;
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use vm_memory::Bytes;

use super::{PAGE, byte, memfd, table, turn};

const SECTORS: u64 = 64;
/// Addresses of a request's parts. Except for the data, they are on pages that stay.
const HEADER: u64 = 8 * PAGE as u64;
const STATUS: u64 = HEADER + 64;
const DATA: u64 = 12 * PAGE as u64;

/// A device that has taken a request of two pages at `DATA` off the ring. Then the frontend removes
/// the second page.
struct Rig {
    file: File,
    table: MemoryTable,
    image: Arc<FileImage>,
    path: PathBuf,
    device: DeviceQueue,
    driver: DriverQueue,
}

impl Rig {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sigbus-{name}-{}", std::process::id()));
        std::fs::write(&path, vec![0x55; SECTORS as usize * 512]).unwrap();
        let file = memfd(16);
        let table = table(&file);
        let config = QueueConfig::at(GuestAddress(0), 8);
        Self {
            driver: DriverQueue::new(Arc::clone(table.memory()), config).unwrap(),
            device: DeviceQueue::new(Arc::clone(table.memory()), config).unwrap(),
            image: Arc::new(FileImage::open(&path, false, false).unwrap()),
            path,
            table,
            file,
        }
    }

    fn begin(&mut self, kind: u32) -> PendingRequest {
        let mem = self.table.memory();
        mem.write_slice(&[&kind.to_le_bytes()[..], &[0; 12]].concat(), GuestAddress(HEADER)).unwrap();
        mem.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        let (header, status) = ((GuestAddress(HEADER), 16), (GuestAddress(STATUS), 1));
        let data = (GuestAddress(DATA), 2 * PAGE as u32);
        let (readable, writable) = match kind {
            0 => (vec![header], vec![data, status]),
            _ => (vec![header, data], vec![status]),
        };
        self.driver.add(&readable, &writable).unwrap().unwrap();
        let _ = self.driver.publish();
        let mut slot = RequestSlot::new(self.device.new_chain());
        assert!(self.device.pop(slot.chain_mut()).unwrap());
        let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
        let Started::Pending(request) = slot.begin(&device) else {
            panic!("a good request reaches the backend");
        };
        self.file.set_len(DATA + PAGE as u64).unwrap();
        request
    }

    /// Checks that the guest gets an I/O error, that the process got no signal, and that the
    /// mapping is not broken.
    fn check(&self, finished: &FinishedRequest, faults_before: u64) {
        assert_eq!(finished.status(), Some(Status::IoErr));
        assert_eq!(byte(&self.table, STATUS as usize), Status::IoErr as u8);
        assert_eq!(faults(), faults_before);
        assert!(!self.table.is_broken());
    }

    fn image_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        File::open(&self.path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn preadv_into_a_missing_page_is_an_io_error_and_no_signal() {
    let _turn = turn();
    let mut rig = Rig::new("preadv");
    let before = faults();
    let request = rig.begin(0);
    let finished = rig.image.execute(request);
    rig.check(&finished, before);
    // The data of the page that is present was transferred.
    assert_eq!(byte(&rig.table, DATA as usize), 0x55);
}

#[test]
fn pwritev_from_a_missing_page_is_an_io_error_and_no_signal() {
    let _turn = turn();
    let mut rig = Rig::new("pwritev");
    let before = faults();
    let request = rig.begin(1);
    let finished = rig.image.execute(request);
    rig.check(&finished, before);
    let image = rig.image_bytes();
    assert!(image[2 * PAGE..].iter().all(|&byte| byte == 0x55), "nothing beyond the request may be written");
    assert!(
        image[PAGE..2 * PAGE].iter().all(|&byte| byte == 0x55),
        "data that could not be read may not be written"
    );
}

#[test]
fn a_missing_page_is_an_io_error_with_each_engine() {
    let _turn = turn();
    for kind in MonitorKind::ALL {
        let context = match AioContext::builder().monitor(kind).build() {
            Ok(context) => context,
            Err(error) => {
                eprintln!("skipped: {kind}: {error}");
                continue;
            }
        };
        let backends: &[fn(Arc<FileImage>) -> Backend] = match context.monitor().ring {
            Some(_) => &[Backend::File, Backend::IoUring, Backend::Threads],
            None => &[Backend::File, Backend::Threads],
        };
        for (operation, backend) in
            [0, 1].into_iter().flat_map(|kind| backends.iter().map(move |b| (kind, b)))
        {
            let mut rig = Rig::new("engine");
            let answers: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();
            let sink = Rc::clone(&answers);
            let done = Rc::new(move |_: &AioContext, batch: &mut Vec<FinishedRequest>| {
                sink.borrow_mut().append(batch);
            });
            let engine = backend(Arc::clone(&rig.image)).attach(&context, done).unwrap();
            let before = faults();
            let request = rig.begin(operation);
            answers.borrow_mut().extend(engine.submit(request));
            engine.commit(|finished| answers.borrow_mut().push(finished));
            while answers.borrow().is_empty() {
                context.poll(true).unwrap();
            }
            rig.check(&answers.borrow()[0], before);
        }
    }
}

#[test]
fn a_missing_status_page_loses_only_the_answer() {
    let _turn = turn();
    let mut rig = Rig::new("status");
    let request = rig.begin(0);
    rig.file.set_len(HEADER).unwrap();
    let finished = rig.image.execute(request);
    assert_eq!(finished.status(), Some(Status::IoErr));
    assert!(rig.table.is_broken());
}
