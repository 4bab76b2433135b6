use super::*;

mod drawings;

const HOSTILE: &str = r#"{"schema":"bench/1","benchmark":"virtio-blk","command":"bench '<img src=x>'","workload":"<b>",
    "complete":false,"environment":{"kernel":"Linux </dd><script>","noise":{"spread":0.01},"warnings":["<i>"]},
    "conclusions":["<script>alert(1)</script>"],"results":[
    {"group":"<g>","case":"<c>","status":"unavailable","reason":"<r>","baseline":null,"metrics":{}},
    {"group":"<g>","case":"arm","status":"measured","reason":null,"baseline":"<c>","metrics":{
      "<m>":{"unit":"<u>","better":"lower","n":1,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],"versus":null}}}]}"#;

#[test]
fn a_page_is_one_small_file_that_loads_nothing() {
    for json in [include_str!("../../../one_percent/golden/first.json"), HOSTILE] {
        let page = render(&Document::parse(json).unwrap(), None);
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        // Nothing that a browser would load, execute or follow.
        for word in [
            "http://",
            "https://",
            "<script",
            "<img",
            "<link",
            "<iframe",
            "@import",
            "url(",
            " src=\"",
            " href=\"/",
            " href=\"f",
            "NaN",
            "inf\"",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("prefers-color-scheme:dark"));
        assert!(page.contains("@media print") && page.contains("width=device-width"));
    }
}

#[test]
fn every_element_is_closed() {
    let page =
        render(&Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap(), None);
    for element in
        ["table", "tr", "td", "th", "ul", "li", "svg", "figure", "div", "dl", "text", "circle", "pre", "h2"]
    {
        let opened =
            page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn a_page_asks_answers_and_judges_before_anything_else() {
    let document = Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap();
    let page = render(&document, None);
    let first = page.split("<details").next().unwrap();
    assert!(first.contains("<h1>Does leaving out the read(2) of an eventfd save 1% of"), "{first}");
    assert!(first.contains("<p class=\"answer\">Of an iteration of 105 us, as in the proposal, leaving out"));
    assert!(first.contains(">no difference that could be seen</span></p>"), "{first}");
    assert!(first.contains("2020: 1% of 100 us") && first.contains("time of an iteration (classic), us"));
    assert!(!first.contains("<table"), "tables are folded");
    for sentence in &document.conclusions {
        assert!(page.contains(&format!("<li>{}</li>", escape(sentence))), "{sentence}");
    }
    assert!(!page.contains("Stopped by Ctrl-C"));
    assert!(page.contains(&format!("<pre>{}</pre>", escape(&document.command))));
    for entry in &document.results {
        assert!(page.contains(&escape(&entry.group)), "{}", entry.group);
    }
    // Every link leads to a part of the page.
    for link in page.split("href=\"#").skip(1) {
        let id = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
}

#[test]
fn what_is_the_same_in_all_arms_is_one_line() {
    let document = Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap();
    let table = tables::numbers(document.groups().next().unwrap());
    let same = table.split("The same in all arms: ").nth(1).unwrap();
    assert!(same.contains("kicks 1.00") && !table.contains(">kicks</th>"), "{table}");
    assert!(!same.contains("reads"), "{same}");
}

#[test]
fn an_inconclusive_change_is_a_question_mark() {
    let wide = SLOWER.replace(r#"{"low":1.49,"high":1.51}"#, r#"{"low":0.7,"high":2.3}"#);
    let table = tables::numbers(&Document::parse(&wide).unwrap().results);
    let cell =
        "<td>150 <span class=\"dim\" title=\"inconclusive: +50.0%, -30.0% to +130.0%\">(?)</span></td>";
    assert!(table.contains(cell), "{table}");
}

#[test]
fn a_report_without_metrics_is_a_page_too() {
    let mut document = Document::parse(HOSTILE).unwrap();
    assert!(render(&document, None).contains("Stopped by Ctrl-C"));
    document.results.clear();
    document.conclusions.clear();
    assert!(render(&document, None).contains("Nothing was measured."));
}

/// Two arms with one metric, the second slower than the first, and one that is not available.
const SLOWER: &str = r#"{"schema":"bench/1","benchmark":"eventfd","command":"bench eventfd","workload":null,"complete":true,
    "environment":{},"conclusions":[],"results":[
    {"group":"g","case":"a","status":"measured","reason":null,"baseline":null,"metrics":{
      "time_ns":{"unit":"ns","better":"lower","n":6,"median":100.0,"mad":0.0,"min":1.0,"max":1.0,
        "values":[100.0,100.0,100.0,100.0,100.0,100.0],"versus":null}}},
    {"group":"g","case":"b","status":"measured","reason":null,"baseline":"a","metrics":{
      "time_ns":{"unit":"ns","better":"lower","n":6,"median":150.0,"mad":0.0,"min":1.0,"max":1.0,
        "values":[150.0,150.0,150.0,150.0,150.0,150.0],"versus":{"pairs":6,
        "difference":{"median":50.0,"interval":{"low":49.0,"high":51.0}},
        "ratio":{"median":1.5,"interval":{"low":1.49,"high":1.51}},"verdict":"slower"}}}},
    {"group":"g","case":"c","status":"unavailable","reason":"no such kernel","baseline":null,"metrics":{}}]}"#;

#[test]
fn a_table_has_every_arm_and_its_change_in_the_colour_of_its_verdict() {
    let document = Document::parse(SLOWER).unwrap();
    let table = tables::numbers(&document.results);
    for row in [
        "<th scope=\"row\">a</th><td>100</td>",
        "<th scope=\"row\">b</th><td>150 <span class=\"bad\">(+50.0%)</span></td>",
        "<th scope=\"row\">c</th><td class=\"remark\" colspan=\"1\">not available: no such kernel</td>",
        "<th scope=\"col\">time<br>ns</th>",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    // The verdict follows from the interval, whatever the file says.
    let saves = SLOWER.replace(
        r#""median":1.5,"interval":{"low":1.49,"high":1.51}"#,
        r#""median":0.5,"interval":{"low":0.49,"high":0.51}"#,
    );
    let saves = Document::parse(&saves).unwrap();
    assert!(tables::numbers(&saves.results).contains("<span class=\"good\">(-50.0%)</span>"));
}

/// Many metrics and few arms: the metrics are rows.
#[test]
fn a_table_that_is_turned_has_every_arm_too() {
    let document = Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap();
    let group = document.groups().next().unwrap();
    let table = tables::numbers(group);
    let heads: String =
        group.iter().map(|entry| format!("<th scope=\"col\">{}</th>", escape(&entry.case))).collect();
    assert!(table.contains(&format!("<th scope=\"col\">median</th>{heads}</tr>")), "{table}");
    let iops: Vec<String> =
        group.iter().map(|entry| format!("<td>{}", number(entry.median("iops").unwrap()))).collect();
    let row = table.split("<tr>").find(|row| row.contains(">IOPS, 1/s</th>")).unwrap();
    let mut places = iops.iter().map(|cell| row.find(cell.as_str()).unwrap());
    assert!(places.by_ref().is_sorted() && group.len() == 4, "{row}");
    // An arm that could not be measured has no column, and a line with the reason.
    let mut group = group.to_vec();
    group[3].metrics.clear();
    group[3].reason = Some("no such kernel; ask for another".to_owned());
    let table = tables::numbers(&group);
    assert!(table.contains("<p class=\"note\">epoll/edge: not available: no such kernel</p>"), "{table}");
    assert!(!table.contains("<th scope=\"col\">epoll/edge</th>"), "{table}");
}

#[test]
fn an_earlier_run_is_before_and_its_regressions_are_red() {
    let before = Document::parse(SLOWER).unwrap();
    let after = Document::parse(&SLOWER.replace("150.0", "300.0")).unwrap();
    let limits = crate::report::compared::Limits { threshold: 0.05, metrics: Vec::new() };
    let rows = |before: &Document, after: &Document| {
        let mut body = String::new();
        tables::baseline(&mut body, &crate::report::compared::documents(before, after, &limits).unwrap());
        body
    };
    let worse = rows(&before, &after);
    assert!(
        worse.contains(
            "<td>150</td><td>300</td><td>+100.0% (+100.0% to +100.0%)</td><td class=\"words bad\">worse</td>"
        ),
        "{worse}"
    );
    let better = rows(&after, &before);
    assert!(
        better.contains("<td>300</td><td>150</td>")
            && better.contains("<td class=\"words good\">better</td>"),
        "{better}"
    );
}

#[test]
fn a_long_first_sentence_is_shortened_in_the_answer_and_complete_below() {
    let long = format!("We are ahead; except where {}.", "we are not ".repeat(30));
    let json = SLOWER.replace("\"conclusions\":[]", &format!("\"conclusions\":[\"{long}\"]"));
    let page = render(&Document::parse(&json.replace("eventfd", "scale")).unwrap(), None);
    assert!(
        page.contains("<p class=\"answer\">We are ahead.</p>") && page.contains(&format!("<li>{long}</li>")),
        "{page}"
    );
}
