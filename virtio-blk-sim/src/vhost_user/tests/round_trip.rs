//! Encoding, sending, receiving and parsing must give the original message.

use super::*;

/// Each call makes a different file, so that the order of descriptors can be checked.
fn numbered_files() -> impl FnMut() -> OwnedFd {
    || std::io::pipe().unwrap().1.into()
}

#[test]
fn every_request_survives_the_socket() {
    let (mut frontend, mut backend) = pair();
    let mut seen = Vec::new();
    for need_reply in [false, true] {
        for request in requests(numbered_files()) {
            let (name, code) = (format!("{request:?}"), request.code());
            let frame = request.encode(need_reply);
            let (bytes, files) = (frame.bytes.clone(), inodes(&frame.fds));
            frontend.send(frame).unwrap();

            let Incoming { header, body, fds } = backend.receive().unwrap().unwrap();
            assert_eq!(header.needs_reply(), need_reply, "{name}");
            assert_eq!(header.size as usize, body.len(), "{name}");
            assert_eq!(inodes(&fds), files, "{name}");
            let parsed = Request::parse(&header, body, fds).unwrap();
            assert_eq!(parsed.code(), code, "{name}");
            let again = parsed.encode(need_reply);
            assert_eq!((again.bytes(), inodes(again.fds())), (bytes.as_slice(), files), "{name}");
            seen.push(code);
        }
    }
    assert!(backend.receive().unwrap().is_none(), "no message is left");
    let served = Code::ALL.iter().filter(|&code| seen.contains(code)).count();
    assert_eq!(served, 29, "requests() has one of each kind");
}

#[test]
fn every_reply_survives_the_socket() {
    let (mut frontend, mut backend) = pair();
    for reply in replies(numbered_files()) {
        let (name, number) = (format!("{reply:?}"), reply.request());
        let frame = reply.encode();
        let (bytes, files) = (frame.bytes.clone(), inodes(&frame.fds));
        backend.send(frame).unwrap();

        let Incoming { header, body, fds } = frontend.receive().unwrap().unwrap();
        // QEMU compares all flags of a reply with version 1 and the reply bit.
        assert_eq!(header.flags, 0b101, "{name}");
        let again = Reply::parse(number, &header, body, fds).unwrap().encode();
        assert_eq!((again.bytes(), inodes(again.fds())), (bytes.as_slice(), files), "{name}");
    }
}

#[test]
fn requests_from_the_backend_survive_the_socket() {
    let (mut frontend, mut backend) = pair();
    for need_reply in [false, true] {
        backend.send(BackendRequest::ConfigChange.encode(need_reply)).unwrap();
        let Incoming { header, body, fds } = frontend.receive().unwrap().unwrap();
        assert_eq!((header.request, header.size, header.needs_reply()), (2, 0, need_reply));
        assert_eq!(BackendRequest::parse(&header, body, fds).unwrap(), BackendRequest::ConfigChange);

        let ack = Ack { request: header.request, ok: need_reply };
        frontend.send(Reply::Ack(ack)).unwrap();
        let Incoming { header, body, fds } = backend.receive().unwrap().unwrap();
        assert_eq!(Ack::parse(2, &header, body, fds).unwrap(), ack);
    }
}

/// The layouts, byte by byte as in the specification. A round trip alone would not detect two
/// swapped fields.
#[test]
fn layouts_match_the_specification() {
    let bytes = |request: Request| split(request.encode(false)).1;
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let halves = |halves: &[u32]| halves.iter().flat_map(|half| half.to_ne_bytes()).collect::<Vec<_>>();
    let canary = Canary::new();

    let region = MemoryRegion { guest_addr: 1, size: 2, user_addr: 3, mmap_offset: 4 };
    let table = vec![(region, canary.fd()), (region, canary.fd())];
    assert_eq!(
        bytes(Request::SetMemTable(table)),
        [halves(&[2, 0]), words(&[1, 2, 3, 4, 1, 2, 3, 4])].concat()
    );
    assert_eq!(bytes(Request::AddMemReg(region, canary.fd())), words(&[0, 1, 2, 3, 4]));
    assert_eq!(bytes(Request::RemMemReg(region)), words(&[0, 1, 2, 3, 4]));

    let addr = VringAddr { index: 1, flags: 2, descriptor: 3, used: 4, available: 5, log: 6 };
    assert_eq!(bytes(Request::SetVringAddr(addr)), [halves(&[1, 2]), words(&[3, 4, 5, 6])].concat());
    let area = LogArea { mmap_size: 1, mmap_offset: 2 };
    assert_eq!(bytes(Request::SetLogBase(area, canary.fd())), words(&[1, 2]));
    assert_eq!(bytes(Request::SetLogFd(canary.fd())), []);
    assert_eq!(split(Reply::LogBase(area).encode()).1, words(&[1, 2]));
    assert_eq!(bytes(Request::SetVringNum(VringState { index: 1, num: 2 })), halves(&[1, 2]));
    assert_eq!(bytes(Request::SetVringEnable { index: 1, enable: true }), halves(&[1, 1]));
    assert_eq!(bytes(Request::SetVringKick(VringFd { index: 9, fd: None })), words(&[0x109]));
    assert_eq!(bytes(Request::SetVringCall(VringFd { index: 9, fd: Some(canary.fd()) })), words(&[9]));
    assert_eq!(bytes(Request::SetStatus(7)), words(&[7]));

    let access = ConfigAccess { offset: 1, size: 2, flags: 3 };
    assert_eq!(bytes(Request::GetConfig(access)), [halves(&[1, 2, 3]), vec![0, 0]].concat());
    let data = ConfigData { offset: 1, flags: 3, data: vec![7, 8] };
    assert_eq!(bytes(Request::SetConfig(data.clone())), [halves(&[1, 2, 3]), vec![7, 8]].concat());
    assert_eq!(split(Reply::Config(data).encode()).1, [halves(&[1, 2, 3]), vec![7, 8]].concat());

    let inflight = Inflight { mmap_size: 1, mmap_offset: 2, num_queues: 3, queue_size: 4 };
    let sixteen = |number: u16| number.to_ne_bytes().to_vec();
    let expected = [words(&[1, 2]), sixteen(3), sixteen(4), halves(&[0])].concat();
    assert_eq!(bytes(Request::GetInflightFd(inflight)), expected);
    assert_eq!(bytes(Request::SetInflightFd(inflight, canary.fd())), expected);
    assert_eq!(split(Reply::Inflight(inflight, None).encode()).1, expected);
    assert_eq!(split(Reply::Ack(Ack { request: 2, ok: true }).encode()).1, words(&[0]));
    assert_eq!(split(Reply::Ack(Ack { request: 2, ok: false }).encode()).1, words(&[1]));
    canary.assert_all_closed();
}
