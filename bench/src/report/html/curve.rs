//! The curve of `bench one-percent`: the saving against the time of an iteration, both on
//! logarithmic axes, where the model is a straight line.

use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, WIDTH, colour, key};
use crate::arm::Monitor;
use crate::measure::{Estimate, Interval};
use crate::report::one_percent::{Disk, Outcome, PROPOSED_ITERATION_US, PROPOSED_SHARE, estimate, reference};

const HEIGHT: f64 = 360.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = HEIGHT - 42.0;
/// Shares below this are drawn at the lower edge: noise.
const LEAST: f64 = 0.000_5;

/// The cells by colour: what they have in common, in words.
fn series(outcome: &Outcome) -> Option<usize> {
    let index = match (outcome.cell.disk, outcome.cell.monitor, outcome.on_one_cpu()) {
        _ if outcome.nothing_to_save() => return None,
        (Disk::Cached | Disk::Direct | Disk::LinuxAio, ..) => 4,
        _ if !outcome.is_swept() => return None,
        (Disk::Sleep(_), ..) => 3,
        (_, Monitor::Epoll, true) => 0,
        (_, Monitor::IoUring, true) => 1,
        (_, _, false) => 2,
        (_, Monitor::Poll, true) => return None,
    };
    outcome.saved.map(|_| index)
}

const SERIES: [&str; 6] = [
    "epoll, one CPU, the disk spins",
    "io_uring, one CPU",
    "two CPUs",
    "the disk sleeps",
    "files",
    "the proposal of 2020: 1 us, which is 1% of 100 us",
];

/// Returns true if the saving is known to differ from zero.
fn is_detected(saved: &Estimate) -> bool {
    saved.interval.is_some_and(|interval| !interval.spans_zero())
}

/// The drawing and its key. Empty without a cell to draw.
pub(super) fn render(outcomes: &[Outcome]) -> String {
    let drawn: Vec<(&Outcome, usize, Estimate)> =
        outcomes.iter().filter_map(|outcome| Some((outcome, series(outcome)?, outcome.saved?))).collect();
    if drawn.is_empty() {
        return String::new();
    }
    let iterations = drawn.iter().map(|(outcome, ..)| outcome.iteration_us);
    let low = iterations.clone().fold(PROPOSED_ITERATION_US, f64::min) / 1.4;
    let high = iterations.fold(PROPOSED_ITERATION_US, f64::max) * 1.4;
    let top = drawn.iter().filter_map(|(.., saved)| Some(saved.interval?.high)).fold(0.02, f64::max) * 1.3;
    let x = Scale::log((low, high), (LEFT, RIGHT));
    let y = Scale::log((LEAST, top.min(1.0)), (BOTTOM, TOP));
    let mut svg =
        Svg::new(HEIGHT, "Share of an iteration that is saved without the read(2), by the iteration's time");
    for tick in y.ticks() {
        svg.line("grid", (LEFT, y.at(tick)), (RIGHT, y.at(tick)));
        svg.text("dim", (LEFT - 5.0, y.at(tick) + 4.0), Anchor::End, &format!("{}%", label(tick * 100.0)));
    }
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), TOP), (x.at(tick), BOTTOM));
        svg.text("dim", (x.at(tick), BOTTOM + 16.0), Anchor::Middle, &label(tick));
    }
    svg.text("", ((LEFT + RIGHT) / 2.0, HEIGHT - 8.0), Anchor::Middle, "time of an iteration (classic), us");
    svg.text("", (0.0, 12.0), Anchor::Start, "saved of an iteration");

    let model = |read_us: f64| {
        [(low, read_us / low), (high, read_us / high)].map(|(at, share)| (x.at(at), y.at(share)))
    };
    if let Some(read_ns) = reference(outcomes).and_then(|reference| reference.read_ns) {
        if let Some(Interval { low, high }) = read_ns.interval {
            let [a, b] = model(low.max(0.1) / 1e3);
            let [c, d] = model(high.max(0.1) / 1e3);
            svg.path("band c0", &[a, b, d, c], true);
        }
        svg.path("line c0", &model(read_ns.median.max(0.1) / 1e3), false);
    }
    svg.path("line dash c5", &model(PROPOSED_ITERATION_US * PROPOSED_SHARE), false);
    // Draw points without a detected saving first and thin, so that they do not hide the others.
    let (open, detected): (Vec<_>, Vec<_>) = drawn.iter().partition(|(.., saved)| !is_detected(saved));
    for (outcome, series, saved) in open.into_iter().chain(detected) {
        let place = x.at(outcome.iteration_us);
        let class = colour(series);
        let (line, shape) = if is_detected(&saved) { ("line", "") } else { ("line thin", " hollow") };
        if let Some(interval) = saved.interval {
            svg.line(&format!("{class} {line}"), (place, y.at(interval.low)), (place, y.at(interval.high)));
        }
        let title = format!("{}: {}", outcome.name(), estimate(saved));
        svg.circle(&format!("{class}{shape}"), (place, y.at(saved.median)), 3.5, &title);
    }
    let point = (x.at(PROPOSED_ITERATION_US), y.at(PROPOSED_SHARE));
    // Nothing is predicted up and to the right of the dashed line, and little was measured there.
    let name = (RIGHT, y.at(0.3).max(TOP + 30.0));
    svg.line("axis", point, (point.0, name.1 + 4.0));
    svg.circle("c5 hollow", point, 7.0, "the proposal: 1% of 100 us");
    svg.circle("c5", point, 2.5, "the proposal: 1% of 100 us");
    svg.text("halo", name, Anchor::End, "2020: 1% of 100 us");
    let names = SERIES.map(str::to_owned);
    format!(
        "<figure class=\"wide\">{}{}<figcaption><p class=\"note\">Lines: the prediction, t_read / t_iter, with t_read \
         measured here (and its interval) and, dashed, as proposed. Points: measured, with 95% intervals; hollow and thin \
         where zero is inside, at the lower edge where nothing was saved.</p></figcaption></figure>",
        svg.finish(),
        key(&names)
    )
}
