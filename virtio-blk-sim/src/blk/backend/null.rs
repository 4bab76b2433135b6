//! A disk without content: the cost of everything but the disk.

use crate::blk::device::{FinishedRequest, Operation, PendingRequest};

/// Answers Ok to everything and forgets it, as QEMU's `null-co` does.
///
/// A read leaves the guest's buffer as it was, so nothing of the host can be seen in it, and the used length
/// counts the status only: the data was not written. (QEMU reports the data too. A driver that bounces its
/// buffers copies back as much as is reported, so a length too large shows the guest stale memory of its
/// own.) Linux looks at the status and not at the length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Null {
    /// Read zeros, at the cost of writing them, instead of leaving the buffer alone. QEMU's option of the
    /// same name.
    pub read_zeroes: bool,
}

impl Null {
    /// Carries the request out. Does not block.
    pub fn execute(&self, mut request: PendingRequest) -> FinishedRequest {
        if self.read_zeroes && matches!(request.operation(), Operation::In { .. }) {
            request.put_zeros();
        }
        request.finish_without_data()
    }
}
