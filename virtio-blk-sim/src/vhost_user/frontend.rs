//! The frontend's half, blocking with a deadline: for the benchmark's driver, and for tests that
//! abuse a server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::error::FrontendError;
use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::Header;
use super::payload::{ConfigAccess, ConfigData, Inflight, MemoryRegion, VringAddr, VringState};
use super::reply::{Ack, BackendRequest, Reply};
use super::request::{Request, VringFd};
use super::socket;

type Result<T> = std::result::Result<T, FrontendError>;

/// A session with a vhost-user backend.
///
/// Each method is one exchange. It blocks until the backend has answered (where an answer is due:
/// always for what asks something, and for everything once REPLY_ACK is negotiated), for at most
/// the timeout in total. Without REPLY_ACK a request that asks nothing succeeds as soon as it is
/// sent.
///
/// After a [`TimedOut`](FrontendError::TimedOut) the answer may still come, so the session is of no
/// more use; likewise after an error of the connection. A [`Refused`](FrontendError::Refused)
/// request leaves it intact.
#[derive(Debug)]
pub struct Frontend {
    connection: Connection,
    /// Our end of the channel for the backend's own requests.
    backend_channel: Option<Connection>,
    negotiated: ProtocolFeatures,
    timeout: Duration,
}

/// A message as it came, with everything in it.
#[derive(Debug)]
pub struct RawMessage {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Vec<u8>,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Frontend {
    /// Connects to the socket at `path`. `timeout` is for each exchange. Blocks like connect(2): as
    /// long as the server's backlog is full.
    ///
    /// # Errors
    /// What connect(2) says.
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(FrontendError::Connect)?;
        Ok(Self::from_stream(stream, timeout))
    }

    /// A session over a stream that is connected already. `timeout` is for each exchange.
    pub fn from_stream(stream: UnixStream, timeout: Duration) -> Self {
        let connection = Connection::new(stream);
        Self { connection, backend_channel: None, negotiated: ProtocolFeatures::NONE, timeout }
    }

    /// The virtio features that the backend offers,
    /// [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES) among them.
    pub fn get_features(&mut self) -> Result<u64> {
        match self.ask(Request::GetFeatures)? {
            Reply::Features(features) => Ok(features),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts virtio features in force.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.tell(Request::SetFeatures(features))
    }

    /// The protocol features that the backend offers.
    pub fn get_protocol_features(&mut self) -> Result<ProtocolFeatures> {
        match self.ask(Request::GetProtocolFeatures)? {
            Reply::ProtocolFeatures(features) => Ok(features),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts protocol features in force. With REPLY_ACK among them everything from the next request
    /// on is acknowledged.
    pub fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Result<()> {
        self.tell(Request::SetProtocolFeatures(features))?;
        self.negotiated = features;
        Ok(())
    }

    /// Begins the session.
    pub fn set_owner(&mut self) -> Result<()> {
        self.tell(Request::SetOwner)
    }

    /// How many queues the backend has. Needs MQ.
    pub fn get_queue_num(&mut self) -> Result<u64> {
        match self.ask(Request::GetQueueNum)? {
            Reply::QueueNum(queues) => Ok(queues),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the backend the guest's memory, each region with its file.
    pub fn set_mem_table(&mut self, regions: &[(MemoryRegion, BorrowedFd<'_>)]) -> Result<()> {
        let regions = regions.iter().map(|&(region, fd)| Ok((region, fd.try_clone_to_owned()?)));
        let regions = regions.collect::<io::Result<_>>()?;
        self.tell(Request::SetMemTable(regions))
    }

    /// How many regions the backend can take. Needs CONFIGURE_MEM_SLOTS, like the next two.
    pub fn get_max_mem_slots(&mut self) -> Result<u64> {
        match self.ask(Request::GetMaxMemSlots)? {
            Reply::MaxMemSlots(slots) => Ok(slots),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the backend one more region.
    pub fn add_mem_region(&mut self, region: MemoryRegion, file: BorrowedFd<'_>) -> Result<()> {
        let file = file.try_clone_to_owned()?;
        self.tell(Request::AddMemReg(region, file))
    }

    /// Takes a region away.
    pub fn remove_mem_region(&mut self, region: MemoryRegion) -> Result<()> {
        self.tell(Request::RemMemReg(region))
    }

    /// Sets the size of a vring in entries.
    pub fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.tell(Request::SetVringNum(VringState { index, num }))
    }

    /// Says where a vring is.
    pub fn set_vring_addr(&mut self, addr: VringAddr) -> Result<()> {
        self.tell(Request::SetVringAddr(addr))
    }

    /// Says where in the avail ring to begin.
    pub fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.tell(Request::SetVringBase(VringState { index, num: base }))
    }

    /// Stops a vring: when this returns, every request that was in flight is complete. Gives where
    /// in the avail ring it stands.
    pub fn get_vring_base(&mut self, index: u32) -> Result<u32> {
        match self.ask(Request::GetVringBase { index })? {
            Reply::VringBase(state) => Ok(state.num),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the backend the eventfd that kicks a vring, or none.
    pub fn set_vring_kick(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringKick(vring))
    }

    /// Gives the backend the eventfd that interrupts the guest, or none.
    pub fn set_vring_call(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringCall(vring))
    }

    /// Gives the backend the eventfd that reports a broken ring, or none.
    pub fn set_vring_err(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringErr(vring))
    }

    /// Enables or disables a vring.
    pub fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.tell(Request::SetVringEnable { index, enable })
    }

    /// Reads `size` bytes of the configuration space. Needs CONFIG, like the next one.
    pub fn get_config(&mut self, offset: u32, size: u32) -> Result<Vec<u8>> {
        let request = Request::GetConfig(ConfigAccess { offset, size, flags: 0 });
        let number = request.code().number();
        match self.ask(request)? {
            Reply::Config(config) if config.data.len() == size as usize => Ok(config.data),
            Reply::Config(_) => Err(FrontendError::Refused { request: number }),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes the configuration space.
    pub fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<()> {
        self.tell(Request::SetConfig(ConfigData { offset, flags: 0, data: data.to_vec() }))
    }

    /// Lets the backend make a region for requests in flight. `None` if it has none to offer. Needs
    /// INFLIGHT_SHMFD, like the next one.
    pub fn get_inflight_fd(
        &mut self,
        num_queues: u16,
        queue_size: u16,
    ) -> Result<Option<(Inflight, OwnedFd)>> {
        let request = Inflight { num_queues, queue_size, ..Inflight::NONE };
        match self.ask(Request::GetInflightFd(request))? {
            Reply::Inflight(inflight, fd) => Ok(fd.map(|fd| (inflight, fd))),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the backend a region for requests in flight, with what its predecessor left in it.
    pub fn set_inflight_fd(&mut self, inflight: Inflight, fd: BorrowedFd<'_>) -> Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.tell(Request::SetInflightFd(inflight, fd))
    }

    /// Resets the device. Needs RESET_DEVICE.
    pub fn reset_device(&mut self) -> Result<()> {
        self.tell(Request::ResetDevice)
    }

    /// Tells the backend the device status. Needs STATUS, like the next one.
    pub fn set_status(&mut self, status: u8) -> Result<()> {
        self.tell(Request::SetStatus(status))
    }

    /// Asks the backend for the device status.
    pub fn get_status(&mut self) -> Result<u8> {
        match self.ask(Request::GetStatus)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens the channel for the backend's own requests. Needs BACKEND_REQ.
    pub fn open_backend_channel(&mut self) -> Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        self.tell(Request::SetBackendReqFd(theirs.into()))?;
        self.backend_channel = Some(Connection::new(ours));
        Ok(())
    }

    /// Waits until the backend says something on its channel, and acknowledges it if it wants that.
    ///
    /// # Errors
    /// `TimedOut` if it says nothing; `NotConnected` if there is no channel.
    pub fn wait_backend_request(&mut self) -> Result<BackendRequest> {
        let deadline = deadline(self.timeout);
        let channel = self.backend_channel.as_mut().ok_or(io::Error::from(io::ErrorKind::NotConnected))?;
        let RawMessage { header, body, fds } = receive(channel, deadline)?;
        let request = BackendRequest::parse(&header, &body, fds)?;
        if header.wants_ack(self.negotiated) {
            channel.send(Reply::Ack(Ack { request: header.request, ok: true }))?;
            flush(channel, deadline)?;
        }
        Ok(request)
    }

    /// Sends bytes and descriptors that need not be a message. Waits until the socket has taken
    /// them, and for no answer.
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.send(Frame::raw(bytes.to_vec(), fds), deadline(self.timeout))
    }

    /// Waits for a message on the main socket, whatever it is.
    pub fn receive_raw(&mut self) -> Result<RawMessage> {
        receive(&mut self.connection, deadline(self.timeout))
    }

    /// Sends any request and waits for the reply: its own, or an [`Ack`] if it has none and
    /// REPLY_ACK is negotiated. `None` if there is none to wait for.
    pub fn exchange(&mut self, request: Request) -> Result<Option<Reply>> {
        let deadline = deadline(self.timeout);
        let (number, has_reply) = (request.code().number(), request.has_reply());
        let need_reply = !has_reply && self.negotiated.contains(ProtocolFeatures::REPLY_ACK);
        self.send(request.encode(need_reply), deadline)?;
        if !has_reply && !need_reply {
            return Ok(None);
        }
        let RawMessage { header, body, fds } = receive(&mut self.connection, deadline)?;
        Ok(Some(Reply::parse(number, &header, &body, fds)?))
    }

    /// A request that asks something.
    fn ask(&mut self, request: Request) -> Result<Reply> {
        let number = request.code().number();
        self.exchange(request)?.ok_or(FrontendError::Refused { request: number })
    }

    /// A request that asks nothing.
    fn tell(&mut self, request: Request) -> Result<()> {
        match self.exchange(request)? {
            None | Some(Reply::Ack(Ack { ok: true, .. })) => Ok(()),
            Some(other) => Err(unexpected(&other)),
        }
    }

    fn send(&mut self, frame: Frame, deadline: Instant) -> Result<()> {
        self.connection.send(frame)?;
        flush(&mut self.connection, deadline)
    }
}

/// The main socket, for a caller that watches it itself.
impl AsFd for Frontend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn vring_fd(index: u8, fd: Option<BorrowedFd<'_>>) -> Result<VringFd> {
    let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose()?;
    Ok(VringFd { index, fd })
}

/// A reply that is not the one to its request is a refusal: the codec gives each request its own
/// kind or an `Ack`.
fn unexpected(reply: &Reply) -> FrontendError {
    FrontendError::Refused { request: reply.request() }
}

/// Durations beyond what an Instant can hold are as good as a day.
fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400))
}

fn receive(connection: &mut Connection, deadline: Instant) -> Result<RawMessage> {
    loop {
        if let Some(message) = connection.receive()? {
            let body = message.body.to_vec();
            return Ok(RawMessage { header: message.header, body, fds: message.fds });
        }
        wait(connection, false, deadline)?;
    }
}

fn flush(connection: &mut Connection, deadline: Instant) -> Result<()> {
    while connection.wants_write() {
        wait(connection, true, deadline)?;
        connection.flush()?;
    }
    Ok(())
}

fn wait(connection: &Connection, writable: bool, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() || !socket::wait(connection.as_fd(), writable, left)? {
        return Err(FrontendError::TimedOut);
    }
    Ok(())
}
