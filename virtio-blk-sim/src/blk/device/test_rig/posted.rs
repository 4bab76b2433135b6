//! What a guest posts: initial disk content, headers, ranges and chains. The tests of the
//! transports use it too.

/// Fills guest memory outside the posted buffers. It is not a status, and does not occur in
/// [`disk_content`].
pub(crate) const BACKGROUND: u8 = 0xee;

/// Initial disk content: each sector is different, and all bytes are in 1..=200.
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

/// A chain to post, with one descriptor per buffer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Posted {
    pub(crate) readable: Vec<Vec<u8>>,
    pub(crate) writable: Vec<usize>,
}

impl Posted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The start of a request as drivers usually post it: the header in its own buffer. Data and a
    /// status byte follow.
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
