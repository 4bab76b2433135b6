//! Shared by the tests of the binary: the command, and a directory for its files.

use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Returns the command of the binary with these arguments and empty standard input.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A directory of the test's own, removed at its end.
pub(crate) struct Directory(TempDir);

impl Directory {
    /// Creates a directory whose name contains `name`.
    pub(crate) fn new(name: &str) -> Self {
        Self(TempDir::with_prefix(format!("bench-{name}-")).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().to_owned()
    }
}
