//! Opens what a disk is made of.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::{Backend, FileImage, LockError, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, SECTOR_SIZE, Serial};
use virtio_blk_sim::vhost_user::{self, SocketFile};

use crate::access;
use crate::spec::{DiskSpec, Names};
use crate::values::{FileEngine, LockTime};

/// A disk whose files are open.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    pub(crate) disk: Disk,
    /// `None` if the disk is not a file. Shared by the queues and the code that reads the size
    /// again.
    pub(crate) image: Option<Arc<FileImage>>,
}

/// A socket that listens for the frontends of a disk. The name is `None` for one that was
/// inherited: whoever made it removes it.
pub(crate) type Socket = (UnixListener, Option<SocketFile>);

impl DiskSpec {
    /// Opens the image, or makes the memory. Blocks as the file system does, and up to one second
    /// for another user of the image to end. `name` stands in front of log lines. The error is one
    /// sentence that reports the reason.
    pub(crate) fn open(&self, names: Names, name: &str) -> Result<OpenDisk, String> {
        let (backend, config, image) = match (&self.image, self.null, self.memory) {
            (Some(path), ..) => {
                let image = self.open_image(path, names, name)?;
                let opened = Backend::open(image, path, self.format, &self.allow_backing);
                let (backend, config) = opened.map_err(|error| error.to_string())?;
                // Only the size of a raw image can change while it is served.
                let image = if let Backend::File(image) = &backend { Some(Arc::clone(image)) } else { None };
                let backend = self.with_engine(backend, names)?;
                if let Some(bytes) =
                    image.as_ref().map(|image| image.dropped_bytes()).filter(|bytes| *bytes > 0)
                {
                    log!(name, "the last {bytes} bytes of the image are ignored: they do not fill a sector");
                }
                (backend, config, image)
            }
            (None, Some(size), _) => {
                (Backend::Null(Null::default()), DeviceConfig::new(size / SECTOR_SIZE), None)
            }
            (None, None, size) => {
                let sectors = size.unwrap_or(0) / SECTOR_SIZE;
                let option = names.of("memory");
                let memory = Backend::memory(sectors)
                    .map_err(|_| format!("{option}: not enough memory for {sectors} sectors"))?;
                (memory, DeviceConfig::new(sectors), None)
            }
        };
        let block_size = self.block_size.unwrap_or(config.logical_block_size);
        if block_size < config.logical_block_size {
            let (needed, option, direct) =
                (config.logical_block_size, names.of("block-size"), names.of("direct"));
            return Err(format!("{option} {block_size}: {direct} on this image needs {needed}"));
        }
        let serial = names.of("serial");
        let config = DeviceConfig {
            read_only: self.read_only,
            logical_block_size: block_size,
            physical_block_size: block_size.max(config.physical_block_size),
            num_queues: self.queues,
            queue_size: self.queue_size,
            serial: Serial::new(&self.serial).map_err(|error| format!("{serial}: {error}"))?,
            ..config
        };
        let device = BlockDevice::new(config).map_err(|error| error.to_string())?;
        Ok(OpenDisk { disk: Disk::new(device, backend).named(name), image })
    }

    /// The backend with the engine that was asked for.
    fn with_engine(&self, backend: Backend, names: Names) -> Result<Backend, String> {
        Ok(match (self.engine, backend) {
            (FileEngine::Auto, backend) => backend,
            (FileEngine::IoUring, Backend::File(image)) => Backend::IoUring(image),
            (FileEngine::Threads, Backend::File(image)) => Backend::Threads(image),
            (FileEngine::LinuxAio, Backend::File(image)) => Backend::LinuxAio(image),
            (_, _) => return Err(format!("{}: only a raw image has a choice", names.of("engine"))),
        })
    }

    /// Listens at the socket; see [`vhost_user::bind`]. `None` if the disk has none.
    pub(crate) fn listen(&self, names: Names) -> Result<Option<Socket>, String> {
        let Some(path) = &self.socket else { return Ok(None) };
        let option = names.of("socket");
        let bound = vhost_user::bind(path);
        let (listener, file) = bound.map_err(|error| format!("{option} {}: {error}", path.display()))?;
        access::change(&file, self.socket_owner.as_ref(), self.socket_mode, |key| names.of(key))?;
        Ok(Some((listener, Some(file))))
    }

    fn open_image(&self, path: &Path, names: Names, name: &str) -> Result<FileImage, String> {
        let image = FileImage::open(path, self.read_only, self.direct).map_err(|error| error.to_string())?;
        if self.lock == LockTime::Running {
            let lock = names.of("lock");
            let checked = image.check_locking();
            checked.map_err(|error| format!("{lock} running: {}: {error}", path.display()))?;
            return Ok(image.locked_while_used());
        }
        match image.lock() {
            Ok(()) => {}
            Err(error @ LockError::InUse(_)) => {
                return Err(format!("{}: the image is in use: {error}", path.display()));
            }
            Err(error @ LockError::Unsupported(_)) => {
                log!(name, "the image is not locked, make sure that nothing else uses it: {error}");
            }
        }
        Ok(image)
    }
}
