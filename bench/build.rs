//! Hands the compiler's version to the crate, for the header of every report.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo names the compiler it is about to use in RUSTC. A report without a version is still a
    // report.
    let Some(rustc) = env::var_os("RUSTC") else { return };
    let Ok(output) = Command::new(rustc).arg("--version").output() else {
        return;
    };
    if let Ok(version) = String::from_utf8(output.stdout) {
        println!("cargo::rustc-env=BENCH_RUSTC={}", version.trim());
    }
}
