//! The device half of a split virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::GuestMemoryBackend;

use super::chain::Chain;
use super::dirty::{DirtyPages, Marker};
use super::error::QueueError;
use super::in_flight::InFlight;
use super::layout::{Descriptor, MAX_CHAIN, QueueConfig, Rings, USED_IDX};
use super::refused::last_writable;
use super::segment::Segments;
use super::suppression::{Request, wanted};
use super::translate::Translator;
use crate::memory::GuestMemoryMmap;

/// The most bytes a chain may have (virtio 1.2, section 2.7.5).
const MAX_CHAIN_BYTES: u64 = 1 << 32;

/// The device half: takes chains off the avail ring and puts them on the used ring.
///
/// The driver on the other side is not trusted. Whatever is in the rings, an operation takes a
/// number of steps that is bounded by the length that a chain may have ([`MAX_CHAIN`], or the queue
/// size if that is more), accesses no byte outside guest memory, and either succeeds, refuses one
/// chain, or breaks the queue. The module's documentation has a table of what leads to what.
///
/// A broken queue pops nothing and writes nothing more. Chains in flight are still returned with
/// [`DeviceQueue::push`], so a device drains the same way in both cases.
///
/// No method blocks or makes a syscall. The queue is used by one thread at a time and may move
/// between threads if `M` is `Send + Sync`.
///
/// # Guest memory
///
/// `M` is any vm-memory `GuestMemoryBackend`, for example a `vm_memory::GuestMemoryMmap` that the
/// VMM has already mapped. The queue and its chains keep host pointers into it while they hold the
/// `Arc`:
///
/// - A region must give out its bytes as one `VolatileSlice`
///   (`GuestMemoryRegion::as_volatile_slice`). The creator of such a slice promises that the bytes
///   stay mapped while the region is borrowed. This is what makes the pointers valid; the queue
///   relies on no other promise of `M`.
/// - A region without host memory, or a read-only region of vm-memory or of this crate, is treated
///   as a hole: a ring in it is [`QueueError::RingUnmapped`], a buffer in it is
///   [`QueueError::Unmapped`]. For other region types the `VolatileSlice` must be writable, else a
///   guest can cause a SIGSEGV.
/// - Changing the memory map means a new `Arc` and a new queue ([`DeviceQueue::resume`]).
/// - The dirty bitmap of `M` is not told about writes to the rings and the buffers, which are often
///   done by the kernel through iovecs. For live migration, see [`DeviceQueue::set_dirty_log`].
/// - vm-memory's `xen` feature is not supported, because its pointers are valid only while a guard
///   lives.
///
/// ```
/// use std::sync::Arc;
/// use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Guest memory as a VMM makes it.
/// let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 10)])?);
/// let config = QueueConfig::at(GuestAddress(0), 16);
/// let mut driver = DriverQueue::new(Arc::clone(&memory), config)?;
/// let mut device = DeviceQueue::new(Arc::clone(&memory), config)?;
///
/// driver.add(&[], &[(GuestAddress(0x9000), 5)])?.unwrap();
/// let _kick = driver.publish();
/// let mut chain = device.new_chain();
/// assert!(device.pop(&mut chain)?);
/// chain.writable().copy_from(0, b"hello");
/// device.push(chain.head(), 5)?;
/// let _interrupt = device.publish();
/// assert_eq!(&memory.read_obj::<[u8; 5]>(GuestAddress(0x9000))?, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DeviceQueue<M = GuestMemoryMmap> {
    rings: Rings<M>,
    buffers: Translator<M>,
    /// Separate from `buffers`: tables and buffers are often in different regions, so one cache for
    /// both would miss often.
    tables: Translator<M>,
    /// The indirect table being walked: usually one segment. It lies in the memory that `tables`
    /// holds.
    table: Segments,
    in_flight: InFlight,
    /// avail.idx as last read. The field is in a cache line that the driver writes, so it is read
    /// again only when all entries before this index have been popped.
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
    /// The number of descriptors that a chain may have.
    longest_chain: u16,
    /// The next [`DeviceQueue::publish`] after a push returns true, whatever the driver asked for.
    must_interrupt: bool,
    mode: Mode,
    /// Present in [`Mode::LOGGED`].
    marker: Option<Box<Marker>>,
}

/// What makes a queue different from the usual one. One comparison tells whether it is; the rest is
/// off the usual path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode(u8);

impl Mode {
    const USUAL: Self = Self(0);
    /// Pops and writes nothing more.
    const BROKEN: Self = Self(1);
    /// Records the pages that it writes.
    const LOGGED: Self = Self(2);

    #[inline(always)]
    fn is_usual(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

impl<M: GuestMemoryBackend + 'static> DeviceQueue<M> {
    /// Creates a queue that starts at index 0, as after a reset.
    ///
    /// Call [`DeviceQueue::enable_kicks`] first. It writes the notification request to the ring,
    /// whatever was there before, and reports chains that were made available before the device
    /// listened.
    ///
    /// # Errors
    /// [`QueueError::Size`] if the size is not a power of two up to 32768,
    /// [`QueueError::Misaligned`] or [`QueueError::RingUnmapped`] if a part is misaligned or not
    /// wholly in one region of `mem`. The queue must then not be enabled.
    pub fn new(mem: Arc<M>, config: QueueConfig) -> Result<Self, QueueError> {
        let rings = Rings::new(&mem, &config)?;
        Ok(Self {
            in_flight: InFlight::new(rings.size()),
            longest_chain: rings.size().max(MAX_CHAIN),
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
            mode: Mode::USUAL,
            marker: None,
        })
    }

    /// Creates a queue that continues where another device stopped (vhost-user SET_VRING_BASE, a
    /// restored snapshot).
    ///
    /// `next_avail` and `next_used` are the values that [`DeviceQueue::next_avail`] and
    /// [`DeviceQueue::next_used`] returned; they are equal if the queue was drained first. The
    /// first [`DeviceQueue::publish`] always requests an interrupt, because it is not known whether
    /// the driver got the last one.
    ///
    /// # Errors
    /// As [`DeviceQueue::new`].
    pub fn resume(
        mem: Arc<M>,
        config: QueueConfig,
        next_avail: u16,
        next_used: u16,
    ) -> Result<Self, QueueError> {
        Ok(Self::new(mem, config)?.resumed_at(next_avail, next_used))
    }

    /// Like [`DeviceQueue::resume`], for a new queue. This way
    /// [`used_idx_in_ring`](DeviceQueue::used_idx_in_ring) can be read first.
    #[must_use]
    pub fn resumed_at(self, next_avail: u16, next_used: u16) -> Self {
        Self {
            avail_idx: next_avail,
            next_avail,
            next_used,
            published: next_used,
            must_interrupt: true,
            ..self
        }
    }

    /// Returns an empty slot for [`DeviceQueue::pop`]. A device needs one per request in flight.
    pub fn new_chain(&self) -> Chain<M> {
        Chain::new(Arc::clone(self.buffers.memory()))
    }

    /// Returns true if [`DeviceQueue::pop`] would find a chain or a violation. Costs at most one
    /// load; for busy polling.
    ///
    /// Always returns false on a broken queue, so a poller does not spin on it.
    #[inline]
    pub fn has_available(&self) -> bool {
        // Relaxed is enough: `pop` loads the index again with Acquire before it reads anything
        // else.
        !self.is_broken()
            && (self.avail_idx != self.next_avail
                || self.rings.avail_idx().load(Ordering::Relaxed) != self.next_avail)
    }

    /// Takes the next chain off the avail ring and stores it in the slot `into`.
    ///
    /// Returns `Ok(true)` if there was a chain; its head is in flight until it is pushed. Returns
    /// `Ok(false)` if the ring is empty; the content of `into` is then unspecified. At most as many
    /// chains as the queue has entries are in flight at a time.
    ///
    /// # Errors
    /// The way in which the driver violated the protocol. If
    /// [`QueueError::is_of_one_chain`] returns true, only this chain cannot be served, and the
    /// queue continues: the head is in flight, and the chain must be pushed like any other. The
    /// slot then has no readable part. Its writable part is the last device-writable byte of the
    /// chain, for a device that reports a status there, or empty if that byte cannot be found.
    ///
    /// After any other error the queue is broken, and every later call returns
    /// [`QueueError::Broken`].
    #[inline]
    pub fn pop(&mut self, into: &mut Chain<M>) -> Result<bool, QueueError> {
        if self.is_broken() {
            return Err(QueueError::Broken);
        }
        if self.avail_idx == self.next_avail {
            // Acquire pairs with the Release store of avail.idx in `DriverQueue::publish`: the
            // avail entries and the descriptors behind it are seen as the driver wrote them.
            let idx = self.rings.avail_idx().load(Ordering::Acquire);
            let fresh = idx.wrapping_sub(self.next_avail);
            if fresh == 0 {
                return Ok(false);
            }
            let size = self.rings.size();
            if fresh > size {
                self.violated(into);
                return Err(QueueError::AvailIndex { from: self.next_avail, to: idx, size });
            }
            self.avail_idx = idx;
        }
        let head = self.rings.avail_entry(self.next_avail).load(Ordering::Relaxed);
        let outcome = self.read_chain(head, into);
        if !self.is_broken() {
            self.next_avail = self.next_avail.wrapping_add(1);
        }
        outcome.map(|()| true)
    }

    /// Takes a chain that a previous device popped but did not complete, and stores it in the slot
    /// `into`. Such chains are listed in a vhost-user in-flight region. Call this on a queue made
    /// by [`DeviceQueue::resume`], before the first pop.
    ///
    /// Works like [`DeviceQueue::pop`], but `head` comes from the caller, and the avail ring is
    /// neither read nor advanced: `next_avail` of the resumed queue must already count the chain.
    /// The driver's side can write the in-flight region, so `head` is not trusted either.
    ///
    /// # Errors
    /// As [`DeviceQueue::pop`]: a head that is out of range or already in flight breaks the queue.
    #[cold]
    pub fn resubmit(&mut self, head: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        if self.is_broken() {
            return Err(QueueError::Broken);
        }
        self.read_chain(head, into)
    }

    /// Reads the chain `head` into the slot and marks it in flight.
    // Always inlined: with two callers, the hot one would otherwise pay for a call.
    #[inline(always)]
    fn read_chain(&mut self, head: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        let size = self.rings.size();
        if head >= size {
            self.violated(into);
            return Err(QueueError::HeadOutOfRange { head, size });
        }
        into.reset(&self.buffers, head);
        if self.in_flight.contains(head) {
            self.violated(into);
            return Err(QueueError::HeadInFlight { head });
        }
        if let Err(error) = self.read_buffers(head, into) {
            return Err(self.refuse(head, into, error));
        }
        self.in_flight.insert(head);
        Ok(())
    }

    /// Adds the buffers of the chain `head`.
    #[inline(always)]
    fn read_buffers(&mut self, head: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        let (rings, size) = (&self.rings, self.rings.size());
        // More steps than the table has entries visit one of them twice.
        let mut budget = Budget { limit: size, left: size };
        let indirect = walk(|index| rings.descriptor(index), head, &mut budget, &mut self.buffers, into)
            .map_err(|error| match error {
                Wrong::Next(next) => QueueError::NextOutOfRange { next, entries: size },
                Wrong::Length(_) => QueueError::Loop { size },
                Wrong::Buffer(error) => error,
            })?;
        if let Some(descriptor) = indirect {
            let before = size - budget.left;
            self.walk_indirect(descriptor, self.longest_chain.saturating_sub(before), into)?;
        }
        if into.readable().len_bytes() + into.writable().len_bytes() > MAX_CHAIN_BYTES {
            return Err(QueueError::ChainTooLarge);
        }
        Ok(())
    }

    /// Adds the buffers of an indirect table, at most `left`. The descriptors in the table count
    /// towards the chain length; the descriptor that refers to the table does not. The WRITE flag
    /// of the latter is ignored, as the specification requires (virtio 1.2, section 2.7.5.3.2).
    // A function of its own: inlined into `pop` it would take registers from the chains without a
    // table.
    #[inline(never)]
    fn walk_indirect(&mut self, at: Descriptor, left: u16, into: &mut Chain<M>) -> Result<(), QueueError> {
        if !self.indirect {
            return Err(QueueError::IndirectNotNegotiated);
        }
        if at.has(Descriptor::NEXT) {
            return Err(QueueError::IndirectWithNext);
        }
        let limit = self.longest_chain;
        let whole = at.len.is_multiple_of(Descriptor::BYTES as u32);
        let entries = match u16::try_from(at.len / Descriptor::BYTES as u32) {
            Ok(entries) if whole && (1..=limit).contains(&entries) => entries,
            _ => return Err(QueueError::IndirectLength { len: at.len, limit }),
        };
        self.table.clear();
        let table = &mut self.table;
        self.tables
            .translate(at.addr, at.len, |segment| table.push(segment))
            .map_err(|_| QueueError::IndirectUnmapped { addr: at.addr, len: at.len })?;
        let mut budget = match entries < left {
            true => Budget { limit: entries, left: entries },
            false => Budget { limit, left },
        };
        let read = |index| {
            if index >= entries {
                return None;
            }
            table.array(Descriptor::BYTES as u64 * u64::from(index)).map(Descriptor::from_bytes)
        };
        match walk(read, 0, &mut budget, &mut self.buffers, into) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(QueueError::IndirectNested),
            Err(Wrong::Next(next)) => Err(QueueError::IndirectNext { next, entries }),
            Err(Wrong::Length(limit)) => Err(QueueError::ChainTooLong { limit }),
            Err(Wrong::Buffer(error)) => Err(error),
        }
    }

    /// Handles a chain that cannot be served: breaks the queue, or marks the chain in flight with
    /// the place of its status as its only content. Returns the error.
    #[cold]
    fn refuse(&mut self, head: u16, into: &mut Chain<M>, error: QueueError) -> QueueError {
        if !error.is_of_one_chain() {
            self.violated(into);
            return error;
        }
        self.find_status(head, into);
        self.in_flight.insert(head);
        error
    }

    /// Leaves only the place of the status in a chain that cannot be served.
    fn find_status(&mut self, head: u16, into: &mut Chain<M>) {
        into.clear();
        let place = last_writable(&self.rings, &mut self.tables, &mut self.table, self.indirect, head);
        if let Some(addr) = place {
            // If the byte is not in guest memory, there is no place for a status.
            let _ = into.add_writable(&mut self.buffers, addr, 1);
        }
    }

    #[cold]
    fn violated(&mut self, chain: &mut Chain<M>) {
        self.mode.set(Mode::BROKEN);
        chain.clear();
    }

    /// Completes the chain `head`. `written` is the number of bytes written from the start of its
    /// device-writable part.
    ///
    /// Writes the used entry but does not make it visible to the driver; [`DeviceQueue::publish`]
    /// does that for all pushes together. On a broken queue this only removes the head from the set
    /// in flight.
    ///
    /// If the queue has a dirty log, use [`DeviceQueue::push_chain`], which marks the buffers of
    /// the chain: this method does not know them, and marks only the used ring.
    ///
    /// # Errors
    /// [`QueueError::NotInFlight`] if the head is not in flight, which is a bug in the caller.
    /// Nothing is changed then.
    #[inline]
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.push_written(head, written, |_| ())
    }

    /// Same as [`DeviceQueue::push`], for a chain of this queue that is still there. If the queue
    /// has a dirty log, the buffers that the device may have written are marked.
    ///
    /// # Errors
    /// Same as [`DeviceQueue::push`].
    #[inline]
    pub fn push_chain(&mut self, chain: &Chain<M>, written: u32) -> Result<(), QueueError> {
        self.push_written(chain.head(), written, |marker| marker.buffers(chain.writable()))
    }

    /// Same as [`DeviceQueue::push`], for a chain that was lost with whatever worked on it. The
    /// descriptors are read again to find its buffers for the dirty log. (If the driver has changed
    /// them in the meantime, against the rules, then its own pages are missing in the log.)
    #[cfg(feature = "device")]
    #[cold]
    pub(crate) fn push_lost(&mut self, head: u16) -> Result<(), QueueError> {
        let mut chain = self.new_chain();
        chain.reset(&self.buffers, head);
        if self.has_dirty_log() && self.read_buffers(head, &mut chain).is_err() {
            // It was refused when it was popped, too, so only its status may have been written.
            self.find_status(head, &mut chain);
        }
        self.push_chain(&chain, 0)
    }

    /// `mark` marks the buffers of the chain.
    #[inline(always)]
    fn push_written(
        &mut self,
        head: u16,
        written: u32,
        mark: impl FnOnce(&mut Marker),
    ) -> Result<(), QueueError> {
        if !self.in_flight.remove(head) {
            return Err(QueueError::NotInFlight { head });
        }
        if self.mode.is_usual() {
            self.rings.set_used_entry(self.next_used, u32::from(head), written);
            self.next_used = self.next_used.wrapping_add(1);
        } else {
            self.push_unusual(head, written, mark);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn push_unusual(&mut self, head: u16, written: u32, mark: impl FnOnce(&mut Marker)) {
        // Also on a broken queue: the buffers were written all the same.
        if let Some(marker) = &mut self.marker {
            mark(marker);
        }
        if self.is_broken() {
            return;
        }
        let at = self.next_used;
        self.rings.set_used_entry(at, u32::from(head), written);
        self.next_used = at.wrapping_add(1);
        if let Some(marker) = &mut self.marker {
            marker.used_ring(self.rings.used_entry_offset(at), 8);
        }
    }

    /// Makes all pushes since the last call visible to the driver. Returns true if the driver wants
    /// an interrupt: the caller must then signal the irqfd.
    ///
    /// Needs one store of used.idx and one fence for the whole batch, and neither without a push.
    #[inline]
    #[must_use = "true means that the driver waits for an interrupt"]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        if !self.mode.is_usual() {
            return self.publish_unusual(old, new);
        }
        self.show(old, new)
    }

    #[cold]
    #[inline(never)]
    fn publish_unusual(&mut self, old: u16, new: u16) -> bool {
        if self.is_broken() {
            return false;
        }
        let wanted = self.show(old, new);
        if let Some(marker) = &mut self.marker {
            marker.used_ring(USED_IDX, 2);
        }
        wanted
    }

    // Always inlined, for the usual path of `publish`.
    #[inline(always)]
    fn show(&mut self, old: u16, new: u16) -> bool {
        // Release pairs with the Acquire load of used.idx in `DriverQueue::pop_used`: the used
        // entries, and the data and status bytes written before them, are seen with it.
        self.rings.used_idx().store(new, Ordering::Release);
        self.published = new;
        // Pairs with the fence in `DriverQueue::enable_interrupts`. Here: store used.idx, fence,
        // load the driver's request. There: store the request, fence, load used.idx. At least one
        // side sees the store of the other. Without one of the fences, both loads could be done
        // before both stores, and the driver would sleep although a request is finished.
        fence(Ordering::SeqCst);
        if std::mem::take(&mut self.must_interrupt) {
            return true;
        }
        wanted(self.event_idx, self.rings.interrupt_request(self.event_idx), old, new)
    }

    /// Returns the number of pushes that are not visible to the driver yet.
    #[inline]
    pub fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Returns true if [`DeviceQueue::publish`] would probably return true. A device that completes
    /// a batch can use this to publish early when the driver is waiting. It is a hint without a
    /// fence; `publish` decides.
    #[inline]
    pub fn driver_waits(&self) -> bool {
        let (old, new) = (self.published, self.next_used);
        old != new && wanted(self.event_idx, self.rings.interrupt_request(self.event_idx), old, new)
    }

    /// Asks the driver not to kick, while the device is popping or polling. A hint: kicks may still
    /// come.
    #[inline]
    pub fn disable_kicks(&mut self) {
        if self.mode.is_usual() {
            self.kicks.disable(self.rings.avail_idx(), self.rings.kick_request(self.event_idx));
        } else {
            self.request_kicks(false);
        }
    }

    /// Asks the driver to kick for the next chain it makes available. Returns true if a chain has
    /// already arrived for which no kick may come: pop it (and disable kicks again) before
    /// sleeping.
    #[inline]
    #[must_use = "true means that there is work for which no kick will come"]
    pub fn enable_kicks(&mut self) -> bool {
        if self.mode.is_usual() {
            self.kicks.enable(self.next_avail, self.rings.kick_request(self.event_idx));
        } else {
            self.request_kicks(true);
        }
        // Pairs with the fence in `DriverQueue::publish`. Here: store the request, fence, load
        // avail.idx. There: store avail.idx, fence, load the request. At least one side sees the
        // store of the other, so the chain is either found here or the driver kicks.
        fence(Ordering::SeqCst);
        self.has_available()
    }

    /// Writes the request for kicks to a queue that is broken or logged.
    #[cold]
    #[inline(never)]
    fn request_kicks(&mut self, on: bool) {
        if self.is_broken() {
            return;
        }
        let before = self.kicks.stored();
        let field = self.rings.kick_request(self.event_idx);
        match on {
            true => self.kicks.enable(self.next_avail, field),
            false => self.kicks.disable(self.rings.avail_idx(), field),
        }
        if before != self.kicks.stored()
            && let Some(marker) = &mut self.marker
        {
            marker.used_ring(self.rings.kick_request_offset(self.event_idx), 2);
        }
    }

    /// Records the guest pages that the queue writes from now on, or with `None` does not record
    /// them any more. Replaces the former log: once this returns, nothing is marked there.
    ///
    /// May be called at any time, also while chains are in flight: their buffers are marked when
    /// they are pushed, whenever they were written. The buffers are marked before
    /// [`DeviceQueue::publish`] shows the chain, and the used ring before `publish` returns.
    pub fn set_dirty_log(&mut self, pages: Option<DirtyPages>) {
        match pages {
            Some(pages) => {
                self.marker = Some(Box::new(Marker::new(pages, &**self.buffers.memory())));
                self.mode.set(Mode::LOGGED);
            }
            None => {
                self.marker = None;
                self.mode.clear(Mode::LOGGED);
            }
        }
    }

    /// Returns true if the queue has a dirty log.
    pub fn has_dirty_log(&self) -> bool {
        self.marker.is_some()
    }

    /// Returns why pages are missing in the dirty log, if any are:
    /// [`QueueError::BeyondDirtyLog`], or [`QueueError::MemoryLost`] if the log itself is gone
    /// ([`DirtyLog::is_lost`](crate::memory::DirtyLog::is_lost)). The queue goes on; its user
    /// should break it ([`DeviceQueue::mark_broken`]).
    pub fn dirty_log_failure(&self) -> Option<QueueError> {
        self.marker.as_ref()?.failure()
    }

    /// Returns the number of chains popped and not pushed yet, at most the queue size.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.in_flight.count()
    }

    /// Returns how many requests the driver has outstanding: the chains in flight, and those on the
    /// avail ring that were not popped. At most the queue size. A hint for the size of a batch; one
    /// load.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        let available = self.rings.avail_idx().load(Ordering::Relaxed).wrapping_sub(self.next_avail);
        available.saturating_add(self.in_flight()).min(self.size())
    }

    /// Returns true if the driver violated the protocol or [`DeviceQueue::mark_broken`] was called.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.mode.has(Mode::BROKEN)
    }

    /// Breaks the queue for a reason outside the rings, such as a request that the device treats as
    /// a fatal error.
    pub fn mark_broken(&mut self) {
        self.mode.set(Mode::BROKEN);
    }

    /// Returns the number of entries of the queue.
    #[inline]
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// Returns the index of the next chain to pop, for saving (vhost-user GET_VRING_BASE).
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Reads used.idx from the ring. A device that takes over a queue resumes from this value.
    ///
    /// The driver can write the field, so a running device uses [`DeviceQueue::next_used`] instead.
    pub fn used_idx_in_ring(&self) -> u16 {
        self.rings.used_idx().load(Ordering::Acquire)
    }

    /// Returns the index of the next used entry to write, for saving. With nothing in flight it
    /// equals [`DeviceQueue::next_avail`].
    pub fn next_used(&self) -> u16 {
        self.next_used
    }
}

/// How many descriptors may still follow, and the limit that applies.
struct Budget {
    limit: u16,
    left: u16,
}

/// Why a walk ended early.
enum Wrong {
    /// A `next` field points outside the table.
    Next(u16),
    /// There are more descriptors than this limit.
    Length(u16),
    /// A buffer is not valid.
    Buffer(QueueError),
}

/// Adds the buffers of the descriptors from `index` on to `into`. Stops at the end of the chain, or
/// at a descriptor that refers to an indirect table and returns that descriptor.
///
/// `read` copies one descriptor out of the table. All checks use this copy, so it does not matter
/// if the guest changes the table meanwhile or if a buffer overlaps the table.
#[inline]
fn walk<M: GuestMemoryBackend + 'static>(
    read: impl Fn(u16) -> Option<Descriptor>,
    mut index: u16,
    budget: &mut Budget,
    buffers: &mut Translator<M>,
    into: &mut Chain<M>,
) -> Result<Option<Descriptor>, Wrong> {
    loop {
        let descriptor = read(index).ok_or(Wrong::Next(index))?;
        if descriptor.has(Descriptor::INDIRECT) {
            return Ok(Some(descriptor));
        }
        // One counter detects both a loop and a chain that is too long.
        budget.left = budget.left.checked_sub(1).ok_or(Wrong::Length(budget.limit))?;
        if descriptor.has(Descriptor::WRITE) {
            into.add_writable(buffers, descriptor.addr, descriptor.len).map_err(Wrong::Buffer)?;
        } else if into.writable().is_empty() {
            into.add_readable(buffers, descriptor.addr, descriptor.len).map_err(Wrong::Buffer)?;
        } else {
            return Err(Wrong::Buffer(QueueError::ReadableAfterWritable));
        }
        if !descriptor.has(Descriptor::NEXT) {
            return Ok(None);
        }
        index = descriptor.next;
    }
}
