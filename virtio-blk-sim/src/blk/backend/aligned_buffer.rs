//! Memory for direct I/O.

/// A buffer whose start is aligned to a power of two.
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub(super) fn new(len: usize, align: usize) -> Self {
        let memory = vec![0; len + align];
        let start = memory.as_ptr().addr().wrapping_neg() & (align - 1);
        Self { memory, start, len }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}
