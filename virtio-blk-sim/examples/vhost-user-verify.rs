//! Writes to a disk of a vhost-user-blk server, reads it back, and checks what it reads. **What was
//! on the disk is lost.**
//!
//! ```text
//! vhost-user-verify /run/vm1.sock [REQUESTS]
//! ```

use std::error::Error;
use std::time::Duration;

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{BlkDriver, Pattern, QueueShape, Stop, VhostUserDisk, Workload, run};

const BLOCK_BYTES: u32 = 4096;
const IODEPTH: u16 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or("the first argument is the socket of the server")?;
    let requests = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    let features = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH;
    let size = BlkDriver::queue_size_for(IODEPTH, features);
    let shape = QueueShape { size, slots: IODEPTH, block_bytes: BLOCK_BYTES, features };
    let (disk, mut driver) = VhostUserDisk::connect(&socket, Duration::from_secs(10), shape)?;
    let workload = Workload {
        pattern: Pattern::RandRw,
        iodepth: IODEPTH,
        stop: Stop::Requests(requests),
        verify: true,
        seed: 1,
    };
    let report = run(&mut driver, &workload)?;
    println!("{} sectors, {} requests, all as written", disk.capacity_sectors(), report.requests);
    Ok(())
}
