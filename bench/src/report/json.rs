//! The JSON report, schema `bench/1`, written atomically.
//!
//! ```text
//! schema       "bench/1"; a change that breaks readers changes the number
//! benchmark    the subcommand: "eventfd", "virtio-blk", "vhost-user", "flow-control", "scale", "loops", "one-percent"
//! command      the command line, quoted for a shell
//! workload     what was asked of the device, as options; null without a device
//! complete     false if Ctrl-C ended the run before its last sample
//! environment  the machine; absent facts are null (fields: environment.rs)
//! conclusions  the sentences that stand below the tables
//! results[]    one object per row of the tables, in their order
//!   group      the table: what was measured, and where the threads ran
//!   case       the arm or operation
//!   status     "measured" | "unavailable" (this machine cannot do it) | "interrupted" (before its first sample)
//!   reason     why it is unavailable; else null
//!   baseline   the case of the same group that it is compared with; null without one
//!   metrics    by name; empty unless measured
//!     NAME
//!       unit, better   "ns", "lower" | "higher"
//!       n, median, mad, min, max
//!       values[]       one per round: the mean of the arm's two visits (idle_*: one, of a look after the rounds)
//!       versus         against the baseline; null without one
//!         pairs        rounds that measured both
//!         difference   {median, interval: {low, high} | null}, in the unit; 95% bootstrap interval
//!         ratio        the same for arm / baseline, or null
//!         verdict      "faster" | "slower" | "no-detectable-difference"
//! ```

use super::{Missing, Report, Row};
use crate::environment::Environment;
use crate::error::{Error, reason};
use crate::measure::Measured;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

/// The name and version of the format.
pub(crate) const SCHEMA: &str = "bench/1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    benchmark: &'static str,
    command: &'a str,
    workload: Option<&'a str>,
    complete: bool,
    environment: &'a Environment,
    conclusions: &'a [String],
    results: Vec<Result<'a>>,
}

#[derive(Serialize)]
struct Result<'a> {
    group: &'a str,
    case: &'a str,
    status: &'static str,
    reason: Option<&'a str>,
    baseline: Option<&'a str>,
    metrics: BTreeMap<&'static str, &'a Measured>,
}

impl<'a> From<&'a Row> for Result<'a> {
    fn from(row: &'a Row) -> Self {
        let (metrics, status, reason) = match &row.result {
            Ok(metrics) => (metrics.as_slice(), "measured", None),
            Err(Missing::Unavailable(why)) => (&[][..], "unavailable", Some(why.as_str())),
            Err(Missing::Interrupted) => (&[][..], "interrupted", None),
        };
        Self {
            group: &row.group,
            case: &row.case,
            status,
            reason,
            baseline: row.baseline.as_deref(),
            metrics: metrics.iter().map(|measured| (measured.name, measured)).collect(),
        }
    }
}

/// The report as text, with a newline at its end.
pub(crate) fn to_string(report: &Report, environment: &Environment) -> serde_json::Result<String> {
    let document = Document {
        schema: SCHEMA,
        benchmark: report.benchmark,
        command: &environment.command,
        workload: report.workload.as_deref(),
        complete: report.complete,
        environment,
        conclusions: &report.conclusions,
        results: report.rows.iter().map(Result::from).collect(),
    };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

/// A file that appears under its name only when it is whole: written beside it, then renamed (rename(2) replaces the
/// target atomically). Made before a run begins, so that a place that cannot be written to is known at once.
/// Dropped without [`WholeFile::commit`] it leaves nothing.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl WholeFile {
    /// Prepares to write `path`, the value of `option`. An [`Error::Usage`] says why it cannot be written.
    pub(crate) fn create(option: &str, path: &Path) -> std::result::Result<Self, Error> {
        let refuse = |why: &str| Error::Usage(format!("{option} {}: {why}", path.display()));
        // Renaming over a device node or a pipe would replace it, and over a symlink too: go to where it leads.
        let target = match fs::canonicalize(path) {
            Ok(existing) if existing.is_dir() => return Err(refuse("this is a directory, name a file")),
            Ok(existing) if !existing.is_file() => return Err(refuse("this is not a regular file")),
            Ok(existing) => existing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(refuse(&reason(&error))),
        };
        let name = target.file_name().ok_or_else(|| refuse("this names no file"))?;
        let temporary = target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| refuse(&format!("cannot write there: {}", reason(&error))))?;
        Ok(Self { file, temporary, target, committed: false })
    }

    /// Writes `text` and gives the file its name.
    pub(crate) fn commit(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        // Without it a crash soon after the rename could leave an empty file under the name.
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a file that cannot even be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{measured, row, unavailable};
    use serde_json::Value;

    /// A directory of the test's own, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bench-json-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn entries(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn report() -> Report {
        let time = measured("time_ns", &[3.0, 4.0, 5.0], Some(&[5.0, 6.0, 7.0]));
        let write = vec![Measured { unit: "ns", ..time }];
        Report {
            benchmark: "eventfd",
            workload: None,
            rows: vec![
                row("one thread", "write", write).against("read"),
                unavailable("one thread", "ring READ", "no io_uring").against("read"),
            ],
            text: String::new(),
            conclusions: vec!["It is so.".to_owned()],
            complete: true,
        }
    }

    #[test]
    fn every_documented_field_is_there() {
        let text = to_string(&report(), &Environment::gather()).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["schema"], "bench/1");
        assert_eq!(json["benchmark"], "eventfd");
        assert_eq!(json["complete"], true);
        assert_eq!(json["conclusions"][0], "It is so.");
        assert!(json["command"].is_string() && json["environment"]["kernel"].is_string());
        let [measured, missing] = [&json["results"][0], &json["results"][1]];
        assert_eq!(measured["group"], "one thread");
        assert_eq!(measured["case"], "write");
        assert_eq!(measured["status"], "measured");
        assert_eq!(measured["reason"], Value::Null);
        assert_eq!(measured["baseline"], "read");
        let metric = &measured["metrics"]["time_ns"];
        assert_eq!(metric["unit"], "ns");
        assert_eq!(metric["better"], "lower");
        assert_eq!(metric["median"], 4.0);
        assert_eq!(metric["n"], 3);
        assert_eq!(metric["values"].as_array().unwrap().len(), 3);
        assert_eq!(metric["versus"]["pairs"], 3);
        assert_eq!(metric["versus"]["difference"]["median"], -2.0);
        assert_eq!(metric["versus"]["difference"]["interval"], Value::Null);
        assert!(metric["versus"]["ratio"]["median"].is_f64());
        assert_eq!(metric["versus"]["verdict"], "no-detectable-difference");
        assert_eq!(missing["status"], "unavailable");
        assert_eq!(missing["reason"], "no io_uring");
    }

    #[test]
    fn a_committed_file_replaces_the_old_one_and_leaves_nothing_else() {
        let directory = Directory::new("commit");
        let path = directory.0.join("out.json");
        fs::write(&path, "old").unwrap();
        let file = WholeFile::create("--json", &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        file.commit("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(directory.entries(), ["out.json"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = Directory::new("drop");
        drop(WholeFile::create("--json", &directory.0.join("out.json")).unwrap());
        assert!(directory.entries().is_empty());
    }

    #[test]
    fn a_symlink_keeps_pointing_at_what_it_pointed_at() {
        let directory = Directory::new("symlink");
        let (path, link) = (directory.0.join("out.json"), directory.0.join("link"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        WholeFile::create("--json", &link).unwrap().commit("new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn places_that_cannot_be_written_are_refused_with_a_reason() {
        let directory = Directory::new("refuse");
        let refused = |path: &Path| WholeFile::create("--json", path).unwrap_err().to_string();
        assert!(refused(&directory.0).ends_with("this is a directory, name a file"));
        assert!(refused("/dev/null".as_ref()).ends_with("this is not a regular file"));
        let missing = refused(&directory.0.join("missing/out.json"));
        assert!(missing.ends_with("cannot write there: No such file or directory"), "{missing}");
        assert!(refused("".as_ref()).contains("names no file"));
    }
}
