//! The device half of a split virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::GuestMemoryBackend;

use super::chain::Chain;
use super::error::QueueError;
use super::in_flight::InFlight;
use super::layout::{Descriptor, QueueConfig, Rings};
use super::segment::Segments;
use super::suppression::{Request, wanted};
use super::translate::Translator;
use crate::memory::GuestMemoryMmap;

/// The most bytes a chain may have (virtio 1.2, section 2.7.5).
const MAX_CHAIN_BYTES: u64 = 1 << 32;

/// Takes chains off the avail ring and puts them on the used ring.
///
/// The driver on the other side is not trusted: whatever is in the rings, an operation ends after at most
/// as many steps as a chain may have descriptors, touches no byte outside guest memory, and either works or breaks the queue. A broken
/// queue pops nothing and writes nothing more; chains that are in flight are still handed back with
/// [`DeviceQueue::push`], so a device drains the same way in both cases.
///
/// Nothing here blocks or makes a syscall. The queue belongs to one thread at a time and may move between
/// threads.
#[derive(Debug)]
pub struct DeviceQueue<M = GuestMemoryMmap> {
    rings: Rings<M>,
    buffers: Translator<M>,
    /// Of its own, since tables and buffers often sit in different regions and would throw each other out.
    tables: Translator<M>,
    /// The indirect table being walked: usually one segment. It lies in the memory that `tables` holds.
    table: Segments,
    in_flight: InFlight,
    /// avail.idx as last read. Entries before it are the driver's word already; the field itself, in a cache
    /// line that the driver writes, is read again only when they are used up.
    avail_idx: u16,
    /// Index of the next chain to pop.
    next_avail: u16,
    /// Index of the next used entry to write. Never read back from the ring.
    next_used: u16,
    /// used.idx as last stored.
    published: u16,
    kicks: Request,
    event_idx: bool,
    indirect: bool,
    /// Descriptors that a chain may have.
    longest_chain: u16,
    /// The next [`DeviceQueue::publish`] that has something tells the driver, whatever it asked for.
    must_interrupt: bool,
    broken: bool,
}

impl<M: GuestMemoryBackend + 'static> DeviceQueue<M> {
    /// A queue that starts at index 0, as after a reset.
    ///
    /// Begin with [`DeviceQueue::enable_kicks`]: it states the device's wish whatever was in the ring before,
    /// and finds chains that were made available before anybody listened.
    ///
    /// Fails when the size is no power of two up to 32768, or when a part is misaligned or not wholly in one
    /// region of `mem`; the queue must then not be enabled.
    pub fn new(mem: Arc<M>, config: QueueConfig) -> Result<Self, QueueError> {
        let rings = Rings::new(&mem, &config)?;
        Ok(Self {
            in_flight: InFlight::new(rings.size()),
            longest_chain: rings.size(),
            rings,
            buffers: Translator::new(Arc::clone(&mem)),
            tables: Translator::new(mem),
            table: Segments::default(),
            avail_idx: 0,
            next_avail: 0,
            next_used: 0,
            published: 0,
            kicks: Request::new(config.event_idx),
            event_idx: config.event_idx,
            indirect: config.indirect,
            must_interrupt: false,
            broken: false,
        })
    }

    /// A queue that goes on where another device left it (vhost-user SET_VRING_BASE, a restored snapshot).
    ///
    /// `next_avail` and `next_used` are what [`DeviceQueue::next_avail`] and [`DeviceQueue::next_used`] gave;
    /// on a queue that was drained first they are equal. The first [`DeviceQueue::publish`] interrupts in any
    /// case, because it is not known whether the driver heard of the last one. Fails as [`DeviceQueue::new`]
    /// does.
    pub fn resume(
        mem: Arc<M>,
        config: QueueConfig,
        next_avail: u16,
        next_used: u16,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            avail_idx: next_avail,
            next_avail,
            next_used,
            published: next_used,
            must_interrupt: true,
            ..Self::new(mem, config)?
        })
    }

    /// Takes chains of up to `entries` descriptors, should that be more than the queue has.
    ///
    /// A driver must not make them (virtio 1.2, section 2.7.5.3.1), but Linux sizes its indirect tables by the
    /// device's `seg_max` alone (`virtblk_probe`), and a vhost-user backend has to say that before it learns
    /// how large the frontend makes the queues: QEMU's are 128 unless told otherwise.
    #[must_use]
    pub fn accept_chains_of(mut self, entries: u16) -> Self {
        self.longest_chain = entries.max(self.rings.size());
        self
    }

    /// An empty slot for [`DeviceQueue::pop`]. A device keeps as many as it wants requests in flight.
    pub fn new_chain(&self) -> Chain<M> {
        Chain::new(Arc::clone(self.buffers.memory()))
    }

    /// Whether [`DeviceQueue::pop`] would find a chain (or a violation): for busy polling, at most one load.
    ///
    /// Always false on a broken queue, so a poller does not spin on it.
    #[inline]
    pub fn has_available(&self) -> bool {
        // Relaxed: nothing is read on the strength of this, `pop` looks again with Acquire.
        !self.broken
            && (self.avail_idx != self.next_avail
                || self.rings.avail_idx().load(Ordering::Relaxed) != self.next_avail)
    }

    /// Takes the next chain off the avail ring into the slot `into`.
    ///
    /// `Ok(true)`: `into` is that chain, and its head is in flight until it is pushed. `Ok(false)`: the ring
    /// is empty; `into` has no meaning. An error says how the driver violated the protocol: the queue is
    /// broken from then on and every later call gives [`QueueError::Broken`]. At most queue-size chains are
    /// in flight at a time.
    #[inline]
    pub fn pop(&mut self, into: &mut Chain<M>) -> Result<bool, QueueError> {
        if self.broken {
            return Err(QueueError::Broken);
        }
        if self.avail_idx == self.next_avail {
            // Acquire pairs with the Release store of avail.idx in `DriverQueue::publish`: the avail entries
            // and the descriptors behind it are seen as the driver wrote them.
            let idx = self.rings.avail_idx().load(Ordering::Acquire);
            let fresh = idx.wrapping_sub(self.next_avail);
            if fresh == 0 {
                return Ok(false);
            }
            let size = self.rings.size();
            if fresh > size {
                return self.violated(into, QueueError::AvailIndex { from: self.next_avail, to: idx, size });
            }
            self.avail_idx = idx;
        }
        match self.take(into) {
            Ok(()) => Ok(true),
            Err(error) => self.violated(into, error),
        }
    }

    /// Takes a chain that a former device popped and did not complete into the slot `into`: what is left in flight in a
    /// vhost-user in-flight region. For a queue that was made by [`DeviceQueue::resume`], before the first pop.
    ///
    /// As [`DeviceQueue::pop`], but `head` comes from the caller, and the avail ring is neither read nor moved on:
    /// `next_avail` of the resumed queue must count the chain already. The region is the driver's side's to write, so it is
    /// believed no more than the avail ring: a head that is out of range, in flight, or begins a malformed chain breaks the
    /// queue.
    #[cold]
    pub fn resubmit(&mut self, head: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        if self.broken {
            return Err(QueueError::Broken);
        }
        self.read_chain(head, into).or_else(|error| self.violated(into, error).map(drop))
    }

    /// Takes the chain at `next_avail`, which is known to be there.
    #[inline]
    fn take(&mut self, into: &mut Chain<M>) -> Result<(), QueueError> {
        let head = self.rings.avail_entry(self.next_avail).load(Ordering::Relaxed);
        self.read_chain(head, into)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(())
    }

    /// Reads the chain `head` into the slot and marks it in flight.
    // Always inlined, so that the second, rare caller does not cost the hot one a call.
    #[inline(always)]
    fn read_chain(&mut self, head: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        let size = self.rings.size();
        if head >= size {
            return Err(QueueError::HeadOutOfRange { head, size });
        }
        into.reset(&self.buffers, head);
        // The head counts as in flight only once its chain is known to be good; a bad one breaks the queue.
        if self.in_flight.contains(head) {
            return Err(QueueError::HeadInFlight { head });
        }
        let rings = &self.rings;
        let mut budget = Budget { limit: self.longest_chain, left: self.longest_chain };
        let indirect =
            walk(|index| rings.descriptor(index), size, head, &mut budget, &mut self.buffers, into)?;
        if let Some(descriptor) = indirect {
            self.walk_indirect(descriptor, budget, into)?;
        }
        if into.readable().len_bytes() + into.writable().len_bytes() > MAX_CHAIN_BYTES {
            return Err(QueueError::ChainTooLarge);
        }
        self.in_flight.insert(head);
        Ok(())
    }

    /// Adds the buffers of an indirect table. Its descriptors count towards the chain, the one that refers to
    /// the table does not; nor does its WRITE flag, which the device must ignore (virtio 1.2, section
    /// 2.7.5.3.2).
    fn walk_indirect(
        &mut self,
        at: Descriptor,
        mut budget: Budget,
        into: &mut Chain<M>,
    ) -> Result<(), QueueError> {
        if !self.indirect {
            return Err(QueueError::IndirectNotNegotiated);
        }
        if at.has(Descriptor::NEXT) {
            return Err(QueueError::IndirectWithNext);
        }
        let size = self.longest_chain;
        let whole = at.len.is_multiple_of(Descriptor::BYTES as u32);
        let entries = match u16::try_from(at.len / Descriptor::BYTES as u32) {
            Ok(entries) if whole && (1..=size).contains(&entries) => entries,
            _ => return Err(QueueError::IndirectLength { len: at.len, size }),
        };
        self.table.clear();
        let table = &mut self.table;
        self.tables
            .translate(at.addr, at.len, |segment| table.push(segment))
            .map_err(|_| QueueError::IndirectUnmapped { addr: at.addr, len: at.len })?;
        if entries < budget.left {
            budget = Budget { limit: entries, left: entries };
        }
        let read = |index| {
            let mut raw = [0; Descriptor::BYTES];
            let offset = Descriptor::BYTES as u64 * u64::from(index);
            let got = if index < entries { table.copy_to(offset, &mut raw) } else { 0 };
            (got == raw.len()).then(|| Descriptor::from_bytes(raw))
        };
        match walk(read, entries, 0, &mut budget, &mut self.buffers, into)? {
            Some(_) => Err(QueueError::IndirectNested),
            None => Ok(()),
        }
    }

    #[cold]
    fn violated(&mut self, chain: &mut Chain<M>, error: QueueError) -> Result<bool, QueueError> {
        self.broken = true;
        chain.clear();
        Err(error)
    }

    /// Completes the chain `head`: `written` bytes from the start of its device-writable part have been
    /// written.
    ///
    /// Writes the used entry but does not show it to the driver; [`DeviceQueue::publish`] does that for all
    /// pushes together. On a broken queue it only takes the head out of flight. Fails when the head is not in
    /// flight, which is a mistake of the caller; nothing is changed then.
    #[inline]
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        if !self.in_flight.remove(head) {
            return Err(QueueError::NotInFlight { head });
        }
        if !self.broken {
            self.rings.set_used_entry(self.next_used, u32::from(head), written);
            self.next_used = self.next_used.wrapping_add(1);
        }
        Ok(())
    }

    /// Shows all pushes since the last call to the driver. True: the driver wants an interrupt, signal the
    /// irqfd.
    ///
    /// One store of used.idx, one fence and one decision for the whole batch; none of them without a push.
    #[inline]
    #[must_use = "true means that the driver waits for an interrupt"]
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        let new = self.next_used;
        if old == new || self.broken {
            return false;
        }
        // Release pairs with the Acquire load of used.idx in `DriverQueue::pop_used`: the used entries, and
        // the data and status bytes written before them, are seen with it.
        self.rings.used_idx().store(new, Ordering::Release);
        self.published = new;
        // Pairs with the fence in `DriverQueue::enable_interrupts`. Here: store used.idx, fence, load what
        // the driver asks for. There: store what it asks for, fence, load used.idx. At least one side sees
        // the other's store; without either fence both loads may pass both stores, and the driver sleeps
        // beside a finished request.
        fence(Ordering::SeqCst);
        if std::mem::take(&mut self.must_interrupt) {
            return true;
        }
        wanted(self.event_idx, self.rings.interrupt_request(self.event_idx), old, new)
    }

    /// How many pushes the driver has not been shown.
    #[inline]
    pub fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Whether [`DeviceQueue::publish`] would likely be true: for a device that answers a batch and would not let a waiting
    /// driver wait for all of it. A hint, without a fence; `publish` decides.
    #[inline]
    pub fn driver_waits(&self) -> bool {
        let (old, new) = (self.published, self.next_used);
        old != new && wanted(self.event_idx, self.rings.interrupt_request(self.event_idx), old, new)
    }

    /// Asks the driver not to kick: while the device is popping, or polls. A hint, a kick may still come.
    #[inline]
    pub fn disable_kicks(&mut self) {
        if !self.broken {
            self.kicks.disable(self.rings.avail_idx(), self.rings.kick_request(self.event_idx));
        }
    }

    /// Asks the driver to kick for the next chain it makes available. True: work arrived meanwhile, for which
    /// no kick need come; pop it (and disable kicks again) before sleeping.
    #[inline]
    #[must_use = "true means that there is work for which no kick will come"]
    pub fn enable_kicks(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.kicks.enable(self.next_avail, self.rings.kick_request(self.event_idx));
        // Pairs with the fence in `DriverQueue::publish`. Here: store the request, fence, load avail.idx.
        // There: store avail.idx, fence, load the request. At least one side sees the other's store, so a
        // chain is either found here or kicked for.
        fence(Ordering::SeqCst);
        self.has_available()
    }

    /// Chains popped and not pushed yet, at most the queue size.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.in_flight.count()
    }

    /// Whether the driver violated the protocol (or [`DeviceQueue::mark_broken`] was called).
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Breaks the queue for a reason that the rings do not show, a request-level one that the device deems
    /// fatal.
    pub fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Entries of the queue.
    #[inline]
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// Index of the next chain to pop, for saving (vhost-user GET_VRING_BASE).
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// used.idx as it is in the ring: what a device that takes a queue over finds there, to resume from.
    ///
    /// The driver can write it, so a running device never looks; it knows [`DeviceQueue::next_used`].
    pub fn used_idx_in_ring(&self) -> u16 {
        self.rings.used_idx().load(Ordering::Acquire)
    }

    /// Index of the next used entry to write, for saving. With nothing in flight it equals
    /// [`DeviceQueue::next_avail`].
    pub fn next_used(&self) -> u16 {
        self.next_used
    }
}

/// How many descriptors a chain may still have, and what the limit was.
struct Budget {
    limit: u16,
    left: u16,
}

/// Adds to `into` the buffers of the descriptors from `index` on, up to the end of the chain or up to a
/// descriptor that refers to an indirect table, which is returned.
///
/// `read` copies a descriptor out of the table of `entries`, once; everything is decided on that copy, so it
/// does not matter what the guest writes there meanwhile, nor that a buffer may lie over the table itself.
#[inline]
fn walk<M: GuestMemoryBackend + 'static>(
    read: impl Fn(u16) -> Option<Descriptor>,
    entries: u16,
    mut index: u16,
    budget: &mut Budget,
    buffers: &mut Translator<M>,
    into: &mut Chain<M>,
) -> Result<Option<Descriptor>, QueueError> {
    loop {
        let descriptor = read(index).ok_or(QueueError::NextOutOfRange { next: index, entries })?;
        if descriptor.has(Descriptor::INDIRECT) {
            return Ok(Some(descriptor));
        }
        // A loop never ends and a chain that is too long ends too late: one count finds both.
        budget.left = match budget.left.checked_sub(1) {
            Some(left) => left,
            None => return Err(QueueError::ChainTooLong { limit: budget.limit }),
        };
        if descriptor.has(Descriptor::WRITE) {
            into.add_writable(buffers, descriptor.addr, descriptor.len)?;
        } else if into.writable().is_empty() {
            into.add_readable(buffers, descriptor.addr, descriptor.len)?;
        } else {
            return Err(QueueError::ReadableAfterWritable);
        }
        if !descriptor.has(Descriptor::NEXT) {
            return Ok(None);
        }
        index = descriptor.next;
    }
}
