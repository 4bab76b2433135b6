//! Complete but invalid messages: each gives an error, without a panic or an open descriptor.

use super::*;

/// Returns true if this request accepts a body of `len` bytes. Its encoded body has `encoded`
/// bytes.
fn is_right_size(code: Code, encoded: usize, len: usize) -> bool {
    let also = match code {
        // In-flight requests: without the padding of the C structure. Configuration requests: the
        // whole C structure.
        Code::GetInflightFd | Code::SetInflightFd => 20,
        Code::GetConfig | Code::SetConfig => 268,
        _ => encoded,
    };
    len == encoded || len == also
}

#[test]
fn every_body_too_short_or_too_long_is_refused() {
    let canary = Canary::new();
    for number in 0..requests(|| canary.fd()).len() {
        let encoded = || split(requests(|| canary.fd()).swap_remove(number).encode(true));
        let (header, body, _) = encoded();
        let code = Code::from_number(header.request).unwrap();
        for len in 0..=body.len() + 300 {
            let mut resized = body.clone();
            resized.resize(len, 0);
            let parsed = Request::parse(&header, &resized, encoded().2);
            if is_right_size(code, body.len(), len) {
                assert_eq!(parsed.unwrap().code(), code);
            } else {
                let error = parsed.unwrap_err();
                assert!(
                    matches!(error, MessageError::Size { code: c, size, expected } if c == code && size == len && expected != len),
                    "{code}, {len} bytes: {error:?}"
                );
            }
        }
    }
    canary.assert_all_closed();
}

#[test]
fn missing_and_surplus_descriptors_are_refused_and_closed() {
    let canary = Canary::new();
    for request in requests(|| canary.fd()) {
        let (header, body, fds) = split(request.encode(false));
        let code = Code::from_number(header.request).unwrap();
        let expected = fds.len();
        drop(fds);
        for count in 0..=MAX_FDS {
            let parsed = Request::parse(&header, &body, canary.fds(count));
            // Some frontends send a descriptor by mistake. The specification allows a backend to
            // close it.
            if count == expected || (code == Code::RemMemReg && count == 1) {
                assert_eq!(parsed.unwrap().code(), code);
            } else {
                assert_eq!(parsed.unwrap_err(), MessageError::Descriptors { code, count, expected });
            }
        }
    }
    canary.assert_all_closed();
}

#[test]
fn the_descriptor_of_a_removed_region_is_closed_at_once() {
    let canary = Canary::new();
    let (header, body, _) = split(Request::RemMemReg(region(1)).encode(false));
    let request = Request::parse(&header, &body, canary.fds(1)).unwrap();
    canary.assert_all_closed();
    assert!(matches!(request, Request::RemMemReg(r) if r == region(1)));
}

fn parse(code: Code, body: &[u8]) -> Result<Request, MessageError> {
    Request::parse(&Header::request(code.number(), body.len() as u32), body, Vec::new())
}

#[test]
fn invalid_values_are_refused() {
    for value in (9..64).map(|bit| 1u64 << bit).chain([u64::MAX]) {
        for code in [Code::SetVringKick, Code::SetVringCall, Code::SetVringErr] {
            assert_eq!(parse(code, &value.to_ne_bytes()).unwrap_err(), MessageError::Value { code, value });
        }
    }
    for value in [256, 1 << 32, u64::MAX] {
        let code = Code::SetStatus;
        assert_eq!(parse(code, &value.to_ne_bytes()).unwrap_err(), MessageError::Value { code, value });
    }
    for num in [2u32, u32::MAX] {
        let body = [0u32.to_ne_bytes(), num.to_ne_bytes()].concat();
        let code = Code::SetVringEnable;
        assert_eq!(parse(code, &body).unwrap_err(), MessageError::Value { code, value: num.into() });
    }
}

#[test]
fn memory_tables_have_one_to_eight_regions() {
    for count in [0, 9, 255, 1 << 27, u32::MAX] {
        for regions in [0, 1, 8, 9] {
            let mut body = [count.to_ne_bytes(), [0; 4]].concat();
            body.resize(8 + 32 * regions, 0);
            assert_eq!(parse(Code::SetMemTable, &body).unwrap_err(), MessageError::Regions { count });
        }
    }
    // The message states a number of regions that differs from the number that it contains.
    for (count, regions) in [(1u32, 2), (2, 1), (8, 7), (7, 8)] {
        let canary = Canary::new();
        let mut body = [count.to_ne_bytes(), [0; 4]].concat();
        body.resize(8 + 32 * regions, 0);
        let header = Header::request(Code::SetMemTable.number(), body.len() as u32);
        let error = Request::parse(&header, &body, canary.fds(regions)).unwrap_err();
        assert!(matches!(error, MessageError::Size { .. }), "{error:?}");
        canary.assert_all_closed();
    }
}

#[test]
fn the_configuration_space_has_256_bytes() {
    for code in [Code::GetConfig, Code::SetConfig] {
        for (offset, size, ok) in [
            (0, 256, true),
            (256, 0, true),
            (255, 1, true),
            (0, 257, false),
            (257, 0, false),
            (255, 2, false),
            (u32::MAX, 1, false),
            (1, u32::MAX, false),
            (u32::MAX, u32::MAX, false),
        ] {
            let mut body = [offset, size, 0u32].map(u32::to_ne_bytes).concat();
            body.resize(12 + (size as usize).min(300), 0);
            let parsed = parse(code, &body);
            if ok {
                assert_eq!(parsed.unwrap().code(), code);
            } else {
                assert_eq!(parsed.unwrap_err(), MessageError::ConfigRange { code, offset, size });
            }
        }
    }
}

#[test]
fn only_the_stated_size_of_a_configuration_structure_is_used() {
    let mut body = [32u32, 1, 0].map(u32::to_ne_bytes).concat();
    body.push(7);
    body.resize(268, 0xee);
    assert!(
        matches!(parse(Code::SetConfig, &body), Ok(Request::SetConfig(ConfigData { offset: 32, data, .. })) if data == [7])
    );
    assert!(matches!(
        parse(Code::GetConfig, &body),
        Ok(Request::GetConfig(ConfigAccess { offset: 32, size: 1, flags: 0 }))
    ));
}

#[test]
fn requests_that_a_block_backend_does_not_support_are_refused() {
    let served: Vec<_> = requests(|| Canary::new().fd()).iter().map(Request::code).collect();
    let others = Code::ALL.iter().filter(|code| !served.contains(code)).map(|code| code.number());
    let mut refused = 0;
    for request in others.chain([0, 45, 1000, u32::MAX]) {
        let canary = Canary::new();
        for size in [0, 8, 40, 4096] {
            let header = Header::request(request, size);
            let error = Request::parse(&header, &vec![0; size as usize], canary.fds(2)).unwrap_err();
            assert_eq!(error, MessageError::Unsupported { request });
        }
        canary.assert_all_closed();
        refused += 1;
    }
    assert_eq!(refused, 44 - 29 + 4);
}

#[test]
fn flags_of_a_request_must_be_defined_and_not_a_reply() {
    let canary = Canary::new();
    for request in requests(|| canary.fd()) {
        let (header, body, fds) = split(request.encode(true));
        let request = header.request;
        for bit in 4..32 {
            let header = Header { flags: header.flags | 1 << bit, ..header };
            let error = Request::parse(&header, &body, canary.fds(fds.len())).unwrap_err();
            assert_eq!(error, MessageError::ReservedFlags { request, flags: header.flags });
        }
        let header = Header { flags: header.flags | 1 << 2, ..header };
        assert_eq!(Request::parse(&header, &body, fds).unwrap_err(), MessageError::ReplyFlag { request });
    }
    canary.assert_all_closed();
}

#[test]
fn every_reply_too_short_too_long_or_with_wrong_descriptors_is_refused() {
    let canary = Canary::new();
    for number in 0..replies(|| canary.fd()).len() {
        let encoded = || split(replies(|| canary.fd()).swap_remove(number).encode());
        let (header, body, fds) = encoded();
        let request = header.request;
        for len in 0..=body.len() + 300 {
            let mut resized = body.clone();
            resized.resize(len, 0);
            let parsed = Reply::parse(request, &header, &resized, encoded().2);
            // A configuration of no bytes means that the read failed. Extra bytes are ignored.
            let ok = match Code::from_number(request) {
                Some(Code::GetConfig) => len == 0 || len >= body.len(),
                // Its own reply, or an acknowledgement.
                Some(Code::SetLogBase) => len == 16 || len == 8,
                _ => len == body.len(),
            };
            assert_eq!(parsed.is_ok(), ok, "reply to {request}, {len} of {} bytes", body.len());
        }
        for count in (0..=MAX_FDS).filter(|&count| count != fds.len()) {
            let error = Reply::parse(request, &header, &body, canary.fds(count)).unwrap_err();
            assert_eq!(error, MessageError::ReplyDescriptors { request, count, expected: fds.len() });
        }
        for (number, header) in [
            (request + 1, header),
            (request, Header { request: request + 1, ..header }),
            (request, Header { flags: 1, ..header }),
            (request, Header { flags: header.flags | 1 << 31, ..header }),
        ] {
            let error = Reply::parse(number, &header, &body, encoded().2).unwrap_err();
            assert!(matches!(error, MessageError::NotTheReply { .. }), "{number}, {header:?}: {error:?}");
        }
    }
    canary.assert_all_closed();
}

#[test]
fn requests_from_the_backend_are_checked_too() {
    let canary = Canary::new();
    let header = Header::request(2, 0);
    let parse = |header: &Header, body: &[u8], fds| BackendRequest::parse(header, body, fds).unwrap_err();
    assert_eq!(
        parse(&Header::request(1, 0), &[], canary.fds(1)),
        MessageError::UnknownFromBackend { request: 1 }
    );
    assert_eq!(parse(&Header::reply(2, 0), &[], canary.fds(1)), MessageError::ReplyFlag { request: 2 });
    assert_eq!(parse(&header, &[0; 8], Vec::new()), MessageError::NotEmpty { request: 2, size: 8, count: 0 });
    assert_eq!(parse(&header, &[], canary.fds(3)), MessageError::NotEmpty { request: 2, size: 0, count: 3 });
    canary.assert_all_closed();
}

#[test]
fn errors_are_sentences_that_name_the_request() {
    let error = MessageError::Size { code: Code::SetVringAddr, size: 3, expected: 40 };
    assert_eq!(error.to_string(), "the body of SetVringAddr has 3 bytes; it must have 40");
    let error = MessageError::Unsupported { request: 19 };
    assert_eq!(error.to_string(), "request 19 (SendRarp) is not supported by a block backend");
    let error = MessageError::Unsupported { request: 99 };
    assert_eq!(error.to_string(), "request 99 (unknown) is not supported by a block backend");
}
