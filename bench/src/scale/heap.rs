//! How much of the heap is in use.
#![expect(unsafe_code, reason = "mallinfo2(3) is a libc call")]

/// Bytes that are allocated with malloc(3) in this process. `None` without glibc 2.33's
/// mallinfo2(3).
///
/// A counting allocator would slow down every allocation of the code that is measured.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn bytes_in_use() -> Option<u64> {
    // SAFETY: no arguments; returns a plain structure. The counters of other threads' arenas may be
    // inconsistent, so nothing else allocates while they are compared.
    let info = unsafe { libc::mallinfo2() };
    Some((info.uordblks + info.hblkhd) as u64)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn bytes_in_use() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::bytes_in_use;

    #[test]
    fn allocated_memory_is_counted_until_it_is_freed() {
        // Larger than what other tests of this process can allocate meanwhile.
        const BYTES: u64 = 1 << 30;
        let Some(before) = bytes_in_use() else { return };
        let much = std::hint::black_box(Vec::<u8>::with_capacity(BYTES as usize));
        let during = bytes_in_use().unwrap();
        drop(much);
        let after = bytes_in_use().unwrap();
        assert!(during.saturating_sub(before) >= BYTES / 2, "{before} {during}");
        assert!(during.saturating_sub(after) >= BYTES / 2, "{during} {after}");
    }
}
