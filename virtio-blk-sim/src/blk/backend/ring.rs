//! A file accessed through the event loop's own io_uring. Reads, writes and flushes are SQEs, which
//! are submitted by the loop's next wait.
#![expect(
    unsafe_code,
    reason = "SQEs point to a request's buffers; the operation owns the request until its completion"
)]

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use aio::io_uring::{opcode, squeue, types};
use aio::{AioContext, FixedFile, Operations};

use super::done::Done;
use super::file_image::FileImage;
use super::file_sync::PendingSync;
use super::pool::PoolEngine;
use crate::blk::device::{FinishedRequest, Operation, PendingRequest, Transfer};

/// A request in the ring. A flush and a durable write to the page cache have a [`PendingSync`].
type Submitted = (PendingRequest, Option<PendingSync>);

#[derive(Debug)]
pub(super) struct RingEngine {
    image: Arc<FileImage>,
    operations: Operations<Submitted>,
    /// What reads and writes name: the slot of the file in the ring, or its descriptor.
    target: i32,
    target_flags: squeue::Flags,
    /// For operations that would block a kernel thread in any case (fallocate), for direct I/O with
    /// unaligned buffers, which must be copied, and for the rest of short transfers.
    pool: Rc<PoolEngine>,
}

impl RingEngine {
    pub(super) fn new(image: Arc<FileImage>, context: &AioContext, done: Rc<Done>) -> io::Result<Self> {
        let pool = Rc::new(PoolEngine::new(Arc::clone(&image), context, Rc::clone(&done)));
        let finished: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();

        // Runs after all completions of the turn, so that they form one batch.
        let source = Rc::clone(&finished);
        let batch = RefCell::default();
        let deliver = context.bottom_half(move |context| {
            let mut batch = batch.borrow_mut();
            std::mem::swap(&mut *source.borrow_mut(), &mut *batch);
            done(context, &mut batch);
        });

        // More files than the ring has slots, or an old kernel, is no error.
        let registered = context.register_file(&*image).ok();
        let (target, target_flags) = match registered.as_ref().map(FixedFile::slot) {
            Some(slot) => (slot as i32, squeue::Flags::FIXED_FILE),
            None => (image.file().as_raw_fd(), squeue::Flags::empty()),
        };
        let rest = Rc::clone(&pool);
        let operations = context.operations(move |_, result, (request, sync): Submitted| {
            // The callback keeps the slot, so that it is not another file's while the queue of the
            // ring has an entry with it.
            let _keep = &registered;
            if let Some(request) = synced(result, request, sync, &rest)
                && let Some(answer) = completed(result, request, &rest)
            {
                finished.borrow_mut().push(answer);
                deliver.schedule();
            }
        })?;
        Ok(Self { image, operations, target, target_flags, pool })
    }

    pub(super) fn submit(&self, mut request: PendingRequest) -> Option<FinishedRequest> {
        if let Err(error) = self.image.syncs().check(request.operation()) {
            return Some(request.finish(Err(error)));
        }
        let is_sync = self.is_sync(request.operation());
        let Some(mut entry) = self.entry(&mut request, is_sync) else {
            self.pool.submit(request);
            return None;
        };
        let sync = if is_sync {
            Some(self.image.syncs().begin())
        } else {
            entry = entry.flags(self.target_flags);
            None
        };
        // SAFETY: the entry points to the request's iovec array and to guest memory. Both stay in
        // place and mapped as long as the request lives (see `PendingRequest::iovecs`), and the
        // operation owns the request. The file is kept open by `self.image` and by the pool, which
        // the callback of the operation owns, as it owns the slot.
        match unsafe { self.operations.submit(entry, (request, sync)) } {
            Ok(_) => None,
            Err(refused) => Some(refused.value.0.finish(Err(refused.error))),
        }
    }

    /// Returns true if an error of the operation can mean that earlier writes are lost.
    fn is_sync(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Flush => true,
            Operation::Out { durable, .. } => *durable && self.image.direct().is_none(),
            Operation::In { .. } | Operation::Discard(_) | Operation::WriteZeroes { .. } => false,
        }
    }

    /// The entry for the request, without flags. One that `is_sync` names the descriptor, not the
    /// slot, because tests replace the descriptor to make it fail.
    fn entry(&self, request: &mut PendingRequest, is_sync: bool) -> Option<squeue::Entry> {
        let fd = types::Fd(if is_sync { self.image.file().as_raw_fd() } else { self.target });
        let write_flags = match *request.operation() {
            Operation::In { .. } => None,
            Operation::Out { durable, .. } => Some(if durable { libc::RWF_DSYNC } else { 0 }),
            Operation::Flush => {
                return Some(opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build());
            }
            Operation::Discard(_) | Operation::WriteZeroes { .. } => return None,
        };
        if !self.image.suits(request) {
            return None;
        }
        let offset = request.offset();
        let iovecs = request.iovecs();
        // At most 1024. For a single buffer the kernel need not fetch an array.
        let (array, count) = (iovecs.as_ptr(), iovecs.len() as u32);
        let single = match iovecs {
            [one] => u32::try_from(one.iov_len).ok().map(|len| (one.iov_base.cast::<u8>(), len)),
            _ => None,
        };
        Some(match (write_flags, single) {
            (None, Some((ptr, len))) => opcode::Read::new(fd, ptr, len).offset(offset).build(),
            (None, None) => opcode::Readv::new(fd, array, count).offset(offset).build(),
            (Some(flags), Some((ptr, len))) => {
                opcode::Write::new(fd, ptr, len).offset(offset).rw_flags(flags).build()
            }
            (Some(flags), None) => {
                opcode::Writev::new(fd, array, count).offset(offset).rw_flags(flags).build()
            }
        })
    }
}

/// Records the result of a [`PendingSync`]. Returns the request, unless it is a flush, which is
/// answered through the pool.
fn synced(
    result: i32,
    request: PendingRequest,
    sync: Option<PendingSync>,
    pool: &PoolEngine,
) -> Option<PendingRequest> {
    let Some(sync) = sync else { return Some(request) };
    let is_flush = matches!(request.operation(), Operation::Flush);
    match result.wrapping_neg() {
        // It did not run, or not to its end.
        libc::EINTR | libc::EAGAIN | libc::ECANCELED => Some(request),
        // Errors of the write, and not of the flush after it.
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG if !is_flush => Some(request),
        errno => {
            let outcome = if errno > 0 { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) };
            if is_flush {
                pool.end_flush(sync, outcome, request);
                return None;
            }
            sync.end_of_write(&outcome);
            Some(request)
        }
    }
}

/// Turns the result of a CQE into a finished request. Returns `None` if the request continues in
/// the pool.
pub(super) fn completed(result: i32, request: PendingRequest, pool: &PoolEngine) -> Option<FinishedRequest> {
    let is_transfer = matches!(request.operation(), Operation::In { .. } | Operation::Out { .. });
    match usize::try_from(result) {
        Ok(bytes) if is_transfer => match request.transferred(bytes) {
            Transfer::Complete(answer) => Some(answer),
            Transfer::Short(rest) => {
                pool.submit(rest);
                None
            }
        },
        Ok(_) => Some(request.finish(Ok(()))),
        Err(_) => match result.wrapping_neg() {
            libc::EINTR | libc::EAGAIN => {
                pool.submit(request);
                None
            }
            errno => Some(request.finish(Err(io::Error::from_raw_os_error(errno)))),
        },
    }
}
