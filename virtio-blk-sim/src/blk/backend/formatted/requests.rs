//! What a request does with an image.

use std::io;
use std::sync::Arc;

use imago::Mapping;

use super::FormattedImage;
use super::file_io::exclusive;
use super::storage::put_zeros;
use crate::blk::device::{Operation, PendingRequest, SectorRange, SectorRanges};

/// Bytes of compressed clusters that are read at a time. The largest cluster of qcow2 has as many.
const SPECIAL_LEN: u64 = 2 << 20;

impl FormattedImage {
    /// Carries the request out, except for its answer. Called in a task of a loop.
    pub(super) async fn carry_out(&self, request: &mut Arc<PendingRequest>) -> io::Result<()> {
        let operation = *request.operation();
        if matches!(operation, Operation::In { .. }) {
            self.health.check_read()?;
        } else {
            self.health.check_change()?;
        }
        match operation {
            Operation::In { .. } => self.read(request).await,
            Operation::Out { durable, .. } => {
                self.write(request).await?;
                self.flush_if(durable).await
            }
            Operation::Flush => self.flush().await,
            Operation::Discard(ranges) => self.discard(&ranges).await,
            Operation::WriteZeroes { ranges, durable } => {
                for range in ranges.iter() {
                    self.write_zeroes(range).await?;
                }
                self.flush_if(durable).await
            }
        }
    }

    async fn read(&self, request: &mut Arc<PendingRequest>) -> io::Result<()> {
        let image = self.image.read().await;
        while request.remaining() > 0 {
            let (offset, left) = (request.offset(), request.remaining());
            let (mapping, mapped) = image.get_mapping(offset, left).await?;
            let len = mapped.min(left);
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match mapping {
                Mapping::Raw { storage, offset, .. } => storage.read_guest(request, offset, len).await?,
                Mapping::Zero { .. } => put_zeros(exclusive(request)?, len)?,
                Mapping::Special { layer, offset, .. } => {
                    let mut bytes = vec![0; len.min(SPECIAL_LEN) as usize];
                    layer.read(&mut bytes[..], offset).await?;
                    exclusive(request)?.put_data(&bytes);
                }
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
        }
        Ok(())
    }

    async fn write(&self, request: &mut Arc<PendingRequest>) -> io::Result<()> {
        let image = self.image.read().await;
        while request.remaining() > 0 {
            let (offset, left) = (request.offset(), request.remaining());
            let mapping = image.prepare_data_mapping(offset, left, true).await?;
            let (storage, at, len) = (mapping.storage(), mapping.offset(), mapping.length());
            storage.write_guest(request, at, len).await?;
            if mapping.is_nonblocking() {
                image.commit_data_mapping(mapping).await?;
            } else {
                // Only now do readers see the cluster, which is new.
                let _change = self.unwritten.change();
                image.commit_data_mapping(mapping).await?;
            }
        }
        self.unwritten.write(&image).await
    }

    async fn flush_if(&self, durable: bool) -> io::Result<()> {
        if durable { self.flush().await } else { Ok(()) }
    }

    /// Writes what is cached, and waits until it is on the disk.
    pub(super) async fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let _alone = self.flushing.lock().await;
        self.health.check_change()?;
        let image = self.image.read().await;
        image.flush().await?;
        image.sync().await
    }

    async fn discard(&self, ranges: &SectorRanges) -> io::Result<()> {
        let mut image = self.image.write().await;
        let change = self.unwritten.change();
        for range in ranges.iter() {
            image.discard_to_any(range.offset(), range.len_bytes()).await.map_err(unsupported)?;
        }
        drop(change);
        self.unwritten.write(&image).await
    }

    async fn write_zeroes(&self, range: &SectorRange) -> io::Result<()> {
        let (offset, len) = (range.offset(), range.len_bytes());
        let change = self.unwritten.change();
        if range.unmap {
            let mut image = self.image.write().await;
            image.discard_to_zero(offset, len).await.map_err(unsupported)?;
        } else {
            self.image.read().await.write_zeroes(offset, len).await.map_err(unsupported)?;
        }
        drop(change);
        self.unwritten.write(&*self.image.read().await).await
    }
}

/// The error that makes a driver stop sending such requests.
fn unsupported(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Unsupported => io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        _ => error,
    }
}
