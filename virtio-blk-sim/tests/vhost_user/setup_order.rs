//! The messages that set a ring up, in every order: each order ends in a ring that serves requests,
//! and no message is refused.

use std::os::fd::AsFd;

use aio::{EventNotifier, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, FrontendError, MemoryRegion, ProtocolFeatures, VringAddr,
};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::Bytes;

use super::server::{Setup, TestServer};
use super::vring::hang_up;
use super::{Watchdog, default_options};

const USER_BASE: u64 = 0x7f00_0000_0000;
/// Bytes of RAM per ring. The rings of queue `n` are in region `n`.
const RAM: u64 = 0x1_0000;
const SIZE: u16 = 8;

/// A message of the set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    SetFeatures,
    /// SET_MEM_TABLE with all regions.
    Memory,
    /// ADD_MEM_REG of a region.
    Region(u64),
    Num,
    Base,
    Addr,
    Kick,
    Call,
    ErrFd,
    Enable,
}
use Step::*;

/// A VMM and its guest with one ring, which sends each message by itself.
pub(crate) struct Vmm {
    pub(crate) frontend: Frontend,
    pub(crate) features: Features,
    has_protocol_features: bool,
    pub(crate) queue: QueueConfig,
    /// The ring's index.
    index: u8,
    ram: GuestRam,
    regions: u64,
    driver: DriverQueue,
    kick: EventNotifier,
    call: EventNotifier,
    error: EventNotifier,
    base: u32,
    answers: u16,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

impl Vmm {
    /// `protocol` are the protocol features, if the VMM knows any.
    pub(crate) fn new(server: &TestServer, index: u8, protocol: Option<ProtocolFeatures>) -> Self {
        let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
        frontend.set_owner().unwrap();
        if let Some(protocol) = protocol {
            frontend.set_protocol_features(protocol).unwrap();
        }
        let regions = u64::from(index) + 1;
        let places: Vec<_> = (0..regions).map(|n| (GuestAddress(n * RAM), RAM as usize)).collect();
        let ram = GuestRam::with_regions(&places).unwrap();
        let queue = QueueConfig::at(GuestAddress(u64::from(index) * RAM), SIZE);
        let queue = QueueConfig { event_idx: false, indirect: false, ..queue };
        let driver = DriverQueue::new(ram.map().unwrap(), queue).unwrap();
        let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
        Self {
            frontend,
            features: Features::VERSION_1,
            has_protocol_features: protocol.is_some(),
            queue,
            index,
            ram,
            regions,
            driver,
            kick,
            call,
            error,
            base: 0,
            answers: 0,
        }
    }

    fn region(n: u64) -> MemoryRegion {
        MemoryRegion { guest_addr: n * RAM, size: RAM, user_addr: USER_BASE + n * RAM, mmap_offset: n * RAM }
    }

    pub(crate) fn addr(&self) -> VringAddr {
        VringAddr {
            index: self.index.into(),
            flags: 0,
            descriptor: USER_BASE + self.queue.desc_table.0,
            used: USER_BASE + self.queue.used_ring.0,
            available: USER_BASE + self.queue.avail_ring.0,
            log: 0,
        }
    }

    pub(crate) fn send(&mut self, step: Step) -> Result<(), FrontendError> {
        let (index, number, addr) = (self.index, u32::from(self.index), self.addr());
        let frontend = &mut self.frontend;
        match step {
            SetFeatures => {
                let protocol = if self.has_protocol_features { F_PROTOCOL_FEATURES } else { 0 };
                frontend.set_features(self.features.bits() | protocol)
            }
            Memory => {
                let file = self.ram.as_fd();
                let regions: Vec<_> = (0..self.regions).map(|n| (Self::region(n), file)).collect();
                frontend.set_mem_table(&regions)
            }
            Region(n) => frontend.add_mem_region(Self::region(n), self.ram.as_fd()),
            Num => frontend.set_vring_num(number, self.queue.size.into()),
            Base => frontend.set_vring_base(number, self.base),
            Addr => frontend.set_vring_addr(addr),
            Kick => frontend.set_vring_kick(index, Some(self.kick.as_fd())),
            Call => frontend.set_vring_call(index, Some(self.call.as_fd())),
            ErrFd => frontend.set_vring_err(index, Some(self.error.as_fd())),
            Enable => frontend.set_vring_enable(number, true),
        }
    }

    pub(crate) fn send_all(&mut self, steps: &[Step]) {
        for &step in steps {
            let sent = self.send(step);
            assert!(sent.is_ok(), "{step:?} in {steps:?}: {sent:?}");
        }
    }

    /// Makes a read of the first sector available, without a kick.
    pub(crate) fn post(&mut self) {
        let [header, data, status] =
            [0x8000, 0x9000, 0xa000].map(|at| GuestAddress(u64::from(self.index) * RAM + at));
        self.ram.memory().write_slice(&[0; 16], header).unwrap();
        self.ram.memory().write_slice(&[0xff], status).unwrap();
        self.driver.add(&[(header, 16)], &[(data, 512), (status, 1)]).unwrap().unwrap();
        let _ = self.driver.publish();
        self.answers += 1;
    }

    /// Waits until the request is answered and the guest is interrupted.
    pub(crate) fn finish(&mut self, name: &str) {
        while self.driver.used_idx() != self.answers {
            std::thread::yield_now();
        }
        while !self.call.test_and_clear().unwrap() {
            std::thread::yield_now();
        }
        assert_eq!(self.driver.pop_used().unwrap().map(|(_, written)| written), Some(513), "{name}");
        let status = GuestAddress(u64::from(self.index) * RAM + 0xa000);
        assert_eq!(self.ram.memory().read_obj::<u8>(status).unwrap(), 0, "{name}");
        assert!(!self.failed(), "{name}: a ring that works has no error");
    }

    /// Returns true if the ring has reported an error since the last call.
    pub(crate) fn failed(&self) -> bool {
        self.error.test_and_clear().unwrap()
    }

    /// Breaks the ring and kicks.
    pub(crate) fn break_ring(&mut self) {
        self.driver.set_avail_idx(self.answers.wrapping_add(1000));
        self.kick();
    }

    pub(crate) fn kick(&self) {
        self.kick.notify().unwrap();
    }

    pub(crate) fn kick_eventfd(&self) -> EventNotifier {
        self.kick.clone()
    }

    /// Stops the ring; it continues where it is after the next set-up.
    pub(crate) fn stop(&mut self) {
        self.base = self.frontend.get_vring_base(self.index.into()).unwrap();
        assert_eq!(self.base, u32::from(self.answers));
    }
}

/// Returns all orders of the steps.
pub(crate) fn orders(steps: &[Step]) -> Vec<Vec<Step>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: &Step| {
        let rest: Vec<_> = steps.iter().copied().filter(|step| step != first).collect();
        let tails = orders(&rest).into_iter();
        tails.map(|tail| [&[*first], tail.as_slice()].concat()).collect::<Vec<_>>()
    };
    steps.iter().flat_map(with_first).collect()
}

/// Puts the messages without which a ring runs too at the start, at the end, or in between.
fn with_optional(order: &[Step], variant: usize) -> Vec<Step> {
    const OPTIONAL: [Step; 3] = [Call, Base, ErrFd];
    match variant {
        0 => [&OPTIONAL, order].concat(),
        1 => [order, &OPTIONAL].concat(),
        _ => {
            let mut steps = order.to_vec();
            for (step, at) in OPTIONAL.into_iter().zip([1, 3, 5]) {
                steps.insert(at, step);
            }
            steps
        }
    }
}

/// Serves a request that is posted before the set-up, then stops the ring, sets it up again in
/// another order, and serves a second request.
fn served(vmm: &mut Vmm, steps: &[Step], again: &[Step]) {
    vmm.post();
    vmm.send_all(steps);
    // A VMM that gets no acknowledgements waits for this answer.
    vmm.frontend.get_features().unwrap();
    vmm.finish(&format!("{steps:?}"));
    vmm.stop();
    vmm.post();
    vmm.send_all(again);
    vmm.frontend.get_features().unwrap();
    vmm.finish(&format!("{steps:?}, then {again:?}"));
}

const ACKS: ProtocolFeatures = ProtocolFeatures::REPLY_ACK;

#[test]
fn every_order_of_the_set_up_ends_in_a_served_request() {
    let _watchdog = Watchdog::new("every_order_of_the_set_up_ends_in_a_served_request");
    let again = orders(&[Num, Base, Addr, Kick]);
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        let mut sessions = 0;
        for (at, order) in orders(&[SetFeatures, Memory, Num, Addr, Kick, Enable]).iter().enumerate() {
            let mut vmm = Vmm::new(&server, 0, Some(ACKS));
            served(&mut vmm, &with_optional(order, (at + threads) % 3), &again[at % again.len()]);
            sessions += 1;
            drop(vmm);
            server.wait_disconnected();
        }
        assert_eq!(server.ask(|server, _| server.sessions()), sessions, "each VMM had one session");
    }
}

#[test]
fn every_order_works_without_protocol_features() {
    let _watchdog = Watchdog::new("every_order_works_without_protocol_features");
    let server = TestServer::new(Setup::default());
    let again = orders(&[Num, Base, Addr, Kick]);
    for (at, order) in orders(&[SetFeatures, Memory, Num, Addr, Kick]).iter().enumerate() {
        for variant in 0..3 {
            let mut vmm = Vmm::new(&server, 0, None);
            served(&mut vmm, &with_optional(order, variant), &again[at % again.len()]);
            drop(vmm);
            server.wait_disconnected();
        }
    }
}

/// The ring of queue 1 lies in the second region. As long as that is missing, a ring that is
/// otherwise complete has an error. A message that concerns only the ring is refused then.
#[test]
fn every_order_works_with_regions_that_come_one_by_one() {
    let _watchdog = Watchdog::new("every_order_works_with_regions_that_come_one_by_one");
    let server = TestServer::new(Setup { queues: 2, ..Setup::default() });
    let acks = ACKS | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    for order in orders(&[SetFeatures, Region(0), Region(1), Addr, Kick, Enable]) {
        let mut vmm = Vmm::new(&server, 1, Some(acks));
        vmm.post();
        vmm.send_all(&[Num, Call, ErrFd]);
        let place = |step| order.iter().position(|other| *other == step).unwrap();
        let mut failed = 0;
        for (at, &step) in order.iter().enumerate() {
            // Complete, except that the ring is not in the memory that is there.
            let complete = [SetFeatures, Region(0), Addr, Kick, Enable].iter().all(|step| place(*step) <= at);
            let outside = complete && place(Region(1)) > at;
            let of_the_ring = matches!(step, Addr | Kick | Enable);
            assert_eq!(vmm.send(step).is_err(), outside && of_the_ring, "{step:?} in {order:?}");
            assert_eq!(vmm.failed(), outside, "{step:?} in {order:?}");
            failed += usize::from(outside);
        }
        assert_eq!(failed, usize::from(place(Region(1)) == order.len() - 1), "{order:?}");
        vmm.finish(&format!("{order:?}"));
        drop(vmm);
        server.wait_disconnected();
    }
}

/// QEMU unplugs a disk and plugs it in again: the connection stays, and all of the set-up comes
/// again, without a message that takes the old one back.
#[test]
fn a_new_owner_begins_again_on_the_same_connection() {
    let _watchdog = Watchdog::new("a_new_owner_begins_again_on_the_same_connection");
    let acks = ACKS | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let steps = [SetFeatures, Region(0), Num, Base, Addr, Kick, Call, Enable];
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        let mut vmm = Vmm::new(&server, 0, Some(acks));
        for owner in 0..40 {
            vmm.frontend.set_owner().unwrap();
            assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
            vmm.base = owner;
            vmm.post();
            vmm.send_all(&steps);
            vmm.finish(&format!("owner {owner}"));
        }
        drop(vmm);
        server.wait_disconnected();
        assert_eq!(server.ask(|server, _| server.sessions()), 1);
    }
}

/// How cloud-hypervisor and crosvm reset a device: they disable each ring, ask for its position,
/// and set it up again. crosvm sends SET_FEATURES only if the driver has accepted others.
#[test]
fn rings_that_were_disabled_are_set_up_again() {
    let _watchdog = Watchdog::new("rings_that_were_disabled_are_set_up_again");
    let server = TestServer::new(Setup::default());
    let cloud_hypervisor = [SetFeatures, Memory, Num, Addr, Base, Call, Kick, Enable];
    let crosvm = [Memory, Num, Addr, Base, Call, Kick, Enable];
    let mut vmm = Vmm::new(&server, 0, Some(ACKS));
    for steps in [&cloud_hypervisor[..], &crosvm, &cloud_hypervisor, &crosvm, &crosvm] {
        vmm.post();
        vmm.send_all(steps);
        vmm.finish(&format!("{steps:?}"));
        // A pause of cloud-hypervisor.
        vmm.frontend.set_vring_enable(0, false).unwrap();
        vmm.post();
        vmm.kick();
        vmm.send_all(&[Enable]);
        vmm.finish("after a pause");
        vmm.frontend.set_vring_enable(0, false).unwrap();
        vmm.stop();
    }
}

/// Another device has served 3 requests of this ring, so it continues at 3.
#[test]
fn the_position_may_come_last() {
    let _watchdog = Watchdog::new("the_position_may_come_last");
    let server = TestServer::new(Setup::default());
    for order in orders(&[Num, Addr, Kick, Enable, Base]) {
        let mut vmm = Vmm::new(&server, 0, Some(ACKS));
        (vmm.base, vmm.answers) = (3, 3);
        vmm.driver = DriverQueue::starting_at(vmm.ram.map().unwrap(), vmm.queue, 3).unwrap();
        vmm.driver.overwrite_used(3, 0, 0, 0);
        vmm.post();
        vmm.send_all(&[SetFeatures, Memory, Call]);
        vmm.send_all(&order);
        vmm.finish("the first");
        // A running ring stays where it is. Where it started may be said again.
        for (base, accepted) in [(2, false), (3, true), (4, false), (5, false)] {
            vmm.base = base;
            assert_eq!(vmm.send(Base).is_ok(), accepted, "{base}");
        }
        vmm.send_all(&[Num, Addr]);
        vmm.post();
        vmm.kick();
        vmm.finish("the second");
        // A stopped ring can be moved anywhere, also to where it started.
        vmm.frontend.set_vring_enable(0, false).unwrap();
        for base in [9, 3] {
            vmm.base = base;
            vmm.send_all(&[Base]);
            assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), base);
        }
        drop(vmm);
        server.wait_disconnected();
    }
}

#[test]
fn an_error_eventfd_that_comes_late_is_signalled_at_once() {
    let _watchdog = Watchdog::new("an_error_eventfd_that_comes_late_is_signalled_at_once");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        // After the start and before the error.
        let mut vmm = Vmm::new(&server, 0, Some(ACKS));
        vmm.post();
        vmm.send_all(&[SetFeatures, Memory, Num, Addr, Kick, Call, Enable, ErrFd]);
        vmm.finish("the ring works");
        vmm.break_ring();
        while !vmm.failed() {
            std::thread::yield_now();
        }
        drop(vmm);
        server.wait_disconnected();
        // After the error.
        let mut vmm = Vmm::new(&server, 0, Some(ACKS));
        vmm.post();
        vmm.send_all(&[SetFeatures, Memory, Num, Addr, Kick, Call, Enable]);
        vmm.finish("the ring works");
        vmm.break_ring();
        // The interrupt tells the driver to look at the device.
        while !vmm.call.test_and_clear().unwrap() {
            std::thread::yield_now();
        }
        assert!(!vmm.failed());
        vmm.send_all(&[ErrFd]);
        assert!(vmm.failed());
        drop(vmm);
        server.wait_disconnected();
    }
}
