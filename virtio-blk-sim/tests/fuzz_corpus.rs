//! Runs the fuzz targets on the stored inputs: the corpus, and inputs that caused a crash once. So
//! the findings of the fuzzer are checked on every machine with a stable toolchain.
//! `scripts/fuzz.sh` searches for new inputs.

#[path = "../fuzz/targets/chain.rs"]
mod chain;
#[path = "../fuzz/targets/console.rs"]
mod console;
#[path = "../fuzz/targets/descriptors.rs"]
mod descriptors;
#[path = "../fuzz/targets/device.rs"]
mod device;
#[path = "../fuzz/targets/guest.rs"]
mod guest;
#[path = "../fuzz/targets/messages/mod.rs"]
mod messages;
#[path = "../fuzz/targets/request.rs"]
mod request;
#[path = "../fuzz/targets/rng.rs"]
mod rng;

#[path = "../examples/vhost-user-console.rs"]
#[expect(dead_code, reason = "a program, of which the target uses the device")]
mod console_device;
#[path = "../examples/vhost-user-rng.rs"]
#[expect(dead_code, reason = "a program, of which the target uses the device")]
mod rng_device;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Runs the targets one at a time, because they count the file descriptors of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Prints the name of the input if the target panics.
struct Input(PathBuf);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input: {}", self.0.display());
        }
    }
}

fn replay(target: &str, run: fn(&[u8])) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = |kind: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let mut inputs: Vec<PathBuf> = Vec::new();
    for folder in [kept("corpus"), kept("regressions")] {
        // A target without regressions has no such directory.
        let Ok(files) = std::fs::read_dir(folder) else { continue };
        inputs.extend(files.map(|file| file.unwrap().path()));
    }
    inputs.sort();
    assert!(inputs.len() >= 20, "the corpus of {target} is missing: {} files", inputs.len());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        let _name = Input(input);
        run(&bytes);
    }
}

#[test]
fn chain_corpus() {
    replay("chain", chain::run);
}

#[test]
fn request_corpus() {
    replay("request", request::run);
}

#[test]
fn messages_corpus() {
    replay("messages", messages::run);
}

#[test]
fn rng_corpus() {
    replay("rng", rng::run);
}

#[test]
fn console_corpus() {
    replay("console", console::run);
}
