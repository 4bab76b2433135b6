//! Outliving a peer that takes shared memory away: a process-wide SIGBUS guard for registered
//! mappings.
//!
//! A frontend can truncate its memory's file after we have mapped it (memfd seals would forbid
//! that, but not every frontend sets them, and other files have none), and a file system can run
//! out of pages to back a hole. The next access of ours to such a page is a SIGBUS (mmap(2),
//! "SIGBUS"), whose default action ends the process and with it everybody else's disk. With a
//! [`Guard`] on the mapping, the handler puts an anonymous page of zeroes where the page was
//! missing, notes that the mapping is broken, and the access goes on. Whoever owns the mapping
//! looks at [`Guard::is_broken`] after each batch, and hangs up.
//!
//! Accesses by the kernel on our behalf (preadv(2), an operation of io_uring) raise no signal; they
//! fail with EFAULT, which is the request's I/O error.
//!
//! # Why this is sound in a signal handler
//!
//! **What the handler does.** It reads a fixed table of atomics, calls mmap(2) and, to pass a
//! signal on, sigaction(2), raise(3) or another handler. No allocation, no lock, no formatting, no
//! panic; `errno` is put back. mmap is not on POSIX's list (signal-safety(7)), but on Linux it is a
//! bare system call that shares no state with other library calls. Besides, the signal is
//! synchronous: what it interrupts is a load or store to guest memory, never a library function
//! that holds a lock.
//!
//! **The entry of a faulting address does not change while the handler looks.** Whoever accesses a
//! mapping keeps it alive (the contract of [`Guard::new`]): so it was registered before the access,
//! the owner's hold being what carries the pointer to the thread, and stays so until after it.
//! Entries of *other* mappings may come and go on other threads meanwhile. Each entry has a version
//! that changes before its fields do and again after (a seqlock), so a mix of two registrations is
//! never taken for one.
//!
//! **No page of somebody else is replaced.** The new page lies inside a registered range. A guard
//! is dropped before its mapping is unmapped, so a range in the table is never address space that
//! the kernel has given to somebody else.
//!
//! **The access finds memory.** It is repeated by the CPU after the handler returns and finds the
//! anonymous page, readable and writable. Two threads that fault on one page both replace it; the
//! later page is as good as the earlier, for what a broken mapping holds means nothing any more.
//!
//! **It ends.** The first fault of a mapping replaces one page, so that pages which are still good
//! stay the guest's. From the second on everything behind the fault goes too: a copy over gigabytes
//! of missing pages costs two signals, not one for each page, and the replaced pages are few
//! mappings and not up to the limit (`vm.max_map_count`).
#![expect(
    unsafe_code,
    reason = "signal handlers and the mappings they repair are beyond what safe Rust can say"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Mappings that can be guarded at a time: eight connections with all their memory slots, or 256
/// with one each.
const CAPACITY: usize = 256;

static TABLE: [Entry; CAPACITY] = [const { Entry::new() }; CAPACITY];

/// Times the handler has replaced pages, in any mapping.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Serialises the writers of `TABLE`. True: the handler is installed.
static WRITERS: Mutex<bool> = Mutex::new(false);

/// What was to happen on SIGBUS before; set before the handler is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Why a mapping is not guarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The table is full.
    #[error("{CAPACITY} mappings are guarded against SIGBUS already: disconnect a frontend first")]
    Full,
    /// sigaction(2) failed.
    #[error("cannot install a handler for SIGBUS: {0}")]
    Handler(#[source] io::Error),
}

/// One mapping under guard. Dropping it, on any thread, ends that.
#[derive(Debug)]
pub struct Guard {
    entry: &'static Entry,
}

impl Guard {
    /// Guards the `len` bytes at `start` from now on, in every thread of the process. `page` is the
    /// size of the mapping's pages, a power of two of which start and length are multiples: more
    /// than usual on hugetlbfs, where a mapping can only be replaced by whole pages.
    ///
    /// The first call installs the signal handler. Does not block.
    ///
    /// # Errors
    /// [`GuardError::Full`], or what sigaction(2) says.
    ///
    /// # Safety
    /// The bytes are one mapping (or several) of the caller's, made for sharing, readable and
    /// writable. It stays mapped until the guard has been dropped, nobody accesses it before the
    /// guard is there or after it is dropped, and nobody relies on its content in any way that
    /// zeroes could break: any page of it may be replaced at any time.
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

    /// Whether a page of the mapping was missing when it was accessed: zeroes are in its place, and
    /// what this process writes there reaches nobody. Stays so.
    ///
    /// An access of this thread counts at once; one of another thread once this thread has heard
    /// from it.
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

/// How often pages have been replaced in this process, in whatever mapping. While it stays 0 no
/// guard is broken: one load instead of a look at each.
#[inline]
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Acquire)
}

/// A place in the table.
#[derive(Debug)]
struct Entry {
    /// Odd: the fields below describe a mapping. Changes before they do and after.
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

    /// The caller holds `WRITERS`, and the entry is free.
    fn occupy(&self, start: usize, end: usize, page: usize) {
        // Pairs with the fence in `covers`: a reader that sees one of the stores below sees, after
        // its fence, that the version is no longer the one that it began with.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        self.next_version();
    }

    /// The caller holds `WRITERS`, and the entry is not free.
    fn vacate(&self) {
        self.next_version();
    }

    fn next_version(&self) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    /// Where the mapping ends and its page size, if it contains `addr`. Wait-free, for the signal
    /// handler.
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

/// Installs the handler and remembers what was there. Called once, under the lock of `WRITERS`.
fn install() -> io::Result<()> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given; the old one is written to `old`.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), old.as_mut_ptr()) })?;
    // SAFETY: sigaction has succeeded, so `old` is written.
    let old = unsafe { old.assume_init() };
    // A handler must not find `PREVIOUS` empty, so it goes first. (It is set already if the call
    // below failed before.)
    let previous = PREVIOUS.get_or_init(|| old);
    let new = libc::sigaction {
        sa_sigaction: on_sigbus as extern "C" fn(_, _, _) as usize,
        // SA_ONSTACK: the handler we pass on to may need the alternate stack, as Rust's own does.
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | (previous.sa_flags & libc::SA_RESTART),
        ..*previous
    };
    // SAFETY: `new` is a whole sigaction, and its handler keeps to what the head of this file
    // promises.
    check(unsafe { libc::sigaction(libc::SIGBUS, &new, ptr::null_mut()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The handler. Everything below runs in it.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // BUS_ADRERR is the missing page; BUS_MCEERR_AR a page that the hardware lost, which is as
    // gone.
    let missing = matches!(code, libc::BUS_ADRERR | libc::BUS_MCEERR_AR);
    if missing {
        // SAFETY: si_addr is set for these codes (sigaction(2)).
        let addr = unsafe { (*info).si_addr() };
        if replace_page(addr.addr()) {
            return;
        }
    }
    // BUS_MCEERR_AO and a signal from kill(2) stand for no access of this thread's.
    pass_on(signal, info, context, missing || code == libc::BUS_ADRALN);
}

/// Puts anonymous memory where the page of `addr` is missing. False if it is in no guarded mapping,
/// or if there is no memory.
fn replace_page(addr: usize) -> bool {
    let Some((entry, (end, page))) =
        TABLE.iter().find_map(|entry| entry.covers(addr).map(|mapping| (entry, mapping)))
    else {
        return false;
    };
    // Both ends of the mapping are multiples of the page size, a power of two: the page is inside.
    let from = addr & !(page - 1);
    let again = entry.broken.swap(true, Ordering::AcqRel);
    let len = if again { end - from } else { page };
    // SAFETY: __errno_location gives this thread's errno, always valid.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the range lies in a guarded mapping, whose owner has promised that any page of it may
    // be replaced (the contract of `Guard::new`) and which is alive, since it is being accessed.
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

/// Does with a signal that is not ours what would have been done without us. `access`: it stands
/// for an instruction that will fault again.
///
/// A handler that resets the disposition to the default and returns, as Rust's own does for what is
/// not a stack overflow, takes our handler away with it; the process is about to end then.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, access: bool) {
    let previous = PREVIOUS.get();
    let (handler, flags) = previous.map_or((libc::SIG_DFL, 0), |old| (old.sa_sigaction, old.sa_flags));
    match handler {
        // A fault cannot be ignored: the kernel ends the process then too (sigaction(2), NOTES).
        libc::SIG_IGN if !access => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: signal(2) with a constant disposition.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !access {
                // Blocked while this handler runs, so it is delivered when it returns. An access
                // needs no help: it faults again, and a core dump shows where. SAFETY: raise has no
                // preconditions.
                unsafe { libc::raise(signal) };
            }
        }
        handler if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it with SA_SIGINFO gave a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: whoever installed it without SA_SIGINFO gave a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_its_mapping_while_it_is_there() {
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
        assert!(!entry.broken.load(Ordering::Relaxed), "the next mapping is whole");
    }

    #[test]
    fn two_mappings_one_after_another_are_never_mixed() {
        // Each covers the address below, the start of one with the end of the other would too.
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
            // Until both have been seen often, or long enough on a machine that never shows one.
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
