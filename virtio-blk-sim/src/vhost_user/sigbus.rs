//! Survives a peer that truncates shared memory: a process-wide SIGBUS guard for registered
//! mappings.
//!
//! A frontend can truncate its memory file after it was mapped here. (memfd seals prevent that, but
//! not every frontend sets them, and other files have none.) A file system can also run out of
//! pages to back a hole. The next access to such a page raises SIGBUS (mmap(2), "SIGBUS"). Its
//! default action ends the process, and with it the disks of all other guests. If the mapping has a
//! [`Guard`], the signal handler maps an anonymous zero page in place of the missing one, marks the
//! mapping as broken, and the access continues. The owner of the mapping checks
//! [`Guard::is_broken`] after each batch, and closes the connection if it is set.
//!
//! Accesses by the kernel on behalf of this process (preadv(2), an io_uring operation) raise no
//! signal. They fail with EFAULT, which becomes the I/O error of the request.
//!
//! # Why this is sound in a signal handler
//!
//! **What the handler does.** It reads a fixed table of atomics and calls mmap(2). To pass a signal
//! on, it calls signal(2), raise(3), or another handler. It does not allocate, lock, format, or
//! panic, and it restores `errno`. mmap is not on POSIX's list of safe functions
//! (signal-safety(7)), but on Linux it is a plain system call that shares no state with other
//! library calls. Also, the signal is synchronous: it interrupts a load or store to guest memory,
//! never a library function that holds a lock.
//!
//! **The entry of a faulting address does not change while the handler reads it.** Code that
//! accesses a mapping keeps it alive (the contract of [`Guard::new`]). So the mapping was
//! registered before the access and stays registered until after it, and the thread sees the
//! registration, because it got the pointer from the owner. Entries of *other* mappings may change
//! on other threads meanwhile. Each entry has a version that changes before and after its fields do
//! (a seqlock), so the handler never mixes the fields of two registrations.
//!
//! **No unrelated page is replaced.** The new page lies inside a registered range. A guard is
//! dropped before its mapping is unmapped, so a range in the table is never address space that the
//! kernel has reused for another mapping.
//!
//! **The access succeeds when repeated.** After the handler returns, the CPU repeats the access and
//! finds the anonymous page, which is readable and writable. If two threads fault on the same page,
//! both replace it. This does no harm, because the content of a broken mapping is meaningless.
//!
//! **The number of signals is bounded.** The first fault in a mapping replaces one page, so that
//! pages that still exist stay shared with the guest. From the second fault on, everything from the
//! faulting page to the end of the mapping is replaced. A copy over gigabytes of missing pages thus
//! costs two signals instead of one per page, and creates few mappings, far below the limit
//! (`vm.max_map_count`).
#![expect(
    unsafe_code,
    reason = "signal handlers and the mappings they repair are beyond what safe Rust can say"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Maximum number of guarded mappings: enough for eight connections that use all their memory
/// slots, or 256 with one mapping each.
const CAPACITY: usize = 256;

static TABLE: [Entry; CAPACITY] = [const { Entry::new() }; CAPACITY];

/// Number of times that the handler has replaced pages, in any mapping.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Serialises the writers of `TABLE`. The value tells whether the handler is installed.
static WRITERS: Mutex<bool> = Mutex::new(false);

/// The previous action for SIGBUS. Set before the handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Why a mapping could not be guarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The table is full.
    #[error("{CAPACITY} mappings are already guarded against SIGBUS; disconnect a frontend first")]
    Full,
    /// sigaction(2) failed.
    #[error("cannot install a handler for SIGBUS: {0}")]
    Handler(#[source] io::Error),
}

/// A guarded mapping. Dropping the guard, on any thread, ends the protection.
#[derive(Debug)]
pub struct Guard {
    entry: &'static Entry,
}

impl Guard {
    /// Guards the `len` bytes at `start`, in all threads of the process. `page` is the page size of
    /// the mapping. It is a power of two, and `start` and `len` are multiples of it. On hugetlbfs
    /// it is larger than usual, because only whole huge pages of a mapping can be replaced.
    ///
    /// The first call installs the signal handler. Does not block.
    ///
    /// # Errors Returns [`GuardError::Full`], or the error of sigaction(2).
    ///
    /// # Safety The bytes are one or more shared mappings owned by the caller, readable and
    /// writable. They must stay mapped until the guard has been dropped, and must not be accessed
    /// before the guard exists or after it was dropped. Nothing may rely on their content in a way
    /// that zeroes could break, because any page may be replaced at any time.
    pub unsafe fn new(start: *mut u8, len: usize, page: usize) -> Result<Self, GuardError> {
        let start = start.addr();
        debug_assert!(page.is_power_of_two() && start.is_multiple_of(page) && len.is_multiple_of(page));
        let mut installed = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        if !*installed {
            install().map_err(GuardError::Handler)?;
            *installed = true;
        }
        let entry = TABLE.iter().find(|entry| entry.is_free()).ok_or(GuardError::Full)?;
        entry.occupy(start, start + len, page);
        Ok(Self { entry })
    }

    /// Returns true if a page of the mapping was missing when it was accessed. The page is then
    /// replaced by zeroes, and data that this process writes there is lost. Once true, it stays
    /// true.
    ///
    /// Accesses of this thread are reflected at once, those of another thread after a
    /// synchronisation with that thread.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.entry.broken.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _writer = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        self.entry.vacate();
    }
}

/// Returns how often pages were replaced in this process, in any mapping. As long as it is 0, no
/// guard is broken, so one load can replace a check of each guard.
#[inline]
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Acquire)
}

/// One entry of the table.
#[derive(Debug)]
struct Entry {
    /// Odd while the fields below describe a mapping. Changes before and after the fields do.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    broken: AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn is_free(&self) -> bool {
        self.version.load(Ordering::Relaxed).is_multiple_of(2)
    }

    /// Registers a mapping. The caller holds `WRITERS`, and the entry is free.
    fn occupy(&self, start: usize, end: usize, page: usize) {
        // Pairs with the fence in `covers`: a reader that sees one of the stores below also sees,
        // after its fence, that the version has changed since it began.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        self.next_version();
    }

    /// Removes the mapping. The caller holds `WRITERS`, and the entry is not free.
    fn vacate(&self) {
        self.next_version();
    }

    fn next_version(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    /// Returns the end and the page size of the mapping if it contains `addr`. Wait-free, because
    /// the signal handler calls it.
    fn covers(&self, addr: usize) -> Option<(usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        if version.is_multiple_of(2) {
            return None;
        }
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = self.version.load(Ordering::Relaxed) == version;
        (stable && (start..end).contains(&addr)).then_some((end, page))
    }
}

/// Installs the handler and saves the previous action. Called under the lock of `WRITERS`, until it
/// has succeeded once.
fn install() -> io::Result<()> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is passed, and the old one is written to `old`.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), old.as_mut_ptr()) })?;
    // SAFETY: sigaction succeeded, so `old` is initialised.
    let old = unsafe { old.assume_init() };
    // Set `PREVIOUS` first, because the handler needs it. (It is already set if the call below
    // failed before.)
    let previous = PREVIOUS.get_or_init(|| old);
    let new = libc::sigaction {
        sa_sigaction: on_sigbus as extern "C" fn(_, _, _) as usize,
        // SA_ONSTACK: the previous handler may need the alternate stack, as that of Rust's runtime
        // does.
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & libc::SA_RESTART),
        ..*previous
    };
    // SAFETY: `new` is a complete sigaction, and its handler is signal-safe as described at the top
    // of this file.
    check(unsafe { libc::sigaction(libc::SIGBUS, &new, ptr::null_mut()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The signal handler. All functions below run in it.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // BUS_ADRERR is a missing page. BUS_MCEERR_AR is a page lost by a hardware memory error, which
    // is handled in the same way.
    let missing = matches!(code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR);
    if missing {
        // SAFETY: si_addr is set for these codes (sigaction(2)).
        let addr = unsafe { (*info).si_addr() };
        if replace_page(addr.addr()) {
            return;
        }
    }
    // BUS_MCEERR_AO and a signal from kill(2) are not caused by an access of this thread.
    pass_on(signal, info, context, missing || code == libc::BUS_ADRALN);
}

/// Maps anonymous memory in place of the missing page at `addr`. Returns false if the address is in
/// no guarded mapping, or if no memory is available.
fn replace_page(addr: usize) -> bool {
    let Some((entry, (end, page))) =
        TABLE.iter().find_map(|entry| entry.covers(addr).map(|mapping| (entry, mapping)))
    else {
        return false;
    };
    // Both ends of the mapping are multiples of the page size, a power of two, so the page lies
    // inside it.
    let from = addr & !(page - 1);
    let again = entry.broken.swap(true, Ordering::AcqRel);
    let len = if again { end - from } else { page };
    // SAFETY: __errno_location returns the address of this thread's errno, which is always valid.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the range lies in a guarded mapping. Its owner guarantees that any page of it may be
    // replaced (the contract of `Guard::new`), and it is alive, because it is being accessed.
    let mapped = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(from),
            len,
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

/// Passes a signal that this handler does not handle to the previous action. `access` means that an
/// instruction caused the signal and will fault again.
///
/// The previous handler may reset the disposition to the default and return, as that of Rust's
/// runtime does if there was no stack overflow. This also removes our handler, but the process is
/// about to end then.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, access: bool) {
    let previous = PREVIOUS.get();
    let (handler, flags) = previous.map_or((libc::SIG_DFL, 0), |old| (old.sa_sigaction, old.sa_flags));
    match handler {
        // A fault cannot be ignored: with SIG_IGN the kernel ends the process too (sigaction(2),
        // NOTES).
        libc::SIG_IGN if !access => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: signal(2) with a constant disposition.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !access {
                // The signal is blocked in this handler, so it is delivered when the handler
                // returns. A faulting access needs no raise: it faults again, and the core dump
                // shows where.
                // SAFETY: raise has no preconditions.
                unsafe { libc::raise(signal) };
            }
        }
        handler if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: a handler installed with SA_SIGINFO is a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: a handler installed without SA_SIGINFO is a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_its_mapping_until_vacated() {
        let entry = Entry::new();
        assert!(entry.is_free() && entry.covers(0).is_none());
        entry.occupy(0x4000, 0x6000, 0x1000);
        assert!(!entry.is_free());
        for (addr, inside) in [(0x3fff, false), (0x4000, true), (0x5fff, true), (0x6000, false), (0, false)] {
            assert_eq!(entry.covers(addr), inside.then_some((0x6000, 0x1000)), "{addr:#x}");
        }
        entry.broken.store(true, Ordering::Relaxed);
        entry.vacate();
        assert!(entry.is_free() && entry.covers(0x4000).is_none());
        entry.occupy(0x4000, 0x6000, 0x1000);
        assert!(!entry.broken.load(Ordering::Relaxed), "a new mapping is not broken");
    }

    #[test]
    fn the_fields_of_two_successive_mappings_are_never_mixed() {
        // Both cover the address below. So would a mix of the start of one and the end of the
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
            // Run until both were seen often, or long enough on a machine that never shows one of
            // them.
            for _ in 0..20_000_000 {
                if let Some(found) = entry.covers(0x5800) {
                    let which = MAPPINGS.iter().position(|&(_, end, page)| found == (end, page));
                    let Some(which) = which else {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{found:x?} is neither");
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
