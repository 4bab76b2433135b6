//! Shared by the tests of the binary: the command, and a directory for its files.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};

/// Returns the command of the binary with these arguments and empty standard input.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A temporary directory for one test, removed on drop.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    /// `name` must be unique among the tests.
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
