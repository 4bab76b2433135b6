//! Changes the size of a disk while it is served.

use std::io;
use std::sync::Arc;

use virtio_blk_sim::blk::device::SECTOR_SIZE;

use crate::entry::{Entry, Running};
use crate::events::Event;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::wait::unless;

/// Ends the time in which a second change is refused.
struct Resizing<'a>(&'a Running);

impl Drop for Resizing<'_> {
    fn drop(&mut self) {
        self.0.is_resizing.set(false);
    }
}

/// Makes the image `bytes` bytes large, or reads its size again if that is `None`. Then tells the
/// frontend. Returns the number of sectors. A removal of the disk by force ends that; what the
/// thread does with the image goes on.
pub(crate) async fn resize(host: &Host, entry: &Entry, bytes: Option<u64>) -> Result<u64, Refusal> {
    let running = entry.served()?;
    let Some(image) = running.image.clone() else {
        return Err("only the size of a raw image can change".to_owned().into());
    };
    let block = u64::from(running.device().config().logical_block_size);
    if let Some(bytes) = bytes.filter(|bytes| !bytes.is_multiple_of(block)) {
        return Err(format!("size {bytes}: this disk consists of blocks of {block} bytes").into());
    }
    if running.is_resizing.replace(true) {
        return Err("the size of this disk is being changed already".to_owned().into());
    }
    let resizing = Resizing(&running);
    let file = Arc::clone(&image);
    let change = move || -> io::Result<u64> {
        if let Some(bytes) = bytes {
            file.grow(bytes / SECTOR_SIZE)?;
        }
        file.current_sectors()
    };
    let Some(sectors) = unless(host.jobs.run(change), entry.removal.forced()).await else {
        drop((resizing, image));
        host.let_go(running);
        return Err(format!("disk {} was removed while its size was being changed", entry.id()).into());
    };
    let sectors = sectors??;
    let before = running.device().capacity_sectors();
    running.device().resize(sectors).map_err(|error| error.to_string())?;
    running.server.config_changed();
    if sectors != before {
        host.shared.events.send(Event::DiskResized { disk: entry.subject(), sectors });
    }
    Ok(sectors)
}
