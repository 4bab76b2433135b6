//! The crate's frontend, against the test backend and against misbehaving peers.

use std::thread;

use super::backend::{FEATURES, PROTOCOL, QUEUES, SLOTS, TestBackend};
use super::*;
use crate::memory::GuestRam;

const PATIENCE: Duration = Duration::from_secs(60);
const IMPATIENCE: Duration = Duration::from_millis(20);

#[test]
fn a_whole_session() {
    for protocol in [PROTOCOL, PROTOCOL.without(ProtocolFeatures::REPLY_ACK)] {
        let (stream, backend) = TestBackend::spawn();
        let mut frontend = Frontend::from_stream(stream, PATIENCE);
        let ram = GuestRam::new(1 << 20).unwrap();
        let canary = Canary::new();
        let kick = canary.fd();

        assert_eq!(frontend.get_features().unwrap(), FEATURES);
        assert_eq!(frontend.get_protocol_features().unwrap(), PROTOCOL);
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_owner().unwrap();
        frontend.set_features(FEATURES).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), QUEUES);
        assert_eq!(frontend.get_max_mem_slots().unwrap(), SLOTS);
        frontend.open_backend_channel().unwrap();
        frontend.set_mem_table(&[(region(0), ram.as_fd()), (region(1), ram.as_fd())]).unwrap();
        frontend.add_mem_region(region(2), ram.as_fd()).unwrap();
        frontend.remove_mem_region(region(2)).unwrap();

        let (inflight, file) = frontend.get_inflight_fd(2, 256).unwrap().unwrap();
        assert_eq!((inflight.mmap_size, inflight.num_queues, inflight.queue_size), (8192, 2, 256));
        assert_eq!(File::from(file.try_clone().unwrap()).metadata().unwrap().len(), 8192);
        frontend.set_inflight_fd(inflight, file.as_fd()).unwrap();

        assert_eq!(frontend.get_config(1, 3).unwrap(), [2, 3, 4]);
        frontend.set_config(2, &[0xee]).unwrap();
        assert_eq!(frontend.get_config(0, 4).unwrap(), [1, 2, 0xee, 4]);

        frontend.set_vring_num(1, 256).unwrap();
        let addr = VringAddr { index: 1, flags: 0, descriptor: 16, used: 32, available: 48, log: 0 };
        frontend.set_vring_addr(addr).unwrap();
        frontend.set_vring_base(1, 7).unwrap();
        frontend.set_vring_kick(1, Some(kick.as_fd())).unwrap();
        frontend.set_vring_call(1, Some(kick.as_fd())).unwrap();
        frontend.set_vring_err(1, None).unwrap();
        frontend.set_vring_enable(1, true).unwrap();
        frontend.set_status(0x0f).unwrap();
        assert_eq!(frontend.get_status().unwrap(), 0x0f);
        assert_eq!(frontend.get_vring_base(1).unwrap(), 1001);

        if protocol == PROTOCOL {
            // The backend replies to the reset only after its own request was acknowledged, so the
            // frontend must not wait for the reply first.
            let frame = Request::ResetDevice.encode(false);
            frontend.send_raw(frame.bytes(), &[]).unwrap();
        } else {
            frontend.reset_device().unwrap();
        }
        assert_eq!(frontend.wait_backend_request().unwrap(), BackendRequest::ConfigChange);

        drop(frontend);
        let told = backend.join().unwrap();
        assert!(told.errors.is_empty(), "{:?}", told.errors);
        let acks = if protocol == PROTOCOL { 1 } else { 0 };
        assert_eq!(told.acks, vec![Ack { request: 2, ok: true }; acks]);
        assert_eq!(told.requests.len(), 18);
        assert!(matches!(&told.requests[4..6], [
            Request::SetMemTable(table),
            Request::AddMemReg(added, _),
        ] if table.iter().map(|(r, _)| *r).eq([region(0), region(1)]) && *added == region(2)));
        assert!(matches!(&told.requests[15], Request::SetVringEnable { index: 1, enable: true }));
        drop((told, kick));
        canary.assert_all_closed();
    }
}

#[test]
fn a_refusal_leaves_the_session_intact() {
    let (stream, backend) = TestBackend::spawn();
    let mut frontend = Frontend::from_stream(stream, PATIENCE);
    frontend.set_protocol_features(PROTOCOL).unwrap();
    assert!(matches!(frontend.set_vring_num(0, 4096), Err(FrontendError::Refused { request: 8 })));
    assert!(matches!(frontend.get_config(70, 3), Err(FrontendError::Refused { request: 24 })));
    assert!(matches!(frontend.get_config(0, 257), Err(FrontendError::Refused { request: 24 })));
    assert!(frontend.get_inflight_fd(3, 256).unwrap().is_none());
    // A request with an unknown number.
    frontend.send_raw(&Header::request(99, 0).with_need_reply().encode(), &[]).unwrap();
    let RawMessage { header, body, fds } = frontend.receive_raw().unwrap();
    assert_eq!(Ack::parse(99, &header, &body, fds).unwrap(), Ack { request: 99, ok: false });
    assert_eq!(frontend.get_config(70, 2).unwrap(), [71, 72]);
    // The reply to this request cannot express an error, so the backend closes the connection.
    let error = frontend.get_vring_base(QUEUES as u32).unwrap_err();
    assert!(matches!(error, FrontendError::Connection(ConnectionError::Closed)), "{error:?}");
    assert_eq!(backend.join().unwrap().errors.len(), 6);
}

#[test]
fn a_backend_that_does_not_reply_causes_a_timeout() {
    let (stream, _silent) = UnixStream::pair().unwrap();
    let mut frontend = Frontend::from_stream(stream, IMPATIENCE);
    frontend.set_features(1).unwrap();
    assert!(matches!(frontend.get_features(), Err(FrontendError::TimedOut)));
    assert!(matches!(frontend.receive_raw(), Err(FrontendError::TimedOut)));
    let error = frontend.wait_backend_request().unwrap_err();
    assert!(
        matches!(&error, FrontendError::Io(e) if e.kind() == std::io::ErrorKind::NotConnected),
        "{error:?}"
    );
    frontend.open_backend_channel().unwrap();
    assert!(matches!(frontend.wait_backend_request(), Err(FrontendError::TimedOut)));
}

#[test]
fn a_backend_that_does_not_read_causes_a_timeout() {
    let (stream, _deaf) = UnixStream::pair().unwrap();
    let mut frontend = Frontend::from_stream(stream, IMPATIENCE);
    assert!(matches!(frontend.send_raw(&vec![0; 4 << 20], &[]), Err(FrontendError::TimedOut)));
}

#[test]
fn the_deadline_is_for_the_whole_exchange() {
    let (stream, peer) = UnixStream::pair().unwrap();
    let drip = thread::spawn(move || {
        // Sends a reply of 4108 bytes, one byte at a time, each well before the deadline. With a
        // deadline per byte, the frontend would read the whole reply and then report its size.
        let mut reply = Header::reply(1, MAX_BODY_SIZE as u32).encode().to_vec();
        reply.resize(HEADER_SIZE + MAX_BODY_SIZE, 0);
        for byte in reply {
            if socket::send(peer.as_fd(), &[byte], &[] as &[OwnedFd]).is_err() {
                return;
            }
            thread::sleep(IMPATIENCE / 20);
        }
    });
    let mut frontend = Frontend::from_stream(stream, IMPATIENCE);
    assert!(matches!(frontend.get_features(), Err(FrontendError::TimedOut)));
    drop(frontend);
    drip.join().unwrap();
}

#[test]
fn a_reply_to_another_request_is_an_error() {
    let (stream, peer) = UnixStream::pair().unwrap();
    let mut frontend = Frontend::from_stream(stream, PATIENCE);
    push(&peer, Reply::QueueNum(1).encode().bytes(), &[]);
    let error = frontend.get_features().unwrap_err();
    assert!(
        matches!(error, FrontendError::Message(MessageError::NotTheReply { request: 1, got: 17, .. })),
        "{error:?}"
    );
}

#[test]
fn descriptors_of_a_reply_that_has_none_are_closed() {
    let (stream, peer) = UnixStream::pair().unwrap();
    let canary = Canary::new();
    let mut frontend = Frontend::from_stream(stream, PATIENCE);
    push(&peer, Reply::Features(1).encode().bytes(), &canary.fds(2));
    let error = frontend.get_features().unwrap_err();
    assert!(
        matches!(error, FrontendError::Message(MessageError::ReplyDescriptors { count: 2, expected: 0, .. })),
        "{error:?}"
    );
    canary.assert_all_closed();
}

#[test]
fn a_missing_socket_is_an_error() {
    let error = Frontend::connect("/nonexistent/vhost-user.sock", PATIENCE).unwrap_err();
    assert!(
        matches!(&error, FrontendError::Connect(e) if e.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
}
