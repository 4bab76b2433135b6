//! Instructions of a work, counted by callgrind.

use crate::works::CANNOT;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use tempfile::NamedTempFile;

/// Instructions by source file, and those of other programs' code by library.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    files: BTreeMap<String, u64>,
    libraries: BTreeMap<String, u64>,
}

impl Profile {
    /// All instructions of this program's own code.
    pub(crate) fn instructions(&self) -> u64 {
        self.files.values().sum()
    }

    /// The tables of what one unit costs, by directory and by source file, the largest first.
    pub(crate) fn table(&self, units: u64) -> String {
        let mut directories = BTreeMap::<String, u64>::new();
        for (file, cost) in &self.files {
            let directory = file.rsplit_once('/').map_or(file.as_str(), |(directory, _)| directory);
            *directories.entry(directory.to_owned()).or_default() += cost;
        }
        let mut text = String::new();
        for names in [&directories, &self.files, &self.libraries] {
            let mut rows: Vec<_> = names.iter().collect();
            rows.sort_by_key(|(name, cost)| (u64::MAX - **cost, (*name).clone()));
            for (name, cost) in rows {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{:8.1}  {name}", *cost as f64 / units as f64);
            }
            text.push('\n');
        }
        let each = self.instructions() as f64 / units as f64;
        let _ = writeln!(text, "{each:8.1}  in all, without libraries");
        text
    }
}

/// How long a run may take, in seconds.
const LIMIT_S: &str = "120";

/// Runs a work under callgrind. The error is the reason why it cannot be counted here.
pub(crate) fn profile(work: &str) -> Result<Profile, String> {
    let out = NamedTempFile::new().map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("timeout")
        .args([LIMIT_S, "valgrind"])
        .args(["--tool=callgrind", "--toggle-collect=*works*counted*", "--compress-strings=no"])
        .args(["--compress-pos=no", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(&program)
        .args(["--work", work])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(code) if code == i32::from(CANNOT) => return Err(said.trim().to_owned()),
        Some(127) => return Err(said.trim().to_owned()),
        _ => panic!("{work}: {} {}", output.status, said.trim()),
    }
    let text = std::fs::read_to_string(out.path()).map_err(|error| error.to_string())?;
    let profile = parse(&text, &program.display().to_string());
    if profile.instructions() == 0 {
        return Err(format!("callgrind has counted nothing in {work}; it said: {}", said.trim()));
    }
    Ok(profile)
}

/// Reads callgrind's format (its manual, "Callgrind Format Specification"), with names in full and
/// absolute positions. `program` is the path of this program.
fn parse(text: &str, program: &str) -> Profile {
    let mut profile = Profile::default();
    let (mut object, mut file, mut ours) = ("", "", String::new());
    let mut inclusive = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = name;
        } else if let Some(name) = line.strip_prefix("fl=") {
            (file, ours) = (name, project_file(name).unwrap_or_else(|| "the standard library".to_owned()));
        } else if let Some(name) = line.strip_prefix("fi=").or_else(|| line.strip_prefix("fe=")) {
            file = name;
            // Code of the standard library and of other crates that was inlined counts for the
            // file of this project that stands before it in the same function.
            if let Some(name) = project_file(name) {
                ours = name;
            }
        } else if line.starts_with("calls=") {
            // The next line has the cost of the call, which its own function has as well.
            inclusive = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut inclusive) {
                let (names, name) = if object == program {
                    (&mut profile.files, project_file(file).unwrap_or_else(|| ours.clone()))
                } else {
                    (&mut profile.libraries, format!("(in {object})"))
                };
                *names.entry(name).or_default() += cost;
            }
        }
    }
    profile
}

/// The path of a source file in the repository; `None` if it is from elsewhere.
fn project_file(path: &str) -> Option<String> {
    let crates = ["aio/src/", "virtio-blk-sim/src/", "bench/tests/"];
    // Cargo gives paths below the workspace, or absolute ones.
    crates.into_iter().find_map(|start| {
        let at = path.find(start)?;
        let is_below = at == 0 || path[..at].ends_with('/') && !path.contains("/.cargo/");
        is_below.then(|| path[at..].to_owned())
    })
}
