//! The state that one frontend has set up, and how its requests change the device.
//!
//! A ring runs while it has everything it needs: the driver's features, memory, a size, addresses,
//! a kick eventfd, and (if protocol features were negotiated) it has been enabled by the frontend.
//! These may come in any order. Each message that can complete them starts the ring.
//!
//! A request that changes the memory, the features, the in-flight region or the kick eventfd of a
//! running ring first stops the ring and waits until its requests have been answered. Then the ring
//! restarts at the same position, so no request is lost. The other state of a running ring is
//! treated as follows:
//!
//! | request | on a running ring |
//! |---|---|
//! | SET_VRING_CALL, SET_VRING_ERR | counts at once; the new eventfd is signalled if it may have missed a signal |
//! | SET_VRING_NUM, SET_VRING_ADDR | refused, unless nothing changes but the logging of dirty pages: they only make sense together |
//! | SET_VRING_BASE | refused, unless the ring has started there: without it, a ring starts at its used index |
//! | SET_VRING_ENABLE | stops or starts the ring |
//! | SET_OWNER | stops all rings and forgets memory, features and the in-flight region |
//! | SET_STATUS | 0 stops the ring until it gets a kick eventfd again; other values change no ring |
//! | SET_LOG_BASE, and SET_FEATURES that changes only LOG_ALL | counts at once |
//!
//! The module [`vhost_user`](super) has a table of what a guest or a frontend may do wrong.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use aio::{EventNotifier, LocalHandle, Reset};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_FEATURES_OK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::backend_channel::BackendChannel;
use super::dirty_log::{LogError, Logging};
use super::error_line::ErrorLine;
use super::features::{F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeatures};
use super::inflight::{InflightError, InflightQueue, InflightRegion};
use super::loops::Loops;
use super::memory::{MAX_MEM_SLOTS, MemoryError, MemoryTable};
use super::payload::{ConfigData, Inflight, LogArea, VringAddr, VringState};
use super::reply::Reply;
use super::request::Request;
use super::ring_device::{RingDevice, RingLink, RingOrder};
use super::rings::Rings;
use crate::log::Line;
use crate::queue::{Interrupt, Kick, RateLimit, adopt_from_peer};
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
    /// Whether frontends that send too many messages, or connect too often, have to wait. The
    /// module [`vhost_user`](super) has the numbers.
    pub throttles: bool,
}

impl<D> Served<D> {
    /// Creates an entry for a device without a rate limit. Its kicks are reset in the best way that
    /// the event loop supports, and its frontends are throttled.
    pub fn new(device: D) -> Self {
        Self {
            device: Arc::new(device),
            limit: None,
            reset: Reset::Autoreset,
            withheld: ProtocolFeatures::NONE,
            throttles: true,
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
    /// A log of dirty pages that cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The state of one ring, as the frontend has set it up.
#[derive(Debug, Default)]
struct Vring {
    size: u16,
    addr: Option<VringAddr>,
    /// Index of the next avail entry to pop when the ring starts. If the frontend has not sent one,
    /// a ring starts at its used index: all requests before that have been answered.
    base: Option<u16>,
    /// The index at which the ring has first started with this set-up. A restart does not change
    /// it.
    first: Option<u16>,
    kick: Option<Kick>,
    call: Option<Interrupt>,
    error: ErrorLine,
    enabled: bool,
    /// The last attempt to start the ring failed.
    failed: bool,
}

/// A frontend's session.
#[derive(Debug)]
pub(super) struct Session<D> {
    served: Rc<Served<D>>,
    /// The frontend's socket. Any thread that runs a queue can shut it down to end the session.
    socket: Arc<UnixStream>,
    loops: Rc<Loops>,
    /// The loop of the server.
    context: LocalHandle,
    vrings: Vec<Vring>,
    /// The vrings that run.
    rings: Rc<Rings>,
    memory: MemoryTable,
    acked_protocol: ProtocolFeatures,
    has_protocol_features: bool,
    /// The virtio features that the driver accepted. `None` before SET_FEATURES, and after one that
    /// was refused: then it is not known what the driver relies on, so no ring may start.
    features: Option<u64>,
    /// The device status register, as the frontend has set it.
    status: u8,
    inflight: Option<InflightRegion>,
    logging: Logging,
    /// The channel for messages that the backend sends by itself.
    backend_channel: Option<BackendChannel>,
}

/// The protocol features that the server offers.
const PROTOCOL: [ProtocolFeatures; 9] = [
    ProtocolFeatures::MQ,
    ProtocolFeatures::LOG_SHMFD,
    ProtocolFeatures::REPLY_ACK,
    ProtocolFeatures::BACKEND_REQ,
    ProtocolFeatures::CONFIG,
    ProtocolFeatures::INFLIGHT_SHMFD,
    ProtocolFeatures::RESET_DEVICE,
    ProtocolFeatures::CONFIGURE_MEM_SLOTS,
    ProtocolFeatures::STATUS,
];

impl<D: RingDevice> Session<D> {
    pub(super) fn new(
        served: Rc<Served<D>>,
        loops: Rc<Loops>,
        rings: Rc<Rings>,
        context: LocalHandle,
        socket: Arc<UnixStream>,
    ) -> Self {
        served.device.begin_session();
        let queues = served.device.queues();
        Self {
            vrings: (0..queues).map(|_| Vring::default()).collect(),
            memory: MemoryTable::default(),
            acked_protocol: ProtocolFeatures::NONE,
            has_protocol_features: false,
            features: None,
            status: 0,
            inflight: None,
            logging: Logging::default(),
            backend_channel: None,
            socket,
            served,
            loops,
            context,
            rings,
        }
    }

    /// Returns the negotiated protocol features.
    pub(super) fn negotiated(&self) -> ProtocolFeatures {
        self.acked_protocol
    }

    /// Handles a request. Waits until the requests in flight on the rings that it stops have been
    /// answered.
    ///
    /// # Errors
    /// Returns why the request was refused. Requests are checked before they change anything. One
    /// exception is a request for a ring that completes it: if the ring turns out to be unusable,
    /// the request is refused, and a later one can correct it.
    pub(super) async fn handle(&mut self, request: Request) -> Result<Option<Reply>, SessionError> {
        let completes = Completes::of(&request);
        let ran = self.rings.is_any_running();
        let applied = self.apply(request).await;
        // Also after a refusal: it may have stopped rings.
        let started = match completes {
            Completes::NoRing => Ok(()),
            Completes::Ring(index) => self.start_if_ready(index).await,
            Completes::RingPart(index) => self.start_if_corrected(index).await,
            Completes::AllRings => {
                self.start_ready().await;
                Ok(())
            }
        };
        if ran && !self.rings.is_any_running() {
            self.served.device.idle();
        }
        let reply = applied?;
        started?;
        Ok(reply)
    }

    /// Carries out a request, but starts no ring.
    async fn apply(&mut self, request: Request) -> Result<Option<Reply>, SessionError> {
        match request {
            Request::GetFeatures => {
                let own = self.offered_log() | F_PROTOCOL_FEATURES;
                return Ok(Some(Reply::Features(self.served.device.offered() | own)));
            }
            Request::SetFeatures(bits) => self.set_features(bits).await?,
            Request::SetOwner => self.begin_again().await?,
            // The specification says "no longer used", and its meaning was never agreed upon. It
            // does nothing here, as in libvhost-user.
            Request::ResetOwner => {}
            Request::SetMemTable(regions) => {
                let memory = MemoryTable::new(regions)?;
                self.set_memory(memory).await?;
            }
            Request::AddMemReg(region, fd) => {
                let memory = self.memory.with(region, fd)?;
                self.set_memory(memory).await?;
            }
            Request::RemMemReg(region) => {
                let memory = self.memory.without(&region)?;
                self.set_memory(memory).await?;
            }
            Request::SetLogBase(area, fd) => {
                self.needs(ProtocolFeatures::LOG_SHMFD, "LOG_SHMFD")?;
                self.set_log(&area, fd).await?;
                return Ok(Some(Reply::LogBase(area)));
            }
            // It may be used "to inform the front-end that the log has been modified", and need
            // not.
            Request::SetLogFd(_) => {}
            Request::SetVringNum(VringState { index, num }) => {
                let largest = self.served.device.max_queue_size();
                let fits = |size: &u16| QueueConfig::is_valid_size(*size) && *size <= largest;
                let size = u16::try_from(num).ok().filter(fits);
                let size = size.ok_or(SessionError::RingNumber { index, value: num })?;
                let is_running = self.rings.is_running(index);
                let vring = self.vring(index)?;
                if is_running && vring.size != size {
                    return Err(SessionError::Running(index));
                }
                vring.size = size;
            }
            Request::SetVringAddr(addr) => {
                let is_running = self.rings.is_running(addr.index);
                let vring = self.vring(addr.index)?;
                // QEMU sends the addresses of a running ring again to change its logging flag.
                let same = vring.addr.is_some_and(|old| same_place(&old, &addr));
                if is_running && !same {
                    return Err(SessionError::Running(addr.index));
                }
                let size = vring.size;
                self.logging.check_ring(&addr, size)?;
                self.vring(addr.index)?.addr = Some(addr);
                self.switch_log(addr.index).await?;
            }
            Request::SetVringBase(VringState { index, num }) => {
                let base = u16::try_from(num).map_err(|_| SessionError::RingNumber { index, value: num })?;
                let is_running = self.rings.is_running(index);
                let vring = self.vring(index)?;
                if !is_running {
                    (vring.base, vring.first) = (Some(base), None);
                } else if vring.first != Some(base) {
                    return Err(SessionError::Running(index));
                }
            }
            Request::GetVringBase { index } => {
                self.stop(index).await?;
                let vring = self.vring(index)?;
                // The ring stays stopped until it gets a new kick eventfd.
                (vring.kick, vring.first) = (None, None);
                let num = u32::from(vring.base.unwrap_or(0));
                return Ok(Some(Reply::VringBase(VringState { index, num })));
            }
            Request::SetVringKick(kick) => {
                let index = kick.index;
                let kick = match kick.fd {
                    Some(fd) => Kick::Plain(self.adopt(fd)?),
                    None => Kick::Polled,
                };
                self.stop(index.into()).await?;
                self.vring(index.into())?.kick = Some(kick);
            }
            Request::SetVringCall(call) => {
                let interrupt = call.fd.map_or(Ok(Interrupt::None), Interrupt::from_peer)?;
                let index = call.index.into();
                self.vring(index)?.call = Some(interrupt.clone());
                let set = self.rings.ask(index, move |ring| ring.set_interrupt(interrupt));
                if let Some(set) = set {
                    set.answer().await;
                }
            }
            Request::SetVringErr(error) => {
                let notifier = error.fd.map(|fd| self.adopt(fd)).transpose()?;
                self.vring(error.index.into())?.error.set(notifier);
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
                self.vring(index)?.enabled = enable;
                if !enable {
                    self.stop(index).await?;
                }
            }
            Request::SetBackendReqFd(fd) => {
                self.needs(ProtocolFeatures::BACKEND_REQ, "BACKEND_REQ")?;
                let kept = self.served.device.take_backend_channel(fd, self.acked_protocol);
                self.backend_channel = match kept {
                    Some(fd) => Some(BackendChannel::new(fd)?),
                    None => None,
                };
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
            Request::SetConfig(config) => {
                self.served.device.write_config(config.offset.into(), &config.data)?;
            }
            Request::GetInflightFd(wanted) => {
                let (description, fd) = InflightRegion::create(&wanted, self.served.device.queues())
                    .map_or((Inflight::NONE, None), |(description, fd)| (description, Some(fd)));
                return Ok(Some(Reply::Inflight(description, fd)));
            }
            Request::SetInflightFd(description, fd) => {
                let region = InflightRegion::adopt(&description, fd, self.served.device.queues())?;
                self.stop_all().await?;
                self.inflight = Some(region);
            }
            Request::ResetDevice => self.reset().await?,
            Request::GetMaxMemSlots => return Ok(Some(Reply::MaxMemSlots(MAX_MEM_SLOTS as u64))),
            Request::SetStatus(status) => {
                self.needs(ProtocolFeatures::STATUS, "STATUS")?;
                self.set_status(status).await?;
            }
            Request::GetStatus => {
                self.needs(ProtocolFeatures::STATUS, "STATUS")?;
                return Ok(Some(Reply::Status(self.status)));
            }
        }
        Ok(None)
    }

    async fn reset(&mut self) -> Result<(), SessionError> {
        self.stop_all().await?;
        for vring in &mut self.vrings {
            *vring = Vring::default();
        }
        (self.features, self.status) = (None, 0);
        self.logging.set_all(false);
        self.served.device.reset();
        Ok(())
    }

    /// Forgets what a previous owner set up. When QEMU unplugs a device and plugs in another one
    /// with the same chardev, the connection stays, and the new device begins with SET_OWNER and
    /// adds all of the guest's memory again. It has negotiated protocol features before that, so
    /// they stay, and so does the channel that depends on them.
    async fn begin_again(&mut self) -> Result<(), SessionError> {
        if self.memory.is_empty() {
            return Ok(());
        }
        self.reset().await?;
        (self.memory, self.inflight, self.logging) = (MemoryTable::default(), None, Logging::default());
        Ok(())
    }

    fn needs(&self, feature: ProtocolFeatures, name: &'static str) -> Result<(), SessionError> {
        if self.acked_protocol.contains(feature) { Ok(()) } else { Err(SessionError::NotNegotiated(name)) }
    }

    fn offered_protocol(&self) -> ProtocolFeatures {
        let all = PROTOCOL.iter().fold(0, |bits, feature| bits | feature.bits());
        let offered = ProtocolFeatures::from_bits(all).without(self.served.withheld);
        offered.intersection(self.served.device.offered_protocol())
    }

    /// Stops all rings and passes another memory table to the device.
    async fn set_memory(&mut self, memory: MemoryTable) -> Result<(), SessionError> {
        self.stop_all().await?;
        self.served.device.set_memory(&memory)?;
        self.memory = memory;
        Ok(())
    }

    fn adopt(&self, fd: OwnedFd) -> Result<EventNotifier, SessionError> {
        Ok(adopt_from_peer(fd, self.served.reset)?)
    }

    /// Returns `F_LOG_ALL` if the log of dirty pages is offered.
    fn offered_log(&self) -> u64 {
        if self.offered_protocol().contains(ProtocolFeatures::LOG_SHMFD) { F_LOG_ALL } else { 0 }
    }

    /// Takes a log of dirty pages, which counts for running rings at once.
    async fn set_log(&mut self, area: &LogArea, fd: OwnedFd) -> Result<(), SessionError> {
        let rings = self.vrings.iter().filter_map(|vring| Some((vring.addr.as_ref()?, vring.size)));
        let taken = self.logging.set_log(area, fd, &self.memory, rings);
        if taken.is_err() && self.logging.all() {
            // What is written from here on would be missing at the frontend's destination, and it
            // may not look at the answer.
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
        self.switch_all_logs().await?;
        Ok(taken?)
    }

    /// Tells a running ring what to record from now on. When this returns, the ring uses the new
    /// log, and not the old one.
    async fn switch_log(&mut self, index: u32) -> Result<(), SessionError> {
        let pages = self.vring(index)?.addr.and_then(|addr| self.logging.of_ring(&addr));
        let set = self.rings.ask(index, move |ring| ring.set_dirty_log(pages));
        if let Some(set) = set {
            set.answer().await;
        }
        Ok(())
    }

    async fn switch_all_logs(&mut self) -> Result<(), SessionError> {
        for index in 0..self.vrings.len() as u32 {
            self.switch_log(index).await?;
        }
        Ok(())
    }

    async fn set_features(&mut self, bits: u64) -> Result<(), SessionError> {
        let log = bits & self.offered_log();
        let bits = bits & !log;
        let features = bits & !F_PROTOCOL_FEATURES;
        let has_protocol_features = bits & F_PROTOCOL_FEATURES != 0;
        // Check first, so that a refusal does not stop any ring.
        if let Err(error) = self.served.device.check_features(features) {
            // Running rings keep the features that they started with.
            if !self.rings.is_any_running() {
                self.features = None;
            }
            return Err(SessionError::Features(error));
        }
        self.logging.check_all(log != 0)?;
        self.logging.set_all(log != 0);
        let unchanged =
            self.features == Some(features) && has_protocol_features == self.has_protocol_features;
        if unchanged {
            return self.switch_all_logs().await;
        }
        self.stop_all().await?;
        (self.features, self.has_protocol_features) = (Some(features), has_protocol_features);
        self.served.device.negotiate(bits);
        Ok(())
    }

    /// The device status register. It reports to the driver whether its features were accepted. 0
    /// stops the rings and changes nothing else: QEMU writes it also when it pauses the guest, who
    /// does not know of a reset. A frontend that resets the device sets everything up again.
    async fn set_status(&mut self, status: u8) -> Result<(), SessionError> {
        if status == 0 {
            self.stop_all().await?;
            for vring in &mut self.vrings {
                (vring.kick, vring.first) = (None, None);
            }
        }
        let refused = if self.features.is_some() { 0 } else { VIRTIO_CONFIG_S_FEATURES_OK as u8 };
        self.status = status & !refused;
        Ok(())
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, SessionError> {
        let queues = self.served.device.queues();
        let vring = usize::try_from(index).ok().and_then(|index| self.vrings.get_mut(index));
        vring.ok_or(SessionError::NoSuchVring { index, queues })
    }

    /// Stops a ring and stores its position in `base`. If its loop has ended, nobody knows the
    /// position: then it goes on at its used index, because the former `base` was answered long
    /// ago.
    async fn stop(&mut self, index: u32) -> Result<(), SessionError> {
        self.vring(index)?;
        let stopped = self.rings.stop(index, &self.context).await;
        match &stopped {
            Ok(Some(stopped)) => self.vring(index)?.base = Some(stopped.next_avail),
            Ok(None) => {}
            Err(_) => self.vring(index)?.base = None,
        }
        stopped?;
        Ok(())
    }

    /// Reports that a ring does not work any more.
    pub(super) fn raise_error(&mut self, index: u32) {
        if let Ok(vring) = self.vring(index) {
            vring.error.raise();
        }
    }

    /// Stops all rings, also if stopping one of them fails.
    pub(super) async fn stop_all(&mut self) -> Result<(), SessionError> {
        let mut outcome = Ok(());
        for index in 0..self.vrings.len() as u32 {
            outcome = outcome.and(self.stop(index).await);
        }
        outcome
    }

    /// Starts all rings that are ready, after a request that concerns all of them.
    ///
    /// A ring that cannot be started keeps no other ring from it, and is no reason to refuse the
    /// request: the guest chose the place of the ring, and a VMM may not survive that a change of
    /// its memory table is refused.
    async fn start_ready(&mut self) {
        for index in 0..self.vrings.len() as u32 {
            if let Err(error) = self.start_if_ready(index).await {
                let line = format_args!("vring {index} cannot start: {error}");
                self.served.device.log_line(Line::warn(line).queue(index).caused_by(&error));
            }
        }
    }

    /// Starts a ring if it is stopped and has everything it needs. If that fails, the frontend
    /// learns of it through the ring's error eventfd too: it may not wait for an answer.
    async fn start_if_ready(&mut self, index: u32) -> Result<(), SessionError> {
        let Some(setup) = self.ready(index)? else { return Ok(()) };
        let error = self.vring(index)?.error.clone();
        error.clear();
        let started = self.start(index, setup).await;
        if started.is_err() {
            error.raise();
        }
        self.vring(index)?.failed = started.is_err();
        started
    }

    /// Like [`start_if_ready`](Self::start_if_ready), after a request that sets one of several
    /// numbers of a ring. If the ring could not start before, the frontend is correcting it, and
    /// more may follow: that it still cannot start is no reason to refuse the request.
    async fn start_if_corrected(&mut self, index: u32) -> Result<(), SessionError> {
        let failed_before = self.vring(index)?.failed;
        match self.start_if_ready(index).await {
            Err(error) if failed_before => {
                let line = format_args!("vring {index} still cannot start: {error}");
                self.served.device.log_line(Line::warn(line).queue(index).caused_by(&error));
                Ok(())
            }
            started => started,
        }
    }

    /// Returns what a ring needs to run. `None` if it runs already or something is missing.
    fn ready(&mut self, index: u32) -> Result<Option<RingSetup>, SessionError> {
        let (features, has_memory) = (self.features, !self.memory.is_empty());
        let has_protocol_features = self.has_protocol_features;
        let (is_running, is_closed) = (self.rings.is_running(index), self.rings.is_closed());
        let vring = self.vring(index)?;
        let enabled = vring.enabled || !has_protocol_features;
        let idle = !is_running && !is_closed && vring.size != 0 && enabled && has_memory;
        Ok(match (features, vring.addr, vring.kick.clone()) {
            (Some(features), Some(addr), Some(kick)) if idle => Some(RingSetup { features, addr, kick }),
            _ => None,
        })
    }

    async fn start(&mut self, index: u32, setup: RingSetup) -> Result<(), SessionError> {
        let RingSetup { features, addr, kick } = setup;
        let vring = self.vring(index)?;
        let (size, base) = (vring.size, vring.base);
        let (interrupt, error) = (vring.call.clone().unwrap_or(Interrupt::None), vring.error.clone());
        // The cast is lossless: a device has at most 256 queues.
        let number = index as u16;
        let config = self.locate_ring(size, &addr, features)?;
        let (mut queue, in_flight) = self.open_ring(number, config, base)?;
        if let Some(pages) = self.logging.of_ring(&addr) {
            queue.set_dirty_log(Some(pages));
        }
        let base = queue.next_avail();
        let link = RingLink {
            memory: self.memory.clone(),
            record: self.inflight.clone(),
            socket: Arc::clone(&self.socket),
            error,
        };
        let limit = self.served.limit.clone();
        let order = RingOrder { queue, config, kick, interrupt, limit, in_flight, link };
        let device = Arc::clone(&self.served.device);
        let running = self.loops.start(number, device, order, &self.rings.losses, &self.context).await?;
        self.rings.add(number, running);
        self.vring(index)?.first.get_or_insert(base);
        Ok(())
    }

    /// Returns the place of a ring in guest memory.
    fn locate_ring(&self, size: u16, addr: &VringAddr, features: u64) -> Result<QueueConfig, SessionError> {
        let (desc_bytes, avail_bytes, used_bytes) = QueueConfig::part_bytes(size);
        Ok(QueueConfig {
            size,
            desc_table: self.memory.user_to_guest(addr.descriptor, desc_bytes)?,
            avail_ring: self.memory.user_to_guest(addr.available, avail_bytes)?,
            used_ring: self.memory.user_to_guest(addr.used, used_bytes)?,
            event_idx: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
        })
    }

    /// Creates the device side of a ring at its current position. With an in-flight region, the
    /// position is where the previous backend stopped.
    #[expect(clippy::type_complexity, reason = "the two halves of a queue's order")]
    fn open_ring(
        &self,
        index: u16,
        config: QueueConfig,
        base: Option<u16>,
    ) -> Result<(DeviceQueue, Option<(InflightQueue, Vec<u16>)>), SessionError> {
        let ring = |error| SessionError::Ring { index, error };
        let queue = DeviceQueue::new(Arc::clone(self.memory.memory()), config).map_err(ring)?;
        let used_idx = queue.used_idx_in_ring();
        let Some(region) = &self.inflight else {
            // Nothing is in flight, so the used index normally equals the avail position. Read it
            // from the ring anyway: the ring is what the guest sees, and a frontend may have
            // restored a different used.idx.
            return Ok((queue.resumed_at(base.unwrap_or(used_idx), used_idx), None));
        };
        let recovered = region.open(index, config.size, used_idx)?;
        let queue = queue.resumed_at(recovered.next_avail, used_idx);
        Ok((queue, Some((recovered.queue, recovered.heads))))
    }

    /// Notifies the frontend that the configuration space has changed, if it has set up a backend
    /// channel. If that has no room now, [`advance_channel`](Self::advance_channel) does it.
    pub(super) fn notify_config_change(&mut self) -> io::Result<()> {
        let channel = self.backend_channel.as_mut();
        channel.map_or(Ok(()), |channel| channel.notify_config_change(&self.context))
    }

    /// Sends what waits for room in the backend channel.
    pub(super) fn advance_channel(&mut self) -> io::Result<()> {
        let channel = self.backend_channel.as_mut();
        channel.map_or(Ok(()), |channel| channel.advance(&self.context))
    }

    /// Waits until the backend channel has room for what waits; for ever if nothing does.
    pub(super) async fn channel_has_room(&self) {
        match &self.backend_channel {
            Some(channel) => channel.has_room().await,
            None => std::future::pending().await,
        }
    }

    /// Stops a ring and starts it where its place is now.
    pub(super) async fn restart(&mut self, index: u32) -> Result<(), SessionError> {
        if self.rings.is_running(index) {
            self.stop(index).await?;
            self.start_if_ready(index).await?;
        }
        Ok(())
    }
}

/// What a ring gets when it starts, besides what has a default.
struct RingSetup {
    features: u64,
    addr: VringAddr,
    kick: Kick,
}

/// Which rings a request can complete, so that they can start.
enum Completes {
    NoRing,
    /// The request is the start of a ring, or all of its addresses.
    Ring(u32),
    /// The request is one number of a ring.
    RingPart(u32),
    AllRings,
}

impl Completes {
    fn of(request: &Request) -> Self {
        match request {
            Request::SetVringNum(state) | Request::SetVringBase(state) => Self::RingPart(state.index),
            Request::SetVringAddr(addr) => Self::Ring(addr.index),
            Request::SetVringKick(kick) => Self::Ring(kick.index.into()),
            Request::SetVringEnable { index, .. } => Self::Ring(*index),
            Request::SetFeatures(_)
            | Request::SetMemTable(_)
            | Request::AddMemReg(..)
            | Request::RemMemReg(_)
            | Request::SetInflightFd(..) => Self::AllRings,
            Request::GetFeatures
            | Request::SetOwner
            | Request::ResetOwner
            | Request::SetLogBase(..)
            | Request::SetLogFd(_)
            // A stopped ring waits for a new kick eventfd.
            | Request::GetVringBase { .. }
            // A ring needs no call eventfd: the driver may poll.
            | Request::SetVringCall(_)
            | Request::SetVringErr(_)
            | Request::GetProtocolFeatures
            | Request::SetProtocolFeatures(_)
            | Request::GetQueueNum
            | Request::SetBackendReqFd(_)
            | Request::GetConfig(_)
            | Request::SetConfig(_)
            | Request::GetInflightFd(_)
            | Request::ResetDevice
            | Request::GetMaxMemSlots
            | Request::SetStatus(_)
            | Request::GetStatus => Self::NoRing,
        }
    }
}

fn same_place(a: &VringAddr, b: &VringAddr) -> bool {
    (a.descriptor, a.available, a.used) == (b.descriptor, b.available, b.used)
}
