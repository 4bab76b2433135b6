//! The file of the costs.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// How much more than noted a cost may be.
const TOLERANCE: f64 = 1.01;
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/costs.toml");

const HEADER: &str = "\
# What the loop and a request cost, as `cargo costs` counts it (bench/tests/costs/main.rs). It fails
# when one has grown by more than 1 % over the number here. A change that needs more writes this
# file again, with `UPDATE_COSTS=1 cargo costs`, and gives the reason in its commit.
#
# For each turn, awaited event or request: instructions of optimised code, without those inside libc
# and the kernel, and system calls by name. The loop does not linger here and the guest uses the
# loop's thread, so these are not the numbers of `bench vhost-user`, where the two run side by side.
";

/// What one turn, event or request costs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Costs {
    pub(crate) instructions: f64,
    /// System calls by name.
    pub(crate) calls: BTreeMap<String, f64>,
}

impl Costs {
    fn all_calls(&self) -> f64 {
        self.calls.values().sum()
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} instructions, {:.3} system calls", self.instructions, self.all_calls())
    }
}

/// The costs of all works, and where they were counted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Ledger {
    /// Version of the compiler, as `rustc --version` prints it.
    rustc: String,
    /// Version of the kernel, without what is particular to a machine: "6.18".
    kernel: String,
    pub(crate) works: BTreeMap<String, Costs>,
}

impl Ledger {
    /// An empty ledger of this compiler and kernel.
    pub(crate) fn of_this_machine() -> Self {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let rustc = Command::new(rustc).arg("--version").output();
        let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel: Vec<_> = release.trim().splitn(3, ['.', '-']).take(2).collect();
        Self { rustc: rustc.unwrap_or_default(), kernel: kernel.join("."), works: BTreeMap::new() }
    }

    /// Reads the file. The error is one line.
    pub(crate) fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(PATH).map_err(|error| format!("{PATH}: {error}"))?;
        toml::from_str(&text).map_err(|error| format!("{PATH}: {error}"))
    }

    /// This ledger with what was counted now. Works that were not counted keep their numbers.
    pub(crate) fn updated_by(mut self, counted: Self) -> Self {
        self.works.extend(counted.works);
        Self { works: self.works, ..counted }
    }

    /// Writes the file. Returns its path. The error is one line.
    pub(crate) fn write(&self) -> Result<&'static str, String> {
        std::fs::write(PATH, self.to_string()).map_err(|error| format!("{PATH}: {error}"))?;
        Ok(Path::new(PATH).to_str().unwrap_or(PATH))
    }

    /// Compares what was counted with this ledger. Returns remarks, and a line for each cost that
    /// has grown.
    pub(crate) fn against(&self, counted: &Self) -> (Vec<String>, Vec<String>) {
        let (mut remarks, mut grown) = (Vec::new(), Vec::new());
        let same_rustc = self.rustc == counted.rustc;
        if !same_rustc {
            remarks.push(format!(
                "skipped: instructions are not compared: the ledger is of {}, and this is {}",
                self.rustc, counted.rustc
            ));
        }
        let same_kernel = self.kernel == counted.kernel;
        if !same_kernel {
            remarks.push(format!(
                "skipped: system calls are not compared: the ledger is of Linux {}, and this is {}",
                self.kernel, counted.kernel
            ));
        }
        for (name, costs) in &counted.works {
            let Some(noted) = self.works.get(name) else {
                grown.push(format!("{name} is not in the ledger"));
                continue;
            };
            for (what, noted, costs, comparable) in [
                ("instructions", noted.instructions, costs.instructions, same_rustc),
                ("system calls", noted.all_calls(), costs.all_calls(), same_kernel),
            ] {
                let line = || format!("{name}: {noted:.3} -> {costs:.3} {what}");
                if comparable && costs > noted * TOLERANCE {
                    grown.push(line());
                } else if comparable && noted > costs * TOLERANCE {
                    remarks.push(format!("{}: less than noted; write the file again to keep it", line()));
                }
            }
        }
        (remarks, grown)
    }
}

/// The file's text.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nrustc = \"{}\"\nkernel = \"{}\"\n\n[works]", self.rustc, self.kernel)?;
        for (name, costs) in &self.works {
            let mut calls = String::new();
            for (index, (call, count)) in costs.calls.iter().enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                write!(calls, "{comma}{call} = {count:.4}")?;
            }
            writeln!(
                f,
                "\"{name}\" = {{ instructions = {:.1}, calls = {{ {calls} }} }}",
                costs.instructions
            )?;
        }
        Ok(())
    }
}
