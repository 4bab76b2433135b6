//! A disk as its server knows it: a [`Disk`] that reports when frontends come and go.

use std::io;
use std::sync::Arc;

use aio::AioContext;
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::log::Line;
use virtio_blk_sim::queue::Device;
use virtio_blk_sim::vhost_user::{RingDevice, RingOrder, RunningRing};

use crate::events::{Event, Outlet, Subject};

/// A disk of this process.
#[derive(Debug)]
pub(crate) struct ServedDisk {
    pub(crate) disk: Arc<Disk>,
    subject: Subject,
    events: Arc<Outlet>,
}

impl ServedDisk {
    pub(crate) fn new(disk: Disk, subject: Subject, events: Arc<Outlet>) -> Self {
        Self { disk: Arc::new(disk), subject, events }
    }
}

impl RingDevice for ServedDisk {
    fn name(&self) -> &str {
        Device::name(&*self.disk)
    }

    fn queues(&self) -> u16 {
        Device::queues(&*self.disk)
    }

    fn offered(&self) -> u64 {
        Device::offered(&*self.disk)
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        RingDevice::check_features(&*self.disk, driver)
    }

    fn negotiate(&self, driver: u64) {
        RingDevice::negotiate(&*self.disk, driver);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        RingDevice::read_config(&*self.disk, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        RingDevice::write_config(&*self.disk, offset, data)
    }

    fn begin_session(&self) {
        self.disk.begin_session();
        self.events.send(Event::FrontendConnected { disk: self.subject.clone() });
    }

    fn idle(&self) {
        RingDevice::idle(&*self.disk);
    }

    fn end_session(&self) {
        self.disk.end_session();
        self.events.send(Event::FrontendDisconnected { disk: self.subject.clone() });
    }

    fn reset(&self) {
        RingDevice::reset(&*self.disk);
    }

    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        Arc::clone(&self.disk).start_ring(index, order, context)
    }

    #[track_caller]
    fn log(&self, line: std::fmt::Arguments<'_>) {
        Device::log(&*self.disk, line);
    }

    #[track_caller]
    fn log_line(&self, line: Line<'_>) {
        Device::log_line(&*self.disk, line);
    }
}
