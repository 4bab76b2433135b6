//! Replies that the peer does not read.

use super::*;

#[test]
fn replies_that_do_not_fit_into_the_socket_are_queued_in_order() {
    let (mut backend, mut frontend) = pair();
    let canary = Canary::new();
    let (mut sent, mut received) = (0u64, 0u64);
    for _ in 0..3 {
        while !backend.wants_write() || sent % 7 != 0 {
            let inflight = Inflight { mmap_size: sent + 1, ..Inflight::NONE };
            backend.send(Reply::Inflight(inflight, Some(canary.fd()))).unwrap();
            sent += 1;
        }
        while received < sent {
            while let Some(Incoming { header, body, fds }) = frontend.receive().unwrap() {
                received += 1;
                let reply = Reply::parse(31, &header, body, fds).unwrap();
                assert!(
                    matches!(reply, Reply::Inflight(Inflight { mmap_size, .. }, Some(_)) if mmap_size == received)
                );
            }
            backend.flush().unwrap();
        }
        assert!(!backend.wants_write());
    }
    assert!(sent > 3 * 7, "the socket was full three times");
    canary.assert_all_closed();
}

#[test]
fn a_peer_that_never_reads_loses_the_connection() {
    let (mut backend, frontend) = pair();
    let canary = Canary::new();
    let mut waiting = 0;
    let error = loop {
        let reply = Reply::Inflight(Inflight { mmap_size: 1, ..Inflight::NONE }, Some(canary.fd()));
        match backend.send(reply) {
            Ok(()) => waiting += usize::from(backend.wants_write()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConnectionError::RepliesUnread { queued: MAX_QUEUED_FRAMES }), "{error:?}");
    assert_eq!(waiting, MAX_QUEUED_FRAMES);
    assert!(!backend.wants_write());
    drop(frontend);
    canary.assert_all_closed();
}

#[test]
fn a_message_larger_than_the_socket_is_sent_in_pieces_with_its_descriptors_once() {
    let (mut connection, peer) = connection_and_peer();
    let canary = Canary::new();
    let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| (at % 251) as u8).collect();
    connection.send(Frame::raw(bytes.clone(), canary.fds(2))).unwrap();
    assert!(connection.wants_write(), "4 MiB must not fit into the socket");
    let mut arrived = Vec::new();
    let mut fds = Vec::new();
    let mut buffer = vec![0; 100_000];
    while arrived.len() < bytes.len() {
        let received = socket::receive(peer.as_fd(), &mut buffer, &mut fds).unwrap();
        assert!(received.bytes > 0 && !received.truncated);
        arrived.extend_from_slice(&buffer[..received.bytes]);
        connection.flush().unwrap();
    }
    assert!(arrived == bytes, "the bytes must arrive unchanged and in order");
    assert_eq!(fds.len(), 2);
    assert!(!connection.wants_write());
    drop(fds);
    canary.assert_all_closed();
}

#[test]
fn an_empty_frame_sends_nothing() {
    let (mut connection, mut peer) = pair();
    connection.send(Frame::raw(Vec::new(), Vec::new())).unwrap();
    assert!(!connection.wants_write());
    connection.send(Reply::QueueNum(1)).unwrap();
    assert!(peer.receive().unwrap().is_some());
}

#[test]
fn queued_output_is_dropped_when_the_peer_closes() {
    let (mut connection, peer) = connection_and_peer();
    connection.send(Frame::raw(vec![0; 4 << 20], Vec::new())).unwrap();
    assert!(connection.wants_write());
    drop(peer);
    assert!(matches!(connection.flush(), Err(ConnectionError::Closed)));
    assert!(!connection.wants_write());
}
