//! The workload of a guest, in fio's terms, and the data pattern by which written blocks are
//! verified.

use std::str::FromStr;

use crate::blk::device::SECTOR_SIZE;

/// Kind and order of requests (fio's `rw`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random places.
    RandRead,
    /// Writes at random places.
    RandWrite,
    /// Reads and writes at random places, half of each.
    RandRw,
}

impl Pattern {
    /// Returns true if the pattern contains writes.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead)
    }

    pub(super) fn is_random(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
        })
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Read, Self::Write, Self::RandRead, Self::RandWrite, Self::RandRw];
        all.into_iter().find(|p| p.to_string() == text).ok_or_else(|| {
            format!("'{text}' is not an access pattern; use read, write, randread, randwrite or randrw")
        })
    }
}

/// One run of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Kind and order of requests.
    pub pattern: Pattern,
    /// Requests in flight, at most the driver's slots.
    pub iodepth: u16,
    /// When to stop submitting. Requests in flight are still waited for.
    pub stop: Stop,
    /// Write blocks with a known pattern and verify reads.
    pub verify: bool,
    /// Seed for the random places.
    pub seed: u64,
}

/// When a run stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After this many requests.
    Requests(u64),
    /// After this time.
    After(std::time::Duration),
}

/// The sequence of blocks of a run; random ones come from splitmix64.
#[derive(Debug)]
pub(super) struct Places {
    state: u64,
    next: u64,
    blocks: u64,
    random: bool,
}

impl Places {
    pub(super) fn new(workload: &Workload, blocks: u64) -> Self {
        Self { state: workload.seed, next: 0, blocks: blocks.max(1), random: workload.pattern.is_random() }
    }

    pub(super) fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns the next block.
    pub(super) fn block(&mut self) -> u64 {
        if self.random {
            // The high half of the product: needs no division, and is uniform enough for any disk.
            return ((u128::from(self.random()) * u128::from(self.blocks)) >> 64) as u64;
        }
        let block = self.next;
        self.next = (self.next + 1) % self.blocks;
        block
    }
}

/// Fills a buffer with a pattern that identifies each sector: sector number, generation, and a hash
/// of both.
pub(super) fn fill(buffer: &mut [u8], sector: u64, generation: u64) {
    for (at, chunk) in buffer.chunks_exact_mut(SECTOR_SIZE as usize).enumerate() {
        let words = sector_words(sector + at as u64, generation);
        for (place, word) in chunk.chunks_exact_mut(8).zip(words.iter().cycle()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Returns the first sector whose content differs from what [`fill`] writes.
pub(super) fn first_wrong(buffer: &[u8], sector: u64, generation: u64) -> Option<u64> {
    let right = |at: usize, chunk: &[u8]| {
        let words = sector_words(sector + at as u64, generation);
        chunk.chunks_exact(8).zip(words.iter().cycle()).all(|(place, word)| place == word.to_le_bytes())
    };
    let mut sectors = buffer.chunks_exact(SECTOR_SIZE as usize).enumerate();
    sectors.find(|(at, chunk)| !right(*at, chunk)).map(|(at, _)| sector + at as u64)
}

fn sector_words(sector: u64, generation: u64) -> [u64; 4] {
    let mix = (sector ^ generation.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [sector, generation, mix, !mix]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_verified_and_a_changed_bit_is_located() {
        let mut block = [0; 4096];
        fill(&mut block, 80, 3);
        assert_eq!(first_wrong(&block, 80, 3), None);
        assert_eq!(first_wrong(&block, 80, 2), Some(80), "an older write");
        assert_eq!(first_wrong(&block, 88, 3), Some(88), "a misplaced block");
        block[512 * 5 + 100] ^= 1;
        assert_eq!(first_wrong(&block, 80, 3), Some(85));
    }

    #[test]
    fn patterns_parse_from_their_names() {
        for text in ["read", "write", "randread", "randwrite", "randrw"] {
            assert_eq!(text.parse::<Pattern>().map(|p| p.to_string()), Ok(text.to_owned()));
        }
        assert!("randreed".parse::<Pattern>().is_err());
    }

    #[test]
    fn random_places_stay_on_the_disk_and_sequential_ones_wrap() {
        let workload = Workload {
            pattern: Pattern::RandRead,
            iodepth: 1,
            stop: Stop::Requests(1),
            verify: false,
            seed: 7,
        };
        let mut places = Places::new(&workload, 10);
        let mut seen = [0; 10];
        (0..1000).for_each(|_| seen[places.block() as usize] += 1);
        assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
        let mut places = Places::new(&Workload { pattern: Pattern::Read, ..workload }, 3);
        assert_eq!([0, 1, 2, 0], std::array::from_fn(|_| places.block()));
    }
}
