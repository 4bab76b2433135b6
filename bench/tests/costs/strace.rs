//! System calls of a work, seen by strace(1).

use crate::works::{CANNOT, MARKS};
use std::collections::BTreeMap;
use std::process::Command;
use tempfile::NamedTempFile;

/// System calls by name.
pub(crate) type Calls = BTreeMap<String, u64>;

/// How long a run may take, in seconds.
const LIMIT_S: &str = "120";

/// Counts the system calls of the main thread between the marks. The error is the reason why they
/// cannot be counted here.
pub(crate) fn calls(work: &str) -> Result<Calls, String> {
    let trace = NamedTempFile::new().map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Without -f: only the main thread.
    let output = Command::new("timeout")
        .args([LIMIT_S, "strace"])
        .arg("-o")
        .arg(trace.path())
        .arg(program)
        .args(["--work", work])
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    match output.status.code() {
        Some(0) => {}
        Some(code) if code == i32::from(CANNOT) => return Err(said.to_owned()),
        Some(127) => return Err(said.to_owned()),
        _ if said.contains("strace:") => return Err(said.to_owned()),
        _ => panic!("{work}: {} {said}", output.status),
    }
    let trace = std::fs::read_to_string(trace.path()).map_err(|error| error.to_string())?;
    Ok(between_marks(&trace))
}

fn between_marks(trace: &str) -> Calls {
    let (mut calls, mut inside) = (Calls::new(), false);
    for line in trace.lines() {
        if line.contains(MARKS[0]) {
            inside = true;
        } else if line.contains(MARKS[1]) {
            inside = false;
        } else if inside && let Some((name, _)) = line.split_once('(') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}
