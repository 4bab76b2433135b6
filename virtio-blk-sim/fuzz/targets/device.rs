//! A device on its queues, in one loop with a guest: what the targets of the example devices share.
//!
//! The guest posts valid chains in buffers that do not overlap, so that each byte that the device
//! may write is known. A hostile guest also writes anything into its rings. Then only the host can
//! be checked.
//!
//! Checked here:
//!
//! - nothing panics, and the loop comes to rest;
//! - nothing in guest memory changes except the used rings and the writable parts of chains that
//!   are posted, and these only as far as the used ring reports;
//! - a valid chain never breaks a queue, and no chain is left when the device can take it;
//! - a broken queue stays broken and writes nothing more;
//! - the guest is interrupted for an answer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use arbitrary::Arbitrary;
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap};
use virtio_blk_sim::queue::{Attached, Device, Interrupt, Queue, QueueParts, Worker};
use virtio_blk_sim::virtqueue::{Descriptor, DeviceQueue, DriverQueue, QueueConfig};

use crate::guest::{Guest, HIGH, HIGH_END, LOW_END};

/// Entries of each queue. Rings are at `index * RINGS`.
const SIZE: u16 = 16;
const RINGS: u64 = 0x400;
/// Indirect tables for [`MAX_PIECES`] buffers, one for each buffer of each queue.
const TABLES: u64 = 0x800;
const MAX_PIECES: usize = 4;
/// Buffers: one for each chain of each queue.
const BUFFERS: u64 = 0x1000;
const BUFFER: u64 = 0x200;
/// Content of a buffer that the device has not written.
const BACKGROUND: u8 = 0xee;
/// More turns than a loop needs when nothing more arrives.
const TURNS: u32 = 2000;

#[derive(Debug, Arbitrary)]
pub(crate) struct Options {
    monitor: u8,
    autoreset: bool,
    event_idx: bool,
    /// The guest may do anything to its rings.
    hostile: bool,
}

#[derive(Debug, Arbitrary)]
pub(crate) enum Step {
    Post(u8, Post),
    Kick(u8),
    Turn(u8),
    Settle,
    Reset(u8),
    Config(u32, u8),
    // Steps of a hostile guest.
    Desc { queue: u8, at: u8, addr: u32, len: u32, flags: u8, next: u8 },
    Avail { queue: u8, at: u8, head: u16 },
    AvailIdx { queue: u8, index: u16 },
    Write(u32, Vec<u8>),
}

#[derive(Debug, Arbitrary)]
pub(crate) struct Post {
    indirect: bool,
    /// Lengths of buffers, minus one.
    readable: Vec<u8>,
    writable: Vec<u8>,
    /// Adds the large buffer, if it is free.
    large: bool,
    /// Does not kick yet, although the device wants it.
    silent: bool,
}

impl Post {
    /// A chain that the target itself posts.
    pub(crate) fn of(readable: Vec<u8>, writable: Vec<u8>) -> Self {
        Self { indirect: false, readable, writable, large: false, silent: false }
    }
}

/// A chain that the guest has posted.
struct Posted {
    buffer: u16,
    large: bool,
    writable: Vec<(u64, u64)>,
}

/// A chain that the device has answered.
pub(crate) struct Answered {
    pub(crate) received: Vec<u8>,
    /// Bytes that could have been received.
    pub(crate) room: usize,
}

struct Line<W: Worker<Memory = GuestMemoryMmap>> {
    attached: Attached<W>,
    driver: DriverQueue,
    used_ring: (u64, u64),
    kick: EventNotifier,
    call: EventNotifier,
    owes_kick: bool,
    broke: Rc<Cell<u32>>,
    posted: BTreeMap<u16, Posted>,
    free: Vec<u16>,
}

/// The device and its guest.
pub(crate) struct Rig<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>> {
    // Dropped in this order: the queues before their loop.
    lines: Vec<Line<D::Worker>>,
    pub(crate) context: AioContext,
    pub(crate) device: Arc<D>,
    guest: Guest,
    reset: Reset,
    event_idx: bool,
    hostile: bool,
    large_is_free: bool,
}

impl<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>> Rig<D> {
    pub(crate) fn new(device: D, options: &Options) -> Self {
        // As in `messages`: a ring takes long to make.
        let kind = match options.monitor {
            0..8 => MonitorKind::Poll,
            255 => MonitorKind::IoUring,
            _ => MonitorKind::Epoll,
        };
        let build = |kind| AioContext::builder().monitor(kind).build();
        let context = build(kind).or_else(|_| build(MonitorKind::Epoll)).expect("epoll works everywhere");
        let mut rig = Self {
            lines: Vec::new(),
            context,
            device: Arc::new(device),
            guest: Guest::new(BACKGROUND),
            reset: if options.autoreset { Reset::Autoreset } else { Reset::Classic },
            event_idx: options.event_idx,
            hostile: options.hostile,
            large_is_free: true,
        };
        for index in 0..rig.device.queues() {
            let line = rig.start(index);
            rig.lines.push(line);
        }
        rig
    }

    pub(crate) fn is_hostile(&self) -> bool {
        self.hostile
    }

    /// Starts a queue on new rings.
    fn start(&mut self, index: u16) -> Line<D::Worker> {
        let rings = u64::from(index) * RINGS;
        self.guest.write(rings, &[0; RINGS as usize]);
        let config = QueueConfig {
            event_idx: self.event_idx,
            indirect: true,
            ..QueueConfig::at(GuestAddress(rings), SIZE)
        };
        let mem = &self.guest.mem;
        let driver = DriverQueue::new(Arc::clone(mem), config).expect("the rings are valid");
        let queue = DeviceQueue::new(Arc::clone(mem), config).expect("the rings are valid");
        let kick = EventNotifier::new(self.reset).expect("an eventfd");
        let call = EventNotifier::new(Reset::Classic).expect("an eventfd");
        let theirs = call.as_fd().try_clone_to_owned().expect("a descriptor");
        let broke = Rc::<Cell<u32>>::default();
        let count = Rc::clone(&broke);
        let parts = QueueParts {
            queue,
            kick: kick.clone().into(),
            interrupt: Interrupt::from_peer(theirs).expect("an eventfd"),
            on_broken: Box::new(move |_| count.set(count.get() + 1)),
            limit: None,
            in_flight: None,
            memory_lost: None,
        };
        let device = Arc::clone(&self.device);
        let worker = |queue| device.start(index, &self.context, queue);
        let attached = Queue::attach(&self.context, parts, worker).expect("the queue can be started");
        self.guest.learn();
        let free = (0..SIZE).collect();
        let used_ring = (config.used_ring.0, 6 + 8 * u64::from(SIZE));
        Line {
            attached,
            driver,
            used_ring,
            kick,
            call,
            owes_kick: false,
            broke,
            posted: BTreeMap::new(),
            free,
        }
    }

    fn index(&self, queue: u8) -> usize {
        usize::from(queue) % self.lines.len()
    }

    /// `fill` makes the bytes that a chain of a queue sends.
    pub(crate) fn step(&mut self, step: Step, mut fill: impl FnMut(usize, &mut [u8])) {
        match step {
            Step::Post(queue, post) => {
                let index = self.index(queue);
                self.post(index, &post, |bytes| fill(index, bytes));
            }
            Step::Kick(queue) => {
                let index = self.index(queue);
                self.kick(index);
            }
            Step::Turn(turns) => {
                for _ in 0..turns % 8 + 1 {
                    self.turn();
                }
            }
            Step::Settle => self.settle(),
            // The caller takes the answers first.
            Step::Reset(queue) => {
                let index = self.index(queue);
                self.restart(index);
            }
            Step::Config(offset, len) => {
                let mut data = vec![0xc5; usize::from(len)];
                self.device.read_config(offset.into(), &mut data);
                self.device.write_config(offset.into(), &data);
            }
            _ if !self.hostile => {}
            Step::Desc { queue, at, addr, len, flags, next } => {
                const FLAGS: [u16; 6] = [0, 1, 2, 3, 4, !7];
                let index = self.index(queue);
                let flags = FLAGS[usize::from(flags) % FLAGS.len()];
                let descriptor = Descriptor { addr: addr.into(), len, flags, next: next.into() };
                self.lines[index].driver.write_desc(u16::from(at) % SIZE, descriptor);
            }
            Step::Avail { queue, at, head } => {
                let index = self.index(queue);
                self.lines[index].driver.write_avail(at.into(), head);
            }
            Step::AvailIdx { queue, index: to } => {
                let index = self.index(queue);
                self.lines[index].driver.set_avail_idx(to);
            }
            Step::Write(addr, bytes) => self.guest.write(addr.into(), &bytes),
        }
        if self.hostile {
            self.guest.learn();
        }
    }

    /// Posts a chain; false if there is no room for it.
    pub(crate) fn post(&mut self, index: usize, post: &Post, mut fill: impl FnMut(&mut [u8])) -> bool {
        let line = &mut self.lines[index];
        let Some(&buffer) = line.free.last() else { return false };
        let start = BUFFERS + (index as u64 * u64::from(SIZE) + u64::from(buffer)) * BUFFER;
        let (mut at, mut pieces) = (start, 0);
        let mut place = |lengths: &[u8]| -> Vec<(u64, u64)> {
            let mut placed = Vec::new();
            for &len in lengths {
                let len = u64::from(len) + 1;
                if at + len > start + BUFFER || pieces == MAX_PIECES {
                    break;
                }
                placed.push((at, len));
                (at, pieces) = (at + len, pieces + 1);
            }
            placed
        };
        let (mut readable, mut writable) = (place(&post.readable), place(&post.writable));
        let large = post.large && self.large_is_free && readable.len() + writable.len() < MAX_PIECES;
        if large {
            let to = if writable.is_empty() { &mut readable } else { &mut writable };
            to.push((HIGH, HIGH_END - HIGH));
        }
        let wanted = if post.indirect { 1 } else { readable.len() + writable.len() };
        if wanted > usize::from(line.driver.free_descriptors()) {
            return false;
        }
        for &(addr, len) in &readable {
            let mut bytes = vec![0; len as usize];
            fill(&mut bytes);
            self.guest.write(addr, &bytes);
        }
        for &(addr, len) in &writable {
            self.guest.write(addr, &vec![BACKGROUND; len as usize]);
        }
        let as_buffers = |pieces: &[(u64, u64)]| -> Vec<_> {
            pieces.iter().map(|&(addr, len)| (GuestAddress(addr), len as u32)).collect()
        };
        let (inputs, outputs) = (as_buffers(&readable), as_buffers(&writable));
        let table = TABLES + (index as u64 * u64::from(SIZE) + u64::from(buffer)) * 16 * MAX_PIECES as u64;
        let added = match post.indirect {
            true => line.driver.add_indirect(GuestAddress(table), &inputs, &outputs),
            false => line.driver.add(&inputs, &outputs),
        };
        // Without buffers there is no chain.
        let Ok(Some(head)) = added else { return false };
        line.free.pop();
        self.large_is_free &= !large;
        line.posted.insert(head, Posted { buffer, large, writable });
        line.owes_kick |= line.driver.publish();
        self.guest.learn();
        if !post.silent {
            self.kick(index);
        }
        true
    }

    /// Kicks, if the device asked for that.
    fn kick(&mut self, index: usize) {
        let line = &mut self.lines[index];
        if std::mem::take(&mut line.owes_kick) {
            line.kick.notify().expect("an eventfd can be written to");
        }
    }

    /// Takes the answers of a queue.
    pub(crate) fn take(&mut self, index: usize) -> Vec<Answered> {
        let line = &mut self.lines[index];
        let mut answers = Vec::new();
        loop {
            let (head, written) = match line.driver.pop_used() {
                Ok(Some(used)) => used,
                Ok(None) => break,
                Err(error) => {
                    assert!(self.hostile, "the used ring is wrong: {error}");
                    break;
                }
            };
            let Some(posted) = line.posted.remove(&head) else {
                assert!(self.hostile, "head {head} was not posted");
                continue;
            };
            line.free.push(posted.buffer);
            self.large_is_free |= posted.large;
            let mut received = self.guest.known(&posted.writable);
            let room = received.len();
            assert!(self.hostile || written as usize <= room, "{written} of {room} bytes are written");
            let rest = received.split_off((written as usize).min(room));
            let untouched = rest.iter().all(|&byte| byte == BACKGROUND);
            assert!(self.hostile || untouched, "more was written than reported");
            answers.push(Answered { received, room });
        }
        answers
    }

    /// One turn. Returns true if it made progress.
    pub(crate) fn turn(&mut self) -> bool {
        let broken: Vec<_> = self.lines.iter().map(|line| line.attached.broken()).collect();
        let used: Vec<_> = self.lines.iter().map(|line| line.driver.used_idx()).collect();
        let progress = self.context.poll(false).expect("a turn of the loop");
        let mut may_change = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            if let Some(error) = broken[index] {
                assert_eq!(line.attached.broken(), Some(error), "a broken queue stays broken");
                continue;
            }
            let now_broken = line.attached.broken();
            assert_eq!(line.broke.get(), u32::from(now_broken.is_some()));
            assert!(self.hostile || now_broken.is_none(), "{now_broken:?}");
            assert_eq!(line.attached.in_flight(), 0, "each chain is answered at once");
            if !self.hostile && !self.event_idx && line.driver.used_idx() != used[index] {
                assert!(line.call.test_and_clear().expect("an eventfd"), "an answer without an interrupt");
            }
            may_change.push(line.used_ring);
            may_change.extend(line.posted.values().flat_map(|posted| posted.writable.iter().copied()));
        }
        if self.hostile && !may_change.is_empty() {
            // A descriptor may allow the device to write anywhere.
            may_change = vec![(0, LOW_END), (HIGH, HIGH_END - HIGH)];
        }
        self.guest.only_changed(&may_change);
        progress
    }

    /// Turns until nothing happens any more.
    pub(crate) fn settle(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < TURNS, "the loop does not come to rest");
        }
    }

    /// Kicks wherever the device waits for it, and settles.
    pub(crate) fn settle_all(&mut self) {
        (0..self.lines.len()).for_each(|index| self.kick(index));
        self.settle();
    }

    /// Returns how many chains the device has not answered.
    pub(crate) fn unanswered(&self, index: usize) -> usize {
        self.lines[index].posted.len()
    }

    /// A device reset of one queue.
    fn restart(&mut self, index: usize) {
        let line = self.lines.remove(index);
        line.attached.stop(&self.context).expect("the queue stops");
        self.large_is_free |= line.posted.values().any(|posted| posted.large);
        let line = self.start(index as u16);
        self.lines.insert(index, line);
    }

    /// Stops all queues.
    pub(crate) fn stop(&mut self) {
        for line in self.lines.drain(..) {
            line.attached.stop(&self.context).expect("the queue stops");
        }
    }
}
