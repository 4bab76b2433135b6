//! A request's way through the device: an empty slot, a request in flight, a finished request, a
//! slot again.
//!
//! ```text
//! RequestSlot ── begin ──► PendingRequest ── finish ──► FinishedRequest ── into_slot ──► RequestSlot
//!             └─────────── refused, or answered at once ──────▲
//! ```
//!
//! Each step consumes the one before, so a request is answered once, and nobody touches its buffers
//! after. The slot is one box that travels through all of them: moving a request costs a pointer,
//! and what the kernel was given addresses of stays where it is. A device keeps its slots; then no
//! request allocates.

use std::io;

use super::config::SECTOR_SIZE;
use super::request::{HEADER_LEN, Operation, Request, RequestError};
use super::{BlockDevice, Status};
use crate::virtqueue::{Chain, Segment};

/// Most segments that preadv(2) and io_uring take at once (`UIO_MAXIOV`).
const IOV_MAX: usize = libc::UIO_MAXIOV as usize;

/// Source of zeros for buffers.
static ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug)]
struct Slot {
    chain: Chain,
    /// What to do. Meaningful while the slot is a [`PendingRequest`].
    operation: Operation,
    /// Bytes of an In's or an Out's data that are done.
    transferred: u64,
    /// What [`PendingRequest::iovecs`] gave out last.
    iovecs: Vec<Segment>,
    /// Why the request was refused. Meaningful while the slot is a [`FinishedRequest`].
    error: Option<RequestError>,
}

/// Room for one request: a chain to pop into, and what is needed to carry it out.
#[derive(Debug)]
pub struct RequestSlot(Box<Slot>);

/// What [`RequestSlot::begin`] made of a chain.
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub enum Started {
    /// For the backend.
    Pending(PendingRequest),
    /// Nothing left to do but to push it.
    Finished(FinishedRequest),
}

/// A request that the backend works on. It owns its chain, hence its buffers and its hold on guest
/// memory: whoever gives the kernel an address of it keeps the request until the kernel is done.
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub struct PendingRequest(Box<Slot>);

/// What [`PendingRequest::transferred`] made of a transfer's result.
#[derive(Debug)]
#[must_use = "a request that is dropped is never answered"]
pub enum Transfer {
    /// All done, or it cannot go on.
    Complete(FinishedRequest),
    /// Short: submit what [`PendingRequest::iovecs`] now gives, at what [`PendingRequest::offset`]
    /// now says.
    Short(PendingRequest),
}

/// A request with its answer in guest memory, to be pushed onto the used ring.
#[derive(Debug)]
#[must_use = "a finished request must be pushed onto the used ring"]
pub struct FinishedRequest {
    slot: Box<Slot>,
    written: u32,
    status: Option<Status>,
}

// They travel through queues, closures and threads.
const _: () = assert!(size_of::<PendingRequest>() == 8 && size_of::<FinishedRequest>() == 16);
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<PendingRequest>();
    assert_send::<FinishedRequest>();
};

impl RequestSlot {
    /// A slot around a chain made by the queue.
    pub fn new(chain: Chain) -> Self {
        let slot =
            Slot { chain, operation: Operation::Flush, transferred: 0, iovecs: Vec::new(), error: None };
        Self(Box::new(slot))
    }

    /// The chain, for the queue to pop into.
    pub fn chain_mut(&mut self) -> &mut Chain {
        &mut self.0.chain
    }

    /// Parses the chain. What needs no backend is answered here: what is refused, GET_ID, transfers
    /// of no data.
    pub fn begin(mut self, device: &BlockDevice) -> Started {
        self.0.error = None;
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

/// The last writable byte.
fn status_offset(chain: &Chain) -> u64 {
    chain.writable().len_bytes().saturating_sub(1)
}

/// Writes the status, if there is one, and counts what was written.
///
/// The used length is a count of bytes, data and status. After a failed read it is not a prefix of
/// the writable part, of which the status is the last byte: virtio 1.2 section 2.7.8.2 would have
/// it 0 then, which no device does, and which would be taken for "no status".
fn answer(slot: Box<Slot>, status: Option<Status>, data: u64) -> FinishedRequest {
    let status_len = match status {
        Some(status) => slot.chain.writable().copy_from(status_offset(&slot.chain), &[status as u8]),
        None => 0,
    };
    // A queue refuses chains of more than 2^32 bytes, and the header is not among these.
    let written = u32::try_from(data + status_len as u64).unwrap_or(u32::MAX);
    FinishedRequest { slot, written, status }
}

impl PendingRequest {
    /// What to do.
    pub fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// The chain's name on the rings.
    pub fn head(&self) -> u16 {
        self.0.chain.head()
    }

    /// Bytes still to transfer; 0 when it is no In and no Out.
    pub fn remaining(&self) -> u64 {
        match self.0.operation {
            Operation::In { len, .. } | Operation::Out { len, .. } => len - self.0.transferred,
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => 0,
        }
    }

    /// Where on the disk the rest of an In or an Out starts, in bytes.
    pub fn offset(&self) -> u64 {
        match self.0.operation {
            // Parsing checked the sector against a capacity whose bytes fit an i64.
            Operation::In { sector, .. } | Operation::Out { sector, .. } => {
                sector * SECTOR_SIZE + self.0.transferred
            }
            Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => 0,
        }
    }

    /// The rest of the data as an array for preadv(2), pwritev(2) or io_uring: at most 1024
    /// segments, which a longer chain makes a short transfer.
    ///
    /// The array and the memory it points at stay in place while the request is moved, until it is
    /// finished or asked again.
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

    /// Takes `bytes` of the rest of the data as transferred.
    pub fn advance(&mut self, bytes: u64) {
        self.0.transferred += bytes.min(self.remaining());
    }

    /// Takes the result of a read or a write of the rest, in bytes. None at all is an error: the
    /// disk does not end here, so the image must have shrunk.
    pub fn transferred(mut self, bytes: usize) -> Transfer {
        if bytes == 0 && self.remaining() > 0 {
            return Transfer::Complete(self.finish(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.advance(bytes as u64);
        if self.remaining() > 0 { Transfer::Short(self) } else { Transfer::Complete(self.finish(Ok(()))) }
    }

    /// Copies disk content into the rest of an In's data and advances. Returns how much was taken
    /// of it.
    pub fn put_data(&mut self, disk: &[u8]) -> usize {
        if !matches!(self.0.operation, Operation::In { .. }) {
            return 0;
        }
        // The byte after the data is the status.
        let room = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
        let copied = self.0.chain.writable().copy_from(self.0.transferred, disk.get(..room).unwrap_or(disk));
        self.advance(copied as u64);
        copied
    }

    /// Copies the rest of an Out's data onto disk content and advances. Returns how much was filled
    /// of it.
    pub fn take_data(&mut self, disk: &mut [u8]) -> usize {
        if !matches!(self.0.operation, Operation::Out { .. }) {
            return 0;
        }
        let copied = self.0.chain.readable().copy_to(HEADER_LEN as u64 + self.0.transferred, disk);
        self.advance(copied as u64);
        copied
    }

    /// Fills the rest of an In's data with zeros and advances.
    pub fn put_zeros(&mut self) {
        // Each round takes 4096 bytes, or all of the rest.
        while self.put_data(&ZEROS) > 0 {}
    }

    /// Answers the guest: Ok, or what [`Status::from_error`] makes of the error.
    ///
    /// Ok with data missing is answered as an I/O error: whatever a backend says, the guest is not
    /// told that it has data it has not got.
    pub fn finish(self, result: io::Result<()>) -> FinishedRequest {
        let status = match result {
            Ok(()) if self.remaining() > 0 => Status::IoErr,
            Ok(()) => Status::Ok,
            Err(error) => Status::from_error(&error),
        };
        self.answer(status)
    }

    /// Answers Ok although no data was moved: for a backend that stores nothing. The used length
    /// says so.
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
    /// The chain's name on the rings.
    pub fn head(&self) -> u16 {
        self.slot.chain.head()
    }

    /// The used length: bytes written to the chain's writable part, the status included.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// What the guest was told; none if it gave no byte for it.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// Why the request was refused without being tried, if it was.
    pub fn error(&self) -> Option<&RequestError> {
        self.slot.error.as_ref()
    }

    /// The slot, for the next request.
    pub fn into_slot(self) -> RequestSlot {
        RequestSlot(self.slot)
    }
}
