//! A process-wide SIGBUS guard for registered mappings: the process survives when a peer takes
//! shared memory away.
//!
//! A frontend can truncate the file of its memory after we have mapped it (memfd seals would forbid
//! that, but not every frontend sets them, and other files have none). A file system can also run
//! out of pages to fill a hole. Our next access to such a page causes a SIGBUS (mmap(2), "SIGBUS").
//! Its default action terminates the process, and with it the disks of all other users. If the
//! mapping has a [`Guard`], the handler maps an anonymous page of zeros in place of the missing
//! page and marks the mapping as broken, and the access continues. The owner of the mapping checks
//! [`Guard::is_broken`] after each batch and closes the connection.
//!
//! Accesses by the kernel on our behalf (preadv(2), an io_uring operation) cause no signal. They
//! fail with EFAULT, which becomes the request's I/O error.
//!
//! # Why this is sound in a signal handler
//!
//! **What the handler does.** It reads a table of atomics that never moves and calls mmap(2). To
//! pass a signal on, it calls sigaction(2), raise(3) or another handler. It does not allocate,
//! lock, format or panic, and it restores `errno`. mmap is not on the POSIX list of async-signal-
//! safe functions (signal-safety(7)), but on Linux it is a bare system call that shares no state
//! with other library calls. Also, the signal is synchronous: it interrupts a load or store to
//! guest memory, and never a library function that holds a lock.
//!
//! **The entry of a faulting address does not change while the handler reads it.** Code that
//! accesses a mapping keeps it alive (the contract of [`Guard::new`]). So the mapping was
//! registered before the access, because a thread can only get the pointer from the owner, and it
//! stays registered until after the access. Entries of *other* mappings may be added and removed by
//! other threads in the meantime. Each entry has a version that changes before its fields change
//! and again afterwards (a seqlock), so a mix of two registrations is never taken for one.
//!
//! **Memory of others is never replaced.** The new page is inside a registered range. A guard is
//! dropped before its mapping is unmapped, so a range in the table is never address space that the
//! kernel has reused for something else.
//!
//! **The access finds memory.** After the handler returns, the CPU repeats the access and finds the
//! anonymous page, which is readable and writable. If two threads fault on the same page, both
//! replace it. That is harmless, because the content of a broken mapping no longer matters.
//!
//! **It terminates.** The first fault of a mapping replaces only one page, so that pages which are
//! still valid remain the guest's. The second replaces everything from the faulting page to the end
//! of the mapping, and the third replaces the whole mapping. So a copy over gigabytes of missing
//! pages costs at most three signals and not one per page, whether it runs forward or backward
//! (memcpy of the C library does either). The replaced pages need only a few mappings, far below
//! the limit (`vm.max_map_count`).
#![expect(
    unsafe_code,
    reason = "signal handlers and the mappings they repair are beyond what safe Rust can say"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Maximum number of guarded mappings: half of what a process can have by default
/// (vm.max_map_count), and enough for 1,000 connections with all their memory slots.
const CAPACITY: usize = CHUNK * CHUNKS;
const CHUNK: usize = 256;
const CHUNKS: usize = 128;

/// The guarded mappings. The table grows by one chunk (10 KiB) at a time and never shrinks, and an
/// entry never moves. `WRITERS` adds a chunk; the handler only loads pointers.
static TABLE: [OnceLock<Box<[Entry; CHUNK]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

/// Number of times that the handler has replaced pages, in any mapping.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Serialises the writers of `TABLE`. Holds whether the handler is installed.
static WRITERS: Mutex<bool> = Mutex::new(false);

/// The previous action for SIGBUS. Set before the handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Why a mapping could not be guarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The table is full.
    #[error("{CAPACITY} mappings are already guarded against SIGBUS: disconnect a frontend first")]
    Full,
    /// sigaction(2) failed.
    #[error("cannot install a handler for SIGBUS: {0}")]
    Handler(#[source] io::Error),
}

/// A guard for one mapping. It ends when it is dropped, on any thread.
#[derive(Debug)]
pub struct Guard {
    entry: &'static Entry,
}

impl Guard {
    /// Guards the `len` bytes at `start`, in every thread of the process. `page` is the page size
    /// of the mapping, a power of two; `start` and `len` must be multiples of it. It is larger than
    /// usual on hugetlbfs, where a mapping can only be replaced in whole pages.
    ///
    /// The first call installs the signal handler. Does not block.
    ///
    /// # Errors
    /// [`GuardError::Full`], or an error of sigaction(2).
    ///
    /// # Safety
    /// The bytes must be one or more mappings that belong to the caller: shared, readable and
    /// writable. They must stay mapped until the guard is dropped. Nobody may access them before
    /// the guard exists or after it is dropped. Nobody may depend on their content in a way that
    /// zeros could break, because any page may be replaced at any time.
    pub unsafe fn new(start: *mut u8, len: usize, page: usize) -> Result<Self, GuardError> {
        let start = start.addr();
        debug_assert!(page.is_power_of_two() && start.is_multiple_of(page) && len.is_multiple_of(page));
        let mut installed = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        if !*installed {
            install().map_err(GuardError::Handler)?;
            *installed = true;
        }
        let entry = match entries().find(|entry| entry.is_free()) {
            Some(entry) => entry,
            None => {
                let chunk = TABLE.iter().find(|chunk| chunk.get().is_none()).ok_or(GuardError::Full)?;
                let [first, ..] = &**chunk.get_or_init(|| Box::new([const { Entry::new() }; CHUNK]));
                first
            }
        };
        entry.occupy(start, start + len, page);
        Ok(Self { entry })
    }

    /// Returns true if a page of the mapping was missing when it was accessed. Zeros are then in
    /// its place, and data that this process writes there is lost. Once true, it stays true.
    ///
    /// A fault of this thread is visible immediately. A fault of another thread is visible once
    /// this thread has synchronised with that thread.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.entry.faults.load(Ordering::Acquire) != 0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _writer = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        self.entry.vacate();
    }
}

/// Returns how often pages were replaced in this process, in any mapping. While it is 0, no guard
/// is broken: one load instead of a check of each guard.
#[inline]
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Acquire)
}

/// All entries of the table. Wait-free, for the signal handler.
fn entries() -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().map_while(OnceLock::get).flat_map(|chunk| chunk.iter())
}

/// One slot of the table.
#[derive(Debug)]
struct Entry {
    /// If odd, the fields below describe a mapping. Changes before and after they are set.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    /// Number of faults in this mapping. If not 0, the mapping is broken.
    faults: AtomicUsize,
}

impl Entry {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
        }
    }

    fn is_free(&self) -> bool {
        self.version.load(Ordering::Relaxed).is_multiple_of(2)
    }

    /// The caller must hold `WRITERS`, and the entry must be free.
    fn occupy(&self, start: usize, end: usize, page: usize) {
        // Pairs with the fence in `covers`: if a reader sees one of the stores below, then after
        // its fence it sees that the version differs from the one that it started with.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.faults.store(0, Ordering::Relaxed);
        self.next_version();
    }

    /// The caller must hold `WRITERS`, and the entry must not be free.
    fn vacate(&self) {
        self.next_version();
    }

    fn next_version(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    /// If the mapping contains `addr`, returns its addresses and its page size. Wait-free, for the
    /// signal handler.
    fn covers(&self, addr: usize) -> Option<(Range<usize>, usize)> {
        let version = self.version.load(Ordering::Acquire);
        if version.is_multiple_of(2) {
            return None;
        }
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = self.version.load(Ordering::Relaxed) == version;
        (stable && (start..end).contains(&addr)).then_some((start..end, page))
    }
}

/// Installs the handler and saves the previous action. Called once, with `WRITERS` locked.
fn install() -> io::Result<()> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is set; the old one is written to `old`.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), old.as_mut_ptr()) })?;
    // SAFETY: sigaction succeeded, so `old` is initialised.
    let old = unsafe { old.assume_init() };
    // `PREVIOUS` is set first, because a handler must not find it empty. (It is already set if the
    // call below failed in an earlier attempt.)
    let previous = PREVIOUS.get_or_init(|| old);
    let new = libc::sigaction {
        sa_sigaction: on_sigbus as extern "C" fn(_, _, _) as usize,
        // SA_ONSTACK: the previous handler may need the alternate stack, as Rust's own handler
        // does.
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & libc::SA_RESTART),
        ..*previous
    };
    // SAFETY: `new` is a complete sigaction, and its handler does only what the module
    // documentation describes.
    check(unsafe { libc::sigaction(libc::SIGBUS, &new, ptr::null_mut()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The signal handler. Everything below runs in it.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // BUS_ADRERR is a missing page. BUS_MCEERR_AR is a page lost through a hardware error, which is
    // handled in the same way.
    let missing = matches!(code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR);
    if missing {
        // SAFETY: si_addr is set for these codes (sigaction(2)).
        let addr = unsafe { (*info).si_addr() };
        if replace_page(addr.addr()) {
            return;
        }
    }
    // BUS_MCEERR_AO and signals from kill(2) are not caused by an access of this thread.
    pass_on(signal, info, context, missing || code == libc::BUS_ADRALN);
}

/// Maps anonymous memory in place of the missing page at `addr`. Returns false if no guarded
/// mapping contains it, or if there is no memory.
fn replace_page(addr: usize) -> bool {
    let Some((entry, (mapping, page))) =
        entries().find_map(|entry| entry.covers(addr).map(|mapping| (entry, mapping)))
    else {
        return false;
    };
    // Both ends of the mapping are multiples of the page size, which is a power of two, so the
    // whole page is inside.
    let from = addr & !(page - 1);
    let replaced = match entry.faults.fetch_add(1, Ordering::AcqRel) {
        0 => from..from + page,
        1 => from..mapping.end,
        _ => mapping,
    };
    // SAFETY: __errno_location returns a pointer to this thread's errno, which is always valid.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the range is inside a guarded mapping. Its owner allows that any page is replaced
    // (the contract of `Guard::new`), and the mapping is alive because it is being accessed.
    let mapped = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(replaced.start),
            replaced.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    FAULTS.fetch_add(1, Ordering::AcqRel);
    mapped != libc::MAP_FAILED
}

/// Handles a signal that is not ours in the way in which the process would handle it without our
/// handler. `access` is true if the signal was caused by an instruction that will fault again.
///
/// A handler that resets the action to the default and returns, as Rust's own does for faults other
/// than a stack overflow, also removes our handler. The process is about to terminate then.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, access: bool) {
    let previous = PREVIOUS.get();
    let (handler, flags) = previous.map_or((libc::SIG_DFL, 0), |old| (old.sa_sigaction, old.sa_flags));
    match handler {
        // A fault cannot be ignored: the kernel terminates the process even with SIG_IGN
        // (sigaction(2), NOTES).
        libc::SIG_IGN if !access => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: signal(2) with a constant disposition.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !access {
                // The signal is blocked while this handler runs, so it is delivered when it
                // returns. For an access this is not needed: the instruction faults again, and a
                // core dump shows where.
                // SAFETY: raise has no preconditions.
                unsafe { libc::raise(signal) };
            }
        }
        handler if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the code that installed it with SA_SIGINFO passed a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the code that installed it without SA_SIGINFO passed a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn an_entry_covers_its_mapping_until_it_is_vacated() {
        let entry = Entry::new();
        assert!(entry.is_free() && entry.covers(0).is_none());
        entry.occupy(0x4000, 0x6000, 0x1000);
        assert!(!entry.is_free());
        for (addr, inside) in [(0x3fff, false), (0x4000, true), (0x5fff, true), (0x6000, false), (0, false)] {
            assert_eq!(entry.covers(addr), inside.then_some((0x4000..0x6000, 0x1000)), "{addr:#x}");
        }
        entry.faults.store(1, Ordering::Relaxed);
        entry.vacate();
        assert!(entry.is_free() && entry.covers(0x4000).is_none());
        entry.occupy(0x4000, 0x6000, 0x1000);
        assert_eq!(entry.faults.load(Ordering::Relaxed), 0, "a new mapping must not be marked as broken");
    }

    #[test]
    fn two_mappings_one_after_another_are_never_mixed() {
        // Both mappings contain the address below. So would the start of one with the end of the
        // other.
        const MAPPINGS: [(usize, usize, usize); 2] = [(0x4000, 0x6000, 0x1000), (0x5000, 0x9000, 0x800)];
        let entry = Entry::new();
        let stop = AtomicBool::new(false);
        let mut seen = [0_u32; 2];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (start, end, page) in MAPPINGS {
                        entry.occupy(start, end, page);
                        entry.vacate();
                    }
                }
            });
            // Runs until both were seen often, or for a fixed number of rounds on a machine that
            // never shows one.
            for _ in 0..20_000_000 {
                if let Some(found) = entry.covers(0x5800) {
                    let which = MAPPINGS.iter().position(|&(start, end, page)| found == (start..end, page));
                    let Some(which) = which else {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{found:x?} is neither of the two mappings");
                    };
                    seen[which] += 1;
                    if seen.iter().all(|&times| times > 2_000) {
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(seen.iter().sum::<u32>() > 0, "{seen:?}");
    }
}
