//! A disk without content, to measure the cost of everything except the disk.

use crate::blk::device::{FinishedRequest, Operation, PendingRequest};

/// Completes every request with status OK and discards its data, like QEMU's `null-co`.
///
/// A read leaves the guest's buffer unchanged, so no host memory leaks into it. The used length
/// counts only the status byte, because no data was written. (QEMU counts the data too. A driver
/// with bounce buffers copies back as many bytes as are reported, so a length that is too large
/// exposes stale guest memory to the reader.) Linux uses the status and ignores the length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Null {
    /// Fill the buffers of reads with zeros, at the cost of writing them, instead of leaving them
    /// unchanged. Same as QEMU's option of this name.
    pub read_zeroes: bool,
}

impl Null {
    /// Carries the request out. Does not block.
    #[inline]
    pub fn execute(&self, mut request: PendingRequest) -> FinishedRequest {
        if self.read_zeroes && matches!(request.operation(), Operation::In { .. }) {
            request.put_zeros();
        }
        request.finish_without_data()
    }
}
