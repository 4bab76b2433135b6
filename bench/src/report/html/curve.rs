//! The curve of `bench one-percent`: the saving against the time of an iteration, with the
//! line of 1% that is asked about.

use super::scale::{Scale, label};
use super::svg::{Anchor, Svg, colour, key_of_marks};
use crate::arm::Monitor;
use crate::measure::{Estimate, Interval, Verdict};
use crate::report::one_percent::{Disk, Outcome, PROPOSED_ITERATION_US, PROPOSED_SHARE, estimate, reference};

/// The size of the drawing, in units of its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

const LEFT: f64 = 44.0;
const TOP: f64 = 24.0;
/// The axis of shares is linear up to about this, and logarithmic beyond.
const AROUND: f64 = 0.004;
/// A point is drawn in any case, but an interval may end outside of this.
const WIDEST: (f64, f64) = (-0.03, 0.2);
/// The shares that are named on the axis.
const TICKS: [f64; 13] = [-1.0, -0.3, -0.1, -0.03, -0.01, -0.003, 0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

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

const SERIES: [&str; 5] =
    ["epoll, one CPU, the disk spins", "io_uring, one CPU", "two CPUs", "the disk sleeps", "files"];

/// The drawing and its key. Empty without a cell to draw.
pub(super) fn render(outcomes: &[Outcome], size: Size) -> String {
    let Size { width, height } = size;
    let (right, bottom) = (width - 12.0, height - 42.0);
    let drawn: Vec<(&Outcome, usize, Estimate)> =
        outcomes.iter().filter_map(|outcome| Some((outcome, series(outcome)?, outcome.saved?))).collect();
    if drawn.is_empty() {
        return String::new();
    }
    let iterations = drawn.iter().map(|(outcome, ..)| outcome.iteration_us);
    let low = iterations.clone().fold(PROPOSED_ITERATION_US, f64::min) / 1.4;
    let high = iterations.fold(PROPOSED_ITERATION_US, f64::max) * 1.4;
    let medians = || drawn.iter().map(|(.., saved)| saved.median);
    let ends = (medians().fold(WIDEST.0, f64::min) * 1.2, medians().fold(WIDEST.1, f64::max) * 1.2);
    let x = Scale::log((low, high), (LEFT, right));
    let y = Scale::symmetric(AROUND, ends, (bottom, TOP));
    let label_text = "Share of an iteration that is saved without the read(2), by the iteration's time";
    let mut svg = Svg::of_width(width, height, label_text);
    for tick in TICKS.into_iter().filter(|tick| y.has(*tick)) {
        let class = if tick == 0.0 { "axis" } else { "grid" };
        svg.line(class, (LEFT, y.at(tick)), (right, y.at(tick)));
        svg.text("dim", (LEFT - 5.0, y.at(tick) + 4.0), Anchor::End, &format!("{}%", label(tick * 100.0)));
    }
    for tick in x.ticks() {
        svg.line("grid", (x.at(tick), TOP), (x.at(tick), bottom));
        svg.text("dim", (x.at(tick), bottom + 16.0), Anchor::Middle, &label(tick));
    }
    svg.text("", ((LEFT + right) / 2.0, height - 8.0), Anchor::Middle, "time of an iteration (classic), us");
    svg.text("", (0.0, 12.0), Anchor::Start, "saved of an iteration");

    // A hyperbola: the same time is a smaller share of a longer iteration.
    let model = |read_us: f64| -> Vec<(f64, f64)> {
        let step = (high / low).powf(1.0 / 48.0);
        let at = (0..=48).map(|index| low * step.powi(index));
        at.map(|at| (x.at(at), y.at(read_us / at))).collect()
    };
    if let Some(read_ns) = reference(outcomes).and_then(|reference| reference.read_ns) {
        if let Some(Interval { low, high }) = read_ns.interval {
            let mut band = model(low.max(0.1) / 1e3);
            band.extend(model(high.max(0.1) / 1e3).into_iter().rev());
            svg.path("band c0", &band, true);
        }
        svg.path("line c0", &model(read_ns.median.max(0.1) / 1e3), false);
    }
    // What was asked about.
    svg.line("line dash c5", (LEFT, y.at(PROPOSED_SHARE)), (right, y.at(PROPOSED_SHARE)));
    // Draw points that tell nothing first and thin, so that they do not hide the others.
    let tells = |outcome: &Outcome| outcome.verdict().is_some_and(|verdict| verdict != Verdict::Inconclusive);
    let (told, open): (Vec<_>, Vec<_>) = drawn.iter().partition(|(outcome, ..)| tells(outcome));
    for (outcome, series, saved) in open.into_iter().chain(told) {
        let place = x.at(outcome.iteration_us);
        let class = colour(series);
        let (line, shape) = if tells(outcome) { ("line", "") } else { ("line thin", "hollow") };
        if let Some(interval) = saved.interval {
            let ends = [interval.low, interval.high].map(|end| (place, y.at(end)));
            svg.line(&format!("{class} {line}"), ends[0], ends[1]);
            // An arrow where an interval goes on outside of the drawing.
            for (end, (at, y_of)) in [interval.low, interval.high].into_iter().zip(ends) {
                if !y.has(end) {
                    let up = if end > saved.median { 4.0 } else { -4.0 };
                    svg.path(
                        &format!("{class} {line}"),
                        &[(at - 3.0, y_of + up), (at, y_of), (at + 3.0, y_of + up)],
                        false,
                    );
                }
            }
        }
        let verdict = outcome.verdict().map(|verdict| format!(": {verdict}")).unwrap_or_default();
        let title = format!("{}: {}{verdict}", outcome.name(), estimate(saved));
        svg.mark(series, shape, (place, y.at(saved.median)), 4.0, &title);
    }
    let point = (x.at(PROPOSED_ITERATION_US), y.at(PROPOSED_SHARE));
    svg.circle("c5 ring", point, 7.0, "the proposal: 1% of 100 us");
    svg.text("halo", (point.0 - 9.0, point.1 - 7.0), Anchor::End, "2020: 1% of 100 us");
    format!("<figure>{}{}</figure>", svg.finish(), key_of_marks(&SERIES.map(str::to_owned)))
}

/// What the drawing shows.
pub(super) const NOTE: &str = "<p class=\"note\">Solid line: the prediction, t_read / t_iter, with t_read measured here, and its \
    interval. Dashed line: the 1% that is asked about. Marks: measured, with 95% intervals; hollow and thin where the verdict is \
    inconclusive; an arrow where an interval goes on. The axis is stretched around zero.</p>";
