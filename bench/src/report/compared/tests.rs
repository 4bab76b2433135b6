use super::*;

/// A report of one arm with one metric, six rounds alike.
fn document(benchmark: &str, case: &str, iops: f64) -> Document {
    let values = [iops; 6].map(|value| value.to_string()).join(",");
    Document::parse(&format!(
        r#"{{"schema":"bench/1","benchmark":"{benchmark}","command":"bench","workload":null,"complete":true,
        "environment":{{}},"conclusions":[],"results":[{{"group":"one CPU","case":"{case}","status":"measured",
        "reason":null,"baseline":null,"metrics":{{
          "iops":{{"unit":"1/s","better":"higher","n":6,"median":{iops},"mad":0.0,"min":1.0,"max":1.0,
            "values":[{values}],"versus":null}},
          "p999_us":{{"unit":"us","better":"lower","n":6,"median":{iops},"mad":0.0,"min":1.0,"max":1.0,
            "values":[{values}],"versus":null}}}}}}]}}"#
    ))
    .unwrap()
}

fn limits(metrics: &[&str]) -> Limits {
    Limits { threshold: 0.05, metrics: metrics.iter().map(|&metric| metric.to_owned()).collect() }
}

#[test]
fn a_regression_is_exit_code_1_and_named() {
    let compared = documents(&document("b", "a", 100.0), &document("b", "a", 80.0), &limits(&[])).unwrap();
    assert_eq!((compared.changes.len(), compared.exit_code()), (1, 1));
    assert_eq!(
        compared.sentence(),
        "1 of 1 metrics are worse by more than 5.00%: iops of a (-20.0%); 0 are better by more, 0 within it, 0 undecided."
    );
    let text = compared.text(false);
    let line: Vec<&str> =
        text.lines().find(|line| line.starts_with("a  ")).unwrap().split_whitespace().collect();
    assert_eq!(line, ["a", "iops", "100", "80.0", "-20.0%", "-20.0%", "to", "-20.0%", "worse"], "{text}");
    let markdown = compared.markdown();
    let cells: Vec<&str> = markdown.lines().last().unwrap().split('|').map(str::trim).collect();
    let expected = ["one CPU, a", "iops", "100", "80.0", "-20.0%", "-20.0% to -20.0%", "worse"];
    assert_eq!(cells[1..8], expected, "{markdown}");
}

#[test]
fn what_is_better_or_the_same_is_exit_code_0() {
    for after in [100.0, 104.0, 300.0] {
        let compared =
            documents(&document("b", "a", 100.0), &document("b", "a", after), &limits(&[])).unwrap();
        assert_eq!(compared.exit_code(), 0, "{after}");
    }
}

#[test]
fn outer_quantiles_count_only_when_asked_for() {
    let (before, after) = (document("b", "a", 100.0), document("b", "a", 200.0));
    let compared = documents(&before, &after, &limits(&["p999_us"])).unwrap();
    assert_eq!((compared.changes[0].metric.as_str(), compared.exit_code()), ("p999_us", 1));
    assert!(by_default("p50_us") && by_default("iops") && !by_default("p9999_us") && !by_default("p01_us"));
}

#[test]
fn what_cannot_be_compared_is_refused_or_named() {
    let refused = |before: &Document, after: &Document| {
        let error = documents(before, after, &limits(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let one = document("virtio-blk", "a", 100.0);
    assert!(refused(&one, &document("eventfd", "a", 100.0)).contains("compare two of the same"));
    assert!(refused(&one, &document("virtio-blk", "other", 100.0)).contains("nothing to compare"));
    let mut two = one.clone();
    two.results.extend(document("virtio-blk", "other", 1.0).results);
    let text = documents(&one, &two, &limits(&[])).unwrap().text(false);
    assert!(text.contains("Not compared: one CPU, other (only after)."), "{text}");
}

#[test]
fn each_judgement_is_counted_under_its_own_name() {
    let all = |factors: [f64; 4]| {
        let mut document = document("b", "worse", 100.0 * factors[0]);
        for (name, factor) in ["better", "same", "also same"].into_iter().zip(&factors[1..]) {
            document.results.extend(self::document("b", name, 100.0 * factor).results);
        }
        document
    };
    let compared = documents(&all([1.0; 4]), &all([0.5, 2.0, 1.0, 1.01]), &limits(&[])).unwrap();
    assert_eq!(
        compared.sentence(),
        "1 of 4 metrics are worse by more than 5.00%: iops of worse (-50.0%); 1 are better by more, 2 within it, 0 undecided."
    );
    // Markdown has only the metrics that changed.
    let markdown = compared.markdown();
    assert!(markdown.contains("one CPU, worse") && markdown.contains("| better |"), "{markdown}");
    assert!(!markdown.contains("one CPU, same"), "{markdown}");
}

#[test]
fn an_arm_that_one_side_did_not_measure_is_named_with_its_side() {
    let one = document("b", "a", 100.0);
    let mut two = one.clone();
    two.results.extend(document("b", "other", 1.0).results);
    let text = documents(&two, &one, &limits(&[])).unwrap().text(false);
    assert!(text.contains("Not compared: one CPU, other (only before)."), "{text}");
    // The row exists, but has no numbers: the kernel does not support it.
    let mut three = one.clone();
    three.results.push(Entry {
        reason: Some("no".to_owned()),
        metrics: Default::default(),
        ..two.results[1].clone()
    });
    let compared = documents(&two, &three, &limits(&[])).unwrap();
    assert!(compared.text(false).contains("other (only before)."), "{}", compared.text(false));
    let compared = documents(&three, &two, &limits(&[])).unwrap();
    assert!(compared.text(false).contains("other (only after)."), "{}", compared.text(false));
}
