//! The table of malformed and unusual rings, each with the expected reaction. The tests of the
//! vhost-user server run it too.

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::{
    Descriptor, DriverQueue, GuestAddress, GuestRam, HIGH, HIGH_END, LOW_END, MAX_CHAIN, MIDDLE_END,
    QueueConfig, QueueError, RINGS, three_regions_and_canaries,
};

pub(crate) const SIZE: u16 = 8;
/// Where rows put indirect tables.
pub(crate) const TABLE: u64 = 0x4000;
const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
pub(crate) const INDIRECT: u16 = Descriptor::INDIRECT;

/// Buffers as the device should see them: (guest address, bytes).
pub(crate) type Pieces = &'static [(u64, u64)];

pub(crate) enum Expect {
    /// `pop` returns this error, after this many valid chains.
    Breaks { after: usize, with: QueueError },
    /// `pop` returns this error, and only this chain is refused. Its status goes to this address,
    /// if it can be found.
    Refuses { status: Option<u64>, with: QueueError },
    /// `pop` returns one chain with these readable and writable pieces, then the ring is empty.
    Serves(Pieces, Pieces),
}
use Expect::{Breaks, Refuses, Serves};

pub(crate) struct Case {
    /// Starts with the number of the case in the project's list of malformed requests, if it has
    /// one.
    pub(crate) name: &'static str,
    pub(crate) set_up: fn(&mut Guest),
    pub(crate) expect: Expect,
}

impl Case {
    pub(crate) fn number(&self) -> Option<u32> {
        self.name.split(' ').next()?.parse().ok()
    }
}

/// A guest that can write anything to its rings.
pub(crate) struct Guest {
    /// Includes the canaries, which the device does not have.
    pub(crate) ram: GuestRam,
    pub(crate) driver: DriverQueue,
    pub(crate) config: QueueConfig,
}

impl Guest {
    pub(crate) fn new(config: QueueConfig) -> Self {
        let ram = three_regions_and_canaries();
        // Fill all memory, so that a stray write of any other value is seen.
        for region in ram.memory().iter() {
            let canary = vec![0xc5; region.len() as usize];
            ram.memory().write_slice(&canary, region.start_addr()).unwrap();
        }
        let driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
        Self { ram, driver, config }
    }

    pub(crate) fn desc(&mut self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.driver.write_desc(index, Descriptor { addr, len, flags, next });
    }

    /// Entry `index` of an indirect table.
    pub(crate) fn table(&mut self, at: u64, index: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let descriptor = Descriptor { addr, len, flags, next };
        self.ram.memory().write_slice(&descriptor.to_bytes(), GuestAddress(at + 16 * index)).unwrap();
    }

    /// Makes these heads available, in order, from index 0.
    pub(crate) fn avail(&mut self, heads: &[u16]) {
        for (at, &head) in (0..).zip(heads) {
            self.driver.write_avail(at, head);
        }
        self.driver.set_avail_idx(heads.len() as u16);
    }
}

pub(crate) fn config() -> QueueConfig {
    QueueConfig::at(GuestAddress(RINGS), SIZE)
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // Loops and lengths.
    Case { name: "1 loop via next", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, 1); g.desc(1, 0x9000, 16, NEXT, 0); g.avail(&[0]);
    }, expect: Breaks { after: 0, with: QueueError::Loop { size: SIZE } } },
    Case { name: "1 loop of one", set_up: |g| {
        g.desc(5, 0x8000, 16, NEXT | WRITE, 5); g.avail(&[5]);
    }, expect: Breaks { after: 0, with: QueueError::Loop { size: SIZE } } },
    Case { name: "2 longer than the queue, by way of a table", set_up: |g| {
        for i in 0..7 { g.desc(i, 0x8000, 16, NEXT, i + 1); }
        g.desc(7, TABLE, 32, INDIRECT, 0);
        g.table(TABLE, 0, 0x9000, 16, NEXT, 1); g.table(TABLE, 1, 0x9000, 16, 0, 0);
        g.avail(&[0]);
    }, expect: Serves(
        &[(0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16),
            (0x9000, 16), (0x9000, 16)],
        &[]) },
    Case { name: "2 more descriptors than a chain may have, by way of a table", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, 1); g.desc(1, TABLE, u32::from(MAX_CHAIN) * 16, INDIRECT, 0);
        for i in 0..MAX_CHAIN { g.table(TABLE, i.into(), 0x9000, 1, NEXT | WRITE, i + 1); }
        g.table(TABLE, u64::from(MAX_CHAIN) - 1, 0x9100, 1, WRITE, 0);
        g.avail(&[0]);
    }, expect: Refuses { status: Some(0x9100), with: QueueError::ChainTooLong { limit: MAX_CHAIN } } },
    Case { name: "2 exactly as long as the queue, by way of a table", set_up: |g| {
        for i in 0..6 { g.desc(i, 0x8000, 16, NEXT, i + 1); }
        g.desc(6, TABLE, 32, INDIRECT, 0);
        g.table(TABLE, 0, 0x9000, 16, NEXT, 1); g.table(TABLE, 1, 0x9100, 16, WRITE, 0);
        g.avail(&[0]);
    }, expect: Serves(
        &[(0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x8000, 16), (0x9000, 16)],
        &[(0x9100, 16)]) },
    Case { name: "2 a full table, the whole queue long", set_up: |g| {
        g.desc(0, TABLE, 128, INDIRECT, 0);
        for i in 0..7 { g.table(TABLE, u64::from(i), 0x9000 + u64::from(i) * 16, 16, NEXT | WRITE, i + 1); }
        g.table(TABLE, 7, 0x9070, 1, WRITE, 0);
        g.avail(&[0]);
    }, expect: Serves(
        &[],
        &[(0x9000, 16), (0x9010, 16), (0x9020, 16), (0x9030, 16), (0x9040, 16), (0x9050, 16), (0x9060, 16),
            (0x9070, 1)]) },
    Case { name: "3 next is the queue size", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, SIZE); g.avail(&[0]);
    }, expect: Breaks { after: 0, with: QueueError::NextOutOfRange { next: SIZE, entries: SIZE } } },
    Case { name: "3 next is 65535", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, 65535); g.avail(&[0]);
    }, expect: Breaks { after: 0, with: QueueError::NextOutOfRange { next: 65535, entries: SIZE } } },
    Case { name: "3 next without the NEXT flag means nothing", set_up: |g| {
        g.desc(0, 0x8000, 16, 0, 65535); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[]) },

    // The avail ring.
    Case { name: "4 head is the queue size", set_up: |g| g.avail(&[SIZE]),
        expect: Breaks { after: 0, with: QueueError::HeadOutOfRange { head: SIZE, size: SIZE } } },
    Case { name: "4 head is 65535, after a good one", set_up: |g| {
        g.desc(0, 0x8000, 16, 0, 0); g.avail(&[0, 65535]);
    }, expect: Breaks { after: 1, with: QueueError::HeadOutOfRange { head: 65535, size: SIZE } } },
    Case { name: "5 avail.idx jumps over the queue size", set_up: |g| g.driver.set_avail_idx(SIZE + 1),
        expect: Breaks { after: 0, with: QueueError::AvailIndex { from: 0, to: SIZE + 1, size: SIZE } } },
    Case { name: "6 avail.idx goes backwards", set_up: |g| g.driver.set_avail_idx(65535),
        expect: Breaks { after: 0, with: QueueError::AvailIndex { from: 0, to: 65535, size: SIZE } } },
    Case { name: "7 the same head twice", set_up: |g| {
        g.desc(3, 0x8000, 16, 0, 0); g.avail(&[3, 3]);
    }, expect: Breaks { after: 1, with: QueueError::HeadInFlight { head: 3 } } },
    Case { name: "7 a ring full of one head", set_up: |g| {
        g.desc(0, 0x8000, 16, WRITE, 0); g.avail(&[0; SIZE as usize]);
    }, expect: Breaks { after: 1, with: QueueError::HeadInFlight { head: 0 } } },

    // Addresses.
    Case { name: "8 address 0 is an address", set_up: |g| {
        g.desc(0, 0, 512, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[], &[(0, 512)]) },
    Case { name: "9 outside guest memory", set_up: |g| {
        g.desc(0, 1 << 40, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: 1 << 40, len: 16 } } },
    Case { name: "9 the first byte behind guest memory", set_up: |g| {
        g.desc(0, HIGH_END, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: HIGH_END, len: 1 } } },
    Case { name: "9 the last byte of guest memory", set_up: |g| {
        g.desc(0, HIGH_END - 1, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[], &[(HIGH_END - 1, 1)]) },
    Case { name: "10 crossing into the next region is split", set_up: |g| {
        g.desc(0, LOW_END - 16, 48, NEXT, 1); g.desc(1, LOW_END - 8, 16, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(LOW_END - 16, 16), (LOW_END, 32)], &[(LOW_END - 8, 8), (LOW_END, 8)]) },
    Case { name: "10 over a whole region and into the next", set_up: |g| {
        g.desc(0, 0x8000, 0x1_0000, 0, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 0x8000), (LOW_END, 0x8000)], &[]) },
    Case { name: "10 in a hole", set_up: |g| {
        g.desc(0, 0x5_0000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: 0x5_0000, len: 16 } } },
    Case { name: "10 running into a hole", set_up: |g| {
        g.desc(0, MIDDLE_END - 16, 17, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: MIDDLE_END - 16, len: 17 } } },
    Case { name: "10 out of a hole", set_up: |g| {
        g.desc(0, HIGH - 1, 2, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: HIGH - 1, len: 2 } } },
    Case { name: "11 address plus length wraps", set_up: |g| {
        g.desc(0, u64::MAX - 7, 64, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: u64::MAX - 7, len: 64 } } },
    Case { name: "12 length 0 has no bytes", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, 1); g.desc(1, 1 << 40, 0, NEXT, 2); g.desc(2, 0x9000, 8, WRITE, 0);
        g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[(0x9000, 8)]) },
    Case { name: "12 length 0 and nothing else, in a table", set_up: |g| {
        g.desc(0, TABLE, 16, INDIRECT, 0); g.table(TABLE, 0, 0x9000, 0, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[], &[]) },
    Case { name: "13 length 0xffffffff", set_up: |g| {
        g.desc(0, 0x8000, u32::MAX, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::Unmapped { addr: 0x8000, len: u32::MAX } } },

    // The same with a status that can be found.
    Case { name: "9 data outside guest memory, then a status", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT, 1); g.desc(1, 1 << 40, 512, NEXT | WRITE, 2);
        g.desc(2, 0x9000, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x9000), with: QueueError::Unmapped { addr: 1 << 40, len: 512 } } },
    Case { name: "10 data running into a hole, then a status at the end of other data, in a table", set_up: |g| {
        g.desc(3, TABLE, 48, INDIRECT, 0); g.table(TABLE, 0, 0x8000, 16, NEXT, 2);
        g.table(TABLE, 2, MIDDLE_END - 16, 17, NEXT | WRITE, 1); g.table(TABLE, 1, 0x9000, 513, WRITE, 0);
        g.avail(&[3]);
    }, expect: Refuses {
        status: Some(0x9200), with: QueueError::Unmapped { addr: MIDDLE_END - 16, len: 17 },
    } },
    Case { name: "13 length 0xffffffff, then a status and a buffer of 0 bytes", set_up: |g| {
        g.desc(0, 0x8000, u32::MAX, WRITE | NEXT, 1); g.desc(1, 0x9000, 1, WRITE | NEXT, 2);
        g.desc(2, 0, 0, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x9000), with: QueueError::Unmapped { addr: 0x8000, len: u32::MAX } } },
    Case { name: "19 table of two descriptors and a half, the second a status", set_up: |g| {
        g.desc(0, TABLE, 40, INDIRECT, 0);
        g.table(TABLE, 0, 0x8000, 16, NEXT, 1); g.table(TABLE, 1, 0x9000, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x9000), with: QueueError::IndirectLength { len: 40, limit: MAX_CHAIN } } },
    Case { name: "23 loop in a table, and a status at its end", set_up: |g| {
        g.desc(0, TABLE, 48, INDIRECT, 0); g.table(TABLE, 0, 0x8000, 16, NEXT, 1);
        g.table(TABLE, 1, 0x8000, 16, NEXT, 0); g.table(TABLE, 2, 0x9000, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x9000), with: QueueError::ChainTooLong { limit: 3 } } },

    // Order.
    Case { name: "15 readable after writable", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT | WRITE, 1); g.desc(1, 0x9000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x800f), with: QueueError::ReadableAfterWritable } },
    Case { name: "15 readable in a table after writable outside it", set_up: |g| {
        g.desc(0, 0x8000, 16, NEXT | WRITE, 1); g.desc(1, TABLE, 16, INDIRECT, 0);
        g.table(TABLE, 0, 0x9000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: Some(0x800f), with: QueueError::ReadableAfterWritable } },

    // Indirect tables.
    Case { name: "17 a table in a table", set_up: |g| {
        g.desc(0, TABLE, 16, INDIRECT, 0); g.table(TABLE, 0, TABLE + 64, 16, INDIRECT, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectNested } },
    Case { name: "17 a table in a table, after a buffer", set_up: |g| {
        g.desc(0, TABLE, 32, INDIRECT, 0);
        g.table(TABLE, 0, 0x8000, 16, NEXT, 1); g.table(TABLE, 1, TABLE, 32, INDIRECT | WRITE, 0);
        g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectNested } },
    Case { name: "18 INDIRECT together with NEXT", set_up: |g| {
        g.desc(0, TABLE, 16, INDIRECT | NEXT, 1); g.desc(1, 0x9000, 16, WRITE, 0);
        g.table(TABLE, 0, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectWithNext } },
    Case { name: "19 table of 17 bytes", set_up: |g| {
        g.desc(0, TABLE, 17, INDIRECT, 0); g.table(TABLE, 0, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectLength { len: 17, limit: MAX_CHAIN } } },
    Case { name: "19 table of 15 bytes", set_up: |g| {
        g.desc(0, TABLE, 15, INDIRECT, 0); g.table(TABLE, 0, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectLength { len: 15, limit: MAX_CHAIN } } },
    Case { name: "20 table of 0 bytes", set_up: |g| { g.desc(0, TABLE, 0, INDIRECT, 0); g.avail(&[0]); },
        expect: Refuses { status: None, with: QueueError::IndirectLength { len: 0, limit: MAX_CHAIN } } },
    Case { name: "21 table outside guest memory", set_up: |g| {
        g.desc(0, 0x5_0000, 32, INDIRECT, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectUnmapped { addr: 0x5_0000, len: 32 } } },
    Case { name: "21 table running out of guest memory, past its last used entry", set_up: |g| {
        g.desc(0, HIGH_END - 16, 32, INDIRECT, 0); g.table(HIGH_END - 16, 0, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectUnmapped { addr: HIGH_END - 16, len: 32 } } },
    Case { name: "21 table address wraps", set_up: |g| {
        g.desc(0, u64::MAX - 15, 32, INDIRECT, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectUnmapped { addr: u64::MAX - 15, len: 32 } } },
    Case { name: "22 huge table", set_up: |g| { g.desc(0, TABLE, 0xffff_fff0, INDIRECT, 0); g.avail(&[0]); },
        expect: Refuses { status: None, with: QueueError::IndirectLength { len: 0xffff_fff0, limit: MAX_CHAIN } } },
    Case { name: "22 table of 65537 entries, which is 1 in 16 bits", set_up: |g| {
        g.desc(0, TABLE, 0x10_0010, INDIRECT, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectLength { len: 0x10_0010, limit: MAX_CHAIN } } },
    Case { name: "22 table of more entries than the queue", set_up: |g| {
        g.desc(0, TABLE, 16 * 9, INDIRECT, 0); g.table(TABLE, 0, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[]) },
    Case { name: "22 table of one entry more than a chain may have, with a status at its end", set_up: |g| {
        g.desc(0, TABLE, 16 * u32::from(MAX_CHAIN + 1), INDIRECT, 0);
        g.table(TABLE, MAX_CHAIN.into(), 0x9000, 1, WRITE, 0); g.avail(&[0]);
    }, expect: Refuses {
        status: Some(0x9000),
        with: QueueError::IndirectLength { len: 16 * (MAX_CHAIN as u32 + 1), limit: MAX_CHAIN },
    } },
    Case { name: "23 loop in a table", set_up: |g| {
        g.desc(0, TABLE, 48, INDIRECT, 0);
        g.table(TABLE, 0, 0x8000, 16, NEXT, 1); g.table(TABLE, 1, 0x8000, 16, NEXT, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::ChainTooLong { limit: 3 } } },
    Case { name: "24 next beyond the table", set_up: |g| {
        g.desc(0, TABLE, 32, INDIRECT, 0);
        g.table(TABLE, 0, 0x8000, 16, NEXT, 2); g.table(TABLE, 2, 0x8000, 16, 0, 0); g.avail(&[0]);
    }, expect: Refuses { status: None, with: QueueError::IndirectNext { next: 2, entries: 2 } } },
    Case { name: "25 WRITE on the indirect descriptor is ignored", set_up: |g| {
        g.desc(0, TABLE, 32, INDIRECT | WRITE, 0);
        g.table(TABLE, 0, 0x8000, 16, NEXT, 1); g.table(TABLE, 1, 0x9000, 8, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[(0x9000, 8)]) },
    Case { name: "26 normal descriptors, then one indirect", set_up: |g| {
        g.desc(4, 0x8000, 16, NEXT, 2); g.desc(2, 0x8100, 32, NEXT, 7); g.desc(7, TABLE, 48, INDIRECT, 0);
        g.table(TABLE, 0, 0x8200, 64, NEXT, 2); g.table(TABLE, 2, 0x9000, 512, NEXT | WRITE, 1);
        g.table(TABLE, 1, 0x9200, 1, WRITE, 0); g.avail(&[4]);
    }, expect: Serves(&[(0x8000, 16), (0x8100, 32), (0x8200, 64)], &[(0x9000, 512), (0x9200, 1)]) },
    Case { name: "26 a table at an odd address", set_up: |g| {
        g.desc(0, TABLE + 3, 32, INDIRECT, 0);
        g.table(TABLE + 3, 0, 0x8000, 16, NEXT, 1); g.table(TABLE + 3, 1, 0x9000, 8, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[(0x9000, 8)]) },
    Case { name: "26 a table over the end of a region, one descriptor cut in two", set_up: |g| {
        g.desc(0, LOW_END - 24, 48, INDIRECT, 0);
        g.table(LOW_END - 24, 0, 0x8000, 16, NEXT, 1); g.table(LOW_END - 24, 1, 0x9000, 8, NEXT | WRITE, 2);
        g.table(LOW_END - 24, 2, HIGH, 8, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[(0x9000, 8), (HIGH, 8)]) },
    Case { name: "unknown flag bits are ignored", set_up: |g| {
        g.desc(0, 0x8000, 16, 0xfff8 | NEXT, 1); g.desc(1, 0x9000, 8, 0xfff8 | WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(0x8000, 16)], &[(0x9000, 8)]) },

    // Mistakes that harm only the guest itself.
    Case { name: "27 garbage in avail.flags and used_event", set_up: |g| {
        g.desc(0, 0x9000, 8, WRITE, 0); g.avail(&[0]); g.driver.write_interrupt_requests(0xffff, 0x8000);
    }, expect: Serves(&[], &[(0x9000, 8)]) },
    Case { name: "28 the guest writes the used ring", set_up: |g| {
        g.desc(0, 0x9000, 8, WRITE, 0); g.avail(&[0]); g.driver.overwrite_used(777, 0, 4711, 42);
    }, expect: Serves(&[], &[(0x9000, 8)]) },
    Case { name: "30 a buffer over the queue's own descriptors", set_up: |g| {
        g.desc(0, RINGS, 32, NEXT, 1); g.desc(1, RINGS, 32, WRITE, 0); g.avail(&[0]);
    }, expect: Serves(&[(RINGS, 32)], &[(RINGS, 32)]) },
];
