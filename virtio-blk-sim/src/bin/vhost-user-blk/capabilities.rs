//! `--print-capabilities`: what management software such as libvirt asks a vhost-user program
//! before it uses it (QEMU's docs/interop/vhost-user.rst, "Backend program conventions", and
//! vhost-user.json).

use std::ffi::OsStr;
use std::io::{self, Write};

use serde::Serialize;

const OPTION: &str = "--print-capabilities";

#[derive(Debug, Serialize)]
struct Capabilities {
    r#type: &'static str,
    /// Options of the program that the conventions name.
    features: &'static [&'static str],
}

const CAPABILITIES: Capabilities = Capabilities { r#type: "block", features: &["read-only", "blk-file"] };

/// Returns true if the command line asks for the capabilities. Then all else on it is ignored, as
/// the conventions say, even if it is wrong.
pub(crate) fn are_asked_for() -> bool {
    let mut options = std::env::args_os().skip(1).take_while(|argument| argument != OsStr::new("--"));
    options.any(|argument| argument == OsStr::new(OPTION))
}

/// Writes them to stdout, as JSON.
pub(crate) fn print() -> io::Result<()> {
    let mut json = serde_json::to_vec_pretty(&CAPABILITIES)?;
    json.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&json)?;
    stdout.flush()
}
