//! A kind of device: what a transport asks of it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use aio::AioContext;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::queue::QueueRef;
use super::worker::Worker;
use crate::log;

/// The features that every device can offer, because the queue implements them: VERSION_1,
/// EVENT_IDX and INDIRECT_DESC.
pub const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A kind of virtio device. One value is one device; its queues' threads share it.
///
/// This is all that a transport such as [`vhost_user`](crate::vhost_user) knows of a device. The
/// transport does the rest: the rings, memory, kicks and interrupts, several queues on several
/// threads, draining before anything changes, reconnecting, and the replay of what was in flight.
pub trait Device: Send + Sync + 'static {
    /// The type that handles the chains of one queue.
    type Worker: Worker;

    /// Its name, for log lines.
    fn name(&self) -> &str;

    /// How many queues it has. Does not change.
    fn queues(&self) -> u16;

    /// The feature bits that a driver may accept, [`RING_FEATURES`] included.
    fn offered(&self) -> u64;

    /// Checks the driver's choice of features. It must be a subset of the offered features (see
    /// [`check_features`]). A device may have further conditions.
    ///
    /// # Errors
    /// The reason why the choice is refused, for the log and the frontend.
    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        check_features(self.offered(), driver)
    }

    /// Takes the driver's choice, which [`check_features`](Self::check_features) accepted. No queue
    /// runs.
    fn negotiate(&self, _driver: u64) {}

    /// Reads the configuration space, whatever the offset is: bytes beyond its end are zero. See
    /// [`read_space`]. By default the space is empty.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&[], offset, data);
    }

    /// Writes the configuration space. Writes to read-only fields are ignored.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    /// Device reset: forgets what the driver set up. No queue runs.
    fn reset(&self) {}

    /// No queue runs any more, and none is about to be started again: the frontend has stopped
    /// them, or is gone. What is only needed by running queues can be given back.
    fn idle(&self) {}

    /// Makes the worker of queue `index`, in the home thread of the loop that the queue will run
    /// on. The worker uses `queue` for answers that it does not give at once.
    ///
    /// # Errors
    /// The reason why the worker cannot be made. The queue does not start then.
    fn start(
        self: Arc<Self>,
        index: u16,
        context: &AioContext,
        queue: QueueRef<Self::Worker>,
    ) -> io::Result<Self::Worker>;

    /// Writes a line to the log: by default to stderr, after the device's name, and limited by the
    /// place of the caller. Write errors are ignored. See [`log`](crate::log).
    #[track_caller]
    fn log(&self, line: std::fmt::Arguments<'_>) {
        log::limited(format_args!("{}: {line}", self.name()));
    }
}

/// Reads a configuration space that consists of the bytes `space`; what is beyond them reads as
/// zero.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let tail = usize::try_from(offset).ok().and_then(|start| space.get(start..)).unwrap_or_default();
    data.fill(0);
    data.iter_mut().zip(tail).for_each(|(byte, value)| *byte = *value);
}

/// Whether drivers that do not accept VERSION_1 are served ([`check_features`]).
pub const SERVES_LEGACY: bool = cfg!(target_endian = "little");

/// What every device demands of a driver's choice of features (virtio 1.2, section 2.2).
///
/// A legacy driver, which does not accept VERSION_1, is served on a little-endian host. Its rings
/// and its configuration space are in the byte order of the guest, which vhost-user does not
/// transmit; it is taken to be that of the host. With that, a legacy driver differs only in what
/// the VMM handles: the place of its rings, and that it has no FEATURES_OK.
///
/// # Errors
/// The reason.
pub fn check_features(offered: u64, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let foreign = driver & !offered;
    if foreign != 0 {
        return Err(format!("the driver accepted features that were not offered: {foreign:#x}").into());
    }
    if driver & (1 << VIRTIO_F_VERSION_1) == 0 && !SERVES_LEGACY {
        return Err("the driver did not accept VERSION_1; this host does not serve legacy drivers".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_accepts_a_part_of_what_is_offered_with_or_without_version_1() {
        let (version_1, other, foreign) = (1 << VIRTIO_F_VERSION_1, 1 << 5, 1 << 24);
        let check = |driver| check_features(version_1 | other, driver).is_ok();
        assert!(check(version_1 | other) && check(version_1));
        assert_eq!([check(0), check(other)], [SERVES_LEGACY; 2]);
        for driver in [foreign, version_1 | foreign, u64::MAX] {
            assert!(!check(driver), "{driver:#x}");
        }
    }

    #[test]
    fn bytes_beyond_the_configuration_space_are_zero() {
        let read = |offset| {
            let mut data = [0xc5; 4];
            read_space(&[1, 2, 3], offset, &mut data);
            data
        };
        assert_eq!(read(0), [1, 2, 3, 0]);
        assert_eq!(read(2), [3, 0, 0, 0]);
        for offset in [3, 4, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(read(offset), [0; 4]);
        }
    }
}
