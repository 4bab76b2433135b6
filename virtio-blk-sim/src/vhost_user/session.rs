//! The state that one frontend has set up, and how its requests change the device.
//!
//! A ring runs while it has everything it needs: memory, a size, addresses, a kick eventfd, and (if
//! protocol features were negotiated) it has been enabled by the frontend. A request that changes
//! one of these for a running ring first stops the ring and waits until its requests have been
//! answered. Then the ring restarts at the same position, so no request is lost.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, EventNotifier, Reset};

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::connection::Connection;
use super::features::{F_PROTOCOL_FEATURES, ProtocolFeatures};
use super::inflight::{InflightError, InflightQueue, InflightRegion};
use super::loops::{Loops, QueueOrder, RunningQueue};
use super::memory::{MAX_MEM_SLOTS, MemoryError, MemoryTable};
use super::payload::{ConfigData, Inflight, VringAddr, VringState};
use super::reply::{BackendRequest, Reply};
use super::request::Request;
use crate::memory::GuestMemoryMmap;
use crate::queue::{Device, Interrupt, QueueStats, RateLimit, Worker, set_nonblocking};
use crate::virtqueue::{DeviceQueue, QueueConfig, QueueError};

/// A device that a server offers to its frontends.
#[derive(Debug)]
pub struct Served<D> {
    /// The device.
    pub device: Arc<D>,
    /// The rate limit shared by all queues of the device.
    pub limit: Option<Arc<RateLimit>>,
    /// How the kick eventfds are reset.
    pub reset: Reset,
    /// Protocol features that are not offered, for frontends that cannot cope with them.
    pub withheld: ProtocolFeatures,
}

impl<D> Served<D> {
    /// Creates an entry for a device without a rate limit. Its kicks are reset in the best way that
    /// the event loop supports.
    pub fn new(device: D) -> Self {
        Self {
            device: Arc::new(device),
            limit: None,
            reset: Reset::Autoreset,
            withheld: ProtocolFeatures::NONE,
        }
    }
}

/// Why a request was refused. The session continues. The frontend learns of the refusal if it asked
/// for a reply or an acknowledgement; see [`Refusal`](super::Refusal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The device has no such vring.
    #[error("vring {index} does not exist; the device has {queues}")]
    NoSuchVring {
        /// The vring index.
        index: u32,
        /// How many vrings the device has.
        queues: u16,
    },
    /// The request needs a stopped vring, but the vring is running.
    #[error("vring {0} is running; stop it with GET_VRING_BASE before changing it")]
    Running(u32),
    /// A vring was given no kick eventfd.
    #[error("vring {0} has no kick eventfd; polling the ring instead is not supported")]
    NoKick(u8),
    /// An index or a size that is too large for a split ring.
    #[error("vring {index}: {value} is not a valid index or size of a split ring")]
    RingNumber {
        /// The vring index.
        index: u32,
        /// The value that was sent.
        value: u32,
    },
    /// A request that needs a protocol feature that was not negotiated.
    #[error("{0} was not negotiated")]
    NotNegotiated(&'static str),
    /// Virtio features that the device refuses.
    #[error(transparent)]
    Features(Box<dyn std::error::Error + Send + Sync>),
    /// Protocol features that were not offered.
    #[error("protocol features {0:#x} were not offered")]
    ProtocolFeatures(u64),
    /// A guest memory table that cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A ring that cannot be used.
    #[error("vring {index}: {error}")]
    Ring {
        /// The vring index.
        index: u16,
        /// The reason.
        error: QueueError,
    },
    /// An in-flight region that cannot be used.
    #[error(transparent)]
    Inflight(#[from] InflightError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The state of one ring, as the frontend has set it up.
#[derive(Debug, Default)]
struct Vring {
    size: u16,
    addr: Option<VringAddr>,
    /// Index of the next avail entry to pop, while the ring is stopped.
    base: u16,
    kick: Option<EventNotifier>,
    call: Option<Interrupt>,
    error: Option<EventNotifier>,
    enabled: bool,
    running: Option<RunningQueue>,
}

/// A frontend's session.
#[derive(Debug)]
pub(super) struct Session<D> {
    served: Rc<Served<D>>,
    /// The frontend's socket. Any thread that runs a queue can shut it down to end the session.
    socket: Arc<UnixStream>,
    loops: Rc<Loops>,
    vrings: Vec<Vring>,
    memory: MemoryTable,
    acked_protocol: ProtocolFeatures,
    has_protocol_features: bool,
    /// The virtio features that the driver accepted.
    features: u64,
    inflight: Option<InflightRegion>,
    /// The channel for messages that the backend sends by itself.
    backend_channel: Option<Connection>,
}

/// The protocol features that the server offers.
const PROTOCOL: [ProtocolFeatures; 7] = [
    ProtocolFeatures::MQ,
    ProtocolFeatures::REPLY_ACK,
    ProtocolFeatures::BACKEND_REQ,
    ProtocolFeatures::CONFIG,
    ProtocolFeatures::INFLIGHT_SHMFD,
    ProtocolFeatures::RESET_DEVICE,
    ProtocolFeatures::CONFIGURE_MEM_SLOTS,
];

impl<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>> Session<D> {
    pub(super) fn new(served: Rc<Served<D>>, loops: Rc<Loops>, socket: UnixStream) -> Self {
        served.device.reset();
        let queues = served.device.queues();
        Self {
            vrings: (0..queues).map(|_| Vring::default()).collect(),
            memory: MemoryTable::default(),
            acked_protocol: ProtocolFeatures::NONE,
            has_protocol_features: false,
            features: 0,
            inflight: None,
            backend_channel: None,
            socket: Arc::new(socket),
            served,
            loops,
        }
    }

    /// Returns the negotiated protocol features.
    pub(super) fn negotiated(&self) -> ProtocolFeatures {
        self.acked_protocol
    }

    /// Returns true if handling the request may have to wait for requests in flight, and so run the
    /// event loop.
    pub(super) fn may_wait(request: &Request) -> bool {
        !matches!(
            request,
            Request::GetFeatures
                | Request::GetProtocolFeatures
                | Request::GetQueueNum
                | Request::GetConfig(_)
                | Request::GetMaxMemSlots
                | Request::GetStatus
        )
    }

    /// Handles a request. May run the event loop of `context` until the requests in flight on the
    /// rings that it stops have been answered.
    ///
    /// # Errors
    /// Returns why the request was refused. Most requests are checked before they change anything,
    /// but rings that were stopped may stay stopped.
    pub(super) fn handle(
        &mut self,
        request: Request,
        context: &AioContext,
    ) -> Result<Option<Reply>, SessionError> {
        match request {
            Request::GetFeatures => {
                return Ok(Some(Reply::Features(self.served.device.offered() | F_PROTOCOL_FEATURES)));
            }
            Request::SetFeatures(bits) => self.set_features(bits, context)?,
            Request::SetOwner => {}
            // The specification says "no longer used", and its meaning was never agreed upon. It
            // does nothing here, as in libvhost-user.
            Request::ResetOwner => {}
            Request::SetMemTable(regions) => {
                let memory = MemoryTable::new(regions)?;
                self.with_rings_stopped(context, |this| this.memory = memory)?;
            }
            Request::AddMemReg(region, fd) => {
                let memory = self.memory.with(region, fd)?;
                self.with_rings_stopped(context, |this| this.memory = memory)?;
            }
            Request::RemMemReg(region) => {
                let memory = self.memory.without(&region)?;
                self.with_rings_stopped(context, |this| this.memory = memory)?;
            }
            Request::SetVringNum(VringState { index, num }) => {
                let size = u16::try_from(num).map_err(|_| SessionError::RingNumber { index, value: num })?;
                self.idle_vring(index)?.size = size;
            }
            Request::SetVringAddr(addr) => {
                let vring = self.vring(addr.index)?;
                // QEMU sends the addresses of a running ring again to change its logging flag.
                // Dirty logging is not offered, so only the addresses matter.
                let same = vring.addr.is_some_and(|old| same_place(&old, &addr));
                if vring.running.is_some() && !same {
                    return Err(SessionError::Running(addr.index));
                }
                vring.addr = Some(addr);
            }
            Request::SetVringBase(VringState { index, num }) => {
                let base = u16::try_from(num).map_err(|_| SessionError::RingNumber { index, value: num })?;
                self.idle_vring(index)?.base = base;
            }
            Request::GetVringBase { index } => {
                self.stop(index, context)?;
                let vring = self.vring(index)?;
                // The ring stays stopped until it gets a new kick eventfd.
                vring.kick = None;
                let num = u32::from(vring.base);
                return Ok(Some(Reply::VringBase(VringState { index, num })));
            }
            Request::SetVringKick(kick) => {
                let index = kick.index;
                let fd = kick.fd.ok_or(SessionError::NoKick(index))?;
                let kick = self.adopt(fd)?;
                self.stop(index.into(), context)?;
                self.vring(index.into())?.kick = Some(kick);
                self.start_if_ready(index.into(), context)?;
            }
            Request::SetVringCall(call) => {
                let interrupt = call.fd.map_or(Ok(Interrupt::None), Interrupt::from_peer)?;
                let vring = self.vring(call.index.into())?;
                vring.call = Some(interrupt.clone());
                if let Some(running) = &vring.running {
                    running.set_interrupt(interrupt)?;
                }
            }
            Request::SetVringErr(error) => {
                let notifier = error.fd.map(|fd| self.adopt(fd)).transpose()?;
                self.vring(error.index.into())?.error = notifier;
            }
            Request::GetProtocolFeatures => {
                return Ok(Some(Reply::ProtocolFeatures(self.offered_protocol())));
            }
            Request::SetProtocolFeatures(features) => {
                let unknown = features.without(self.offered_protocol());
                if unknown != ProtocolFeatures::NONE {
                    return Err(SessionError::ProtocolFeatures(unknown.bits()));
                }
                self.acked_protocol = features;
            }
            Request::GetQueueNum => {
                return Ok(Some(Reply::QueueNum(self.served.device.queues().into())));
            }
            Request::SetVringEnable { index, enable } => {
                if self.vring(index)?.enabled != enable {
                    self.vring(index)?.enabled = enable;
                    if enable { self.start_if_ready(index, context)? } else { self.stop(index, context)? }
                }
            }
            Request::SetBackendReqFd(fd) => {
                self.needs(ProtocolFeatures::BACKEND_REQ, "BACKEND_REQ")?;
                set_nonblocking(&fd)?;
                self.backend_channel = Some(Connection::new(UnixStream::from(fd)));
            }
            Request::GetConfig(access) => {
                let mut data = vec![0; access.size as usize];
                self.served.device.read_config(access.offset.into(), &mut data);
                return Ok(Some(Reply::Config(ConfigData {
                    offset: access.offset,
                    flags: access.flags,
                    data,
                })));
            }
            Request::SetConfig(config) => self.served.device.write_config(config.offset.into(), &config.data),
            Request::GetInflightFd(wanted) => {
                let (description, fd) = InflightRegion::create(&wanted, self.served.device.queues())
                    .map_or((Inflight::NONE, None), |(description, fd)| (description, Some(fd)));
                return Ok(Some(Reply::Inflight(description, fd)));
            }
            Request::SetInflightFd(description, fd) => {
                let region = InflightRegion::adopt(&description, fd, self.served.device.queues())?;
                self.with_rings_stopped(context, |this| this.inflight = Some(region))?;
            }
            Request::ResetDevice => {
                self.stop_all(context)?;
                for vring in &mut self.vrings {
                    *vring = Vring::default();
                }
                self.features = 0;
                self.served.device.reset();
            }
            Request::GetMaxMemSlots => return Ok(Some(Reply::MaxMemSlots(MAX_MEM_SLOTS as u64))),
            Request::SetStatus(_) | Request::GetStatus => return Err(SessionError::NotNegotiated("STATUS")),
        }
        Ok(None)
    }

    fn needs(&self, feature: ProtocolFeatures, name: &'static str) -> Result<(), SessionError> {
        if self.acked_protocol.contains(feature) { Ok(()) } else { Err(SessionError::NotNegotiated(name)) }
    }

    fn offered_protocol(&self) -> ProtocolFeatures {
        let all = PROTOCOL.iter().fold(0, |bits, feature| bits | feature.bits());
        ProtocolFeatures::from_bits(all).without(self.served.withheld)
    }

    fn adopt(&self, fd: OwnedFd) -> Result<EventNotifier, SessionError> {
        set_nonblocking(&fd)?;
        Ok(EventNotifier::adopt(fd, self.served.reset).map_err(io::Error::from)?)
    }

    fn set_features(&mut self, bits: u64, context: &AioContext) -> Result<(), SessionError> {
        let features = bits & !F_PROTOCOL_FEATURES;
        let has_protocol_features = bits & F_PROTOCOL_FEATURES != 0;
        // Check first, so that a refusal does not stop any ring.
        self.served.device.check_features(features).map_err(SessionError::Features)?;
        let unchanged = features == self.features && has_protocol_features == self.has_protocol_features;
        if unchanged {
            return Ok(());
        }
        self.with_rings_stopped(context, |this| {
            (this.features, this.has_protocol_features) = (features, has_protocol_features);
            this.served.device.negotiate(features);
        })
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, SessionError> {
        let queues = self.served.device.queues();
        let vring = usize::try_from(index).ok().and_then(|index| self.vrings.get_mut(index));
        vring.ok_or(SessionError::NoSuchVring { index, queues })
    }

    fn idle_vring(&mut self, index: u32) -> Result<&mut Vring, SessionError> {
        let vring = self.vring(index)?;
        if vring.running.is_some() { Err(SessionError::Running(index)) } else { Ok(vring) }
    }

    /// Stops a ring and stores its position in `base`.
    fn stop(&mut self, index: u32, context: &AioContext) -> Result<(), SessionError> {
        let vring = self.vring(index)?;
        if let Some(running) = vring.running.take() {
            vring.base = running.stop(context)?.next_avail;
        }
        Ok(())
    }

    pub(super) fn stop_all(&mut self, context: &AioContext) -> Result<(), SessionError> {
        (0..self.vrings.len() as u32).try_for_each(|index| self.stop(index, context))
    }

    fn with_rings_stopped(
        &mut self,
        context: &AioContext,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), SessionError> {
        self.stop_all(context)?;
        change(self);
        (0..self.vrings.len() as u32).try_for_each(|index| self.start_if_ready(index, context))
    }

    /// Starts a ring if it is stopped and has everything it needs.
    fn start_if_ready(&mut self, index: u32, context: &AioContext) -> Result<(), SessionError> {
        let has_protocol_features = self.has_protocol_features;
        let vring = self.vring(index)?;
        let enabled = vring.enabled || !has_protocol_features;
        let (Some(addr), Some(kick)) = (vring.addr, vring.kick.clone()) else { return Ok(()) };
        if vring.running.is_some() || !enabled {
            return Ok(());
        }
        let (size, base) = (vring.size, vring.base);
        let (interrupt, error) = (vring.call.clone().unwrap_or(Interrupt::None), vring.error.clone());
        if self.memory.is_empty() {
            return Ok(());
        }
        // The cast is lossless: a device has at most 256 queues.
        let index = index as u16;
        let (queue, in_flight) = self.open_ring(index, size, base, &addr)?;
        let order = QueueOrder {
            device: Arc::clone(&self.served.device),
            queue,
            kick,
            interrupt,
            error,
            limit: self.served.limit.clone(),
            in_flight,
            memory: self.memory.clone(),
            inflight_region: self.inflight.clone(),
            socket: Arc::clone(&self.socket),
        };
        let running = self.loops.start(index, order, context)?;
        self.vring(index.into())?.running = Some(running);
        Ok(())
    }

    /// Creates the device side of a ring at its current position. With an in-flight region, the
    /// position is where the previous backend stopped.
    #[expect(clippy::type_complexity, reason = "the two halves of a queue's order")]
    fn open_ring(
        &self,
        index: u16,
        size: u16,
        base: u16,
        addr: &VringAddr,
    ) -> Result<(DeviceQueue, Option<(InflightQueue, Vec<u16>)>), SessionError> {
        let features = self.features;
        let (desc_bytes, avail_bytes, used_bytes) = QueueConfig::part_bytes(size);
        let config = QueueConfig {
            size,
            desc_table: self.memory.user_to_guest(addr.descriptor, desc_bytes)?,
            avail_ring: self.memory.user_to_guest(addr.available, avail_bytes)?,
            used_ring: self.memory.user_to_guest(addr.used, used_bytes)?,
            event_idx: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
        };
        let ring = |error| SessionError::Ring { index, error };
        let memory = || Arc::clone(self.memory.memory());
        let probe = DeviceQueue::resume(memory(), config, base, base).map_err(ring)?;
        let used_idx = probe.used_idx_in_ring();
        let Some(region) = &self.inflight else {
            // Nothing is in flight, so the used index normally equals the avail position. Read it
            // from the ring anyway: the ring is what the guest sees, and a frontend may have
            // restored a different used.idx.
            let queue = DeviceQueue::resume(memory(), config, base, used_idx).map_err(ring)?;
            return Ok((queue, None));
        };
        let recovered = region.open(index, size, used_idx)?;
        let queue = DeviceQueue::resume(memory(), config, recovered.next_avail, used_idx).map_err(ring)?;
        Ok((queue, Some((recovered.queue, recovered.heads))))
    }

    /// Notifies the frontend that the configuration space has changed, if it has set up a backend
    /// channel.
    pub(super) fn notify_config_change(&mut self) -> io::Result<()> {
        match &mut self.backend_channel {
            Some(channel) => {
                channel.send(BackendRequest::ConfigChange.encode(false)).map_err(io::Error::other)
            }
            None => Ok(()),
        }
    }

    /// Returns the counters of each running ring, by ring index.
    pub(super) fn stats(&self) -> Vec<(usize, QueueStats)> {
        let running = |(index, vring): (usize, &Vring)| Some((index, vring.running.as_ref()?.stats().ok()?));
        self.vrings.iter().enumerate().filter_map(running).collect()
    }
}

fn same_place(a: &VringAddr, b: &VringAddr) -> bool {
    (a.descriptor, a.available, a.used) == (b.descriptor, b.available, b.used)
}
