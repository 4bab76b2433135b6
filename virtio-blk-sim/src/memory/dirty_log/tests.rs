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

/// A reader takes the bits while two writers set those of the same words, each bit once.
#[test]
fn no_mark_is_lost_between_threads() {
    const WORDS: u64 = 8192;
    let (log, _owner) = log(8 * WORDS as usize);
    let taken = std::thread::scope(|scope| {
        let write = |first| (0..32 * WORDS).for_each(|page| assert!(log.mark((2 * page + first) * 4096, 1)));
        let writers = [0, 1].map(|first| scope.spawn(move || write(first)));
        let mut taken = vec![0; WORDS as usize];
        let mut last = false;
        while !std::mem::replace(&mut last, writers.iter().all(|writer| writer.is_finished())) || !last {
            for (taken, word) in taken.iter_mut().zip(0..) {
                *taken |= log.word(word).swap(0, Ordering::AcqRel);
            }
        }
        taken
    });
    let missing: Vec<_> = taken.iter().zip(0..).filter(|(word, _)| **word != u64::MAX).collect();
    assert!(missing.is_empty(), "{missing:x?}");
}
