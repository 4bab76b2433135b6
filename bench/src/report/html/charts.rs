//! The drawings that any report can have, one for each group of its rows: where its metrics allow them.

use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, colour, escape, key};
use crate::measure::Interval;
use crate::report::number::{fixed, percent, range};
use crate::report::saved::{Entry, metric_names};

const ROW: f64 = 34.0;

/// A figure with its title.
fn figure(title: &str, svg: Svg, names: &[String]) -> String {
    let key = if names.is_empty() { String::new() } else { key(names) };
    format!("<figure><h3>{}</h3>{}{key}</figure>", escape(title), svg.finish())
}

fn cases(entries: &[&Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.case.clone()).collect()
}

/// The quantile that a metric is, if it is one of latency: `p999_us` is 0.999.
fn quantile(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p')?.strip_suffix("_us")?;
    let number: f64 = digits.parse().ok().filter(|_| digits.len() >= 2)?;
    Some(number / 10f64.powi(digits.len() as i32))
}

/// Share of requests against latency, through the quantiles that were recorded.
pub(super) fn latency(group: &[Entry]) -> Option<String> {
    let (left, right, top, bottom) = (40.0, WIDTH - 12.0, 8.0, 190.0);
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
    let all = || drawn.iter().flat_map(|(_, points)| points.iter().map(|(_, latency)| *latency));
    let x = Scale::log((all().reduce(f64::min)? * 0.9, all().reduce(f64::max)? * 1.1), (left, right));
    let y = Scale::linear((0.0, 1.0), (bottom, top));
    let mut svg = Svg::new(228.0, "Share of requests that took at most so long");
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        svg.line("grid", (left, y.at(tick)), (right, y.at(tick)));
        svg.text("dim", (left - 5.0, y.at(tick) + 4.0), Anchor::End, &format!("{}%", tick * 100.0));
    }
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), top), (x.at(tick), bottom));
        svg.text("dim", (x.at(tick), bottom + 16.0), Anchor::Middle, &label(tick));
    }
    svg.text("", ((left + right) / 2.0, 224.0), Anchor::Middle, "latency, us");
    for (index, (_, points)) in drawn.iter().enumerate() {
        let places: Vec<(f64, f64)> =
            points.iter().map(|(share, latency)| (x.at(*latency), y.at(*share))).collect();
        svg.path(&format!("line {}", colour(index)), &places, false);
    }
    let entries: Vec<&Entry> = drawn.iter().map(|(entry, _)| *entry).collect();
    Some(figure(&format!("Latency, {}", group.first()?.group), svg, &cases(&entries)))
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
    let parts = |entry: &Entry| CALLS.map(|(name, _)| entry.median(name).unwrap_or(0.0));
    let drawn: Vec<&Entry> = group
        .iter()
        .filter(|entry| entry.metrics.contains_key("reads") && entry.metrics.contains_key("waits"))
        .collect();
    let most = drawn.iter().map(|entry| parts(entry).iter().sum::<f64>()).reduce(f64::max)?;
    let x = Scale::linear((0.0, most.max(0.01)), (2.0, WIDTH - 50.0));
    let mut svg = Svg::new(ROW * drawn.len() as f64 + 4.0, "System calls of the device per request, by kind");
    for (index, entry) in drawn.iter().enumerate() {
        let y = ROW * index as f64;
        svg.text("", (2.0, y + 13.0), Anchor::Start, &entry.case);
        let mut at = 0.0;
        for (kind, (count, (_, name))) in parts(entry).into_iter().zip(CALLS).enumerate() {
            if count > 0.0 {
                let title = format!("{name}: {}", fixed(count, 2));
                svg.rect(colour(kind), (x.at(at), y + 17.0), (x.at(at + count) - x.at(at), 13.0), &title);
                at += count;
            }
        }
        svg.text("dim", (x.at(at) + 6.0, y + 28.0), Anchor::Start, &fixed(at, 2));
    }
    let names = CALLS.map(|(_, name)| name.to_owned());
    Some(figure(&format!("System calls per request, {}", group.first()?.group), svg, &names))
}

/// The change of each arm against its baseline, with its interval, in the metric that is looked at first.
pub(super) fn changes(group: &[Entry]) -> Option<String> {
    let (left, right) = (8.0, WIDTH - 8.0);
    let (name, _) = metric_names(group).into_iter().find(|(name, _)| {
        group.iter().any(|entry| entry.versus(name).is_some_and(|versus| versus.ratio.is_some()))
    })?;
    let drawn: Vec<_> = group.iter().filter_map(|entry| Some((entry, entry.versus(name)?.ratio?))).collect();
    let ends = |ratio: &crate::measure::Estimate| {
        let Interval { low, high } =
            ratio.interval.unwrap_or(Interval { low: ratio.median, high: ratio.median });
        [low, high]
    };
    let all = || drawn.iter().flat_map(|(_, ratio)| ends(ratio));
    let reach =
        all().map(|ratio| (ratio - 1.0).abs()).filter(|reach| reach.is_finite()).fold(0.01, f64::max) * 1.1;
    let x = Scale::linear(((-reach).max(-1.0), reach), (left, right));
    let bottom = 40.0 * drawn.len() as f64;
    let mut svg = Svg::new(bottom + 22.0, "Change against the baseline, with 95% intervals");
    for tick in x.ticks() {
        let class = if tick == 0.0 { "axis" } else { "grid" };
        svg.line(class, (x.at(tick), 0.0), (x.at(tick), bottom));
        svg.text("dim", (x.at(tick), bottom + 16.0), Anchor::Middle, &format!("{}%", label(tick * 100.0)));
    }
    for (index, (entry, ratio)) in drawn.iter().enumerate() {
        let y = 40.0 * index as f64;
        let words = match ratio.interval {
            Some(interval) => format!("{} ({})", percent(ratio.median), range(interval, percent)),
            None => percent(ratio.median),
        };
        svg.text("halo", (left, y + 14.0), Anchor::Start, &format!("{}: {words}", entry.case));
        let [low, high] = ends(ratio);
        svg.line("c0 line", (x.at(low - 1.0), y + 27.0), (x.at(high - 1.0), y + 27.0));
        svg.circle("c0", (x.at(ratio.median - 1.0), y + 27.0), 4.5, &words);
    }
    Some(figure(&format!("{name} against the baseline, {}", group.first()?.group), svg, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_read_from_names() {
        assert_eq!(
            [quantile("p50_us"), quantile("p01_us"), quantile("p999_us")],
            [Some(0.5), Some(0.01), Some(0.999)]
        );
        assert_eq!([quantile("iops"), quantile("p_us"), quantile("p5_us"), quantile("pxx_us")], [None; 4]);
    }
}
