//! Random tests: any bytes in any pieces with any descriptors. Reading must end without a panic or
//! a leak, and must not depend on how the stream was cut. PROPTEST_CASES sets the number of cases
//! (default 256).

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The content of a stream, read as a whole: complete messages, and how it ends.
#[derive(Debug, PartialEq)]
struct Reading {
    messages: Vec<(Header, Vec<u8>)>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    Closed,
    MidMessage { received: usize },
    Version,
    TooLarge,
}

fn read_at_once(mut stream: &[u8]) -> Reading {
    let mut messages = Vec::new();
    let end = loop {
        let Some((header, rest)) = stream.split_first_chunk() else {
            break if stream.is_empty() { End::Closed } else { End::MidMessage { received: stream.len() } };
        };
        let header = Header::decode(header);
        if header.flags & 3 != 1 {
            break End::Version;
        }
        if header.size > 4096 {
            break End::TooLarge;
        }
        let Some((body, rest)) = rest.split_at_checked(header.size as usize) else {
            break End::MidMessage { received: stream.len() };
        };
        messages.push((header, body.to_vec()));
        stream = rest;
    };
    Reading { messages, end }
}

/// Sends `stream` in pieces whose lengths are taken from `cuts` in turn, and receives after each
/// piece. `fds[n]` copies of the canary are sent with piece n.
fn read_in_pieces(
    stream: &[u8],
    cuts: &[usize],
    fds: &[usize],
    canary: &Canary,
) -> (Vec<(Header, Vec<u8>)>, ConnectionError) {
    let (mut connection, peer) = connection_and_peer();
    let mut messages = Vec::new();
    let mut take = |connection: &mut Connection| loop {
        match connection.receive() {
            Ok(Some(Incoming { header, body, fds })) => {
                assert!(fds.len() <= MAX_FDS && body.len() == header.size as usize);
                messages.push((header, body.to_vec()));
                // Parse, and drop the result.
                if Request::parse(&header, body, fds).is_err() {
                    let _ = Refusal::of(&header, ProtocolFeatures::REPLY_ACK);
                }
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    };
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    let mut fds = fds.iter().cycle();
    let mut failed = None;
    while !rest.is_empty() && failed.is_none() {
        let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        push(&peer, piece, &canary.fds(*fds.next().unwrap()));
        rest = after;
        failed = take(&mut connection);
    }
    drop(peer);
    let error = failed.unwrap_or_else(|| take(&mut connection).expect("a closed stream ends"));
    assert!(matches!(connection.receive(), Err(ConnectionError::Failed)));
    (messages, error)
}

fn end(error: &ConnectionError) -> End {
    match error {
        ConnectionError::Closed => End::Closed,
        ConnectionError::ClosedMidMessage { received, .. } => End::MidMessage { received: *received },
        ConnectionError::Version { .. } => End::Version,
        ConnectionError::TooLarge { .. } => End::TooLarge,
        error => panic!("{error:?}"),
    }
}

/// Valid messages, damaged messages, headers with any size, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let count = requests(|| Canary::new().fd()).len();
    let message = (0..count, any::<bool>()).prop_map(|(number, need_reply)| {
        requests(|| Canary::new().fd()).swap_remove(number).encode(need_reply).bytes
    });
    let damaged =
        (message.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, value)| {
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes
        });
    let announced = (0u32..48, 0u32..16, prop_oneof![0u32..600, 4000u32..4200, any::<u32>()])
        .prop_map(|(request, flags, size)| Header { request, flags, size }.encode().to_vec());
    let with_body = (0u32..48, 0u32..300, any::<u8>()).prop_map(|(request, size, fill)| {
        let mut bytes = Header::request(request, size).encode().to_vec();
        bytes.resize(12 + size as usize, fill);
        bytes
    });
    prop_oneof![4 => message, 2 => damaged, 2 => with_body, 1 => announced, 1 => vec(any::<u8>(), 0..64)]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..12).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![Just(1), 1usize..16, 1usize..5000], 1..8)
}

proptest! {
    #[test]
    fn cuts_make_no_difference(stream in stream(), cuts in cuts()) {
        let canary = Canary::new();
        let (messages, error) = read_in_pieces(&stream, &cuts, &[0], &canary);
        prop_assert_eq!(Reading { messages, end: end(&error) }, read_at_once(&stream));
    }

    #[test]
    fn noise_makes_no_difference(stream in vec(any::<u8>(), 0..200), cuts in cuts()) {
        let canary = Canary::new();
        let (messages, error) = read_in_pieces(&stream, &cuts, &[0], &canary);
        prop_assert_eq!(Reading { messages, end: end(&error) }, read_at_once(&stream));
    }

    #[test]
    fn no_descriptor_leaks(stream in stream(), cuts in cuts(), fds in vec(prop_oneof![4 => Just(0), 4 => 1usize..3, 1 => 1usize..12], 1..8)) {
        let canary = Canary::new();
        let (messages, error) = read_in_pieces(&stream, &cuts, &fds, &canary);
        canary.assert_all_closed();
        // Descriptors may end a connection early, but never change the messages before that.
        let expected = read_at_once(&stream);
        prop_assert!(expected.messages.starts_with(&messages));
        if !matches!(error, ConnectionError::DescriptorsLost) {
            prop_assert_eq!(Reading { messages, end: end(&error) }, expected);
        }
    }

    #[test]
    fn any_body_is_parsed_or_refused(request in 0u32..48, flags in 0u32..32, body in vec(any::<u8>(), 0..300), fds in 0usize..=8) {
        let canary = Canary::new();
        let header = Header { request, flags, size: body.len() as u32 };
        if let Ok(request) = Request::parse(&header, &body, canary.fds(fds)) {
            prop_assert_eq!(request.code().number(), header.request);
            // A parsed request can be encoded and parsed again with the same result.
            let (header, body, fds) = split(request.encode(true));
            let again = Request::parse(&header, &body, fds).unwrap().encode(true);
            prop_assert_eq!(again.bytes(), [header.encode().to_vec(), body].concat());
        }
        let _ = Reply::parse(request, &header, &body, canary.fds(fds));
        let _ = BackendRequest::parse(&header, &body, canary.fds(fds));
        canary.assert_all_closed();
    }
}
