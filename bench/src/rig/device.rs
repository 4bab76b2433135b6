//! The device's thread: a loop, a queue on it, and what both count.

use super::dose::Dosed;
use crate::bare::clock_ns;
use aio::AioContext;
use std::io;
use virtio_blk_sim::blk::{Attached, BlkQueue};
use virtio_blk_sim::queue::QueueStats;

/// What the device's thread counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceCounts {
    pub(super) stats: aio::Stats,
    pub(super) queue: QueueStats,
    /// Reads that only an arm with a dose makes.
    pub(super) dose_reads: u64,
    pub(super) cpu_ns: u64,
}

/// The device's thread: a loop and a queue on it.
pub(super) struct Device {
    // Dropped in this order: the queue before its loop.
    pub(super) queue: Queue,
    pub(super) context: AioContext,
}

pub(super) enum Queue {
    Plain(Attached),
    Dosed(Dosed),
}

impl Queue {
    fn queue(&self) -> &BlkQueue {
        match self {
            Self::Plain(attached) => attached,
            Self::Dosed(dosed) => dosed.queue(),
        }
    }

    fn dose_reads(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Dosed(dosed) => dosed.reads(),
        }
    }
}

impl Device {
    fn counts(&self) -> DeviceCounts {
        let cpu_ns = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let (queue, dose_reads) = (self.queue.queue().stats(), self.queue.dose_reads());
        DeviceCounts { stats: self.context.stats(), queue, dose_reads, cpu_ns }
    }

    /// Turns the loop until it is stopped. Returns what was counted meanwhile.
    pub(super) fn run(&self) -> io::Result<DeviceCounts> {
        let before = self.counts();
        self.context.run()?;
        let after = self.counts();
        Ok(DeviceCounts {
            stats: after.stats - before.stats,
            queue: after.queue - before.queue,
            dose_reads: after.dose_reads - before.dose_reads,
            cpu_ns: after.cpu_ns - before.cpu_ns,
        })
    }
}
