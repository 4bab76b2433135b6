//! A device of vhost-user-backend as a device of the server.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, Builder, Interest, Readiness, Registration};
use vhost_016::vhost_user::Backend;
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory_017::mmap::NewBitmap;
use vmm_sys_util::epoll::EventSet;

use super::group::Group;
use super::memory::Memory;
use super::ring::Ring;
use crate::queue::{check_features, read_space};
use crate::vhost_user::{
    F_LOG_ALL, F_PROTOCOL_FEATURES, Loops, MemoryTable, ProtocolFeatures, RingDevice, RingOrder, RunningRing,
};

/// Features that the server cannot serve, whatever the device does.
const NOT_SERVED: u64 =
    F_LOG_ALL | F_PROTOCOL_FEATURES | 1 << VIRTIO_F_ACCESS_PLATFORM | 1 << VIRTIO_F_RING_PACKED;

/// How long a ring that stops waits for the chains that the device works on.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A device that implements [`VhostUserBackend`], ready to be served by a
/// [`Server`](crate::vhost_user::Server) or a [`Daemon`](crate::vhost_user::Daemon). The module
/// [`hosted`](super) tells what such a device sees.
pub struct Hosted<B: VhostUserBackend>
where
    B::Bitmap: NewBitmap,
{
    name: Arc<str>,
    backend: Arc<B>,
    memory: Memory<B::Bitmap>,
    vrings: Vec<B::Vring>,
    groups: Vec<Arc<Group<B>>>,
    drain_limit: Duration,
}

impl<B: VhostUserBackend> std::fmt::Debug for Hosted<B>
where
    B::Bitmap: NewBitmap,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<B: VhostUserBackend + 'static> Hosted<B>
where
    B::Bitmap: NewBitmap + Send + Sync,
    B::Vring: Clone + Send + Sync,
{
    /// Prepares a device. `name` is for log lines. Asks the device for its queues, their groups and
    /// the exit events of these.
    ///
    /// # Errors
    /// `InvalidInput` if it has no queue, more than 256, one that is in no group, or a maximum
    /// queue size that is not a power of two up to 32768.
    pub fn new(name: &str, backend: B) -> io::Result<Self> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
        let (queues, size) = (backend.num_queues(), backend.max_queue_size());
        if !(1..=256).contains(&queues) {
            return Err(invalid(format!("the device has {queues} queues; it must have 1 to 256")));
        }
        let largest = u16::try_from(size).ok().filter(|size| size.is_power_of_two());
        let wrong_size =
            || invalid(format!("the device serves rings of up to {size} entries: not a valid size"));
        let largest = largest.ok_or_else(wrong_size)?;
        let memory = Memory::new();
        let vring = |_| B::Vring::new(memory.shared(), largest);
        let vrings: Vec<_> = (0..queues).map(vring).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let (name, backend) = (Arc::from(name), Arc::new(backend));
        let groups = Group::all(&name, &backend, &vrings)?.into_iter().map(Arc::new).collect();
        Ok(Self { name, backend, memory, vrings, groups, drain_limit: DRAIN_LIMIT })
    }

    /// Sets how long a ring that stops waits for the chains that the device has taken and not yet
    /// returned. By default 5 seconds. After that the ring stops all the same, and the log says so;
    /// the device still has the memory. Choose zero for a device that keeps chains on purpose, for
    /// example until there is input.
    #[must_use]
    pub fn set_drain_limit(self, limit: Duration) -> Self {
        Self { drain_limit: limit, ..self }
    }

    /// Creates an I/O thread for each group of the device's queues, as `VhostUserDaemon` does.
    ///
    /// On [`Loops::own`], all groups run on the server's thread. Other loops are possible as long
    /// as the queues of a group are on one loop; otherwise some of its rings do not start.
    ///
    /// # Errors
    /// As for [`Loops::spawn`].
    pub fn loops(&self, builder: &Builder) -> io::Result<Loops> {
        let group = |queue| self.group(queue).map_or(0, |(group, _)| group.index);
        Loops::spawn(self.groups.len(), (0..self.queues()).map(group).collect(), builder)
    }

    /// The device itself.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Calls the device's `handle_event` with `event` when `fd` is ready, until the registration is
    /// dropped: for what a device waits for besides its queues. It gets the rings of the group
    /// `thread`, also while they are not running. To call on the loop that serves the group, or
    /// before it serves any: see [`Loops::run`].
    ///
    /// The events are level-triggered: IN, OUT, ERROR and HANG_UP, the last two always. If
    /// `handle_event` fails, one line is logged, and the descriptor is not watched any more.
    ///
    /// # Errors
    /// `InvalidInput` for an event up to the number of queues, which belong to queues and exit
    /// events; for other events than IN and OUT; and for a group that does not exist. Otherwise as
    /// for [`AioContext::add_fd`].
    pub fn register_listener(
        &self,
        context: &AioContext,
        thread: usize,
        fd: impl AsFd + 'static,
        events: EventSet,
        event: u16,
    ) -> io::Result<Registration> {
        let group = self.groups.get(thread).cloned();
        let (false, true, Some(group)) =
            (event <= self.queues(), (EventSet::IN | EventSet::OUT).contains(events), group)
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let on = |event, interest| if events.contains(event) { interest } else { Interest::NONE };
        let interest = on(EventSet::IN, Interest::READABLE) | on(EventSet::OUT, Interest::WRITABLE);
        let id = std::rc::Rc::new(std::cell::Cell::new(None));
        let own = std::rc::Rc::clone(&id);
        let registration = context.add_fd(fd, interest, move |context, ready| {
            if group.has_ended() {
                return remove(context, own.get());
            }
            if let Err(error) = group.handle(event, event_set(ready)) {
                group.log(format_args!("event {event} failed, and is not watched any more: {error}"));
                remove(context, own.get());
            }
        })?;
        id.set(Some(registration.id()));
        Ok(registration)
    }

    /// The group that serves a queue, and the event of its kicks there.
    fn group(&self, queue: u16) -> Option<(&Arc<Group<B>>, u16)> {
        self.groups.iter().find_map(|group| Some((group, group.event_of(queue)?)))
    }
}

fn remove(context: &AioContext, handler: Option<aio::HandlerId>) {
    if let Some(handler) = handler {
        context.remove(handler);
    }
}

fn event_set(ready: Readiness) -> EventSet {
    let on = |ready, event| if ready { event } else { EventSet::empty() };
    on(ready.is_readable(), EventSet::IN)
        | on(ready.is_writable(), EventSet::OUT)
        | on(ready.is_error(), EventSet::ERROR)
        | on(ready.is_hang_up(), EventSet::HANG_UP)
}

impl<B: VhostUserBackend + 'static> RingDevice for Hosted<B>
where
    B::Bitmap: NewBitmap + Send + Sync,
    B::Vring: Clone + Send + Sync,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn queues(&self) -> u16 {
        // At most 256.
        self.vrings.len() as u16
    }

    fn max_queue_size(&self) -> u16 {
        // Checked when this was created.
        self.backend.max_queue_size().min(1 << 15) as u16
    }

    fn offered(&self) -> u64 {
        self.backend.features() & !NOT_SERVED
    }

    fn offered_protocol(&self) -> ProtocolFeatures {
        let offered = ProtocolFeatures::from_bits(self.backend.protocol_features().bits());
        // The device writes to guest memory itself, and the server does not learn where.
        offered.without(ProtocolFeatures::INFLIGHT_SHMFD).without(ProtocolFeatures::LOG_SHMFD)
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        check_features(self.offered(), driver)
    }

    fn negotiate(&self, driver: u64) {
        self.backend.set_event_idx(driver & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        self.backend.acked_features(driver);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // A device that does not offer its configuration space may not expect to be asked for it.
        if let (Ok(offset), Ok(size)) = (u32::try_from(offset), u32::try_from(data.len()))
            && self.offered_protocol().contains(ProtocolFeatures::CONFIG)
        {
            read_space(&self.backend.get_config(offset, size), 0, data);
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.offered_protocol().contains(ProtocolFeatures::CONFIG) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the device has no configuration space"));
        }
        let offset = u32::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.backend.set_config(offset, data)
    }

    fn end_session(&self) {
        self.memory.clear();
    }

    fn reset(&self) {
        self.backend.reset_device();
    }

    fn set_memory(&self, memory: &MemoryTable) -> io::Result<()> {
        self.memory.replace(memory.memory(), |memory| self.backend.update_memory(memory))
    }

    fn take_backend_channel(&self, socket: OwnedFd, negotiated: ProtocolFeatures) -> Option<OwnedFd> {
        let backend = Backend::from_stream(UnixStream::from(socket));
        backend.set_reply_ack_flag(negotiated.contains(ProtocolFeatures::REPLY_ACK));
        self.backend.set_backend_req_fd(backend);
        None
    }

    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let vring = self.vrings.get(usize::from(index)).cloned().ok_or_else(missing)?;
        let (group, event) = self.group(index).ok_or_else(missing)?;
        Ring::start(Arc::clone(group), vring, (index, event), order, self.drain_limit, context)
    }
}
