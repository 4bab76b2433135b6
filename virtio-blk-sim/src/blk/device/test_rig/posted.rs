//! What a guest posts: a disk's first content, headers, ranges, and chains of them. The tests of transports post the same.

/// What guest memory is full of, apart from what is posted. Not a status, and not in [`disk_content`].
pub(crate) const BACKGROUND: u8 = 0xee;

/// A disk on which each sector is different and no byte is 0, 0xee, 0xef or over.
pub(crate) fn disk_content(sectors: u64) -> Vec<u8> {
    (0..sectors * 512).map(|at| (1 + (at / 512 * 31 + at % 512 * 7) % 200) as u8).collect()
}

/// A request header.
pub(crate) fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// A range of a discard or write zeroes request.
pub(crate) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// A chain to be posted: a descriptor for each piece.
#[derive(Debug, Clone, Default)]
pub(crate) struct Posted {
    pub(crate) readable: Vec<Vec<u8>>,
    pub(crate) writable: Vec<usize>,
}

impl Posted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// As a driver usually does it: a header and a byte for the status, each apart, and the data between.
    pub(crate) fn request(kind: u32, sector: u64) -> Self {
        Self::new().readable(&header(kind, sector))
    }

    pub(crate) fn readable(mut self, bytes: &[u8]) -> Self {
        self.readable.push(bytes.to_vec());
        self
    }

    pub(crate) fn writable(mut self, len: usize) -> Self {
        self.writable.push(len);
        self
    }

    pub(crate) fn status(self) -> Self {
        self.writable(1)
    }

    pub(crate) fn writable_len(&self) -> usize {
        self.writable.iter().sum()
    }
}
