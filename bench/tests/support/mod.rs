//! What the tests of the binary need: the binary, and a place for its files.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};

/// The binary with these arguments, and nothing to read.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A directory of the test's own, removed at its end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    /// No other test has this `name`.
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bench-{name}-{}", id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
