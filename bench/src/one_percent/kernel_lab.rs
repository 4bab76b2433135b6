//! The kernel lab's counts of instructions (`scripts/kernel-lab.sh bench --json`, schema
//! `kernel-lab/1`): another way to measure what a read(2) costs, free of noise, and the only one in
//! which ppoll works without a read.

use crate::error::Error;
use crate::measure::{Measured, Raw};
use crate::report::Row;
use crate::report::one_percent::lab::{GROUP, Savings};
use crate::report::saved::{self, of_schema};
use serde::Deserialize;
use std::path::Path;

const SCHEMA: &str = "kernel-lab/1";
const UNIT: &str = "instructions per request";
/// The lab's files have a few kilobytes.
const LARGEST: u64 = 16 << 20;

#[derive(Deserialize)]
struct Document {
    unit: String,
    savings: Vec<Savings>,
}

/// Reads --kernel-lab's file. A usage error reports what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Vec<Savings>, Error> {
    saved::read("--kernel-lab", path, LARGEST, parse)
}

fn parse(text: &str) -> Result<Vec<Savings>, String> {
    let Document { unit, savings } = of_schema(text, &[SCHEMA], "scripts/kernel-lab.sh bench --json")?;
    if unit != UNIT {
        return Err(format!("it counts '{}', and this bench reads {UNIT}", unit.escape_debug()));
    }
    if savings.is_empty() {
        return Err("none of its arms works without the read(2), so it cannot show a saving".to_owned());
    }
    if !savings.iter().all(|savings| savings.classic > 0.0 && savings.autoreset > 0.0) {
        return Err("it has counts that are not positive".to_owned());
    }
    let named = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    if !savings.iter().all(|savings| {
        [&savings.kernel, &savings.monitor, &savings.reset].map(|name| named(name)) == [true; 3]
    }) {
        return Err("it has names of kernels or arms that the kernel lab does not use".to_owned());
    }
    Ok(savings)
}

/// The rows of the lab for our own report.
pub(super) fn rows(savings: &[Savings]) -> Vec<Row> {
    let row = |savings: &Savings| {
        let metric = |name, count| Measured::once(name, "instructions", count);
        Row {
            group: GROUP.to_owned(),
            case: format!("{}, kernel {}", savings.arm(), savings.kernel),
            baseline: None,
            raw: Raw::default(),
            result: Ok(vec![metric("classic", savings.classic), metric("autoreset", savings.autoreset)]),
        }
    };
    savings.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::one_percent::lab::savings;
    use crate::report::saved::Entry;

    const LAB: &str = r#"{"schema":"kernel-lab/1","unit":"instructions per request","kernels":{},"savings":[
        {"kernel":"0001","monitor":"poll","reset":"kernel-flag","classic":10000.0,"autoreset":9500.0,"saved_percent":5.0}]}"#;

    #[test]
    fn the_counts_can_be_read_back_from_our_own_report() {
        let read = parse(LAB).unwrap();
        let entries: Vec<Entry> = rows(&read).iter().map(Entry::from).collect();
        assert_eq!((savings(&entries), read[0].arm().as_str()), (read.clone(), "poll/kernel-flag"));
    }

    #[test]
    fn anything_but_a_lab_report_is_refused() {
        for (text, part) in [
            (String::new(), "not a report of scripts/kernel-lab.sh"),
            ("{}".to_owned(), "missing field `schema`"),
            (LAB[..LAB.len() / 2].to_owned(), "EOF"),
            (
                LAB.replace("lab/1", "lab/9"),
                "its schema is 'kernel-lab/9', but this bench reads kernel-lab/1",
            ),
            // Another version may have other fields. Our own reports also have a schema.
            (r#"{"schema":"bench/1"}"#.to_owned(), "its schema is 'bench/1'"),
            (LAB.replace("instructions per", "cycles per"), "it counts 'cycles per request'"),
            (LAB.replace("9500.0", "0"), "not positive"),
            (LAB.replace("10000.0", "-1"), "not positive"),
            (LAB.replace("\"0001\"", "\"a\\nb\""), "names of kernels or arms"),
            (LAB.replace("\"poll\"", "\"\""), "names of kernels or arms"),
            (
                r#"{"schema":"kernel-lab/1","unit":"instructions per request","savings":[]}"#.to_owned(),
                "none of its arms",
            ),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(why.contains(part) && !why.contains('\n'), "{part}: {why}");
        }
    }
}
