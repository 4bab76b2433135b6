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
    title: String,
}

/// The loop of a case, however it is used: `mio, unread` is mio.
fn who(case: &str) -> &str {
    case.split([',', '/']).next().unwrap_or(case)
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
            dots.push(Dot { who: index, times: ns / floor_ns, title });
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
            svg.mark(dot.who, "", (x.at(dot.times), y + LANE / 2.0 - 2.5), 4.5, &dot.title);
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
