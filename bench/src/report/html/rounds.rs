//! Every round as a dot, with the median: what the medians and intervals were made from. In each
//! lane the first round is on top, so that a drift is a slope.

use super::charts::{MARGIN, figure, group_name};
use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, wrap};
use crate::measure::{Summary, median};
use crate::report::metric::heading;
use crate::report::number::percent;
use crate::report::saved::{Entry, metric_names};

/// A value that is further from the median than so many median absolute deviations is marked.
const OUTLIER: f64 = 6.0;
const LINE: f64 = 15.0;
const LANE: f64 = 26.0;

/// The rounds of an arm.
struct Lane<'a> {
    name: &'a str,
    values: &'a [f64],
    left_out: &'a [f64],
    summary: Summary,
}

impl<'a> Lane<'a> {
    fn of(entry: &'a Entry, metric: &str) -> Option<Self> {
        let measured = entry.metrics.get(metric).filter(|measured| measured.values.len() > 1)?;
        let left_out = entry.left_out.values.get(metric).map_or(&[][..], Vec::as_slice);
        Some(Self { name: &entry.case, values: &measured.values, left_out, summary: measured.summary })
    }
}

/// The drawing of a group, in its most important metric. `None` without the values of rounds.
pub(super) fn figure_of(group: &[Entry]) -> Option<String> {
    let (metric, unit) = metric_names(group).into_iter().next()?;
    let lanes: Vec<Lane<'_>> = group.iter().filter_map(|entry| Lane::of(entry, metric)).collect();
    let all = || lanes.iter().flat_map(|lane| lane.values.iter().chain(lane.left_out)).copied();
    let (low, high) = (all().reduce(f64::min)?, all().reduce(f64::max)?);
    if low <= 0.0 {
        return None;
    }
    let x = Scale::log((low * 0.98, high * 1.02), (MARGIN, WIDTH - MARGIN));
    let (words, unit) = heading(metric, unit);
    let unit = unit.map(|unit| format!(", {unit}")).unwrap_or_default();
    let title = format!("Every round: {words}{unit}, {}", group_name(group));
    let names: Vec<Vec<String>> = lanes.iter().map(|lane| wrap(lane.name, WIDTH)).collect();
    let bottom: f64 = names.iter().map(|lines| LINE * lines.len() as f64 + LANE).sum();
    let mut svg = Svg::new(bottom + 20.0, &title);
    let mut y = 0.0;
    let mut outliers = 0;
    for (lane, lines) in lanes.iter().zip(&names) {
        for line in lines {
            y += LINE;
            svg.text("", (0.0, y - 3.0), Anchor::Start, line);
        }
        for tick in x.ticks() {
            svg.line("grid", (x.at(tick), y), (x.at(tick), y + LANE - 6.0));
        }
        let Summary { median, mad, .. } = lane.summary;
        let step = (LANE - 10.0) / (lane.values.len() as f64 - 1.0).max(1.0);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for (index, value) in lane.values.iter().enumerate() {
            let place = (x.at(*value), y + 2.0 + step * index as f64);
            let is_far = mad > 0.0 && (value - median).abs() > OUTLIER * mad;
            if is_far { far.push(place) } else { near.push(place) }
        }
        svg.dots("c0", &near);
        for place in &far {
            svg.circle("c1 hollow", *place, 3.0, "an outlier, which counts");
        }
        outliers += far.len();
        for value in lane.left_out {
            svg.mark(4, "bad", (x.at(*value), y + LANE / 2.0 - 3.0), 4.0, "a disturbed round, left out");
        }
        svg.line("median", (x.at(median), y), (x.at(median), y + LANE - 6.0));
        y += LANE;
    }
    for tick in x.ticks() {
        svg.text("dim", (x.at(tick), bottom + 15.0), Anchor::Middle, &label(tick));
    }
    let left_out = lanes.iter().map(|lane| lane.left_out.len()).max().unwrap_or(0);
    let rounds = lanes.iter().map(|lane| lane.values.len()).max().unwrap_or(0);
    let drift = drift(&lanes).map(|drift| format!(" {drift}")).unwrap_or_default();
    let note = format!(
        "<p class=\"note\">{rounds} rounds count, {left_out} disturbed ones (\u{d7}) do not; {outliers} of the values are outliers \
         (hollow).{drift}</p>"
    );
    Some(figure(&title, svg, &note))
}

/// How the last third of the rounds differs from the first, as the median over the arms.
fn drift(lanes: &[Lane<'_>]) -> Option<String> {
    let change = |lane: &Lane<'_>| {
        let third = lane.values.len() / 3;
        let (first, last) = (lane.values.get(..third)?, lane.values.get(lane.values.len() - third..)?);
        Some(median(last)? / median(first)?)
    };
    let changes: Vec<f64> = lanes.iter().filter_map(change).collect();
    let drift = median(&changes)?;
    Some(format!("From the first third of the rounds to the last, the arms drift by {}.", percent(drift)))
}
