//! Batches of requests for the guest: the host makes them from a workload, and checks the results.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use vm_memory::Bytes;

use super::error::KvmError;
use super::program::Entry;
use crate::blk::device::SECTOR_SIZE;
use crate::guest::driver::{DriverError, NO_STATUS};
use crate::guest::thread::GuestError;
use crate::guest::workload::{Pattern, Places, Workload, fill, first_wrong};
use crate::memory::{GuestAddress, GuestMemoryMmap};
use crate::virtqueue::Descriptor;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

/// Where entries and data are in guest RAM.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) entries: u64,
    pub(super) data: u64,
    /// Distance between two buffers.
    pub(super) stride: u64,
    pub(super) block_bytes: u32,
    /// Maximum number of entries.
    pub(super) room: u32,
}

impl Table {
    fn entry(&self, index: u32) -> GuestAddress {
        GuestAddress(self.entries + u64::from(index) * size_of::<Entry>() as u64)
    }

    fn data(&self, index: u32) -> GuestAddress {
        GuestAddress(self.data + u64::from(index) * self.stride)
    }
}

/// The request that an entry of the current batch stands for.
#[derive(Debug, Clone, Copy)]
struct Planned {
    block: u64,
    write: bool,
    /// For a write: its number among the writes to this block. For a read: the number of the write
    /// that it must see, or 0 if there is none.
    generation: u64,
}

/// The batches of one run.
///
/// When verifying, a batch has at most one request per block, so each read knows which write it
/// must see.
pub(super) struct Batches<'a> {
    table: &'a Table,
    workload: &'a Workload,
    places: Places,
    blocks: u64,
    planned: Vec<Planned>,
    /// By block: how often it was written, and the batch that used it last. Empty without
    /// verification.
    generations: Vec<u64>,
    used_in: Vec<u32>,
    number: u32,
    buffer: Vec<u8>,
    pub(super) requests: u64,
    pub(super) latency_ns: Histogram<u64>,
}

impl<'a> Batches<'a> {
    pub(super) fn new(table: &'a Table, workload: &'a Workload, blocks: u64) -> Self {
        let remembered = if workload.verify { blocks as usize } else { 0 };
        Self {
            table,
            workload,
            places: Places::new(workload, blocks),
            blocks,
            planned: Vec::with_capacity(table.room as usize),
            generations: vec![0; remembered],
            used_in: vec![0; remembered],
            number: 0,
            buffer: vec![0; table.block_bytes as usize],
            requests: 0,
            latency_ns: crate::guest::thread::latencies(),
        }
    }

    /// Prepares up to `most` requests. Returns the number. No request may be in flight.
    pub(super) fn prepare(&mut self, most: u64) -> Result<u32, KvmError> {
        // At most half of the blocks, so that the search for an unused one is short.
        let distinct = if self.workload.verify { self.blocks.div_ceil(2) } else { u64::MAX };
        let count = u64::from(self.table.room).min(most).min(distinct) as u32;
        self.number = self.number.wrapping_add(1).max(1);
        self.planned.clear();
        for index in 0..count {
            let planned = self.plan();
            self.write(index, planned)?;
            self.planned.push(planned);
        }
        Ok(count)
    }

    fn plan(&mut self) -> Planned {
        let mut block = self.places.block();
        while self.used_in.get(block as usize).is_some_and(|number| *number == self.number) {
            block = (block + 1) % self.blocks;
        }
        if let Some(used_in) = self.used_in.get_mut(block as usize) {
            *used_in = self.number;
        }
        let write = match self.workload.pattern {
            Pattern::RandRw => self.places.random() & 1 == 1,
            pattern => pattern.writes(),
        };
        let written = self.generations.get(block as usize).copied().unwrap_or(0);
        let generation = if write && self.workload.verify { written + 1 } else { written };
        Planned { block, write, generation }
    }

    fn sector(&self, planned: Planned) -> u64 {
        planned.block * (u64::from(self.table.block_bytes) / SECTOR_SIZE)
    }

    fn write(&mut self, index: u32, planned: Planned) -> Result<(), KvmError> {
        let (table, sector) = (self.table, self.sector(planned));
        let (entry, data) = (table.entry(index), table.data(index));
        if planned.write && planned.generation != 0 {
            fill(&mut self.buffer, sector, planned.generation);
            table.memory.write_slice(&self.buffer, data)?;
        }
        let (kind, data_flags) =
            if planned.write { (VIRTIO_BLK_T_OUT, 0) } else { (VIRTIO_BLK_T_IN, Descriptor::WRITE) };
        let status = entry.0 + std::mem::offset_of!(Entry, status) as u64;
        let (more, write) = (Descriptor::NEXT, Descriptor::WRITE);
        let pieces = [
            Descriptor { addr: entry.0, len: 16, flags: more, next: 1 },
            Descriptor { addr: data.0, len: table.block_bytes, flags: more | data_flags, next: 2 },
            Descriptor { addr: status, len: 1, flags: write, next: 0 },
        ];
        let entry_value = Entry {
            header: [u64::from(kind).to_le(), sector.to_le()],
            table: pieces.map(Descriptor::to_words),
            status: NO_STATUS,
            ..Entry::default()
        };
        Ok(table.memory.write_obj(entry_value, entry)?)
    }

    /// Checks the first `submitted` requests of the batch, all of which must have completed, and
    /// adds them to the totals. `ticks` converts their latencies.
    pub(super) fn check(&mut self, submitted: u32, ticks: Ticks) -> Result<(), GuestError> {
        let table = self.table;
        for index in 0..submitted.min(self.planned.len() as u32) {
            let planned = self.planned[index as usize];
            let sector = self.sector(planned);
            let entry: Entry = table.memory.read_obj(table.entry(index)).map_err(KvmError::from)?;
            if entry.completions != 1 {
                return Err(KvmError::Completions { request: index, times: entry.completions }.into());
            }
            if entry.status != 0 {
                return Err(GuestError::Status { sector, status: entry.status });
            }
            let latency = ticks.to_ns(entry.completed_at.wrapping_sub(entry.submitted_at));
            self.latency_ns.saturating_record(latency);
            let Some(generation) = self.generations.get_mut(planned.block as usize) else { continue };
            if planned.write {
                *generation = planned.generation;
            } else if planned.generation != 0 {
                let data = table.data(index);
                table.memory.read_slice(&mut self.buffer, data).map_err(DriverError::from)?;
                if let Some(sector) = first_wrong(&self.buffer, sector, planned.generation) {
                    return Err(GuestError::Corrupt { sector, generation: planned.generation });
                }
            }
        }
        self.requests += u64::from(submitted);
        Ok(())
    }
}

/// The frequency of the guest's time-stamp counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    pub(super) khz: u32,
}

impl Ticks {
    pub(super) fn to_ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000 / u128::from(self.khz.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    pub(super) fn in_time(self, time: Duration) -> u64 {
        let ticks = time.as_nanos() * u128::from(self.khz) / 1_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}
