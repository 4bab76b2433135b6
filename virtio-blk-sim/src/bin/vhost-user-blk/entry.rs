//! One disk of the process: what it was made from, and what it has while it is served.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use virtio_blk_sim::Waiters;
use virtio_blk_sim::blk::backend::FileImage;
use virtio_blk_sim::blk::device::BlockDevice;
use virtio_blk_sim::queue::RateLimit;
use virtio_blk_sim::vhost_user::{Listening, Server, SocketFile};

use crate::descriptors::Need;
use crate::device::ServedDisk;
use crate::events::Subject;
use crate::identity::Identity;
use crate::refusal::Refusal;
use crate::spec::DiskSpec;

/// Who asked for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    /// The configuration file. If it is read again and does not have the disk any more, the disk is
    /// removed.
    File,
    /// A command on the control socket. Remains until a command removes it.
    Control,
}

/// A disk, from the moment when its id is taken until its id is free again.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: DiskSpec,
    /// No other disk of this process has the same, whatever its id is.
    pub(crate) generation: u64,
    pub(crate) origin: Origin,
    pub(crate) identity: RefCell<Identity>,
    pub(crate) need: Cell<Option<Need>>,
    /// `None` while it is being opened, and at the end of its removal.
    running: RefCell<Option<Rc<Running>>>,
    pub(crate) removal: Removal,
}

/// How far the removal of a disk is.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    pub(crate) has_begun: Cell<bool>,
    /// Do not wait for requests in flight, nor for the image to be opened.
    pub(crate) is_forced: Cell<bool>,
    /// The id is free again.
    pub(crate) is_over: Cell<bool>,
    /// Who waits for one of them.
    pub(crate) changed: Waiters,
}

/// A disk that is served.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) server: Rc<Server<ServedDisk>>,
    /// What the server serves. The last reference closes the image, which can block.
    pub(crate) device: Arc<ServedDisk>,
    pub(crate) listening: RefCell<Option<(Listening<ServedDisk>, Option<SocketFile>)>>,
    pub(crate) image: Option<Arc<FileImage>>,
    /// `None` if this disk can never have a limit.
    pub(crate) limit: Option<Arc<RateLimit>>,
    pub(crate) limits: Cell<Limits>,
    pub(crate) is_resizing: Cell<bool>,
}

/// The limits of a disk, per second. `None` and 0 are no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) iops: Option<u64>,
    pub(crate) bps: Option<u64>,
}

impl Limits {
    pub(crate) fn of(spec: &DiskSpec) -> Self {
        let some = |limit: Option<u64>| limit.filter(|limit| *limit != 0);
        Self { iops: some(spec.iops), bps: some(spec.bps) }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Entry {
    pub(crate) fn new(spec: DiskSpec, origin: Origin, generation: u64) -> Rc<Self> {
        Rc::new(Self {
            spec,
            generation,
            origin,
            identity: RefCell::default(),
            need: Cell::new(None),
            running: RefCell::default(),
            removal: Removal::default(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.spec.id
    }

    /// The disk as events name it.
    pub(crate) fn subject(&self) -> Subject {
        Subject { id: self.id().to_owned(), generation: self.generation }
    }

    pub(crate) fn start(&self, running: Running) {
        self.running.replace(Some(Rc::new(running)));
    }

    pub(crate) fn end(&self) -> Option<Rc<Running>> {
        self.running.take()
    }

    /// What it has while it is served. `None` before and after that.
    pub(crate) fn running(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    /// The same, for a command that needs it.
    pub(crate) fn served(&self) -> Result<Rc<Running>, Refusal> {
        let running = self.running().filter(|_| !self.removal.has_begun.get());
        running.ok_or_else(|| format!("disk {} is {}", self.id(), self.state()).into())
    }

    pub(crate) fn state(&self) -> &'static str {
        match (self.removal.has_begun.get(), self.running.borrow().is_some()) {
            (true, _) => "being removed",
            (false, true) => "served",
            (false, false) => "being added",
        }
    }
}

impl Removal {
    /// Waits until nothing is to be waited for any more.
    pub(crate) async fn forced(&self) {
        self.changed.until(|| self.is_forced.get().then_some(())).await;
    }

    /// Waits until the id is free again.
    pub(crate) async fn over(&self) {
        self.changed.until(|| self.is_over.get().then_some(())).await;
    }

    pub(crate) fn force(&self) {
        self.is_forced.set(true);
        self.changed.wake();
    }

    pub(crate) fn end(&self) {
        self.is_over.set(true);
        self.changed.wake();
    }
}

impl Running {
    pub(crate) fn device(&self) -> &BlockDevice {
        &self.device.disk.device
    }

    /// Changes those limits that are given; 0 means no limit.
    pub(crate) fn set_limits(&self, iops: Option<u64>, bps: Option<u64>) -> Result<Limits, Refusal> {
        let Some(limit) = &self.limit else {
            return Err("the limits of this disk are fixed: it was started without --control"
                .to_owned()
                .into());
        };
        let mut limits = self.limits.get();
        let some = |limit: u64| Some(limit).filter(|limit| *limit != 0);
        if let Some(iops) = iops.map(some)
            && iops != limits.iops
        {
            limit.set_iops(iops);
            limits.iops = iops;
        }
        if let Some(bps) = bps.map(some)
            && bps != limits.bps
        {
            limit.set_bytes_per_second(bps);
            limits.bps = bps;
        }
        self.limits.set(limits);
        Ok(limits)
    }

    pub(crate) fn queues(&self) -> u16 {
        self.device().config().num_queues
    }

    /// The loop of each queue; empty if all run on the main loop.
    pub(crate) fn loops(&self) -> Vec<usize> {
        (0..self.queues()).filter_map(|queue| self.server.loops().place(queue)).collect()
    }
}
