//! The charts that any report can have, one for each group whose metrics allow it.

use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, colour, escape, fits, key, wrap};
use crate::measure::{Comparison, Estimate, Interval, Verdict};
use crate::report::metric::heading;
use crate::report::number::{fixed, percent, range};
use crate::report::saved::{Document, Entry, metric_names};

/// Space between two lines of text.
const LINE: f64 = 15.0;
/// Left and right of an axis, for half a tick's label.
pub(super) const MARGIN: f64 = 22.0;

/// A figure with its title.
pub(super) fn figure(title: &str, svg: Svg, key: &str) -> String {
    format!("<figure><h3>{}</h3>{}{key}</figure>", escape(title), svg.finish())
}

pub(super) fn group_name(group: &[Entry]) -> &str {
    group.first().map_or("", |entry| &entry.group)
}

/// System calls by kind, and what they are called.
const CALLS: [(&str, &str); 5] = [
    ("reads", "read(2)"),
    ("waits", "ppoll, epoll_wait"),
    ("enters", "io_uring_enter"),
    ("writes", "write(2)"),
    ("submits", "io_submit"),
];

/// The same in the text beside a bar, so that it can be read without colours.
const SHORT: [&str; 5] = ["read", "wait", "enter", "write", "submit"];

/// System calls per request as bars, a part for each kind.
pub(super) fn syscalls(group: &[Entry]) -> Option<String> {
    const BAR: f64 = 13.0;
    let parts = |entry: &Entry| CALLS.map(|(name, _)| entry.median(name).unwrap_or(0.0));
    let drawn: Vec<&Entry> = group
        .iter()
        .filter(|entry| entry.metrics.contains_key("reads") && entry.metrics.contains_key("waits"))
        .collect();
    let most = drawn.iter().map(|entry| parts(entry).iter().sum::<f64>()).reduce(f64::max)?;
    // Only the kinds that occur, so that the key has no others.
    let kinds: Vec<usize> =
        (0..CALLS.len()).filter(|&kind| drawn.iter().any(|entry| parts(entry)[kind] > 0.0)).collect();
    let x = Scale::linear((0.0, most.max(0.01)), (2.0, WIDTH - 44.0));
    let names: Vec<Vec<String>> = drawn.iter().map(|entry| wrap(&entry.case, WIDTH)).collect();
    let heights = names.iter().map(|lines| LINE * lines.len() as f64 + BAR + 8.0);
    let name = group_name(group);
    let mut svg =
        Svg::new(heights.sum(), &format!("System calls of the device per request, by kind, {name}"));
    let mut y = 0.0;
    for (entry, lines) in drawn.iter().zip(&names) {
        for line in lines {
            y += LINE;
            svg.text("", (2.0, y - 3.0), Anchor::Start, line);
        }
        let (mut at, counts, mut parts_words) = (0.0, parts(entry), Vec::new());
        for (place, &kind) in kinds.iter().enumerate() {
            let (count, (_, call)) = (counts[kind], CALLS[kind]);
            if count > 0.0 {
                let title = format!("{call}: {}", fixed(count, 2));
                let width = x.at(at + count) - x.at(at);
                svg.rect(colour(place), (x.at(at), y), (width, BAR), &title);
                parts_words.push(format!("{} {}", SHORT[kind], fixed(count, 2)));
                at += count;
            }
        }
        svg.text("dim", (x.at(at) + 6.0, y + BAR - 2.0), Anchor::Start, &fixed(at, 2));
        let (words, name) = (parts_words.join(", "), lines.last().map_or(0, |line| line.chars().count()));
        if fits(name + 2 + words.len(), WIDTH) {
            svg.text("dim", (WIDTH, y - 3.0), Anchor::End, &words);
        }
        y += BAR + 8.0;
    }
    let calls: Vec<String> = kinds.iter().map(|&kind| CALLS[kind].1.to_owned()).collect();
    Some(figure(&format!("System calls per request, {name}"), svg, &key(&calls)))
}

/// The change of each arm against its baseline, with its interval, in the most important metric; in
/// all metrics where each is the time of another of our loops.
pub(super) fn changes(group: &[Entry]) -> Option<String> {
    let ratio = |entry: &Entry, name: &str| entry.versus(name).and_then(|versus| versus.ratio);
    let compared = metric_names(group)
        .into_iter()
        .map(|(name, unit)| (name, heading(name, unit).0))
        .filter(|(name, _)| group.iter().any(|entry| ratio(entry, name).is_some()));
    let figures =
        compared.enumerate().take_while(|(index, (name, _))| *index == 0 || name.starts_with("aio_"));
    let common = Document::common_baseline(group);
    // With several baselines, each arm names its own.
    let label = |entry: &Entry| match entry.baseline.as_deref() {
        Some(baseline) if common.is_none() => format!("{} against {baseline}", entry.case),
        _ => entry.case.clone(),
    };
    let figures: String = figures
        .filter_map(|(_, (name, words))| {
            let title = match name.strip_prefix("aio_").and_then(|name| name.strip_suffix("_ns")) {
                Some(monitor) => format!("Time of aio on {monitor} against each, {}", group_name(group)),
                None => {
                    let baseline = common.unwrap_or("the baseline");
                    format!("Change of {words} against {baseline}, {}", group_name(group))
                }
            };
            let arms: Vec<(String, &Comparison, Estimate)> = group
                .iter()
                .filter_map(|entry| Some((label(entry), entry.versus(name)?, ratio(entry, name)?)))
                .collect();
            intervals(&title, &arms)
        })
        .collect();
    (!figures.is_empty()).then_some(figures)
}

/// A dot and a line for each arm, below its name and the change in words.
fn intervals(title: &str, arms: &[(String, &Comparison, Estimate)]) -> Option<String> {
    const MARK: f64 = 18.0;
    let (left, right) = (MARGIN, WIDTH - MARGIN);
    let ends = |ratio: &Estimate| {
        let Interval { low, high } =
            ratio.interval.unwrap_or(Interval { low: ratio.median, high: ratio.median });
        [low - 1.0, high - 1.0]
    };
    let all = || arms.iter().flat_map(|(.., ratio)| ends(ratio)).filter(|change| change.is_finite());
    let (low, high) = (all().reduce(f64::min)?.min(0.0), all().reduce(f64::max)?.max(0.0));
    let room = ((high - low) * 0.06).max(0.002);
    let x = Scale::linear((low - room, high + room), (left, right));
    let words = |ratio: &Estimate| match ratio.interval {
        Some(interval) => format!("{} ({})", percent(ratio.median), range(interval, percent)),
        None => percent(ratio.median),
    };
    // The change is in the last line of the name if there is room, otherwise on its own line.
    let lines = |name: &str, words: &str| {
        let mut lines = wrap(name, WIDTH);
        let last = lines.last().map_or(0, |line| line.chars().count());
        if !fits(last + 2 + words.chars().count(), WIDTH) {
            lines.push(String::new());
        }
        lines
    };
    let rows: Vec<(Vec<String>, String)> =
        arms.iter().map(|(name, _, ratio)| (lines(name, &words(ratio)), words(ratio))).collect();
    let bottom: f64 = rows.iter().map(|(lines, _)| LINE * lines.len() as f64 + MARK).sum();
    let mut svg = Svg::new(bottom + 20.0, &format!("{title}, with 95% intervals"));
    for tick in x.ticks() {
        svg.text("dim", (x.at(tick), bottom + 15.0), Anchor::Middle, &format!("{}%", label(tick * 100.0)));
    }
    let mut y = 0.0;
    for ((_, versus, ratio), (lines, words)) in arms.iter().zip(&rows) {
        for line in lines {
            y += LINE;
            svg.text("", (0.0, y - 3.0), Anchor::Start, line);
        }
        svg.text("", (WIDTH, y - 3.0), Anchor::End, words);
        // Draw the lines between the texts, not through them: not every printer paints the
        // background around letters.
        for tick in x.ticks() {
            let class = if tick == 0.0 { "axis" } else { "grid" };
            svg.line(class, (x.at(tick), y), (x.at(tick), y + MARK - 6.0));
        }
        let (class, hollow) = match versus.verdict {
            Verdict::Saves => ("good", ""),
            Verdict::Costs => ("bad", ""),
            Verdict::NoDifferenceSeen => ("c5", ""),
            Verdict::Inconclusive => ("c5", " hollow"),
        };
        let [low, high] = ends(ratio);
        let middle = y + 5.0;
        svg.line(&format!("{class} line"), (x.at(low), middle), (x.at(high), middle));
        svg.circle(&format!("{class}{hollow}"), (x.at(ratio.median - 1.0), middle), 4.0, words);
        y += MARK;
    }
    Some(figure(title, svg, ""))
}
