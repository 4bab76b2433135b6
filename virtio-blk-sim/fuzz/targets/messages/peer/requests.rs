//! The requests of the frontend: any single request, and the sequence that starts a ring.

use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::vhost_user::{
    ConfigAccess, ConfigData, F_LOG_ALL, F_PROTOCOL_FEATURES, Inflight, LogArea, MemoryRegion,
    ProtocolFeatures, Request, VringAddr, VringFd, VringState,
};

use super::{FILES, Peer, RING, RING_STEP, copies};
use crate::messages::input::{Ask, Fd};
use crate::messages::{QUEUES, USER, all_protocol};

impl Peer {
    pub(super) fn request(&self, ask: Ask) -> Request {
        let vring = |index: u8| u32::from(index % 4);
        let user = |offset: u16| USER + u64::from(offset);
        let vring_fd =
            |index: u8, fd: Option<Fd>| VringFd { index: index % 4, fd: fd.map(|fd| self.fd(&fd)) };
        match ask {
            Ask::Plain(which) => match which % 9 {
                0 => Request::GetFeatures,
                1 => Request::SetOwner,
                2 => Request::ResetOwner,
                3 => Request::GetProtocolFeatures,
                4 => Request::GetQueueNum,
                5 => Request::ResetDevice,
                6 => Request::GetMaxMemSlots,
                7 => Request::GetStatus,
                _ => Request::GetVringBase { index: 0 },
            },
            Ask::Features(bits) => Request::SetFeatures(bits),
            Ask::OfferedFeatures(without, protocol) => Request::SetFeatures(offered(without, protocol)),
            Ask::Protocol(bits) => Request::SetProtocolFeatures(ProtocolFeatures::from_bits(bits.into())),
            Ask::Table(regions) => {
                Request::SetMemTable(regions.iter().map(|(region, fd)| (region.get(), self.fd(fd))).collect())
            }
            Ask::AddRegion(region, fd) => Request::AddMemReg(region.get(), self.fd(&fd)),
            Ask::RemRegion(region) => Request::RemMemReg(region.get()),
            Ask::Num(index, num) => Request::SetVringNum(VringState { index: vring(index), num: num.into() }),
            Ask::Base(index, num) => {
                Request::SetVringBase(VringState { index: vring(index), num: num.into() })
            }
            Ask::Addr(index, [descriptor, available, used]) => Request::SetVringAddr(VringAddr {
                index: vring(index),
                flags: 0,
                descriptor: user(descriptor),
                used: user(used),
                available: user(available),
                log: 0,
            }),
            Ask::GetBase(index) => Request::GetVringBase { index: vring(index) },
            Ask::Kick(index, fd) => Request::SetVringKick(vring_fd(index, fd)),
            Ask::Call(index, fd) => Request::SetVringCall(vring_fd(index, fd)),
            Ask::Err(index, fd) => Request::SetVringErr(vring_fd(index, fd)),
            Ask::Enable(index, enable) => Request::SetVringEnable { index: vring(index), enable },
            Ask::Channel(fd) => Request::SetBackendReqFd(self.fd(&fd)),
            Ask::GetConfig(offset, size) => {
                Request::GetConfig(ConfigAccess { offset: offset.into(), size: size.into(), flags: 0 })
            }
            Ask::SetConfig(offset, data) => {
                Request::SetConfig(ConfigData { offset: offset.into(), flags: 0, data })
            }
            Ask::GetInflight(queues, size) => Request::GetInflightFd(Inflight {
                mmap_size: 0,
                mmap_offset: 0,
                num_queues: queues.into(),
                queue_size: size,
            }),
            Ask::SetInflight(wanted, fd) => {
                let description = match wanted {
                    Some((size, offset, queues, entries)) => Inflight {
                        mmap_size: size.into(),
                        mmap_offset: offset.into(),
                        num_queues: queues.into(),
                        queue_size: entries,
                    },
                    None => self.inflight_description.unwrap_or(Inflight::NONE),
                };
                Request::SetInflightFd(description, self.fd(&fd))
            }
            Ask::StatusOrLog(status @ 0..16) => Request::SetStatus(status),
            Ask::StatusOrLog(which) => self.log_request(which / 8, which % 8),
        }
    }

    /// A request of the log of dirty pages. Each page of guest memory has its bit in the first
    /// byte.
    fn log_request(&self, number: u8, kind: u8) -> Request {
        let fd = || self.fd(&Fd::Memory(number));
        let area = |mmap_size, mmap_offset| LogArea { mmap_size, mmap_offset };
        let addr = |log| {
            let index = u32::from(number) % 2;
            VringAddr { flags: VringAddr::LOG, log, ..ring_addr(index) }
        };
        match kind {
            0 => Request::SetLogBase(area(1, 0), fd()),
            1 => Request::SetLogBase(area(u64::from(number), 8 * u64::from(number)), fd()),
            2 => Request::SetLogBase(area(0x1000, u64::from(number) << 9), fd()),
            3 => Request::SetLogFd(fd()),
            4 => Request::SetFeatures(offered(0, true) | F_LOG_ALL),
            5 => Request::SetVringAddr(addr(ring_addr(u32::from(number) % 2).used - USER)),
            6 => Request::SetVringAddr(addr(u64::from(number) << 14)),
            _ => Request::SetVringAddr(addr(u64::MAX - u64::from(number))),
        }
    }

    /// Sends the messages of a correct frontend that starts a ring.
    pub(super) fn set_up(&mut self, vring: u8, protocol: bool, base: u8, inflight: bool) {
        let index = u32::from(vring);
        let region = MemoryRegion { guest_addr: 0, size: FILES[0], user_addr: USER, mmap_offset: 0 };
        let mut requests = vec![
            Request::SetFeatures(offered(0, protocol)),
            Request::SetProtocolFeatures(all_protocol()),
            Request::SetMemTable(vec![(region, self.fd(&Fd::Memory(0)))]),
            Request::SetVringNum(VringState { index, num: RING.into() }),
            Request::SetVringBase(VringState { index, num: base.into() }),
            Request::SetVringAddr(ring_addr(index)),
            Request::SetVringCall(VringFd { index: vring, fd: Some(self.fd(&Fd::Event)) }),
        ];
        if let Some(description) = self.inflight_description.filter(|_| inflight) {
            requests.push(Request::SetInflightFd(description, self.fd(&Fd::Inflight)));
        }
        requests.push(Request::SetVringKick(VringFd { index: vring, fd: Some(self.fd(&Fd::Kick(vring))) }));
        requests.push(Request::SetVringEnable { index, enable: true });
        for request in requests {
            let frame = request.encode(false);
            self.send(frame.bytes().to_vec(), copies(frame.fds()));
        }
        self.turn(2);
    }
}

/// Returns the addresses of a ring that [`Peer::set_up`] makes.
fn ring_addr(index: u32) -> VringAddr {
    let at = USER + u64::from(index) * RING_STEP;
    VringAddr { index, flags: 0, descriptor: at, available: at + 0x200, used: at + 0x300, log: 0 }
}

/// Returns the features that the server offers, without some of them.
fn offered(without: u64, protocol: bool) -> u64 {
    const VERSION_1: u64 = 1 << 32;
    let device = BlockDevice::new(DeviceConfig { num_queues: QUEUES, ..DeviceConfig::new(64) });
    let all = device.expect("the configuration must be valid").offered().bits();
    (all & !without) | VERSION_1 | if protocol { F_PROTOCOL_FEATURES } else { 0 }
}
