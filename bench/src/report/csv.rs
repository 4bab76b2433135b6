//! Every sample of every round as CSV (RFC 4180), for programs that analyse or draw them.
//!
//! The columns: benchmark, group, case, round (from 1), visit (1 on the way forwards, 2 on the way
//! back), left_out (1 if the round was disturbed and does not count), metric, unit, value. A number
//! that was measured once has neither round nor visit.

use super::row::{Report, Row};
use std::fmt::Write as _;

const HEADER: &str = "benchmark,group,case,round,visit,left_out,metric,unit,value\r\n";

/// The samples of a report.
pub(crate) fn render(report: &Report) -> String {
    let mut text = HEADER.to_owned();
    for row in &report.rows {
        samples(&mut text, report.benchmark, row);
    }
    text
}

// Writing to a String cannot fail.
fn samples(text: &mut String, benchmark: &str, row: &Row) {
    let place = format!("{benchmark},{},{}", field(&row.group), field(&row.case));
    for visit in &row.raw.visits {
        let numbers = format!("{},{},{}", visit.round, visit.visit, u8::from(visit.left_out));
        for ((name, unit), value) in row.raw.metrics.iter().zip(&visit.values) {
            if value.is_finite() {
                let _ = write!(text, "{place},{numbers},{name},{},{value}\r\n", field(unit));
            }
        }
    }
    let sampled = |name: &str| row.raw.metrics.iter().any(|(known, _)| *known == name);
    let once =
        row.result.iter().flatten().filter(|measured| !sampled(measured.name) && measured.summary.n == 1);
    for measured in once {
        let (name, unit, value) = (measured.name, field(measured.unit), measured.summary.median);
        let _ = write!(text, "{place},,,0,{name},{unit},{value}\r\n");
    }
}

/// A field, quoted if it has to be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Measured, Raw, Visit};
    use crate::report::samples::{measured, row, unavailable};

    #[test]
    fn every_sample_is_a_line() {
        let visit =
            |round, visit, left_out, value| Visit { round, visit, left_out, values: vec![value, f64::NAN] };
        let mut one = row("loop, \"a\"", "epoll", vec![measured("time_ns", &[1.0, 2.0], None)]);
        one.raw = Raw {
            metrics: vec![("time_ns", "ns"), ("vm_exits", "")],
            visits: vec![visit(1, 1, false, 1.5), visit(1, 2, false, 0.5), visit(2, 1, true, 9.0)],
            latencies_ns: None,
        };
        if let Ok(metrics) = &mut one.result {
            metrics.push(Measured::once("syscalls", "syscalls", 2.0));
        }
        let rows = vec![one, unavailable("loop", "poll", "no")];
        let (text, conclusions) = (String::new(), Vec::new());
        let report = Report { benchmark: "loops", workload: None, rows, text, conclusions, complete: true };
        let expected = [
            "loops,\"loop, \"\"a\"\"\",epoll,1,1,0,time_ns,ns,1.5",
            "loops,\"loop, \"\"a\"\"\",epoll,1,2,0,time_ns,ns,0.5",
            "loops,\"loop, \"\"a\"\"\",epoll,2,1,1,time_ns,ns,9",
            "loops,\"loop, \"\"a\"\"\",epoll,,,0,syscalls,syscalls,2",
        ];
        assert_eq!(render(&report), format!("{HEADER}{}\r\n", expected.join("\r\n")));
    }
}
