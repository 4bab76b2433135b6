//! The whole distribution of the latencies, from every bucket of the histograms: as a share of the
//! requests (CDF), and as the plot of HdrHistogram, whose axis of percentiles stretches the tail.
//! Older reports have only some quantiles, which are drawn as points.

use super::charts::{MARGIN, figure, group_name};
use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, key_of_lines, stroke};
use crate::measure::from_base64;
use crate::report::metric::quantile;
use crate::report::saved::Entry;

/// Where the axes begin and end.
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - MARGIN;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 210.0;
/// The furthest percentile that is drawn: beyond it there are single requests.
const LAST: f64 = 0.99999;

/// The distribution of one arm.
struct Distribution<'a> {
    name: &'a str,
    /// Latency in microseconds and the share of requests that took at most that long.
    points: Vec<(f64, f64)>,
    /// Set if these are all buckets of a histogram.
    is_whole: bool,
}

impl<'a> Distribution<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        let whole = entry.latency.as_deref().and_then(from_base64).filter(|histogram| !histogram.is_empty());
        let is_whole = whole.is_some();
        let points: Vec<(f64, f64)> = match whole {
            Some(histogram) => {
                let total = histogram.len() as f64;
                let mut seen = 0;
                let bucket = |bucket: hdrhistogram::iterators::IterationValue<u64>| {
                    seen += bucket.count_since_last_iteration();
                    (bucket.value_iterated_to() as f64 / 1e3, seen as f64 / total)
                };
                histogram.iter_recorded().map(bucket).collect()
            }
            None => {
                let quantiles = entry.metrics.iter();
                let mut points: Vec<(f64, f64)> = quantiles
                    .filter_map(|(name, metric)| Some((metric.summary.median, quantile(name)?)))
                    .collect();
                points.sort_by(|a, b| a.1.total_cmp(&b.1));
                points
            }
        };
        (points.len() >= 3).then_some(Self { name: &entry.case, points, is_whole })
    }
}

/// Both drawings of a group. `None` if it has no latencies.
pub(super) fn figures(group: &[Entry]) -> Option<String> {
    let drawn: Vec<Distribution<'_>> = group.iter().filter_map(Distribution::of).collect();
    let latencies = || drawn.iter().flat_map(|one| one.points.iter().map(|(us, _)| *us));
    let ends = (latencies().reduce(f64::min)? * 0.9, latencies().reduce(f64::max)? * 1.1);
    Some(shares(group, &drawn, body(&drawn)?) + &percentiles(group, &drawn, ends))
}

/// Where the latencies of nearly all requests begin and end. The other drawing has the tail.
fn body(drawn: &[Distribution<'_>]) -> Option<(f64, f64)> {
    let at = |one: &Distribution<'_>, wanted: f64| {
        one.points.iter().find(|(_, share)| *share >= wanted).or(one.points.last()).map(|(us, _)| *us)
    };
    let first = drawn.iter().filter_map(|one| at(one, 0.0)).reduce(f64::min)?;
    let last = drawn.iter().filter_map(|one| at(one, 0.995)).reduce(f64::max)?;
    Some((first * 0.95, last * 1.05))
}

/// Share of requests against latency.
fn shares(group: &[Entry], drawn: &[Distribution<'_>], ends: (f64, f64)) -> String {
    let x = Scale::log(ends, (LEFT, RIGHT));
    let y = Scale::linear((0.0, 1.0), (BOTTOM, TOP));
    let name = group_name(group);
    let title = format!("Share of requests that took at most so long, {name}");
    let mut svg = Svg::new(BOTTOM + 36.0, &title);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        svg.line("grid", (LEFT, y.at(share)), (RIGHT, y.at(share)));
        let text = format!("{}%", label(share * 100.0));
        svg.text("dim", (LEFT - 5.0, y.at(share) + 4.0), Anchor::End, &text);
    }
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), TOP), (x.at(tick), BOTTOM));
        svg.text("dim", (x.at(tick), BOTTOM + 15.0), Anchor::Middle, &label(tick));
    }
    svg.text("", ((LEFT + RIGHT) / 2.0, BOTTOM + 32.0), Anchor::Middle, "latency, us");
    curves(&mut svg, drawn, |(us, share)| (x.at(us), y.at(share)));
    figure(&title, svg, &keys(drawn))
}

/// Latency against percentile, as HdrHistogram draws it: each step is a tenth of what is left.
fn percentiles(group: &[Entry], drawn: &[Distribution<'_>], ends: (f64, f64)) -> String {
    let depth = |share: f64| -(1.0 - share.min(LAST)).log10();
    let x = Scale::linear((0.0, depth(LAST)), (LEFT, RIGHT));
    let y = Scale::log(ends, (BOTTOM, TOP));
    let name = group_name(group);
    let title = format!("Latency by percentile, {name}");
    let mut svg = Svg::new(BOTTOM + 36.0, &title);
    for tick in y.ticks() {
        svg.line("grid", (LEFT, y.at(tick)), (RIGHT, y.at(tick)));
        svg.text("dim", (LEFT - 5.0, y.at(tick) + 4.0), Anchor::End, &label(tick));
    }
    for (share, text) in [
        (0.0, "0"),
        (0.5, "50"),
        (0.9, "90"),
        (0.99, "99"),
        (0.999, "99.9"),
        (0.9999, "99.99"),
        (LAST, "99.999"),
    ] {
        let at = x.at(depth(share));
        svg.line("grid", (at, TOP), (at, BOTTOM));
        svg.text("dim", (at, BOTTOM + 15.0), Anchor::Middle, text);
    }
    svg.text("", ((LEFT + RIGHT) / 2.0, BOTTOM + 32.0), Anchor::Middle, "percentile; vertical: latency, us");
    curves(&mut svg, drawn, |(us, share)| (x.at(depth(share)), y.at(us)));
    figure(&title, svg, &keys(drawn))
}

fn curves(svg: &mut Svg, drawn: &[Distribution<'_>], place: impl Fn((f64, f64)) -> (f64, f64)) {
    for (index, one) in drawn.iter().enumerate() {
        let places = thinned(one.points.iter().map(|point| place(*point)));
        svg.path(&stroke(index), &places, false);
        if !one.is_whole {
            for point in places {
                svg.mark(index, "", point, 3.0, one.name);
            }
        }
    }
}

/// The points that can be told apart on a screen, and always the last one.
fn thinned(places: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for place in places {
        let near = kept.last().is_some_and(|(x, y)| (x - place.0).abs() + (y - place.1).abs() < 1.0);
        if !near {
            kept.push(place);
        }
        last = Some(place);
    }
    kept.extend(last.filter(|last| kept.last() != Some(last)));
    kept
}

fn keys(drawn: &[Distribution<'_>]) -> String {
    let names: Vec<String> = drawn.iter().map(|one| one.name.to_owned()).collect();
    key_of_lines(&names)
}
