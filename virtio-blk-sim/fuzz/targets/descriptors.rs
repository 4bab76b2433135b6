//! The open file descriptors of this process.

/// The descriptors that were open at some moment.
pub(crate) struct Descriptors(Vec<String>);

impl Descriptors {
    pub(crate) fn open_now() -> Self {
        // Includes the descriptor of the directory itself.
        let mut names: Vec<_> = std::fs::read_dir("/proc/self/fd")
            .expect("/proc is mounted")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Self(names)
    }

    /// Panics if others are open now.
    pub(crate) fn assert_no_others(&self) {
        // Another thread of a test process may have a descriptor open for a moment, so try again.
        let others = |_| Self::open_now().0.into_iter().filter(|fd| !self.0.contains(fd)).collect::<Vec<_>>();
        let leaked = (0..100).map(others).find(Vec::is_empty).unwrap_or_else(|| others(100));
        let what = |fd: &String| std::fs::read_link(format!("/proc/self/fd/{fd}"));
        let named: Vec<_> = leaked.iter().map(|fd| (fd, what(fd))).collect();
        assert!(leaked.is_empty(), "leaked file descriptors: {named:?}; open before: {:?}", self.0);
    }
}
