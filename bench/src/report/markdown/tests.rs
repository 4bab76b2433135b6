use super::*;

#[test]
fn nothing_in_a_report_is_taken_for_markdown() {
    assert_eq!(escape("a|b*c\n<script>"), "a\\|b\\*c \\<script\\>");
    assert_eq!(escape("_a_ io_uring x_"), "\\_a\\_ io_uring x\\_");
}

#[test]
fn a_report_has_its_sentences_its_tables_and_its_command() {
    let json = r#"{"schema":"bench/1","benchmark":"virtio-blk","command":"bench --quick","workload":"randread\nbs=4k",
        "complete":false,"environment":{"kernel":"Linux 6.1","cpu_model":null,"warnings":["it is busy"]},
        "conclusions":["It is so."],"results":[
        {"group":"one CPU","case":"epoll/classic","status":"measured","reason":null,"baseline":null,"metrics":{
          "iops":{"unit":"1/s","better":"higher","n":1,"median":1000.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1000.0],
          "versus":null},"kicks":{"unit":"","better":"lower","n":1,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,
          "values":[1.0],"versus":null},"reads":{"unit":"","better":"lower","n":1,"median":1.0,"mad":0.0,"min":1.0,
          "max":1.0,"values":[1.0],"versus":null}}},
        {"group":"one CPU","case":"epoll/edge","status":"measured","reason":null,"baseline":"epoll/classic","metrics":{
          "iops":{"unit":"1/s","better":"higher","n":6,"median":20000.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],
          "versus":{"pairs":6,"difference":{"median":19000.0,"interval":null},
            "ratio":{"median":1.25,"interval":{"low":1.125,"high":1.5}},"verdict":"faster"}},
          "kicks":{"unit":"","better":"lower","n":1,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],
          "versus":null},"reads":{"unit":"","better":"lower","n":1,"median":0.0,"mad":0.0,"min":1.0,"max":1.0,
          "values":[0.0],"versus":null}}},
        {"group":"one CPU","case":"poll/edge","status":"unavailable","reason":"no edges","baseline":null,"metrics":{}}]}"#;
    let text = render(&Document::parse(json).unwrap());
    let expected = "### bench virtio-blk\n\n\
        * It is so.\n\
        * Stopped by Ctrl-C: the tables contain the finished samples.\n\n\
        **one CPU**\n\n\
        | case          | IOPS, 1/s | reads | against epoll/classic          |\n\
        |:--------------|----------:|------:|:-------------------------------|\n\
        | epoll/classic |     1,000 |  1.00 |                                |\n\
        | epoll/edge    |    20,000 |  0.00 | IOPS +25.0% (+12.5% to +50.0%) |\n\n\
        In all of them: kicks 1.00.\n\n\
        poll/edge: not available: no edges.\n\n    \
        $ bench --quick\n    \
        Linux 6.1; unknown; CPUs unknown; bench unknown\n    \
        randread bs=4k\n    \
        warning: it is busy\n";
    assert_eq!(text, expected);
}

/// Name, unit, median, and the ratio to another arm's.
type Metric = (&'static str, &'static str, f64, Option<f64>);

/// Three arms of one group.
fn arms(metrics: [&[Metric]; 3]) -> Document {
    let metric = |&(name, unit, median, ratio): &Metric| {
        let versus = ratio.map_or("null".to_owned(), |ratio| {
            format!(
                r#"{{"pairs":6,"difference":{{"median":1.0,"interval":null}},"ratio":{{"median":{ratio:?},"interval":null}},
                "verdict":"faster"}}"#
            )
        });
        format!(
            r#""{name}":{{"unit":"{unit}","better":"lower","n":1,"median":{median:?},"mad":0.0,"min":1.0,"max":1.0,
            "values":[],"versus":{versus}}}"#
        )
    };
    let arm = |(case, metrics): (&str, &[Metric])| {
        let metrics: Vec<String> = metrics.iter().map(metric).collect();
        format!(
            r#"{{"group":"g","case":"{case}","status":"measured","reason":null,"baseline":null,"metrics":{{{}}}}}"#,
            metrics.join(",")
        )
    };
    let results: Vec<String> = ["a", "b", "c"].into_iter().zip(metrics).map(arm).collect();
    let json = format!(
        r#"{{"schema":"bench/1","benchmark":"x","command":"","workload":null,"complete":true,"environment":{{}},
        "conclusions":[],"results":[{}]}}"#,
        results.join(",")
    );
    Document::parse(&json).unwrap()
}

#[test]
fn a_count_is_left_out_of_a_table_only_if_all_arms_have_the_same() {
    let text = render(&arms([
        &[("kicks", "", 1.0, None), ("waits", "", 1.0, None), ("time_ns", "ns", 5.0, None)],
        &[("kicks", "", 1.0, None), ("waits", "", 2.0, None), ("time_ns", "ns", 5.0, None)],
        &[("kicks", "", 1.0, None), ("waits", "", 1.0, None), ("time_ns", "ns", 5.0, None)],
    ]));
    assert!(
        text.contains("| case | time, ns | waits |") && text.contains("In all of them: kicks 1.00.\n"),
        "{text}"
    );
}

#[test]
fn both_of_our_loops_are_held_against_a_peer_and_only_the_first_of_other_metrics() {
    let text = render(&arms([
        &[("aio_epoll_ns", "ns", 5.0, Some(0.5)), ("aio_io_uring_ns", "ns", 4.0, Some(0.4))],
        &[("time_ns", "ns", 5.0, Some(0.5)), ("device_cpu_ns", "ns", 4.0, Some(0.4))],
        &[],
    ]));
    assert!(text.contains("| aio on epoll -50.0%, aio on io_uring -60.0% |"), "{text}");
    assert!(text.contains(" | time -50.0% ") && !text.contains("device CPU -60"), "{text}");
}

#[test]
fn one_percent_is_one_table_with_a_line_for_each_cell() {
    let document = Document::parse(include_str!("../../one_percent/golden/first.json")).unwrap();
    let text = render(&document);
    let found = outcomes(&document.results);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(lines.len(), found.len() + 2, "{text}");
    let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "every line of the table is as long: {widths:?}");
    let line = Line::of(&found[0], &[]);
    let cells: Vec<&str> = lines[2].split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let expected = [
        &line.name,
        &line.iteration_us,
        &line.read_ns,
        &line.reads,
        &line.predicted,
        &line.saved,
        &line.verdict,
        &line.cpu_saved_ns,
        &line.cpu_predicted_ns,
        &line.level_ns,
        &line.syscalls,
    ];
    assert_eq!(cells, expected);
}
