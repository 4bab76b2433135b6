//! The charts that any report can have, one for each group whose metrics allow it.

use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, colour, escape, fits, key, key_of_lines, stroke, wrap};
use crate::measure::{Comparison, Estimate, Interval, Verdict};
use crate::report::metric::{heading, quantile};
use crate::report::number::{fixed, percent, range};
use crate::report::saved::{Document, Entry, metric_names};

/// Space between two lines of text.
const LINE: f64 = 15.0;
/// Left and right of an axis, for half a tick's label.
const MARGIN: f64 = 22.0;

/// A figure with its title.
fn figure(title: &str, svg: Svg, key: &str) -> String {
    format!("<figure><h3>{}</h3>{}{key}</figure>", escape(title), svg.finish())
}

fn group_name(group: &[Entry]) -> &str {
    group.first().map_or("", |entry| &entry.group)
}

/// Shares of requests that are named on the axis.
const SHARES: [f64; 7] = [0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999];

/// Share of requests against latency, through the quantiles that were recorded.
pub(super) fn latency(group: &[Entry]) -> Option<String> {
    let (left, right, top, bottom) = (48.0, WIDTH - MARGIN, 10.0, 200.0);
    let curve = |entry: &Entry| {
        let mut points: Vec<(f64, f64)> = entry
            .metrics
            .iter()
            .filter_map(|(name, metric)| Some((quantile(name)?, metric.summary.median)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let drawn: Vec<(&Entry, Vec<(f64, f64)>)> =
        group.iter().map(|entry| (entry, curve(entry))).filter(|(_, points)| points.len() >= 3).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points.iter());
    let latencies = || all().map(|(_, latency)| *latency);
    let shares = || all().map(|(share, _)| *share);
    let x =
        Scale::log((latencies().reduce(f64::min)? * 0.9, latencies().reduce(f64::max)? * 1.1), (left, right));
    let ends = (shares().reduce(f64::min)?.min(0.4), shares().reduce(f64::max)?.max(0.6));
    let y = Scale::logit(ends, (bottom, top));
    let name = group_name(group);
    let mut svg = Svg::new(bottom + 36.0, &format!("Share of requests by their longest latency, {name}"));
    for tick in SHARES.into_iter().filter(|share| (ends.0..=ends.1).contains(share)) {
        svg.line("grid", (left, y.at(tick)), (right, y.at(tick)));
        svg.text("dim", (left - 5.0, y.at(tick) + 4.0), Anchor::End, &format!("{}%", label(tick * 100.0)));
    }
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), top), (x.at(tick), bottom));
        svg.text("dim", (x.at(tick), bottom + 15.0), Anchor::Middle, &label(tick));
    }
    svg.text("", ((left + right) / 2.0, bottom + 32.0), Anchor::Middle, "latency, us");
    for (index, (_, points)) in drawn.iter().enumerate() {
        let places: Vec<(f64, f64)> =
            points.iter().map(|(share, latency)| (x.at(*latency), y.at(*share))).collect();
        svg.path(&stroke(index), &places, false);
    }
    let cases: Vec<String> = drawn.iter().map(|(entry, _)| entry.case.clone()).collect();
    Some(figure(&format!("Share of requests by latency, {name}"), svg, &key_of_lines(&cases)))
}

/// System calls by kind, and what they are called.
const CALLS: [(&str, &str); 5] = [
    ("reads", "read(2)"),
    ("waits", "ppoll, epoll_wait"),
    ("enters", "io_uring_enter"),
    ("writes", "write(2)"),
    ("submits", "io_submit"),
];

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
        let (mut at, counts) = (0.0, parts(entry));
        for (place, &kind) in kinds.iter().enumerate() {
            let (count, (_, call)) = (counts[kind], CALLS[kind]);
            if count > 0.0 {
                let title = format!("{call}: {}", fixed(count, 2));
                svg.rect(colour(place), (x.at(at), y), (x.at(at + count) - x.at(at), BAR), &title);
                at += count;
            }
        }
        svg.text("dim", (x.at(at) + 6.0, y + BAR - 2.0), Anchor::Start, &fixed(at, 2));
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
