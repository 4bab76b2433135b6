//! The states of a request in the device: an empty slot, a request in flight, a finished request,
//! and an empty slot again.
//!
//! ```text
//! RequestSlot ─ begin ──► PendingRequest ─ finish ──► FinishedRequest ─ into_slot ──► RequestSlot
//!             └────────── refused, or answered at once ────▲
//! ```
//!
//! Each step consumes the previous state, so a request is answered only once and its buffers are
//! not used afterwards. The slot is one box that passes through all states: moving a request moves
//! only a pointer, and memory whose address the kernel has stays in place. A device keeps its
//! slots, so that requests do not allocate.

use std::io;
#[cfg(feature = "metrics")]
use std::time::Instant;

use super::config::SECTOR_SIZE;
use super::request::{HEADER_LEN, Operation, Request, RequestError};
use super::{BlockDevice, Status};
use crate::virtqueue::{Chain, QueueError, Segment};

/// Maximum number of segments that preadv(2) and io_uring accept in one call (`UIO_MAXIOV`).
const IOV_MAX: usize = libc::UIO_MAXIOV as usize;

/// Zeros to copy into buffers.
static ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug)]
struct Slot {
    chain: Chain,
    /// The operation to execute. Valid while the slot is a [`PendingRequest`].
    operation: Operation,
    /// Number of data bytes of a read or write that are already transferred.
    transferred: u64,
    /// The segments that [`PendingRequest::iovecs`] returned last.
    iovecs: Vec<Segment>,
    /// Why the request was refused. Valid while the slot is a [`FinishedRequest`].
    error: Option<RequestError>,
    /// Why the backend failed. Valid while the slot is a [`FinishedRequest`].
    failure: Option<io::Error>,
    /// When the request was taken off the ring. Valid while the slot is a request that is metered.
    #[cfg(feature = "metrics")]
    taken_at: Option<Instant>,
}

/// Memory for one request: a chain to pop into, and the state needed to carry it out.
#[derive(Debug)]
pub struct RequestSlot(Box<Slot>);

/// The result of [`RequestSlot::begin`].
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub enum Started {
    /// The backend must carry it out.
    Pending(PendingRequest),
    /// Already answered; it only needs to be pushed onto the used ring.
    Finished(FinishedRequest),
}

/// A request that the backend works on. It owns its chain, which includes the buffers and a
/// reference to guest memory. Code that passes a buffer address to the kernel must keep the request
/// until the kernel is done.
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub struct PendingRequest(Box<Slot>);

/// The result of [`PendingRequest::transferred`].
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub enum Transfer {
    /// The request is finished: all data is transferred, or it failed.
    Complete(FinishedRequest),
    /// A short transfer: submit the buffers that [`PendingRequest::iovecs`] now returns, at the
    /// offset that [`PendingRequest::offset`] now returns.
    Short(PendingRequest),
}

/// A request whose answer is in guest memory, ready to be pushed onto the used ring.
#[derive(Debug)]
#[must_use = "a finished request must be pushed onto the used ring"]
pub struct FinishedRequest {
    slot: Box<Slot>,
    written: u32,
    status: Option<Status>,
}

// They are moved through queues, closures and threads, so they must be small and Send.
const _: () = assert!(size_of::<PendingRequest>() == 8 && size_of::<FinishedRequest>() == 16);
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<PendingRequest>();
    assert_send::<FinishedRequest>();
};

impl RequestSlot {
    /// Creates a slot around a chain that the queue created.
    pub fn new(chain: Chain) -> Self {
        let (operation, iovecs) = (Operation::Flush, Vec::new());
        Self(Box::new(Slot {
            chain,
            operation,
            transferred: 0,
            iovecs,
            error: None,
            failure: None,
            #[cfg(feature = "metrics")]
            taken_at: None,
        }))
    }

    /// The chain that the queue pops into.
    pub fn chain_mut(&mut self) -> &mut Chain {
        &mut self.0.chain
    }

    /// Parses the chain. Requests that need no backend are answered here: refused requests, GET_ID,
    /// and transfers of no data.
    pub fn begin(mut self, device: &BlockDevice) -> Started {
        self.0.error = None;
        self.0.failure = None;
        self.0.transferred = 0;
        match Request::parse(&self.0.chain, device) {
            Ok(Request::Disk(Operation::In { len: 0, .. } | Operation::Out { len: 0, .. })) => {
                Started::Finished(answer(self.0, Some(Status::Ok), 0))
            }
            Ok(Request::Disk(operation)) => {
                self.0.operation = operation;
                Started::Pending(PendingRequest(self.0))
            }
            Ok(Request::GetId) => {
                let id = device.config().serial.as_bytes();
                let room = usize::try_from(status_offset(&self.0.chain)).unwrap_or(usize::MAX);
                let data = self.0.chain.writable().copy_from(0, id.get(..room).unwrap_or(id));
                Started::Finished(answer(self.0, Some(Status::Ok), data as u64))
            }
            Err(error) => {
                self.0.error = Some(error);
                Started::Finished(answer(self.0, error.status(), 0))
            }
        }
    }
}

impl RequestSlot {
    /// Answers an I/O error to a chain that cannot be served, because the queue refused it with
    /// `error` ([`QueueError::is_of_one_chain`]). The chain's only content is the status byte, or
    /// nothing if that could not be found.
    pub fn refuse(mut self, error: QueueError) -> FinishedRequest {
        self.0.error = Some(RequestError::Chain(error));
        let has_status = self.0.chain.writable().len_bytes() > 0;
        answer(self.0, has_status.then_some(Status::IoErr), 0)
    }
}

/// Returns the offset of the last writable byte, which is the status.
fn status_offset(chain: &Chain) -> u64 {
    chain.writable().len_bytes().saturating_sub(1)
}

/// Writes the status, if there is one, and computes the used length.
///
/// The used length counts the bytes written, data and status. After a failed read these bytes are
/// not a prefix of the writable part, because the status is its last byte. For this case virtio 1.2
/// section 2.7.8.2 requires a length of 0, but no device does that, and a driver would take it for
/// "no status".
fn answer(slot: Box<Slot>, status: Option<Status>, data: u64) -> FinishedRequest {
    let status_len = match status {
        Some(status) => slot.chain.writable().copy_from(status_offset(&slot.chain), &[status as u8]),
        None => 0,
    };
    // A queue refuses chains of more than 2^32 bytes, and the header is not counted here.
    let written = u32::try_from(data + status_len as u64).unwrap_or(u32::MAX);
    FinishedRequest { slot, written, status }
}

impl PendingRequest {
    /// The operation to execute.
    pub fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// The chain's head index on the rings.
    pub fn head(&self) -> u16 {
        self.0.chain.head()
    }

    /// Keeps the time at which it was taken off the ring.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_taken_at(&mut self, at: Instant) {
        self.0.taken_at = Some(at);
    }

    /// Returns the number of bytes left to transfer. 0 unless the request is a read or a write.
    pub fn remaining(&self) -> u64 {
        match self.0.operation {
            Operation::In { len, .. } | Operation::Out { len, .. } => len - self.0.transferred,
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => 0,
        }
    }

    /// Returns the disk offset in bytes where the rest of a read or write starts.
    pub fn offset(&self) -> u64 {
        match self.0.operation {
            // The parser checked the sector against a capacity whose size in bytes fits an i64.
            Operation::In { sector, .. } | Operation::Out { sector, .. } => {
                sector * SECTOR_SIZE + self.0.transferred
            }
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => 0,
        }
    }

    /// Returns the rest of the data as an array for preadv(2), pwritev(2) or io_uring. It has at
    /// most 1024 segments; with a longer chain this becomes a short transfer.
    ///
    /// The array and the memory it points to stay in place when the request is moved, until it is
    /// finished or this method is called again.
    pub fn iovecs(&mut self) -> &[libc::iovec] {
        let rest = self.remaining();
        let Slot { chain, operation, transferred, iovecs, .. } = &mut *self.0;
        iovecs.clear();
        match operation {
            Operation::In { .. } => chain.writable().slice_into(*transferred, rest, iovecs),
            Operation::Out { .. } => {
                chain.readable().slice_into(HEADER_LEN as u64 + *transferred, rest, iovecs)
            }
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => {}
        }
        iovecs.truncate(IOV_MAX);
        Segment::as_iovecs(iovecs)
    }

    /// Records that the next `bytes` bytes of data were transferred.
    pub fn advance(&mut self, bytes: u64) {
        self.0.transferred += bytes.min(self.remaining());
    }

    /// Handles the result, in bytes, of a read or write of the rest. 0 bytes is an error: the range
    /// is inside the disk, so the image must have been truncated.
    pub fn transferred(mut self, bytes: usize) -> Transfer {
        if bytes == 0 && self.remaining() > 0 {
            return Transfer::Complete(self.finish(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.advance(bytes as u64);
        if self.remaining() > 0 { Transfer::Short(self) } else { Transfer::Complete(self.finish(Ok(()))) }
    }

    /// Copies disk content into the rest of a read's data and advances. Returns the number of bytes
    /// copied.
    pub fn put_data(&mut self, disk: &[u8]) -> usize {
        if !matches!(self.0.operation, Operation::In { .. }) {
            return 0;
        }
        // The byte after the data is the status, which must not be overwritten.
        let room = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
        let copied = self.0.chain.writable().copy_from(self.0.transferred, disk.get(..room).unwrap_or(disk));
        self.advance(copied as u64);
        copied
    }

    /// Copies the rest of a write's data to `disk` and advances. Returns the number of bytes
    /// copied.
    pub fn take_data(&mut self, disk: &mut [u8]) -> usize {
        if !matches!(self.0.operation, Operation::Out { .. }) {
            return 0;
        }
        let copied = self.0.chain.readable().copy_to(HEADER_LEN as u64 + self.0.transferred, disk);
        self.advance(copied as u64);
        copied
    }

    /// Fills the rest of a read's data with zeros and advances.
    pub fn put_zeros(&mut self) {
        // Each iteration fills 4096 bytes, or all of the rest.
        while self.put_data(&ZEROS) > 0 {}
    }

    /// Answers the guest: Ok, or the result of [`Status::from_error`].
    ///
    /// If the result is Ok but data is missing, the answer is an I/O error: the guest must never
    /// believe that it has data that was not transferred.
    pub fn finish(mut self, result: io::Result<()>) -> FinishedRequest {
        let result = match result {
            Ok(()) if self.remaining() > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            result => result,
        };
        let status = match &result {
            Ok(()) => Status::Ok,
            Err(error) => Status::from_error(error),
        };
        self.0.failure = result.err();
        self.answer(status)
    }

    /// Answers Ok although no data was transferred, for a backend that stores nothing. The used
    /// length counts only the status.
    pub fn finish_without_data(self) -> FinishedRequest {
        self.answer(Status::Ok)
    }

    fn answer(self, status: Status) -> FinishedRequest {
        let data = match self.0.operation {
            Operation::In { .. } => self.0.transferred,
            Operation::Out { .. }
            | Operation::Flush
            | Operation::Discard(_)
            | Operation::WriteZeroes { .. } => 0,
        };
        answer(self.0, Some(status), data)
    }
}

impl FinishedRequest {
    /// The chain's head index on the rings.
    pub fn head(&self) -> u16 {
        self.slot.chain.head()
    }

    /// The used length: number of bytes written to the chain's writable part, including the status.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// The status that the guest receives. `None` if the chain has no byte for it.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// Why the request was refused before it reached the backend; `None` if it was not refused.
    pub fn error(&self) -> Option<&RequestError> {
        self.slot.error.as_ref()
    }

    /// What the backend failed to carry out, and the reason; `None` if it did not fail.
    pub fn failure(&self) -> Option<(&Operation, &io::Error)> {
        self.slot.failure.as_ref().map(|error| (&self.slot.operation, error))
    }

    /// What was asked for, of a request that was answered at once: it is parsed again. `None` if it
    /// was refused.
    #[cfg(feature = "metrics")]
    pub(crate) fn parse_again(&self, device: &BlockDevice) -> Option<Request> {
        Request::parse(&self.slot.chain, device).ok()
    }

    /// What the backend carried out. Valid if the request was [pending](Started::Pending).
    #[cfg(feature = "metrics")]
    pub(crate) fn operation(&self) -> &Operation {
        &self.slot.operation
    }

    /// The time that [`PendingRequest::set_taken_at`] kept.
    #[cfg(feature = "metrics")]
    pub(crate) fn taken_at(&self) -> Option<Instant> {
        self.slot.taken_at
    }

    /// Returns the slot, for the next request.
    pub fn into_slot(self) -> RequestSlot {
        RequestSlot(self.slot)
    }
}
