//! The configuration file: `[daemon]`, and a `[[disk]]` for each disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aio::{MonitorKind, Reset};
use serde::Deserialize;
use toml::Spanned;

use crate::identity::Identity;
use crate::placement::Rule;
use crate::spec::{DiskSpec, Names};
use crate::values::de;

/// The largest file that is read. A disk takes some 200 bytes.
const MAX_FILE_SIZE: u64 = 16 << 20;

/// What concerns the process. Cannot change while it runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct DaemonSpec {
    /// I/O threads that the queues of all disks run on; 0 is the main thread.
    #[serde(deserialize_with = "de::loops")]
    pub(crate) loops: u16,
    #[serde(deserialize_with = "de::placement")]
    pub(crate) placement: Rule,
    #[serde(deserialize_with = "de::path")]
    pub(crate) control: Option<PathBuf>,
    #[serde(deserialize_with = "de::monitor")]
    pub(crate) monitor: Option<MonitorKind>,
    #[serde(deserialize_with = "de::reset")]
    pub(crate) reset: Reset,
    /// In nanoseconds.
    pub(crate) busy_poll: u64,
    /// In nanoseconds.
    pub(crate) linger: u64,
    /// In seconds, at least 0.001.
    #[serde(deserialize_with = "de::seconds")]
    pub(crate) stats: Option<Duration>,
}

impl Default for DaemonSpec {
    fn default() -> Self {
        Self {
            loops: 0,
            placement: Rule::default(),
            control: None,
            monitor: None,
            reset: Reset::Autoreset,
            busy_poll: 0,
            linger: 50_000,
            stats: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    daemon: DaemonSpec,
    #[serde(default)]
    disk: Vec<Spanned<DiskSpec>>,
}

/// A file that was read and checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) daemon: DaemonSpec,
    pub(crate) disks: Vec<ConfiguredDisk>,
}

/// A disk, and where the file has it.
#[derive(Debug)]
pub(crate) struct ConfiguredDisk {
    pub(crate) spec: DiskSpec,
    pub(crate) identity: Identity,
    /// `FILE:LINE:COLUMN`, for errors.
    pub(crate) place: String,
}

/// A place in the file, counted from 1. Columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    line: usize,
    column: usize,
}

impl Position {
    fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let (lines, last) = before.rsplit_once('\n').unwrap_or(("", before));
        let line = if before.contains('\n') { lines.split('\n').count() + 1 } else { 1 };
        Self { line, column: last.chars().count() + 1 }
    }
}

/// Reads a configuration file. Blocks. The error is one line with the place.
pub(crate) fn read(path: &Path) -> Result<Config, String> {
    let name = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?;
    if !size.is_file() || size.len() > MAX_FILE_SIZE {
        return Err(format!("{name}: a configuration is a regular file of at most {MAX_FILE_SIZE} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Config, String> {
    let place = |offset| {
        let Position { line, column } = Position::of(text, offset);
        format!("{}:{line}:{column}", path.display())
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        format!("{}: {}", place(start), one_line(error.message()))
    })?;
    let loops = file.daemon.loops.into();
    let mut disks: Vec<ConfiguredDisk> = Vec::new();
    for spanned in file.disk {
        let place = place(spanned.span().start);
        let spec = spanned.into_inner();
        spec.check(Names::Keys, loops).map_err(|error| format!("{place}: {error}"))?;
        let identity = Identity::of(&spec);
        for other in &disks {
            if let Some(part) = conflict((&other.spec, &other.identity), (&spec, &identity)) {
                let (id, theirs, there) = (&spec.id, &other.spec.id, &other.place);
                return Err(format!("{place}: disk {id} and disk {theirs} ({there}) have the same {part}"));
            }
        }
        disks.push(ConfiguredDisk { spec, identity, place });
    }
    Ok(Config { daemon: file.daemon, disks })
}

fn conflict(one: (&DiskSpec, &Identity), other: (&DiskSpec, &Identity)) -> Option<&'static str> {
    if one.0.id == other.0.id {
        return Some("id");
    }
    // Also where nothing is there yet to look at.
    if one.0.socket == other.0.socket {
        return Some("socket");
    }
    one.1.shares(other.1)
}

/// The messages of the parser can have several lines.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text, Path::new("f.toml")).unwrap_err()
    }

    #[test]
    fn an_empty_file_is_a_daemon_without_disks() {
        let config = parse("", Path::new("f.toml")).unwrap();
        assert_eq!(config.daemon, DaemonSpec::default());
        assert!(config.disks.is_empty());
    }

    #[test]
    fn errors_have_a_place() {
        assert!(error("[daemon]\nloops = 2\nlops = 3\n").starts_with("f.toml:3:1: unknown field `lops`"));
        assert!(error("[daemon]\nloops = 300\n").starts_with("f.toml:2:9: write a number from 0 to 256"));
        assert!(error("x = \n").starts_with("f.toml:1:"));
        assert!(error("[[disk]]\nid = \"a b\"\n").starts_with("f.toml:2:6: an id has"));
        let missing = "\n[[disk]]\nid = \"a\"\n";
        assert_eq!(error(missing), "f.toml:2:1: disk a needs a socket");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(Position::of("", 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of("a\n\u{e9}x", 4), Position { line: 2, column: 2 });
        assert_eq!(Position::of("\n\nx", 2), Position { line: 3, column: 1 });
        assert_eq!(Position::of("x", 99), Position { line: 1, column: 2 });
    }
}
