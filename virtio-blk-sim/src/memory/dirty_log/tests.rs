use vm_memory::MmapRegion;

use super::*;

/// Anonymous memory as a log.
struct Anonymous(MmapRegion);

impl LogOwner for Anonymous {}

fn log(len: usize) -> (DirtyLog, Arc<Anonymous>) {
    let owner = Arc::new(Anonymous(MmapRegion::new(len + 64).unwrap()));
    // SAFETY: the owner keeps these bytes mapped, and only the tests read them.
    let log = unsafe { DirtyLog::from_raw(owner.0.as_ptr(), len, owner.clone()) };
    (log.unwrap(), owner)
}

/// Reads the bits as the specification defines them, and 64 bytes after them.
fn pages(log: &DirtyLog) -> Vec<u64> {
    let bit = |page: u64| {
        // SAFETY: the mapping has 64 bytes after the log. Nothing writes at the same time.
        let byte = unsafe { log.bits.wrapping_add((page / 8) as usize).read_volatile() };
        byte & 1 << (page % 8) != 0
    };
    (0..PER_BYTE * (log.len as u64 + 64)).filter(|&page| bit(page)).collect()
}

#[test]
fn each_page_that_is_touched_is_marked_and_no_other() {
    // 3 words and 5 bytes: 232 pages.
    let cases = [
        (0, 1),
        (4095, 1),
        (4095, 2),
        (4096, 4096),
        (62 * 4096, 3 * 4096),
        (10 * 4096 + 5, 150 * 4096),
        (191 * 4096, 2 * 4096),
        (190 * 4096, 30 * 4096),
        (195 * 4096 + 1, 4096),
        (199 * 4096, 10 * 4096),
        (231 * 4096, 4096),
        (0, 232 * 4096),
    ];
    for (addr, len) in cases {
        let (log, _owner) = log(29);
        assert!(log.mark(addr, len), "{len} at {addr}");
        let expected: Vec<_> = (addr / 4096..=(addr + len - 1) / 4096).collect();
        assert_eq!(pages(&log), expected, "{len} at {addr}");
    }
}

#[test]
fn marks_are_kept_and_added() {
    let (log, _owner) = log(16);
    for (addr, len) in [(4096, 1), (3 * 4096, 4096), (4096, 8192), (70 * 4096, 1)] {
        assert!(log.mark(addr, len));
    }
    assert_eq!(pages(&log), [1, 2, 3, 70]);
}

#[test]
fn a_page_beyond_the_end_is_an_error_and_nothing_is_written() {
    let (log, _owner) = log(3);
    for (addr, len) in [(24 * 4096, 1), (23 * 4096, 4097), (u64::MAX, 1), (u64::MAX, 2), (0, u64::MAX)] {
        assert!(!log.mark(addr, len), "{len} at {addr}");
    }
    assert!(pages(&log).is_empty());
    assert!(log.covers(24 * 4096) && log.covers(0) && !log.covers(24 * 4096 + 1) && !log.covers(u64::MAX));
    // No bytes have no page, wherever they are.
    assert!(log.mark(u64::MAX, 0));
    assert!(pages(&log).is_empty());
}

#[test]
fn a_log_starts_at_a_multiple_of_eight() {
    let owner = Arc::new(Anonymous(MmapRegion::new(64).unwrap()));
    for offset in 0..16 {
        // SAFETY: the owner keeps these bytes mapped.
        let log = unsafe { DirtyLog::from_raw(owner.0.as_ptr().wrapping_add(offset), 8, owner.clone()) };
        assert_eq!(log.is_some(), offset % 8 == 0);
    }
}

/// Two threads set the bits of one word at the same time, round after round, and the bits are
/// taken.
#[test]
fn no_mark_is_lost_between_threads() {
    const ROUNDS: u64 = 100_000;
    let (log, _owner) = log(8);
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let wait = |counter: &AtomicU64, value| {
        for spins in 0_u32.. {
            if counter.load(Ordering::Acquire) >= value {
                return;
            }
            if spins % 1000 == 999 {
                std::thread::yield_now();
            }
        }
    };
    let write = |first: u64| (0..32).for_each(|page| assert!(log.mark((2 * page + first) * 4096, 1)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                wait(&begun, round);
                write(1);
                done.store(round, Ordering::Release);
            }
        });
        for round in 1..=ROUNDS {
            begun.store(round, Ordering::Release);
            write(0);
            wait(&done, round);
            let bits = u64::from_le(log.word(0).swap(0, Ordering::AcqRel));
            if bits != u64::MAX {
                // Let the other one end.
                begun.store(ROUNDS, Ordering::Release);
                panic!("round {round}: {bits:#x}");
            }
        }
    });
}
