//! libblkio as a frontend: its driver virtio-blk-vhost-user, from the crate blkio, which the C
//! library and QEMU's block driver of that name are made of.
//!
//! libblkio has no guest. It is a driver in a process that wants to use a disk: it allocates
//! buffers, adds each with ADD_MEM_REG, and polls, or waits for the call eventfd. It negotiates MQ,
//! REPLY_ACK, CONFIG and CONFIGURE_MEM_SLOTS, waits for an acknowledgement of each request, and
//! sends SET_FEATURES before SET_PROTOCOL_FEATURES. Each ring has a kick eventfd (never NOFD).
#![expect(unsafe_code, reason = "libblkio writes completions to memory that is not initialized")]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use aio::AioContext;
use blkio::{Blkio, Blkioq, Completion, Errno, MemoryRegion, ReqFlags};
use virtio_blk_sim::blk::device::DeviceConfig;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::MAX_MEM_SLOTS;
use vm_memory::{Bytes, GuestMemoryBackend};

use super::server::{Setup, TempPath, TestServer};
use super::transfer::monitors;
use super::{BLOCK, SECTORS, Watchdog};

/// Requests in flight on each queue.
const DEPTH: usize = 16;
/// Bytes of the buffers of all queues.
const BUFFERS: usize = 1 << 20;
const NO_FLAGS: ReqFlags = ReqFlags::empty();

/// A connected disk with its started queues: first those that wait, then those that poll.
struct Disk {
    queues: Vec<Blkioq>,
    blkio: Blkio,
    buffers: GuestRam,
}

impl Disk {
    fn start(server: &TestServer, waiting: i32, polling: i32, read_only: bool) -> blkio::Result<Self> {
        let mut blkio = Blkio::new("virtio-blk-vhost-user")?;
        blkio.set_str("path", server.socket().as_ref().to_str().unwrap())?;
        blkio.set_bool("read-only", read_only)?;
        blkio.connect()?;
        blkio.set_i32("num-queues", waiting)?;
        blkio.set_i32("num-poll-queues", polling)?;
        let started = blkio.start()?;
        let buffers = GuestRam::new(BUFFERS).unwrap();
        let mut disk =
            Self { queues: started.queues.into_iter().chain(started.poll_queues).collect(), blkio, buffers };
        disk.blkio.map_mem_region(&disk.region())?;
        Ok(disk)
    }

    /// The buffers of all queues, as libblkio wants to know them.
    fn region(&self) -> MemoryRegion {
        MemoryRegion {
            addr: self.buffers.memory().get_host_address(GuestAddress(0)).unwrap().addr(),
            iova: 0,
            len: BUFFERS,
            fd: self.buffers.file().as_raw_fd(),
            fd_offset: 0,
            flags: 0,
        }
    }

    /// The buffer of a block of the disk, as an offset in the buffers and as a pointer.
    fn buffer(&self, block: usize) -> (GuestAddress, *mut u8) {
        let at = GuestAddress((block * BLOCK as usize) as u64);
        (at, self.buffers.memory().get_host_address(at).unwrap())
    }

    /// Waits until `count` requests have completed, and checks that each has succeeded.
    fn finish(&mut self, queue: usize, count: usize) {
        for (user_data, status) in self.outcomes(queue, count) {
            assert_eq!(status, 0, "request {user_data} of queue {queue}");
        }
    }

    fn outcomes(&mut self, queue: usize, count: usize) -> Vec<(usize, i32)> {
        let mut done = Vec::new();
        while done.len() < count {
            let mut completions = [const { MaybeUninit::uninit() }; DEPTH];
            let mut wait = Duration::from_secs(30);
            let some = self.queues[queue].do_io(&mut completions, 1, Some(&mut wait), None).unwrap();
            for completion in completions.into_iter().take(some) {
                // SAFETY: do_io has written as many completions as it says.
                let Completion { user_data, ret, .. } = unsafe { completion.assume_init() };
                done.push((user_data, ret));
            }
        }
        done
    }

    /// Writes each block of the queue's area, reads it back into another buffer and compares.
    fn exercise(&mut self, queue: usize, seed: u8) {
        let first = queue * DEPTH;
        for block in first..first + DEPTH {
            let (at, pointer) = self.buffer(block);
            self.buffers.memory().write_slice(&content(seed, block), at).unwrap();
            let offset = block as u64 * u64::from(BLOCK);
            self.queues[queue].write(offset, pointer, BLOCK as usize, block, ReqFlags::FUA);
        }
        self.finish(queue, DEPTH);
        for block in first..first + DEPTH {
            let (at, pointer) = self.buffer(block);
            self.buffers.memory().write_slice(&[0; BLOCK as usize], at).unwrap();
            self.queues[queue].read(
                block as u64 * u64::from(BLOCK),
                pointer,
                BLOCK as usize,
                block,
                NO_FLAGS,
            );
        }
        self.finish(queue, DEPTH);
        for block in first..first + DEPTH {
            let mut read = [0; BLOCK as usize];
            self.buffers.memory().read_slice(&mut read, self.buffer(block).0).unwrap();
            assert_eq!(read, content(seed, block), "block {block}");
        }
    }
}

fn content(seed: u8, block: usize) -> [u8; BLOCK as usize] {
    let mut bytes = [seed; BLOCK as usize];
    bytes[..8].copy_from_slice(&(block as u64).to_le_bytes());
    bytes
}

#[test]
fn queues_that_wait_and_queues_that_poll_keep_the_data() {
    let _watchdog = Watchdog::new("queues_that_wait_and_queues_that_poll_keep_the_data");
    for kind in monitors() {
        for threads in [0, 1] {
            let image = TempPath::image();
            let builder = AioContext::builder().monitor(kind);
            let backend = Setup::file(&image);
            let server = TestServer::new(Setup { builder, threads, backend, queues: 4, ..Setup::default() });
            let mut disk = Disk::start(&server, 2, 2, false).unwrap();
            for seed in 0..8 {
                (0..4).for_each(|queue| disk.exercise(queue, seed));
            }
            // A write and a flush for each block (that is how libblkio does FUA), and a read.
            assert_eq!(server.answered(), 4 * 8 * 3 * DEPTH as u64, "{kind}, {threads} threads");
            let file = File::open(&image).unwrap();
            for block in 0..4 * DEPTH {
                let mut found = [0; BLOCK as usize];
                file.read_exact_at(&mut found, block as u64 * u64::from(BLOCK)).unwrap();
                assert_eq!(found, content(7, block));
            }
        }
    }
}

#[test]
fn libblkio_learns_what_the_disk_is() {
    let _watchdog = Watchdog::new("libblkio_learns_what_the_disk_is");
    let server = TestServer::new(Setup { queues: 3, ..Setup::default() });
    let disk = Disk::start(&server, 1, 0, false).unwrap();
    assert_eq!(disk.blkio.get_u64("capacity").unwrap(), SECTORS * 512);
    assert_eq!(disk.blkio.get_i32("max-queues").unwrap(), 3);
    assert_eq!(disk.blkio.get_u64("max-mem-regions").unwrap(), MAX_MEM_SLOTS as u64);
    assert_eq!(disk.blkio.get_i32("request-alignment").unwrap(), 512);
    assert!(disk.blkio.get_bool("flush-needed").unwrap());
    assert!(disk.blkio.get_u64("max-discard-len").unwrap() > 0);
    assert!(disk.blkio.get_u64("max-write-zeroes-len").unwrap() > 0);
}

#[test]
fn discarded_and_zeroed_blocks_read_as_zeroes() {
    let _watchdog = Watchdog::new("discarded_and_zeroed_blocks_read_as_zeroes");
    let image = TempPath::image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let mut disk = Disk::start(&server, 1, 0, false).unwrap();
    disk.exercise(0, 9);
    let block = u64::from(BLOCK);
    disk.queues[0].discard(block, block, 1, NO_FLAGS);
    disk.queues[0].write_zeroes(3 * block, block, 2, NO_FLAGS);
    disk.queues[0].flush(3, NO_FLAGS);
    disk.finish(0, 3);
    let file = File::open(&image).unwrap();
    for number in 0..5 {
        let mut found = [0; BLOCK as usize];
        file.read_exact_at(&mut found, number as u64 * block).unwrap();
        let wanted = if number == 1 || number == 3 { [0; BLOCK as usize] } else { content(9, number) };
        assert_eq!(found, wanted, "block {number}");
    }
}

#[test]
fn a_read_only_disk_is_opened_read_only() {
    let _watchdog = Watchdog::new("a_read_only_disk_is_opened_read_only");
    let config = DeviceConfig { read_only: true, ..DeviceConfig::new(SECTORS) };
    let server = TestServer::new(Setup { device: Some(config), ..Setup::default() });
    let refused = Disk::start(&server, 1, 0, false).map(|_| ()).unwrap_err();
    assert_eq!(refused.errno(), Errno::ROFS, "{refused}");
    server.wait_disconnected();
    let mut disk = Disk::start(&server, 1, 0, true).unwrap();
    let (_, pointer) = disk.buffer(0);
    disk.queues[0].read(0, pointer, BLOCK as usize, 7, NO_FLAGS);
    disk.finish(0, 1);
}

/// An application maps buffers while its requests run, as many as there are slots.
#[test]
fn buffers_come_and_go_while_the_queues_run() {
    let _watchdog = Watchdog::new("buffers_come_and_go_while_the_queues_run");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, queues: 2, ..Setup::default() });
        let mut disk = Disk::start(&server, 1, 1, false).unwrap();
        for seed in 0..4 {
            let mut regions = Vec::new();
            // The rings and the buffers take two.
            for _ in 2..MAX_MEM_SLOTS {
                let region = disk.blkio.alloc_mem_region(4096).unwrap();
                disk.blkio.map_mem_region(&region).unwrap();
                disk.queues[0].read(0, region.addr as *mut u8, 4096, 1, NO_FLAGS);
                disk.finish(0, 1);
                regions.push(region);
            }
            let one_too_many = disk.blkio.alloc_mem_region(4096).unwrap();
            assert!(disk.blkio.map_mem_region(&one_too_many).is_err());
            disk.exercise(0, seed);
            disk.exercise(1, seed);
            for region in regions {
                disk.blkio.unmap_mem_region(&region);
            }
            disk.exercise(1, seed + 100);
        }
    }
}

#[test]
fn a_process_that_leaves_in_the_middle_disturbs_nobody() {
    let _watchdog = Watchdog::new("a_process_that_leaves_in_the_middle_disturbs_nobody");
    let image = TempPath::image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), queues: 2, ..Setup::default() });
    for seed in 0..10 {
        let mut disk = Disk::start(&server, 1, 1, false).unwrap();
        disk.exercise(0, seed);
        for block in 0..DEPTH {
            let (_, pointer) = disk.buffer(block);
            disk.queues[0].read(block as u64 * u64::from(BLOCK), pointer, BLOCK as usize, block, NO_FLAGS);
        }
        // Kicks, and waits for nothing.
        let mut none = [];
        disk.queues[0].do_io(&mut none, 0, None, None).unwrap();
    }
    server.wait_disconnected();
    assert_eq!(server.ask(|server, _| server.sessions()), 10);
}
