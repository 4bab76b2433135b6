//! The frontend's side of the protocol, blocking with a timeout. Used by the benchmark's driver,
//! and by tests that send invalid messages to a server.

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
use super::payload::{ConfigAccess, ConfigData, Inflight, LogArea, MemoryRegion, VringAddr, VringState};
use super::reply::{Ack, BackendRequest, Reply};
use super::request::{Request, VringFd};
use super::socket;

type Result<T> = std::result::Result<T, FrontendError>;

/// A session with a vhost-user backend.
///
/// Each method does one exchange. It blocks until the backend has answered, for at most the timeout
/// in total. Requests that return something are always answered; other requests are answered if
/// REPLY_ACK is negotiated. Without REPLY_ACK they succeed as soon as they are sent.
///
/// After a [`TimedOut`](FrontendError::TimedOut) error the answer may still arrive, so the session
/// cannot be used any more. The same is true after an error of the connection. After a
/// [`Refused`](FrontendError::Refused) request the session can still be used.
#[derive(Debug)]
pub struct Frontend {
    connection: Connection,
    /// This side of the channel for the backend's own requests.
    backend_channel: Option<Connection>,
    negotiated: ProtocolFeatures,
    timeout: Duration,
}

/// A complete message as it was received.
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
    /// Connects to the socket at `path`. The timeout applies to each exchange. Like connect(2),
    /// this blocks while the server's backlog is full.
    ///
    /// # Errors
    /// Errors of connect(2).
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(FrontendError::Connect)?;
        Ok(Self::from_stream(stream, timeout))
    }

    /// Creates a session on a connected stream. The timeout applies to each exchange.
    pub fn from_stream(stream: UnixStream, timeout: Duration) -> Self {
        let connection = Connection::new(stream);
        Self { connection, backend_channel: None, negotiated: ProtocolFeatures::NONE, timeout }
    }

    /// Returns the virtio features that the backend offers, including
    /// [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES).
    pub fn get_features(&mut self) -> Result<u64> {
        match self.ask(Request::GetFeatures)? {
            Reply::Features(features) => Ok(features),
            other => Err(unexpected(&other)),
        }
    }

    /// Enables virtio features.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.tell(Request::SetFeatures(features))
    }

    /// Returns the protocol features that the backend offers.
    pub fn get_protocol_features(&mut self) -> Result<ProtocolFeatures> {
        match self.ask(Request::GetProtocolFeatures)? {
            Reply::ProtocolFeatures(features) => Ok(features),
            other => Err(unexpected(&other)),
        }
    }

    /// Enables protocol features. If they include REPLY_ACK, all later requests are acknowledged.
    pub fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Result<()> {
        self.tell(Request::SetProtocolFeatures(features))?;
        self.negotiated = features;
        Ok(())
    }

    /// Starts the session.
    pub fn set_owner(&mut self) -> Result<()> {
        self.tell(Request::SetOwner)
    }

    /// Returns the number of queues of the backend. Needs MQ.
    pub fn get_queue_num(&mut self) -> Result<u64> {
        match self.ask(Request::GetQueueNum)? {
            Reply::QueueNum(queues) => Ok(queues),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends the guest's memory to the backend: each region with its file.
    pub fn set_mem_table(&mut self, regions: &[(MemoryRegion, BorrowedFd<'_>)]) -> Result<()> {
        let regions = regions.iter().map(|&(region, fd)| Ok((region, fd.try_clone_to_owned()?)));
        let regions = regions.collect::<io::Result<_>>()?;
        self.tell(Request::SetMemTable(regions))
    }

    /// Returns the maximum number of regions that the backend supports. Needs CONFIGURE_MEM_SLOTS,
    /// like the next two methods.
    pub fn get_max_mem_slots(&mut self) -> Result<u64> {
        match self.ask(Request::GetMaxMemSlots)? {
            Reply::MaxMemSlots(slots) => Ok(slots),
            other => Err(unexpected(&other)),
        }
    }

    /// Adds a region.
    pub fn add_mem_region(&mut self, region: MemoryRegion, file: BorrowedFd<'_>) -> Result<()> {
        let file = file.try_clone_to_owned()?;
        self.tell(Request::AddMemReg(region, file))
    }

    /// Removes a region.
    pub fn remove_mem_region(&mut self, region: MemoryRegion) -> Result<()> {
        self.tell(Request::RemMemReg(region))
    }

    /// Shares a log of dirty pages with the backend. When this returns, the backend does not use
    /// the former one any more. Needs LOG_SHMFD.
    pub fn set_log_base(&mut self, area: LogArea, fd: BorrowedFd<'_>) -> Result<()> {
        let fd = fd.try_clone_to_owned()?;
        match self.ask(Request::SetLogBase(area, fd))? {
            Reply::LogBase(taken) if taken != LogArea::NONE => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends an eventfd that the backend may signal when it has modified the log.
    pub fn set_log_fd(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.tell(Request::SetLogFd(fd))
    }

    /// Sets the size of a vring in entries.
    pub fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.tell(Request::SetVringNum(VringState { index, num }))
    }

    /// Sets the addresses of a vring.
    pub fn set_vring_addr(&mut self, addr: VringAddr) -> Result<()> {
        self.tell(Request::SetVringAddr(addr))
    }

    /// Sets the index in the avail ring where the backend starts.
    pub fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.tell(Request::SetVringBase(VringState { index, num: base }))
    }

    /// Stops a vring. When this returns, all requests that were in flight are complete. Returns the
    /// current index in the avail ring.
    pub fn get_vring_base(&mut self, index: u32) -> Result<u32> {
        match self.ask(Request::GetVringBase { index })? {
            Reply::VringBase(state) => Ok(state.num),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends the eventfd that kicks a vring, or no eventfd.
    pub fn set_vring_kick(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringKick(vring))
    }

    /// Sends the eventfd that interrupts the guest, or no eventfd.
    pub fn set_vring_call(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringCall(vring))
    }

    /// Sends the eventfd that reports a broken ring, or no eventfd.
    pub fn set_vring_err(&mut self, index: u8, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let vring = vring_fd(index, fd)?;
        self.tell(Request::SetVringErr(vring))
    }

    /// Enables or disables a vring.
    pub fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.tell(Request::SetVringEnable { index, enable })
    }

    /// Reads `size` bytes of the configuration space. Needs CONFIG, like the next method.
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

    /// Asks the backend to create a region for requests in flight. Returns `None` if it does not
    /// offer one. Needs INFLIGHT_SHMFD, like the next method.
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

    /// Sends a region for requests in flight to the backend, with the content that the previous
    /// backend left in it.
    pub fn set_inflight_fd(&mut self, inflight: Inflight, fd: BorrowedFd<'_>) -> Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.tell(Request::SetInflightFd(inflight, fd))
    }

    /// Resets the device. Needs RESET_DEVICE.
    pub fn reset_device(&mut self) -> Result<()> {
        self.tell(Request::ResetDevice)
    }

    /// Sends the device status. Needs STATUS, like the next method.
    pub fn set_status(&mut self, status: u8) -> Result<()> {
        self.tell(Request::SetStatus(status))
    }

    /// Returns the device status that the backend has.
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

    /// Waits for a request of the backend on its channel, and acknowledges it if the backend asked
    /// for that.
    ///
    /// # Errors
    /// `TimedOut` if no request arrives; `NotConnected` if there is no channel.
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

    /// Sends bytes and descriptors that need not be a valid message. Waits until the socket has
    /// accepted them, but not for an answer.
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.send(Frame::raw(bytes.to_vec(), fds), deadline(self.timeout))
    }

    /// Waits for any message on the main socket.
    pub fn receive_raw(&mut self) -> Result<RawMessage> {
        receive(&mut self.connection, deadline(self.timeout))
    }

    /// Sends any request and waits for its reply. Requests without a reply of their own are
    /// answered with an [`Ack`] if REPLY_ACK is negotiated. Returns `None` if there is no answer to
    /// wait for.
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

    /// Sends a request that returns something.
    fn ask(&mut self, request: Request) -> Result<Reply> {
        let number = request.code().number();
        self.exchange(request)?.ok_or(FrontendError::Refused { request: number })
    }

    /// Sends a request that returns nothing.
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

/// The main socket, for a caller that polls it itself.
impl AsFd for Frontend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn vring_fd(index: u8, fd: Option<BorrowedFd<'_>>) -> Result<VringFd> {
    let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose()?;
    Ok(VringFd { index, fd })
}

/// A reply of another kind means that the request was refused: the codec only returns the request's
/// own reply or an `Ack`.
fn unexpected(reply: &Reply) -> FrontendError {
    FrontendError::Refused { request: reply.request() }
}

/// If the deadline is too far in the future for an Instant, use one day.
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
