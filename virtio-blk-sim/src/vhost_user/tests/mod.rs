//! Tests of the wire protocol: messages arrive complete, in any number of pieces; invalid ones are
//! refused; no descriptor stays open.

mod backend;
mod descriptors;
mod framing;
mod frontend;
mod interop;
mod malformed;
mod outbox;
mod random;
mod refusals;
mod round_trip;

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

/// Detects whether descriptors have been closed, wherever they were passed. They are copies of the
/// write end of a pipe, and the read end gets a hang-up when the last copy is closed. Unlike
/// counting /proc/self/fd, this is not affected by other tests in the process.
struct Canary {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Canary {
    fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self { reader, writer }
    }

    fn fd(&self) -> OwnedFd {
        self.writer.as_fd().try_clone_to_owned().unwrap()
    }

    fn fds(&self, count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| self.fd()).collect()
    }

    /// Panics if a copy is still open.
    fn assert_all_closed(self) {
        drop(self.writer);
        // A child process that another test is starting may hold a copy between fork and exec.
        let hung_up = socket::wait(self.reader.as_fd(), false, Duration::from_secs(10)).unwrap();
        assert!(hung_up, "a file descriptor is still open");
    }

    /// Panics if all copies are closed.
    fn assert_some_open(self) {
        drop(self.writer);
        assert!(
            !socket::wait(self.reader.as_fd(), false, Duration::ZERO).unwrap(),
            "every file descriptor is closed"
        );
    }
}

fn pair() -> (Connection, Connection) {
    let (a, b) = UnixStream::pair().unwrap();
    (Connection::new(a), Connection::new(b))
}

/// Returns a connection and the plain socket of its peer.
fn connection_and_peer() -> (Connection, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    (Connection::new(a), b)
}

/// Sends all of `bytes` and `fds` at once.
fn push(peer: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) {
    assert_eq!(socket::send(peer.as_fd(), bytes, fds).unwrap(), bytes.len());
}

/// Returns the inode numbers, which identify the files.
fn inodes(fds: &[OwnedFd]) -> Vec<u64> {
    fds.iter().map(|fd| File::from(fd.try_clone().unwrap()).metadata().unwrap().ino()).collect()
}

const fn region(number: u64) -> MemoryRegion {
    MemoryRegion {
        guest_addr: number << 32,
        size: 1 << 30,
        user_addr: (number << 32) + 0x7000_0000_0000,
        mmap_offset: 4096,
    }
}

/// At least one request of each kind, with distinct values in the fields. `fd` makes their
/// descriptors.
fn requests(mut fd: impl FnMut() -> OwnedFd) -> Vec<Request> {
    let inflight =
        Inflight { mmap_size: 0x1122_3344_5566, mmap_offset: 0x7788, num_queues: 3, queue_size: 256 };
    let addr = VringAddr { index: 1, flags: 0, descriptor: 0x10, used: 0x20, available: 0x30, log: 0x40 };
    vec![
        Request::GetFeatures,
        Request::SetFeatures(0x0123_4567_89ab_cdef),
        Request::SetOwner,
        Request::ResetOwner,
        Request::SetMemTable(vec![(region(1), fd())]),
        Request::SetMemTable((0..8).map(|number| (region(number), fd())).collect()),
        Request::SetLogBase(LogArea { mmap_size: 0x1122_3344, mmap_offset: 0x5566 }, fd()),
        Request::SetLogFd(fd()),
        Request::SetVringNum(VringState { index: 1, num: 256 }),
        Request::SetVringAddr(addr),
        Request::SetVringBase(VringState { index: 2, num: 65535 }),
        Request::GetVringBase { index: 3 },
        Request::SetVringKick(VringFd { index: 4, fd: Some(fd()) }),
        Request::SetVringKick(VringFd { index: 255, fd: None }),
        Request::SetVringCall(VringFd { index: 5, fd: Some(fd()) }),
        Request::SetVringCall(VringFd { index: 5, fd: None }),
        Request::SetVringErr(VringFd { index: 6, fd: Some(fd()) }),
        Request::SetVringErr(VringFd { index: 6, fd: None }),
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures(ProtocolFeatures::MQ | ProtocolFeatures::STATUS),
        Request::GetQueueNum,
        Request::SetVringEnable { index: 7, enable: true },
        Request::SetVringEnable { index: 7, enable: false },
        Request::SetBackendReqFd(fd()),
        Request::GetConfig(ConfigAccess { offset: 8, size: 60, flags: 1 }),
        Request::GetConfig(ConfigAccess { offset: 0, size: 256, flags: 0 }),
        Request::SetConfig(ConfigData { offset: 32, flags: 0, data: vec![1] }),
        Request::SetConfig(ConfigData { offset: 0, flags: 1, data: (0..=255).collect() }),
        Request::GetInflightFd(inflight),
        Request::SetInflightFd(inflight, fd()),
        Request::ResetDevice,
        Request::GetMaxMemSlots,
        Request::AddMemReg(region(2), fd()),
        Request::RemMemReg(region(3)),
        Request::SetStatus(0x0f),
        Request::GetStatus,
    ]
}

/// At least one reply of each kind.
fn replies(mut fd: impl FnMut() -> OwnedFd) -> Vec<Reply> {
    let inflight =
        Inflight { mmap_size: 0x1122_3344_5566, mmap_offset: 0x7788, num_queues: 3, queue_size: 256 };
    vec![
        Reply::Features(0x0123_4567_89ab_cdef),
        Reply::ProtocolFeatures(ProtocolFeatures::CONFIG | ProtocolFeatures::MQ),
        Reply::QueueNum(16),
        Reply::MaxMemSlots(509),
        Reply::Status(0x4f),
        Reply::VringBase(VringState { index: 2, num: 65535 }),
        Reply::Config(ConfigData { offset: 8, flags: 1, data: (0..60).collect() }),
        Reply::Config(ConfigData { offset: 0, flags: 0, data: Vec::new() }),
        Reply::Inflight(inflight, Some(fd())),
        Reply::Inflight(Inflight::NONE, None),
        Reply::Ack(Ack { request: Code::SetFeatures.number(), ok: true }),
        Reply::Ack(Ack { request: 4711, ok: false }),
        Reply::LogBase(LogArea { mmap_size: 0x1122_3344, mmap_offset: 0x5566 }),
        Reply::LogBase(LogArea::NONE),
    ]
}

/// Splits a frame into header, body and descriptors.
fn split(frame: Frame) -> (Header, Vec<u8>, Vec<OwnedFd>) {
    let (header, body) = frame.bytes.split_first_chunk().unwrap();
    (Header::decode(header), body.to_vec(), frame.fds)
}
