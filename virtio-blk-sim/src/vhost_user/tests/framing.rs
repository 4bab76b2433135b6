//! Messages that arrive in pieces, several at once, incompletely, or not at all.

use std::io::Write;
use std::net::Shutdown;

use super::*;

fn parse(incoming: Incoming<'_>) -> Request {
    Request::parse(&incoming.header, incoming.body, incoming.fds).unwrap()
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    for request in requests(|| canary.fd()) {
        let frame = request.encode(false);
        let (last, rest) = frame.bytes.split_last().unwrap();
        for (at, byte) in rest.iter().enumerate() {
            push(&peer, &[*byte], if at == 0 { &frame.fds } else { &[] });
            assert!(connection.receive().unwrap().is_none());
        }
        push(&peer, &[*last], &[]);
        let incoming = connection.receive().unwrap().unwrap();
        assert_eq!((incoming.body, incoming.fds.len()), (&frame.bytes[12..], frame.fds.len()));
        parse(incoming);
    }
    assert!(connection.receive().unwrap().is_none());
    canary.assert_all_closed();
}

#[test]
fn a_message_may_be_split_anywhere() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    let frame = Request::SetMemTable(vec![(region(1), canary.fd()), (region(2), canary.fd())]).encode(false);
    for cut in 1..frame.bytes.len() {
        let (front, back) = frame.bytes.split_at(cut);
        push(&peer, front, &frame.fds);
        assert!(connection.receive().unwrap().is_none());
        // No new data: calling receive again changes nothing.
        assert!(connection.receive().unwrap().is_none());
        push(&peer, back, &[]);
        assert!(
            matches!(parse(connection.receive().unwrap().unwrap()), Request::SetMemTable(regions) if regions.len() == 2)
        );
    }
}

#[test]
fn descriptors_may_come_with_any_byte_of_their_message() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    let frame = Request::AddMemReg(region(1), canary.fd()).encode(false);
    for cut in 1..frame.bytes.len() {
        let (front, back) = frame.bytes.split_at(cut);
        push(&peer, front, &[]);
        push(&peer, back, &frame.fds);
        assert!(matches!(parse(connection.receive().unwrap().unwrap()), Request::AddMemReg(..)));
    }
    drop(frame);
    canary.assert_all_closed();
}

#[test]
fn many_messages_in_one_write_come_one_by_one() {
    let (mut connection, mut peer) = connection_and_peer();
    let canary = Canary::new();
    let mut bytes = Vec::new();
    let mut codes = Vec::new();
    for request in requests(|| canary.fd()) {
        let code = request.code();
        let frame = request.encode(false);
        if frame.fds.is_empty() {
            bytes.extend(frame.bytes);
            codes.push(code);
        }
    }
    peer.write_all(&bytes).unwrap();
    for code in codes {
        assert_eq!(parse(connection.receive().unwrap().unwrap()).code(), code);
    }
    assert!(connection.receive().unwrap().is_none());
}

#[test]
fn descriptors_stay_with_their_own_message() {
    let (mut connection, peer) = connection_and_peer();
    let (one, two) = (Canary::new(), Canary::new());
    let frames = [
        Request::SetFeatures(1).encode(false),
        Request::SetVringKick(VringFd { index: 1, fd: Some(one.fd()) }).encode(false),
        Request::GetFeatures.encode(false),
        Request::SetVringCall(VringFd { index: 2, fd: Some(two.fd()) }).encode(false),
    ];
    for frame in &frames {
        push(&peer, &frame.bytes, &frame.fds);
    }
    for frame in &frames {
        let incoming = connection.receive().unwrap().unwrap();
        assert_eq!(inodes(&incoming.fds), inodes(&frame.fds));
        parse(incoming);
    }
}

#[test]
fn received_descriptors_are_close_on_exec() {
    use std::os::fd::AsRawFd;
    let (mut connection, peer) = connection_and_peer();
    let canary = Canary::new();
    let frame = Request::SetBackendReqFd(canary.fd()).encode(false);
    push(&peer, &frame.bytes, &frame.fds);
    let Incoming { fds, .. } = connection.receive().unwrap().unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fds[0].as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
    assert_ne!(flags & libc::O_CLOEXEC, 0, "{info}");
}

#[test]
fn the_peer_may_close_between_messages() {
    let (mut connection, peer) = connection_and_peer();
    push(&peer, &Request::GetFeatures.encode(false).bytes, &[]);
    drop(peer);
    assert!(matches!(parse(connection.receive().unwrap().unwrap()), Request::GetFeatures));
    assert!(matches!(connection.receive(), Err(ConnectionError::Closed)));
    assert!(matches!(connection.receive(), Err(ConnectionError::Failed)), "later calls fail too");
    assert!(matches!(connection.send(Reply::QueueNum(1)), Err(ConnectionError::Failed)));
}

#[test]
fn closing_in_the_middle_of_a_message_is_a_different_error() {
    let canary = Canary::new();
    let frame = Request::SetVringKick(VringFd { index: 0, fd: Some(canary.fd()) }).encode(false);
    for cut in 1..frame.bytes.len() {
        // With and without a receive call before the peer closes.
        for look in [false, true] {
            let (mut connection, peer) = connection_and_peer();
            push(&peer, &frame.bytes[..cut], &frame.fds);
            if look {
                assert!(connection.receive().unwrap().is_none());
            }
            drop(peer);
            let error = connection.receive().unwrap_err();
            let whole = if cut < 12 { 12 } else { 20 };
            assert!(
                matches!(error, ConnectionError::ClosedMidMessage { received, expected } if received == cut && expected == whole),
                "cut at {cut}: {error:?}"
            );
        }
    }
    drop(frame);
    canary.assert_all_closed();
}

#[test]
fn a_peer_that_shuts_down_its_sending_half_has_closed() {
    let (mut connection, peer) = connection_and_peer();
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(connection.receive(), Err(ConnectionError::Closed)));
}

#[test]
fn a_peer_that_leaves_without_reading_has_closed() {
    let (mut connection, peer) = connection_and_peer();
    connection.send(Reply::QueueNum(1)).unwrap();
    // The kernel reports ECONNRESET, because the peer closed with an unread reply in its queue.
    drop(peer);
    assert!(matches!(connection.receive(), Err(ConnectionError::Closed)));

    let (mut connection, peer) = connection_and_peer();
    drop(peer);
    assert!(matches!(connection.send(Reply::QueueNum(1)), Err(ConnectionError::Closed)));
}

#[test]
fn a_body_of_the_maximum_size_is_read_and_a_larger_one_is_not() {
    let (mut connection, mut peer) = connection_and_peer();
    let header = |size| Header::request(99, size).encode();
    peer.write_all(&header(MAX_BODY_SIZE as u32)).unwrap();
    peer.write_all(&[7; MAX_BODY_SIZE]).unwrap();
    peer.write_all(&Request::GetFeatures.encode(false).bytes).unwrap();
    let incoming = connection.receive().unwrap().unwrap();
    assert_eq!(incoming.body, [7; MAX_BODY_SIZE]);
    let error = Request::parse(&incoming.header, incoming.body, incoming.fds).unwrap_err();
    assert_eq!(error, MessageError::Unsupported { request: 99 });
    assert!(
        matches!(parse(connection.receive().unwrap().unwrap()), Request::GetFeatures),
        "the connection continues"
    );

    for size in [MAX_BODY_SIZE as u32 + 1, u32::MAX] {
        let (mut connection, mut peer) = connection_and_peer();
        peer.write_all(&header(size)).unwrap();
        peer.write_all(&[0; 100]).unwrap();
        let error = connection.receive().unwrap_err();
        assert!(
            matches!(error, ConnectionError::TooLarge { request: 99, size: s } if s == size),
            "{error:?}"
        );
        assert!(matches!(connection.receive(), Err(ConnectionError::Failed)), "nothing more is parsed");
    }
}

#[test]
fn another_version_ends_the_connection() {
    for flags in [0u32, 2, 3, 0xffff_fffe] {
        let (mut connection, mut peer) = connection_and_peer();
        peer.write_all(&Header { request: 1, flags, size: 0 }.encode()).unwrap();
        let error = connection.receive().unwrap_err();
        assert!(matches!(error, ConnectionError::Version { flags: f } if f == flags), "{error:?}");
    }
}

#[test]
fn a_socket_in_blocking_mode_does_not_block() {
    // UnixStream::pair makes blocking sockets. O_NONBLOCK makes no difference.
    for nonblocking in [false, true] {
        let (ours, peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(nonblocking).unwrap();
        let mut connection = Connection::new(ours);
        assert!(connection.receive().unwrap().is_none());
        push(&peer, &[1, 0, 0], &[]);
        assert!(connection.receive().unwrap().is_none());
    }
}
