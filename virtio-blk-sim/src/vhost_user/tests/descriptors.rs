//! Unwanted descriptors are closed, whether or not their message is accepted.

use super::*;

#[test]
fn nine_descriptors_are_too_many() {
    for count in [MAX_FDS + 1, 100, 253] {
        let canary = Canary::new();
        let (mut connection, peer) = connection_and_peer();
        push(&peer, &Request::GetFeatures.encode(false).bytes, &canary.fds(count));
        assert!(matches!(connection.receive(), Err(ConnectionError::DescriptorsLost)));
        // The connection and its peer still exist.
        canary.assert_all_closed();
    }
}

#[test]
fn eight_descriptors_and_then_one_more_are_too_many() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    let frame = Request::SetFeatures(0).encode(false);
    push(&peer, &frame.bytes[..1], &canary.fds(MAX_FDS));
    assert!(connection.receive().unwrap().is_none());
    push(&peer, &frame.bytes[1..], &canary.fds(1));
    assert!(matches!(connection.receive(), Err(ConnectionError::DescriptorsLost)));
    canary.assert_all_closed();
}

#[test]
fn surplus_descriptors_are_closed_and_the_next_message_is_served() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    for _ in 0..1000 {
        push(&peer, &Request::GetFeatures.encode(false).bytes, &canary.fds(MAX_FDS));
        let Incoming { header, body, fds } = connection.receive().unwrap().unwrap();
        let error = Request::parse(&header, body, fds).unwrap_err();
        assert_eq!(error, MessageError::Descriptors { code: Code::GetFeatures, count: MAX_FDS, expected: 0 });
    }
    push(&peer, &Request::GetFeatures.encode(false).bytes, &[]);
    assert!(connection.receive().unwrap().is_some());
    canary.assert_all_closed();
}

#[test]
fn descriptors_of_an_incomplete_message_are_closed_with_the_connection() {
    let canary = Canary::new();
    let (mut connection, peer) = connection_and_peer();
    push(&peer, &[5, 0, 0], &canary.fds(MAX_FDS));
    assert!(connection.receive().unwrap().is_none());
    drop(connection);
    canary.assert_all_closed();
}

#[test]
fn unreceived_descriptors_are_closed_with_the_socket() {
    let canary = Canary::new();
    let (connection, peer) = connection_and_peer();
    push(&peer, &[5, 0, 0], &canary.fds(MAX_FDS));
    drop(connection);
    canary.assert_all_closed();
}

#[test]
fn the_descriptor_of_a_reply_is_closed_on_our_side_when_it_is_sent() {
    let canary = Canary::new();
    let (mut backend, mut frontend) = pair();
    let inflight = Inflight { mmap_size: 4096, ..Inflight::NONE };
    backend.send(Reply::Inflight(inflight, Some(canary.fd()))).unwrap();
    let Incoming { header, body, fds } = frontend.receive().unwrap().unwrap();
    let reply = Reply::parse(31, &header, body, fds).unwrap();
    drop(reply);
    canary.assert_all_closed();
}

/// The canary is only useful if it detects a leak.
#[test]
fn the_canary_notices_an_open_descriptor() {
    let canary = Canary::new();
    let _open = canary.fd();
    canary.assert_some_open();
}
