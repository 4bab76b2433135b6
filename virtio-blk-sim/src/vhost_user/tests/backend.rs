//! A minimal backend for tests: it answers every request and records what it received.

use std::thread::{self, JoinHandle};

use super::*;

pub(super) const FEATURES: u64 = F_PROTOCOL_FEATURES | 1 << 32 | 1 << 9;
pub(super) const PROTOCOL: ProtocolFeatures = ProtocolFeatures::from_bits(
    ProtocolFeatures::MQ.bits()
        | ProtocolFeatures::LOG_SHMFD.bits()
        | ProtocolFeatures::REPLY_ACK.bits()
        | ProtocolFeatures::BACKEND_REQ.bits()
        | ProtocolFeatures::CONFIG.bits()
        | ProtocolFeatures::INFLIGHT_SHMFD.bits()
        | ProtocolFeatures::RESET_DEVICE.bits()
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS.bits()
        | ProtocolFeatures::STATUS.bits(),
);
pub(super) const QUEUES: u64 = 2;
pub(super) const SLOTS: u64 = 509;
/// Size of this backend's configuration space.
pub(super) const CONFIG_SIZE: usize = 72;

/// Everything that a [`TestBackend`] received.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// All requests except reads, in order, with their descriptors.
    pub(super) requests: Vec<Request>,
    /// Errors of messages that were malformed or refused.
    pub(super) errors: Vec<MessageError>,
    /// Acknowledgements received on the backend channel.
    pub(super) acks: Vec<Ack>,
}

pub(super) struct TestBackend {
    connection: Connection,
    channel: Option<Connection>,
    negotiated: ProtocolFeatures,
    config: [u8; CONFIG_SIZE],
    status: u8,
    told: Told,
}

impl TestBackend {
    /// Starts a backend on a separate thread. It runs until its frontend closes the connection.
    pub(super) fn spawn() -> (UnixStream, JoinHandle<Told>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut config = [0; CONFIG_SIZE];
        config.iter_mut().zip(1..).for_each(|(byte, value)| *byte = value);
        let backend = Self {
            connection: Connection::new(ours),
            channel: None,
            negotiated: ProtocolFeatures::NONE,
            config,
            status: 0,
            told: Told::default(),
        };
        (theirs, thread::spawn(move || backend.run()))
    }

    fn run(mut self) -> Told {
        loop {
            match self.connection.receive() {
                Ok(Some(Incoming { header, body, fds })) => {
                    let request = Request::parse(&header, body, fds);
                    if !self.serve(header, request) {
                        return self.told;
                    }
                }
                Ok(None) => {
                    let ready =
                        socket::wait(self.connection.as_fd(), false, Duration::from_secs(60)).unwrap();
                    assert!(ready, "no message from the frontend for a minute");
                }
                Err(ConnectionError::Closed) => return self.told,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Returns true if the connection stays open.
    fn serve(&mut self, header: Header, request: Result<Request, MessageError>) -> bool {
        let reply = request.and_then(|request| self.answer(&header, request));
        let ack = || {
            header.wants_ack(self.negotiated).then_some(Reply::Ack(Ack { request: header.request, ok: true }))
        };
        let reply = match reply {
            Ok(reply) => reply.or_else(ack),
            Err(error) => {
                self.told.errors.push(error);
                match Refusal::of(&header, self.negotiated) {
                    Refusal::Reply(reply) => Some(reply),
                    Refusal::Silence => None,
                    Refusal::Close => return false,
                }
            }
        };
        if let Some(reply) = reply {
            self.connection.send(reply).unwrap();
        }
        true
    }

    fn answer(&mut self, header: &Header, request: Request) -> Result<Option<Reply>, MessageError> {
        let code = request.code();
        let refused = MessageError::Unsupported { request: header.request };
        Ok(Some(match request {
            Request::GetFeatures => Reply::Features(FEATURES),
            Request::GetProtocolFeatures => Reply::ProtocolFeatures(PROTOCOL),
            Request::GetQueueNum => Reply::QueueNum(QUEUES),
            Request::GetMaxMemSlots => Reply::MaxMemSlots(SLOTS),
            Request::GetStatus => Reply::Status(self.status),
            Request::GetVringBase { index } if u64::from(index) < QUEUES => {
                Reply::VringBase(VringState { index, num: index + 1000 })
            }
            Request::GetVringBase { .. } => return Err(refused),
            Request::GetConfig(ConfigAccess { offset, size, flags }) => {
                let data = self.config.get(offset as usize..).and_then(|config| config.get(..size as usize));
                let data = data.ok_or(MessageError::ConfigRange { code, offset, size })?.to_vec();
                Reply::Config(ConfigData { offset, flags, data })
            }
            Request::GetInflightFd(inflight) if inflight.num_queues <= QUEUES as u16 => {
                let file = crate::memory::GuestRam::new(8192).unwrap();
                let inflight = Inflight { mmap_size: 8192, mmap_offset: 0, ..inflight };
                Reply::Inflight(inflight, Some(file.as_fd().try_clone_to_owned().unwrap()))
            }
            Request::GetInflightFd(_) => return Err(refused),
            Request::SetVringNum(VringState { num, .. }) if num > 1024 => return Err(refused),
            mut told => {
                let reply = match &told {
                    Request::SetLogBase(area, _) => Some(Reply::LogBase(*area)),
                    _ => None,
                };
                match &mut told {
                    Request::SetProtocolFeatures(features) => self.negotiated = *features,
                    Request::SetStatus(status) => self.status = *status,
                    Request::SetConfig(ConfigData { offset, data, .. }) => {
                        let config = self.config.get_mut(*offset as usize..).unwrap();
                        config[..data.len()].copy_from_slice(data);
                    }
                    Request::SetBackendReqFd(fd) => {
                        let stream = UnixStream::from(fd.try_clone().unwrap());
                        self.channel = Some(Connection::new(stream));
                    }
                    // On a reset the test backend also announces a configuration change; any
                    // request would do.
                    Request::ResetDevice => self.announce(),
                    _ => {}
                }
                self.told.requests.push(told);
                return Ok(reply);
            }
        }))
    }

    fn announce(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        let need_reply = self.negotiated.contains(ProtocolFeatures::REPLY_ACK);
        channel.send(BackendRequest::ConfigChange.encode(need_reply)).unwrap();
        if !need_reply {
            return;
        }
        loop {
            if let Some(Incoming { header, body, fds }) = channel.receive().unwrap() {
                self.told.acks.push(Ack::parse(2, &header, body, fds).unwrap());
                return;
            }
            assert!(socket::wait(channel.as_fd(), false, Duration::from_secs(60)).unwrap());
        }
    }
}
