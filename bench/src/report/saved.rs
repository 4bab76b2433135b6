//! A JSON report, parsed: pages, comparisons and sentences are made from it, so none of them can
//! contradict the file.

use super::json::{OLDER, SCHEMA};
use super::row::{Missing, Report, Row};
use crate::environment::Environment;
use crate::error::{Error, reason};
use crate::measure::{Better, Comparison, Disturbed, LeftOut, Summary, settle};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A limit for files that are not our reports. Ours are much smaller.
const LARGEST: u64 = 256 << 20;

/// The report of a run. The fields are described in [`super::json`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Document {
    pub(crate) benchmark: String,
    pub(crate) command: String,
    pub(crate) workload: Option<String>,
    pub(crate) complete: bool,
    /// By name, as in the file.
    pub(crate) environment: BTreeMap<String, serde_json::Value>,
    pub(crate) conclusions: Vec<String>,
    pub(crate) results: Vec<Entry>,
}

/// One row.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Entry {
    pub(crate) group: String,
    pub(crate) case: String,
    /// The case of the same group that it is compared with. Older reports do not name it.
    #[serde(default)]
    pub(crate) baseline: Option<String>,
    /// Why there are no metrics, if the case is not available on this machine.
    pub(crate) reason: Option<String>,
    /// The rounds that count. Older reports do not have them, nor what follows.
    #[serde(default)]
    pub(crate) rounds: Vec<usize>,
    #[serde(default)]
    pub(crate) left_out: LeftOut,
    /// The histogram of all latencies, as text.
    #[serde(default)]
    pub(crate) latency: Option<String>,
    pub(crate) metrics: BTreeMap<String, SavedMetric>,
}

/// One metric of a row.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SavedMetric {
    pub(crate) unit: String,
    pub(crate) better: Better,
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) values: Vec<f64>,
    pub(crate) versus: Option<Comparison>,
}

impl Document {
    /// The report as it would be written.
    pub(crate) fn of(
        report: &Report,
        environment: &Environment,
        disturbed: &[Disturbed],
    ) -> Result<Self, Error> {
        let text = super::json::to_string(report, environment, disturbed);
        let text = text.map_err(|error| error.to_string());
        let document = text.and_then(|text| Self::parse(&text));
        document.map_err(|error| Error::Failed(format!("cannot write the results as JSON: {error}")))
    }

    /// Reads `path`, the value of `option`. An [`Error::Usage`] reports what is wrong with it.
    pub(crate) fn read(option: &str, path: &Path) -> Result<Self, Error> {
        read(option, path, LARGEST, Self::parse)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut document: Self = of_schema(text, &[&[SCHEMA], &OLDER[..]].concat(), "bench --json")?;
        for group in document.results.chunk_by_mut(|a, b| a.group == b.group) {
            let metrics = group.iter_mut().flat_map(|entry| entry.metrics.values_mut());
            settle(metrics.filter_map(|metric| Some((metric.versus.as_mut()?, metric.better))));
        }
        Ok(document)
    }

    /// The case that all rows of a group are compared with, if there is one.
    pub(crate) fn common_baseline(group: &[Entry]) -> Option<&str> {
        let mut all = group.iter().filter_map(|entry| entry.baseline.as_deref());
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }

    /// The rows of each group, in their order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Entry]> {
        self.results.chunk_by(|a, b| a.group == b.group)
    }
}

/// Reads and parses up to `largest` bytes of `path`, the value of `option`. An [`Error::Usage`]
/// reports what is wrong with it.
pub(crate) fn read<T>(
    option: &str,
    path: &Path,
    largest: u64,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, Error> {
    let refuse = |why: String| Error::Usage(format!("{option} {}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| refuse(reason(&error)))?;
    file.take(largest).read_to_string(&mut text).map_err(|error| refuse(reason(&error)))?;
    parse(&text).map_err(refuse)
}

/// Parses a JSON report of `program` if it has one of these schemas.
pub(crate) fn of_schema<T: DeserializeOwned>(
    text: &str,
    expected: &[&str],
    program: &str,
) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Header {
        schema: String,
    }
    let other = |error: serde_json::Error| format!("this is not a report of {program} ({error})");
    // Check the schema first: another version may have other fields.
    let Header { schema } = serde_json::from_str(text).map_err(other)?;
    if !expected.contains(&schema.as_str()) {
        let expected = expected.join(" and ");
        return Err(format!("its schema is '{}', but this bench reads {expected}", schema.escape_debug()));
    }
    serde_json::from_str(text).map_err(other)
}

impl From<&Row> for Entry {
    fn from(row: &Row) -> Self {
        let metrics = row.result.as_deref().unwrap_or_default().iter().map(|measured| {
            let metric = SavedMetric {
                unit: measured.unit.to_owned(),
                better: measured.better,
                summary: measured.summary,
                values: measured.values.clone(),
                versus: measured.versus,
            };
            (measured.name.to_owned(), metric)
        });
        let reason = match &row.result {
            Err(Missing::Unavailable(why)) => Some(why.clone()),
            _ => None,
        };
        Self {
            group: row.group.clone(),
            case: row.case.clone(),
            baseline: row.baseline.clone(),
            reason,
            rounds: row.raw.rounds(),
            left_out: row.raw.left_out(),
            latency: None,
            metrics: metrics.collect(),
        }
    }
}

impl Entry {
    /// The median of a metric, if there is one.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).map(|metric| metric.summary.median)
    }

    /// A metric against the row's baseline.
    pub(crate) fn versus(&self, name: &str) -> Option<&Comparison> {
        self.metrics.get(name)?.versus.as_ref()
    }

    /// Why there are no metrics; `None` if there are.
    pub(crate) fn missing(&self) -> Option<String> {
        let missing = || match &self.reason {
            Some(why) => format!("not available: {}", obstacle(why)),
            None => Missing::Interrupted.to_string(),
        };
        self.metrics.is_empty().then(missing)
    }
}

/// Why something was not measured, without the advice for programmers.
pub(crate) fn obstacle(why: &str) -> &str {
    why.split("; ask for ").next().unwrap_or(why)
}

/// The metrics of a group's rows, the most important first.
pub(crate) fn metric_names(entries: &[Entry]) -> Vec<(&str, &str)> {
    const FIRST: [&str; 13] = [
        "iops",
        "time_ns",
        "round_trip_ns",
        "p50_us",
        "p99_us",
        "p999_us",
        "device_cpu_ns",
        "kicks",
        "reads",
        "waits",
        "writes",
        "enters",
        "classic",
    ];
    let mut names: Vec<(&str, &str)> = Vec::new();
    for (name, metric) in entries.iter().flat_map(|entry| &entry.metrics) {
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name, &metric.unit));
        }
    }
    names.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_for_programmers_is_not_part_of_a_reason() {
        assert_eq!(
            obstacle("this kernel does not have it; ask for Reset::Autoreset instead"),
            "this kernel does not have it"
        );
        assert_eq!(obstacle("no disk; take another"), "no disk; take another");
    }

    #[test]
    fn a_row_has_the_name_of_its_baseline() {
        let arm = |group: &str, case: &str, baseline: &str| {
            format!(
                r#"{{"group":"{group}","case":"{case}","status":"measured","reason":null,"baseline":{baseline},"metrics":{{}}}}"#
            )
        };
        let results = [
            arm("one", "a", "null"),
            arm("one", "b", r#""a""#),
            arm("one", "c", r#""a""#),
            arm("two", "b", r#""x""#),
            arm("two", "c", r#""y""#),
        ];
        let document = Document::parse(&format!(
            r#"{{"schema":"bench/1","benchmark":"","command":"","workload":null,"complete":true,"environment":{{}},
            "conclusions":[],"results":[{}]}}"#,
            results.join(",")
        ))
        .unwrap();
        let all: Vec<_> = document.results.iter().map(|entry| entry.baseline.as_deref()).collect();
        assert_eq!(all, [None, Some("a"), Some("a"), Some("x"), Some("y")]);
        let groups: Vec<_> = document.groups().map(Document::common_baseline).collect();
        assert_eq!(groups, [Some("a"), None]);
    }

    /// A file of the first version: an interval that excludes zero was enough for a verdict.
    #[test]
    fn an_older_report_is_read_and_judged_by_the_present_rule() {
        let document = Document::parse(
            r#"{"schema":"bench/1","benchmark":"b","command":"","workload":null,"complete":true,"environment":{},
            "conclusions":[],"results":[{"group":"g","case":"c","status":"measured","reason":null,"baseline":"a",
            "metrics":{"time_ns":{"unit":"ns","better":"lower","n":6,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,
            "values":[1.0],"versus":{"pairs":6,"difference":{"median":-1.0,"interval":{"low":-2.0,"high":-0.1}},
            "ratio":{"median":0.7,"interval":{"low":0.589,"high":0.9992}},"verdict":"faster"}}}}]}"#,
        )
        .unwrap();
        let versus = document.results[0].versus("time_ns").unwrap();
        assert_eq!(versus.verdict, crate::measure::Verdict::Inconclusive);
    }

    #[test]
    fn anything_but_a_report_is_refused_with_a_reason() {
        assert!(Document::parse("").unwrap_err().starts_with("this is not a report of bench --json ("));
        assert!(Document::parse("{}").unwrap_err().contains("missing field `schema`"));
        let other = r#"{"schema":"bench/3","benchmark":"","command":"","workload":null,"complete":true,"environment":{},
            "conclusions":[],"results":[]}"#;
        assert_eq!(
            Document::parse(other).unwrap_err(),
            "its schema is 'bench/3', but this bench reads bench/2 and bench/1"
        );
        assert!(
            Document::parse(r#"{"schema":"kernel-lab/1"}"#)
                .unwrap_err()
                .starts_with("its schema is 'kernel-lab/1'")
        );
        let error = Document::read("--baseline", "/nonexistent/file".as_ref()).unwrap_err();
        assert_eq!(error.to_string(), "--baseline /nonexistent/file: No such file or directory");
        assert_eq!(error.exit_code(), 2);
    }
}
