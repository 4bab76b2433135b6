use super::*;

const HOSTILE: &str = r#"{"schema":"bench/1","benchmark":"virtio-blk","command":"bench '<img src=x>'","workload":"<b>",
    "complete":false,"environment":{"kernel":"Linux </dd><script>","noise":{"spread":0.01},"warnings":["<i>"]},
    "conclusions":["<script>alert(1)</script>"],"results":[
    {"group":"<g>","case":"<c>","status":"unavailable","reason":"<r>","baseline":null,"metrics":{}},
    {"group":"<g>","case":"arm","status":"measured","reason":null,"baseline":"<c>","metrics":{
      "<m>":{"unit":"<u>","better":"lower","n":1,"median":1.0,"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],"versus":null}}}]}"#;

#[test]
fn a_page_is_one_small_file_that_loads_nothing() {
    for json in [include_str!("../../one_percent/golden/first.json"), HOSTILE] {
        let page = render(&Document::parse(json).unwrap(), None);
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        // Nothing that a browser would fetch, run or follow.
        for word in [
            "http://", "https://", "<script", "<img", "<link", "<iframe", "@import", "url(", " src=\"",
            " href=\"", "NaN", "inf\"",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("prefers-color-scheme:dark"));
        assert!(page.contains("@media print") && page.contains("width=device-width"));
    }
}

#[test]
fn every_element_is_closed() {
    let page = render(&Document::parse(include_str!("../../one_percent/golden/first.json")).unwrap(), None);
    for element in
        ["table", "tr", "td", "th", "ul", "li", "svg", "figure", "div", "dl", "text", "circle", "pre", "h2"]
    {
        let opened =
            page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn a_page_has_the_answer_the_curve_the_tables_and_the_command() {
    let document = Document::parse(include_str!("../../one_percent/golden/first.json")).unwrap();
    let page = render(&document, None);
    assert!(page.contains(&format!("<p class=\"answer\">{}</p>", escape(&document.conclusions[0]))));
    for sentence in &document.conclusions[1..] {
        assert!(page.contains(&format!("<li>{}</li>", escape(sentence))), "{sentence}");
    }
    assert!(page.contains("2020: 1% of 100 us") && page.contains("time of an iteration (classic), us"));
    assert!(page.contains(&format!("<pre>{}</pre>", escape(&document.command))));
    for entry in &document.results {
        assert!(page.contains(&escape(&entry.group)), "{}", entry.group);
    }
}

#[test]
fn a_report_without_metrics_is_a_page_too() {
    let mut document = Document::parse(HOSTILE).unwrap();
    assert!(render(&document, None).contains("Stopped by Ctrl-C"));
    document.results.clear();
    document.conclusions.clear();
    assert!(render(&document, None).contains("Nothing was concluded."));
}
