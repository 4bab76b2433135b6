//! An allocator that sees writes into freed memory.
//!
//! While it is on, a freed block of up to [`LARGEST`] bytes is filled with a pattern and kept. It
//! is not handed out again before [`end`], which reports every block whose pattern has changed
//! and then gives all blocks back. Only a kernel that still holds a pointer, or a stale pointer
//! in this process, can change one.
#![expect(unsafe_code, reason = "a global allocator; it reads and fills blocks that it owns")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The largest block that is kept, in bytes. Buffers of operations, the counts that ring reads
/// fill (8 bytes) and the group of buffers of multishot reads are all below it.
const LARGEST: usize = 16 << 10;

/// How many blocks can be kept.
const CAPACITY: usize = 1 << 15;

const PATTERN: u8 = 0xdb;

struct Block {
    start: AtomicUsize,
    size: AtomicUsize,
    align: AtomicUsize,
}

static BLOCKS: [Block; CAPACITY] =
    [const { Block { start: AtomicUsize::new(0), size: AtomicUsize::new(0), align: AtomicUsize::new(1) } };
        CAPACITY];
static KEPT: AtomicUsize = AtomicUsize::new(0);
static ON: AtomicBool = AtomicBool::new(false);
/// Guards `BLOCKS` and `KEPT`. A spin lock, because a mutex might allocate.
static LOCK: AtomicBool = AtomicBool::new(false);

fn locked<R>(work: impl FnOnce() -> R) -> R {
    while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        std::hint::spin_loop();
    }
    let result = work();
    LOCK.store(false, Ordering::Release);
    result
}

pub(crate) struct Quarantine;

#[global_allocator]
static ALLOCATOR: Quarantine = Quarantine;

// SAFETY: the system's allocator, except that some blocks are given back to it later. The default
// methods for zeroing and growing go through `alloc` and `dealloc`.
unsafe impl GlobalAlloc for Quarantine {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let wanted = ON.load(Ordering::Relaxed) && layout.size() <= LARGEST;
        let kept = wanted
            && locked(|| {
                let index = KEPT.load(Ordering::Relaxed);
                let Some(slot) = BLOCKS.get(index) else { return false };
                // SAFETY: the caller gives the block up, and it has this size.
                unsafe { block.write_bytes(PATTERN, layout.size()) };
                slot.start.store(block as usize, Ordering::Relaxed);
                slot.size.store(layout.size(), Ordering::Relaxed);
                slot.align.store(layout.align(), Ordering::Relaxed);
                KEPT.store(index + 1, Ordering::Relaxed);
                true
            });
        if !kept {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

/// Blocks that are freed from here on are kept.
pub(crate) fn begin() {
    ON.store(true, Ordering::SeqCst);
}

/// A block that was written to after it had been freed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Its size in bytes.
    pub(crate) size: usize,
    /// How many of its bytes have changed.
    pub(crate) changed: usize,
}

/// Keeps no more blocks, and gives back those it has kept. Returns those that were written to, the
/// largest change first; `None` if there were more blocks than could be kept.
pub(crate) fn end() -> Option<Vec<Written>> {
    ON.store(false, Ordering::SeqCst);
    // Outside of the lock, which `dealloc` takes when a vector grows.
    let kept = locked(|| KEPT.load(Ordering::Relaxed));
    let mut written = Vec::new();
    for block in BLOCKS.iter().take(kept) {
        let (start, size) =
            (block.start.load(Ordering::Relaxed) as *mut u8, block.size.load(Ordering::Relaxed));
        let is_changed = |offset: &usize| {
            // SAFETY: within a block of this size that has not been given back. Volatile, because
            // the point of the check is that somebody else may write to it.
            unsafe { start.add(*offset).read_volatile() != PATTERN }
        };
        let changed = (0..size).filter(is_changed).count();
        if changed != 0 {
            written.push(Written { size, changed });
        }
        if let Ok(layout) = Layout::from_size_align(size, block.align.load(Ordering::Relaxed)) {
            // SAFETY: came from `System` with this layout, and is given back only here.
            unsafe { System.dealloc(start, layout) };
        }
    }
    locked(|| KEPT.store(0, Ordering::Relaxed));
    written.sort_by_key(|w| std::cmp::Reverse(w.changed));
    (kept < CAPACITY).then_some(written)
}

#[test]
fn a_write_into_freed_memory_is_seen() {
    const OFFSET: usize = 100;
    let _alone = crate::alone();
    begin();
    let block = vec![0u8; 4096];
    let start = block.as_ptr() as usize;
    drop(block);
    // SAFETY: the block is kept by the allocator above, so the address is still ours.
    unsafe { ((start + OFFSET) as *mut u8).write_volatile(1) };
    let written = end().expect("a few blocks");
    assert!(written.iter().any(|w| w.size == 4096 && w.changed == 1), "{written:?}");
    begin();
    drop(std::hint::black_box(vec![0u8; 4096]));
    assert!(end().expect("a few blocks").is_empty());
}
