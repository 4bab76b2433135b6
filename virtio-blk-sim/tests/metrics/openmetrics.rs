//! A strict reader of the OpenMetrics text format 1.0: it refuses what the specification does not
//! allow, and adds up histograms.

use std::collections::{BTreeMap, BTreeSet};

/// Labels without `le`, sorted.
pub(crate) type Labels = Vec<(String, String)>;

/// A whole text.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Samples by their name and labels.
    samples: BTreeMap<(String, Labels), f64>,
    types: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    unit: Option<String>,
    has_help: bool,
    has_samples: bool,
    /// The labels of the last sample, and of all metrics that are over.
    last: Option<Labels>,
    over: BTreeSet<Labels>,
}

impl Document {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err("a line without a line feed".into());
        }
        let mut document = Self::default();
        let mut family = Family::default();
        for line in body.lines() {
            let result = match line.strip_prefix("# ") {
                Some(comment) => document.metadata(&mut family, comment),
                None => document.sample(&mut family, line),
            };
            result.map_err(|why| format!("{why}: {line:?}"))?;
        }
        document.end(&family)?;
        document.histograms()?;
        Ok(document)
    }

    fn metadata(&mut self, family: &mut Family, comment: &str) -> Result<(), String> {
        let mut words = comment.splitn(3, ' ');
        let (Some(keyword), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
            return Err("not HELP, TYPE or UNIT".into());
        };
        if !is_name(name) {
            return Err("a bad name".into());
        }
        if family.name != name {
            self.end(family)?;
            if self.types.contains_key(name) {
                return Err("a family comes twice".into());
            }
            self.types.insert(name.into(), "unknown".into());
            *family = Family { name: name.into(), ..Family::default() };
        }
        if family.has_samples {
            return Err("metadata after samples".into());
        }
        let is_first = match keyword {
            "HELP" => {
                unescaped(rest)?;
                !std::mem::replace(&mut family.has_help, true)
            }
            "TYPE" => {
                if !["counter", "gauge", "histogram", "info", "unknown"].contains(&rest) {
                    return Err("a bad type".into());
                }
                self.types.insert(name.into(), rest.into());
                family.kind.replace(rest.into()).is_none()
            }
            "UNIT" => {
                if !name.ends_with(&format!("_{rest}")) {
                    return Err("the unit is not the end of the name".into());
                }
                family.unit.replace(rest.into()).is_none()
            }
            _ => return Err("not HELP, TYPE or UNIT".into()),
        };
        if is_first { Ok(()) } else { Err("metadata comes twice".into()) }
    }

    fn sample(&mut self, family: &mut Family, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        let (mut labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = number(rest.strip_prefix(' ').ok_or("no space before the value")?)?;
        let suffix = name.strip_prefix(family.name.as_str()).ok_or("not of this family")?;
        let suffixes: &[&str] = match family.kind.as_deref() {
            Some("counter") => &["_total"],
            Some("gauge") => &[""],
            Some("histogram") => &["_sum", "_count", "_bucket"],
            _ => return Err("no type".into()),
        };
        if !suffixes.contains(&suffix) {
            return Err("a bad suffix for the type".into());
        }
        if family.kind.as_deref() != Some("gauge") && !(value >= 0.0 && value.is_finite()) {
            return Err("a bad value for the type".into());
        }
        family.has_samples = true;
        let key = (name.to_owned(), labels.clone());
        labels.retain(|(label, _)| label != "le");
        if family.last.as_ref() != Some(&labels) {
            if family.over.contains(&labels) {
                return Err("the samples of a metric are not together".into());
            }
            family.over.extend(family.last.replace(labels));
        }
        match self.samples.insert(key, value) {
            None => Ok(()),
            Some(_) => Err("a sample comes twice".into()),
        }
    }

    fn end(&self, family: &Family) -> Result<(), String> {
        match (family.name.as_str(), family.has_help, &family.kind) {
            ("", ..) | (_, true, Some(_)) => Ok(()),
            (name, ..) => Err(format!("{name} lacks HELP or TYPE")),
        }
    }

    /// Buckets grow, and the last one is infinite and the count.
    fn histograms(&self) -> Result<(), String> {
        for (name, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let counts = self.samples.iter().filter(|((sample, _), _)| *sample == format!("{name}_count"));
            for ((_, labels), count) in counts {
                let buckets = self.buckets(name, labels);
                let is_growing =
                    buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
                if !is_growing || buckets.last() != Some(&(f64::INFINITY, *count)) {
                    return Err(format!("{name}{labels:?}: {buckets:?}, count {count}"));
                }
                if !self.samples.contains_key(&(format!("{name}_sum"), labels.clone())) {
                    return Err(format!("{name}{labels:?} has no sum"));
                }
            }
        }
        Ok(())
    }

    /// The buckets of a histogram by their bounds, each with those before it.
    pub(crate) fn buckets(&self, name: &str, of: &Labels) -> Vec<(f64, f64)> {
        let mut buckets = Vec::new();
        let name_of = format!("{name}_bucket");
        let from = (name_of.clone(), Labels::new());
        let samples = self.samples.range(from..).take_while(|((sample, _), _)| *sample == name_of);
        for ((_, labels), count) in samples {
            let bound = labels.iter().find(|(label, _)| label == "le");
            let others: Labels = labels.iter().filter(|(label, _)| label != "le").cloned().collect();
            if let Some((_, bound)) = bound
                && others == *of
            {
                buckets.push((number(bound).unwrap(), *count));
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }

    /// The value of a sample; `None` if there is none.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut labels: Labels =
            labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        labels.sort();
        self.samples.get(&(name.into(), labels)).copied()
    }

    /// The sum of all samples of this name that have these labels, among others.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |all: &Labels| {
            labels.iter().all(|(name, value)| all.contains(&((*name).into(), (*value).into())))
        };
        self.samples
            .iter()
            .filter(|((sample, all), _)| sample == name && has(all))
            .map(|(_, value)| value)
            .sum()
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The labels up to `}`, and the rest of the line.
fn labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) {
            return Err("a bad name of a label".into());
        }
        let mut end = None;
        let mut is_escaped = false;
        for (at, byte) in after.bytes().enumerate() {
            match byte {
                b'"' if !is_escaped => {
                    end = Some(at);
                    break;
                }
                _ => is_escaped = byte == b'\\' && !is_escaped,
            }
        }
        let end = end.ok_or("a value without an end")?;
        if labels.iter().any(|(known, _)| known == name) {
            return Err("a label comes twice".into());
        }
        labels.push((name.into(), unescaped(&after[..end])?));
        rest = &after[end + 1..];
        if let Some(rest) = rest.strip_prefix('}') {
            labels.sort();
            return Ok((labels, rest));
        }
        rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut characters = text.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(kept @ ('\\' | '"')) => kept,
                _ => return Err("a bad escape".into()),
            },
            '"' => return Err("a quote that is not escaped".into()),
            other => other,
        });
    }
    Ok(plain)
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            text.parse().map_err(|_| format!("not a number: {text}"))
        }
        _ => Err(format!("not a number: {text}")),
    }
}

#[test]
fn a_text_that_the_format_does_not_allow_is_refused() {
    let good = "# HELP a Help.\n# TYPE a counter\na_total{x=\"1\",y=\"\\\"\\\\\\n\"} 1\na_total{x=\"2\"} 0.5\n\
                # HELP h_seconds Help.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\nh_seconds_sum 1.0\n\
                h_seconds_count 3\nh_seconds_bucket{le=\"1.0\"} 2\nh_seconds_bucket{le=\"+Inf\"} 3\n# EOF\n";
    let document = Document::parse(good).unwrap();
    assert_eq!(document.get("a_total", &[("y", "\"\\\n"), ("x", "1")]), Some(1.0));
    for (part, instead) in [
        ("# EOF\n", ""),
        ("# HELP a Help.\n", ""),
        ("# TYPE a counter\n", ""),
        ("# TYPE a counter\n", "# TYPE a counter\n# TYPE a counter\n"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2\"}  0.5"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2\"} -1"),
        ("a_total{x=\"2\"} 0.5", "a{x=\"2\"} 1"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2\",x=\"3\"} 1"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2} 1"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=2} 1"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"\\t\"} 1"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2\"} 1\n"),
        ("a_total{x=\"2\"} 0.5", "a_total{x=\"2\"} 1\na_total{x=\"2\"} 1"),
        ("# UNIT h_seconds seconds", "# UNIT h_seconds bytes"),
        ("h_seconds_count 3", "h_seconds_count 4"),
        ("le=\"1.0\"} 2", "le=\"1.0\"} 4"),
        ("h_seconds_sum 1.0\n", ""),
        ("# HELP h_seconds", "# HELP a Again.\n# TYPE a gauge\n# HELP h_seconds"),
    ] {
        assert!(good.contains(part));
        let bad = good.replacen(part, instead, 1);
        assert!(Document::parse(&bad).is_err(), "{bad}");
    }
}
