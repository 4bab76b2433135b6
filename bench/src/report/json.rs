//! The JSON report, schema `bench/2`.
//!
//! ```text
//! schema       "bench/2"; a change that breaks readers changes the number. This program also reads
//!              "bench/1", whose verdicts were other words: their
//!              intervals are judged by the present rule
//! benchmark    the subcommand: "eventfd", "virtio-blk", "vhost-user", "flow-control", "scale",
//!              "loops", "one-percent"
//! command      the command line, quoted for a shell
//! workload     the options of the workload; null without a device
//! complete     false if Ctrl-C ended the run before its last sample
//! environment  the machine; absent facts are null (fields: environment/mod.rs)
//! conclusions  the sentences that stand below the tables
//! disturbed[]  rounds in which something from outside took the CPU away; empty if none was noticed
//!   campaign   the rows that were measured together
//!   rounds     how many there were
//!   left_out   true if the disturbed rounds are not in the results; false if no others are left
//!   causes     by "throttled", "stolen", "stopped", "suspended", "gap": [rounds, from 1]
//! results[]    one object per row of the tables, in their order
//!   group      the table: what was measured, and where the threads ran
//!   case       the arm or operation
//!   status     "measured" | "unavailable" (here) | "interrupted" (before its first sample)
//!   reason     why it is unavailable; else null
//!   baseline   the case of the same group that it is compared with; null without one
//!   rounds[]   the rounds that count, from 1: one for each value. Empty if not known
//!   left_out   the rounds that were disturbed and do not count: their numbers as rounds[], and by
//!              metric their values
//!   latency    of every request of the rounds that count, in ns: an HdrHistogram (V2, deflated,
//!              base64); null if the benchmark records none
//!   metrics    by name; empty unless measured
//!     NAME
//!       unit, better   "ns", "lower" | "higher"
//!       n, median, mad, min, max
//!       values[]       one per round that counts, the mean of the arm's two visits (idle_*: one)
//!       versus         against the baseline; null without one
//!         pairs        rounds that measured both
//!         difference   {median, interval: {low, high} | null}, in the unit; 95% bootstrap interval
//!         ratio        the same for arm / baseline, or null
//!         verdict      "saves" | "costs" | "no-difference-seen" | "inconclusive"
//! ```

use super::row::{Missing, Report, Row};
use crate::environment::Environment;
use crate::measure::{Disturbed, LeftOut, Measured, to_base64};
use serde::Serialize;
use std::collections::BTreeMap;

/// The name and version of the format.
pub(crate) const SCHEMA: &str = "bench/2";
/// Versions that can still be read.
pub(super) const OLDER: [&str; 1] = ["bench/1"];

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    benchmark: &'static str,
    command: &'a str,
    workload: Option<&'a str>,
    complete: bool,
    environment: &'a Environment,
    conclusions: &'a [String],
    disturbed: &'a [Disturbed],
    results: Vec<Result<'a>>,
}

#[derive(Serialize)]
struct Result<'a> {
    group: &'a str,
    case: &'a str,
    status: &'static str,
    reason: Option<&'a str>,
    baseline: Option<&'a str>,
    rounds: Vec<usize>,
    left_out: LeftOut,
    latency: Option<String>,
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
            rounds: row.raw.rounds(),
            left_out: row.raw.left_out(),
            latency: row.raw.latencies_ns.as_ref().and_then(to_base64),
            metrics: metrics.iter().map(|measured| (measured.name, measured)).collect(),
        }
    }
}

/// The report as text, with a newline at its end.
pub(crate) fn to_string(
    report: &Report,
    environment: &Environment,
    disturbed: &[Disturbed],
) -> serde_json::Result<String> {
    let document = Document {
        schema: SCHEMA,
        benchmark: report.benchmark,
        command: &environment.command,
        workload: report.workload.as_deref(),
        complete: report.complete,
        environment,
        conclusions: &report.conclusions,
        disturbed,
        results: report.rows.iter().map(Result::from).collect(),
    };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Cause;
    use crate::report::samples::{measured, row, unavailable};
    use serde_json::Value;

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
        let causes = BTreeMap::from([(Cause::Throttled, vec![1, 3])]);
        let disturbed = Disturbed { campaign: "one thread".to_owned(), rounds: 6, left_out: true, causes };
        let text = to_string(&report(), &Environment::gather(), &[disturbed]).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["schema"], "bench/2");
        assert_eq!(json["benchmark"], "eventfd");
        assert_eq!(json["complete"], true);
        assert_eq!(json["conclusions"][0], "It is so.");
        let disturbed = &json["disturbed"][0];
        assert_eq!((&disturbed["campaign"], &disturbed["rounds"]), (&"one thread".into(), &6.into()));
        assert_eq!(disturbed["left_out"], true);
        assert_eq!(disturbed["causes"]["throttled"], Value::from(vec![1, 3]));
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
        assert_eq!(metric["versus"]["verdict"], "inconclusive");
        assert_eq!(missing["status"], "unavailable");
        assert_eq!(missing["reason"], "no io_uring");
    }
}
