//! `bench loops` as one drawing: for each kind of work the time of each loop, as a multiple of the
//! floor. The floor is one line: bare calls of epoll, or for tasks the callback that does the same.

use super::charts::MARGIN;
use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, key_of_marks, wrap};
use crate::report::number::{fixed, number};
use crate::report::saved::{Document, Entry};

const LINE: f64 = 15.0;
const LANE: f64 = 20.0;
const FLOORS: [&str; 3] = ["raw epoll, unread", "raw epoll, read", "aio epoll/edge"];

/// A loop in a kind of work.
struct Dot {
    /// The index of the loop in the key.
    who: usize,
    times: f64,
    /// Whether the eventfd is read after each event.
    reads: bool,
    title: String,
}

/// The loop of a case, however it is used: `mio, unread` is mio.
fn who(case: &str) -> &str {
    case.split([',', '/']).next().unwrap_or(case)
}

/// Whether a loop reads its eventfds: only an edge-triggered one does not.
fn reads(case: &str) -> bool {
    !case.ends_with("unread") && !case.contains("/edge")
}

/// Times of a group by case.
fn times(group: &[Entry]) -> Vec<(&str, f64)> {
    group.iter().filter_map(|entry| Some((entry.case.as_str(), entry.median("time_ns")?))).collect()
}

/// The drawing for a screen of this width, in the units of the text. `None` without a floor.
pub(super) fn render(document: &Document, width: f64) -> Option<String> {
    let mut loops: Vec<&str> = Vec::new();
    let mut lanes: Vec<(String, Vec<Dot>)> = Vec::new();
    for group in document.groups() {
        let times = times(group);
        let is_floor = |name: &str| times.iter().find(|(case, _)| *case == name);
        let Some((floor, floor_ns)) = FLOORS.iter().find_map(|name| is_floor(name)).copied() else {
            continue;
        };
        let mut dots = Vec::new();
        for (case, ns) in times.iter().filter(|(case, _)| *case != floor && who(case) != "raw epoll") {
            let name = who(case);
            let index = loops.iter().position(|known| *known == name).unwrap_or_else(|| {
                loops.push(name);
                loops.len() - 1
            });
            let title = format!("{case}: {} ns, {} times {floor}", number(*ns), fixed(ns / floor_ns, 2));
            dots.push(Dot { who: index, times: ns / floor_ns, reads: reads(case), title });
        }
        let name = group.first().map_or("", |entry| entry.group.as_str());
        lanes.push((format!("{name}: floor {} ns ({floor})", number(floor_ns)), dots));
    }
    let all = || lanes.iter().flat_map(|(_, dots)| dots.iter().map(|dot| dot.times));
    let (low, high) = (all().reduce(f64::min)?.min(0.9), all().reduce(f64::max)?.max(1.5));
    let x = Scale::log((low * 0.95, high * 1.05), (MARGIN, width - MARGIN));
    let names: Vec<Vec<String>> = lanes.iter().map(|(name, _)| wrap(name, width)).collect();
    let bottom: f64 = names.iter().map(|lines| LINE * lines.len() as f64 + LANE).sum();
    let label_text = "Time of an event on each loop, as a multiple of the floor, by kind of work";
    let mut svg = Svg::of_width(width, bottom + 34.0, label_text);
    let mut y = 0.0;
    for ((_, dots), lines) in lanes.iter().zip(&names) {
        for line in lines {
            y += LINE;
            svg.text("dim", (0.0, y - 3.0), Anchor::Start, line);
        }
        for tick in x.ticks() {
            svg.line("grid", (x.at(tick), y), (x.at(tick), y + LANE - 5.0));
        }
        svg.line("floor", (x.at(1.0), y), (x.at(1.0), y + LANE - 5.0));
        // Ours last, above the others.
        let (ours, others): (Vec<&Dot>, Vec<&Dot>) =
            dots.iter().partition(|dot| loops.get(dot.who).is_some_and(|name| name.starts_with("aio")));
        for dot in others.into_iter().chain(ours) {
            let class = if dot.reads { "hollow" } else { "" };
            svg.mark(dot.who, class, (x.at(dot.times), y + LANE / 2.0 - 2.5), 4.5, &dot.title);
        }
        y += LANE;
    }
    for tick in x.ticks() {
        svg.text("dim", (x.at(tick), bottom + 14.0), Anchor::Middle, &label(tick));
    }
    let words = "time of an event / floor (line at 1)";
    svg.text("", (width / 2.0, bottom + 30.0), Anchor::Middle, words);
    let loops: Vec<String> = loops.iter().map(|name| (*name).to_owned()).collect();
    Some(format!("<figure>{}{}</figure>", svg.finish(), key_of_marks(&loops)))
}

/// What the drawing shows.
pub(super) const NOTE: &str = "<p class=\"note\">Each line is a kind of work; each mark is a loop, at the median of its time. The floor is the time of \
    bare calls of epoll, or for tasks that of a callback. Filled: the eventfd is not read (edge-triggered). Hollow: it is read after \
    each event.</p>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_each_loop_is_a_multiple_of_the_floor() {
        let row = |case: &str, ns: f64| {
            format!(
                r#"{{"group":"1 notifier","case":"{case}","status":"measured","reason":null,"baseline":null,"metrics":{{"time_ns":
                {{"unit":"ns","better":"lower","n":6,"median":{ns:?},"mad":0.0,"min":1.0,"max":1.0,"values":[1.0],"versus":null}}}}}}"#
            )
        };
        let rows = [row("raw epoll, unread", 500.0), row("aio epoll/edge", 550.0), row("mio", 1_000.0)];
        let json = format!(
            r#"{{"schema":"bench/2","benchmark":"loops","command":"","workload":null,"complete":true,"environment":{{}},
            "conclusions":[],"results":[{}]}}"#,
            rows.join(",")
        );
        let document = Document::parse(&json).unwrap();
        let drawing = render(&document, 860.0).unwrap();
        assert!(drawing.contains("1 notifier: floor 500 ns (raw epoll, unread)"), "{drawing}");
        assert!(drawing.contains("<title>mio: 1,000 ns, 2.00 times raw epoll, unread</title>"), "{drawing}");
        assert!(drawing.contains("mark c0 \"") && drawing.contains("mark c1 hollow\""), "{drawing}");
        assert_eq!(drawing.matches("class=\"floor\"").count(), 1);
        // Without a floor there is nothing to compare with.
        assert!(render(&Document::parse(&json.replace("raw epoll", "other")).unwrap(), 860.0).is_some());
        let nothing = json.replace("raw epoll", "other").replace("aio epoll", "aio other");
        assert!(render(&Document::parse(&nothing).unwrap(), 860.0).is_none());
    }
}
