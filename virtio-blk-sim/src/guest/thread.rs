//! A thread that plays the vCPU: submits, kicks, sleeps until the interrupt, reaps.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use vm_memory::Bytes;

use super::driver::{BlkDriver, Completion, DriverError, Kicking, Waiting, sectors};
use super::workload::{Places, Stop, Workload, fill, first_wrong};

/// The highest latency that the histogram can distinguish, in nanoseconds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The driver could not continue.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The disk is smaller than one block.
    #[error("the disk has {sectors} sectors, less than one block of {block_bytes} bytes")]
    DiskTooSmall {
        /// Size of the disk.
        sectors: u64,
        /// Size of a block.
        block_bytes: u32,
    },
    /// The queue depth is zero or exceeds the driver's slots.
    #[error("iodepth {iodepth} is not between 1 and the driver's {slots} slots")]
    BadDepth {
        /// The requested depth.
        iodepth: u16,
        /// The driver's slots.
        slots: u16,
    },
    /// The virtual machine could not continue.
    #[cfg(all(feature = "kvm", target_arch = "x86_64"))]
    #[error(transparent)]
    Kvm(#[from] super::kvm::KvmError),
    /// A request failed that must succeed.
    #[error("sector {sector}: the device answered with status {status}")]
    Status {
        /// First sector of the request.
        sector: u64,
        /// VIRTIO_BLK_S_*.
        status: u8,
    },
    /// A read returned other data than what was written.
    #[error("sector {sector} does not hold what was last written there (generation {generation})")]
    Corrupt {
        /// The first wrong sector.
        sector: u64,
        /// The number of the expected write, counting the writes to this block.
        generation: u64,
    },
}

/// The results of a run.
#[derive(Debug, Clone)]
pub struct GuestReport {
    /// Completed requests.
    pub requests: u64,
    /// Kicks written to the ioeventfd.
    pub kicks: u64,
    /// Kicks that blocked because a bounded ioeventfd was full.
    pub kicks_held: u64,
    /// Interrupts waited for: read(2) calls on the irqfd.
    pub interrupts: u64,
    /// Time from the first submission to the last completion.
    pub elapsed: Duration,
    /// Times from submission to completion, in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

/// The request in a slot.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    block: u64,
    write: bool,
    submitted: Instant,
}

/// Runs a workload on the calling thread. Blocks until all submitted requests have completed.
///
/// With `verify`, requests never overlap, so each read knows which write it must see. Blocks that
/// this run has not written are not checked.
///
/// # Errors
/// The first error. Requests may still be in flight then.
pub fn run(driver: &mut BlkDriver, workload: &Workload) -> Result<GuestReport, GuestError> {
    let block_bytes = driver.block_bytes();
    let capacity = driver.ports().capacity_sectors;
    let (blocks, depth) = blocks_and_depth(capacity, block_bytes, workload.iodepth, driver.slots())?;
    let latency_ns = latencies();
    let (kicks, held, interrupts) = (driver.kicks(), driver.kicks_held(), driver.interrupts());
    let begin = Instant::now();
    let mut vcpu = Vcpu {
        driver,
        workload,
        places: Places::new(workload, blocks),
        in_flight: vec![None; usize::from(depth)],
        busy: vec![false; if workload.verify && depth > 1 { blocks as usize } else { 0 }],
        generations: vec![0; if workload.verify { blocks as usize } else { 0 }],
        buffer: vec![0; block_bytes as usize],
        submitted: 0,
        latency_ns,
        begin,
    };
    vcpu.run()?;
    Ok(GuestReport {
        requests: vcpu.submitted,
        kicks: vcpu.driver.kicks() - kicks,
        kicks_held: vcpu.driver.kicks_held() - held,
        interrupts: vcpu.driver.interrupts() - interrupts,
        elapsed: begin.elapsed(),
        latency_ns: vcpu.latency_ns,
    })
}

/// Returns the number of blocks on the disk, and the maximum number of requests in flight.
pub(super) fn blocks_and_depth(
    capacity_sectors: u64,
    block_bytes: u32,
    iodepth: u16,
    slots: u16,
) -> Result<(u64, u16), GuestError> {
    let blocks = capacity_sectors.checked_div(sectors(block_bytes)).unwrap_or(0);
    if blocks == 0 {
        return Err(GuestError::DiskTooSmall { sectors: capacity_sectors, block_bytes });
    }
    if iodepth == 0 || iodepth > slots {
        return Err(GuestError::BadDepth { iodepth, slots });
    }
    // Two requests for one block would race, so the depth is at most the number of blocks.
    Ok((blocks, u64::from(iodepth).min(blocks) as u16))
}

/// An empty histogram of latencies in nanoseconds.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(MAX_LATENCY_NS, 3)
        .unwrap_or_else(|_| unreachable!("three digits up to a minute are valid bounds of a histogram"))
}

struct Vcpu<'a> {
    driver: &'a mut BlkDriver,
    workload: &'a Workload,
    places: Places,
    /// By slot.
    in_flight: Vec<Option<InFlight>>,
    /// By block: a request for it is in flight. Empty if not needed: without verification, or at
    /// depth one.
    busy: Vec<bool>,
    /// By block: how often it was written. Empty without verification.
    generations: Vec<u64>,
    /// Buffer for a block, to or from guest RAM.
    buffer: Vec<u8>,
    submitted: u64,
    latency_ns: Histogram<u64>,
    begin: Instant,
}

impl Vcpu<'_> {
    fn run(&mut self) -> Result<(), GuestError> {
        let mut now = self.begin;
        let mut waiting = 0usize;
        for slot in 0..self.in_flight.len() as u16 {
            if self.goes_on(now) {
                self.submit(slot, now)?;
                waiting += 1;
                if self.driver.kicking() == Kicking::Always {
                    self.driver.kick()?;
                }
            }
        }
        self.driver.kick()?;
        let mut finished = Vec::with_capacity(self.in_flight.len());
        while waiting > 0 {
            self.driver.wait()?;
            self.driver.reap(&mut finished)?;
            now = Instant::now();
            for completion in finished.drain(..) {
                self.complete(completion, now)?;
                waiting -= 1;
                if self.goes_on(now) {
                    self.submit(completion.slot, now)?;
                    waiting += 1;
                    if self.driver.kicking() == Kicking::Always {
                        self.driver.kick()?;
                    } else if self.driver.waiting() == Waiting::Spinning {
                        // A driver that polls makes each request visible at once (like SPDK's
                        // virtio_blk), so device and guest work in parallel.
                        self.driver.show();
                    }
                }
            }
            // One kick for all requests submitted in this round.
            self.driver.kick()?;
        }
        Ok(())
    }

    fn goes_on(&self, now: Instant) -> bool {
        match self.workload.stop {
            Stop::Requests(total) => self.submitted < total,
            Stop::After(time) => now.duration_since(self.begin) < time,
        }
    }

    fn submit(&mut self, slot: u16, now: Instant) -> Result<(), GuestError> {
        let mut block = self.places.block();
        // There are at least as many blocks as requests in flight, so a free one exists.
        while self.busy.get(block as usize).copied().unwrap_or(false) {
            block = (block + 1) % self.busy.len() as u64;
        }
        let write = match self.workload.pattern {
            super::Pattern::RandRw => self.places.random() & 1 == 1,
            pattern => pattern.writes(),
        };
        if let Some(busy) = self.busy.get_mut(block as usize) {
            *busy = true;
        }
        let sector = block * sectors(self.driver.block_bytes());
        if write {
            if let Some(generation) = self.generations.get_mut(block as usize) {
                *generation += 1;
                fill(&mut self.buffer, sector, *generation);
                let data = self.driver.data(slot);
                self.driver.ports().memory.write_slice(&self.buffer, data).map_err(DriverError::from)?;
            }
            self.driver.write(slot, sector)?;
        } else {
            self.driver.read(slot, sector)?;
        }
        if let Some(place) = self.in_flight.get_mut(usize::from(slot)) {
            *place = Some(InFlight { block, write, submitted: now });
        }
        self.submitted += 1;
        Ok(())
    }

    fn complete(&mut self, completion: Completion, now: Instant) -> Result<(), GuestError> {
        let place = self.in_flight.get_mut(usize::from(completion.slot)).and_then(Option::take);
        // The driver queue has checked that the head was in flight, and each head belongs to one
        // slot.
        let Some(request) = place else { return Ok(()) };
        let sector = request.block * sectors(self.driver.block_bytes());
        if let Some(busy) = self.busy.get_mut(request.block as usize) {
            *busy = false;
        }
        if completion.status != 0 {
            return Err(GuestError::Status { sector, status: completion.status });
        }
        let latency_ns = now.duration_since(request.submitted).as_nanos() as u64;
        self.latency_ns.saturating_record(latency_ns);
        let generation = self.generations.get(request.block as usize).copied().unwrap_or(0);
        if !request.write && generation != 0 {
            let data = self.driver.data(completion.slot);
            self.driver.ports().memory.read_slice(&mut self.buffer, data).map_err(DriverError::from)?;
            if let Some(sector) = first_wrong(&self.buffer, sector, generation) {
                return Err(GuestError::Corrupt { sector, generation });
            }
        }
        Ok(())
    }
}
