//! Parses the drawings and tests that each number is at the right position of its axis.

use super::*;
use crate::report::metric::quantile;
use crate::report::one_percent::{outcomes, reference};

/// The attribute of an element's text.
fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let (_, rest) = element.split_once(&format!(" {name}=\"")).unwrap();
    rest.split_once('"').unwrap().0
}

fn numbers<const N: usize>(element: &str, names: [&str; N]) -> [f64; N] {
    names.map(|name| attribute(element, name).parse().unwrap())
}

/// The elements of a kind, each to its next one.
fn elements<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let start = format!("<{kind} ");
    text.match_indices(&start).map(|(at, _)| text[at..].split_once('>').unwrap().0).collect()
}

/// The places of a path.
fn places(path: &str) -> Vec<(f64, f64)> {
    let points = attribute(path, "d").split(['M', 'L', 'Z']).filter(|point| !point.is_empty());
    points
        .map(|point| point.split_once(' ').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
        .collect()
}

/// The place of a tick along x or y, by its label.
fn tick(drawing: &str, axis: &str, label: &str) -> f64 {
    let text = drawing.split("<text ").find(|text| text.contains(&format!(">{label}</text>"))).unwrap();
    let [place] = numbers(&format!(" {text}"), [axis]);
    if axis == "y" { place - 4.0 } else { place }
}

/// Where `value` must be on an axis with a logarithm between two of its ticks.
fn between(value: f64, (a, at_a): (f64, f64), (b, at_b): (f64, f64)) -> f64 {
    at_a + (value / a).ln() / (b / a).ln() * (at_b - at_a)
}

/// The place of the mark of the first shape, a circle, which a path draws from its left end.
fn centre(mark: &str) -> (f64, f64) {
    let (x, y) =
        attribute(mark, "d").strip_prefix('M').unwrap().split_once('a').unwrap().0.split_once(' ').unwrap();
    (x.parse::<f64>().unwrap() + 4.0, y.parse().unwrap())
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.3
}

fn golden() -> Document {
    Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap()
}

#[test]
fn the_curve_has_its_lines_points_and_intervals_where_the_axes_say() {
    let outcomes = outcomes(&golden().results);
    let drawing = curve::render(&outcomes, Size { width: WIDE, height: 400.0 });
    // Equal steps of the inverse hyperbolic sine, which is linear around zero.
    let (zero, one) = (tick(&drawing, "y", "0%"), tick(&drawing, "y", "1%"));
    let y = |share: f64| zero + (share / 0.004f64).asinh() / (0.01f64 / 0.004).asinh() * (one - zero);
    let x = |us: f64| between(us, (10.0, tick(&drawing, "x", "10")), (100.0, tick(&drawing, "x", "100")));
    assert!(near(y(0.1), tick(&drawing, "y", "10%")) && y(0.1) < y(0.01) && x(10.0) < x(100.0));

    // t_read / t_iter, as measured: a hyperbola.
    let read_us = reference(&outcomes).unwrap().read_ns.unwrap().median / 1e3;
    let class = |wanted: &str, kind: &str| -> Vec<&str> {
        elements(&drawing, kind).into_iter().filter(|one| attribute(one, "class") == wanted).collect()
    };
    let line = places(class("line c0", "path")[0]);
    assert!(line.len() > 20 && line.windows(2).all(|pair| pair[1].1 > pair[0].1), "{line:?}");
    for at in line {
        let us = 10.0 * 10f64.powf((at.0 - x(10.0)) / (x(100.0) - x(10.0)));
        assert!(near(at.1, y(read_us / us)), "{at:?}: {us} us");
    }
    // The line of one percent, and the proposal's point on it.
    let [y1, y2] = numbers(class("line dash c5", "line")[0], ["y1", "y2"]);
    assert!(near(y1, y(0.01)) && y1 == y2);
    let [cx, cy] = numbers(class("c5 ring", "circle")[0], ["cx", "cy"]);
    assert!(near(cx, x(100.0)) && near(cy, y(0.01)));

    // The first cell, whose interval is inside the drawing.
    let first = &outcomes[0];
    let (saved, place) = (first.saved.unwrap(), x(first.iteration_us));
    let marks: Vec<(f64, f64)> = class("mark c0 ", "path").into_iter().map(centre).collect();
    assert!(marks.iter().any(|(x, at)| near(*x, place) && near(*at, y(saved.median))), "{marks:?}");
    let interval = saved.interval.unwrap();
    let ends = [y(interval.low), y(interval.high)];
    let drawn = elements(&drawing, "line").into_iter().map(|line| numbers(line, ["x1", "x2", "y1", "y2"]));
    let drawn: Vec<[f64; 4]> = drawn.collect();
    let is_first = |line: &[f64; 4]| {
        near(line[0], place) && near(line[1], place) && near(line[2], ends[0]) && near(line[3], ends[1])
    };
    assert!(drawn.iter().any(is_first), "{ends:?} at {place}: {drawn:?}");
    // Nothing lies on the lower edge of the drawing.
    let bottom = 400.0 - 42.0;
    assert!(marks.iter().all(|(_, at)| *at < bottom - 5.0), "{marks:?}");
}

#[test]
fn a_latency_is_drawn_at_its_share() {
    let mut group = golden().groups().next().unwrap().to_vec();
    // The last arm has a histogram: 900 requests took 10 us, 90 took 100, and 10 took 1,000.
    let mut histogram = crate::measure::latencies();
    for (ns, count) in [(10_000, 900), (100_000, 90), (1_000_000, 10)] {
        histogram.record_n(ns, count).unwrap();
    }
    let last = group.len() - 1;
    group[last].latency = crate::measure::to_base64(&histogram);
    let drawing = latency::figures(&group).unwrap();
    let (cdf, percentiles) = drawing.split_once("</figure>").unwrap();
    let curves = |drawing: &str| -> Vec<Vec<(f64, f64)>> {
        let lines = elements(drawing, "path").into_iter().filter(|path| {
            attribute(path, "class").starts_with("line") && !attribute(path, "d").starts_with("M1 4L")
        });
        lines.map(places).collect()
    };
    let (low, high) = (tick(cdf, "y", "0%"), tick(cdf, "y", "100%"));
    let all = curves(cdf);
    assert_eq!((all.len(), curves(percentiles).len()), (group.len(), group.len()), "{drawing}");
    for (curve, entry) in all.iter().zip(&group[..last]) {
        let quantiles = entry.metrics.keys().filter_map(|name| quantile(name)).count();
        assert_eq!(curve.len(), quantiles);
        // More requests to the top, and they take longer.
        assert!(curve.windows(2).all(|pair| pair[1].1 < pair[0].1 && pair[1].0 >= pair[0].0), "{curve:?}");
        assert!(near(curve[0].1, low + 0.1 * (high - low)), "p10 comes first: {curve:?}");
    }
    let x = |us: f64| between(us, (10.0, tick(cdf, "x", "10")), (100.0, tick(cdf, "x", "100")));
    for (place, (us, share)) in all[last].iter().zip([(10.0, 0.9), (100.0, 0.99), (1_000.0, 1.0)]) {
        assert!((place.0 - x(us)).abs() < 0.5 && near(place.1, low + share * (high - low)), "{place:?}");
    }
    // Each further nine is as far as the one before.
    let nines = ["0", "90", "99", "99.9"].map(|label| tick(percentiles, "x", label));
    assert!(nines.windows(2).all(|pair| near(pair[1] - pair[0], nines[1] - nines[0])), "{nines:?}");
    let tail = &curves(percentiles)[last];
    assert!(near(tail[0].0, nines[1]) && near(tail[1].0, nines[2]), "{tail:?}");
    for entry in group {
        assert!(drawing.contains(&format!("</svg>{}</li>", escape(&entry.case))), "{}", entry.case);
    }
}

#[test]
fn every_round_is_a_dot_and_a_disturbed_one_is_marked() {
    let document = Document::parse(&SLOWER.replace(
        r#""values":[150.0,150.0,150.0,150.0,150.0,150.0]"#,
        r#""values":[150.0,151.0,149.0,150.5,900.0,150.0]"#,
    ));
    let mut group = document.unwrap().results;
    group[1].left_out.values.insert("time_ns".to_owned(), vec![300.0]);
    // The outlier is only one if there is a spread.
    group[1].metrics.get_mut("time_ns").unwrap().summary.mad = 0.5;
    group[1].metrics.get_mut("time_ns").unwrap().summary.median = 150.0;
    let drawing = rounds::figure_of(&group).unwrap();
    let dots: Vec<usize> = elements(&drawing, "path")
        .into_iter()
        .filter(|path| attribute(path, "class").starts_with("dot"))
        .map(|path| attribute(path, "d").matches('M').count())
        .collect();
    assert_eq!(dots, [6, 5]);
    assert_eq!((drawing.matches("an outlier").count(), drawing.matches("a disturbed round").count()), (1, 1));
    assert!(drawing.contains("6 rounds count, 1 disturbed ones"), "{drawing}");
    assert!(drawing.contains("1 of the values are outliers"), "{drawing}");
}

#[test]
fn the_parts_of_a_bar_follow_each_other_and_are_as_long_as_their_counts() {
    let document = golden();
    let group = document.groups().next().unwrap();
    let drawing = charts::syscalls(group).unwrap();
    let bars: Vec<[f64; 3]> =
        elements(&drawing, "rect").into_iter().map(|rect| numbers(rect, ["x", "width", "y"])).collect();
    let rows: Vec<&[[f64; 3]]> = bars.chunk_by(|a, b| a[2] == b[2]).collect();
    assert_eq!(rows.len(), group.len(), "{drawing}");
    let unit = rows[0].iter().map(|part| part[1]).sum::<f64>()
        / ["reads", "waits", "enters", "writes"].iter().filter_map(|name| group[0].median(name)).sum::<f64>();
    for (row, entry) in rows.iter().zip(group) {
        assert!(row.windows(2).all(|pair| near(pair[0][0] + pair[0][1], pair[1][0])), "{row:?}");
        let counts: Vec<f64> = ["reads", "waits", "enters", "writes"]
            .iter()
            .filter_map(|name| entry.median(name).filter(|count| *count > 0.0))
            .collect();
        let widths: Vec<f64> = row.iter().map(|part| part[1]).collect();
        assert_eq!(widths.len(), counts.len(), "{}", entry.case);
        assert!(
            widths.iter().zip(&counts).all(|(width, count)| near(*width, count * unit)),
            "{widths:?} {counts:?}"
        );
    }
    // One arm makes no reads, but the key has them anyway; no arm uses Linux AIO.
    let key = drawing.split("class=\"key\"").nth(1).unwrap();
    assert!(key.contains("read(2)") && key.contains("write(2)") && !key.contains("io_submit"), "{key}");
}

#[test]
fn a_change_is_drawn_within_its_interval_and_in_the_colour_of_its_verdict() {
    let document = golden();
    let group = document.groups().next().unwrap();
    let drawing = charts::changes(group).unwrap();
    // Of epoll with nothing else to do: a read more is slower, an edge is faster, with its read and
    // without.
    let circles: Vec<&str> = elements(&drawing, "circle");
    let lines: Vec<&str> = elements(&drawing, "line")
        .into_iter()
        .filter(|line| attribute(line, "class").ends_with(" line"))
        .collect();
    let classes = |all: &[&str]| all.iter().map(|one| attribute(one, "class").to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (classes(&circles), classes(&lines)),
        (
            ["bad", "good", "good"].map(String::from).to_vec(),
            ["bad line", "good line", "good line"].map(String::from).to_vec()
        )
    );
    let zero = tick(&drawing, "x", "0%");
    for ((circle, line), sign) in circles.iter().zip(&lines).zip([-1.0, 1.0, 1.0]) {
        let ([cx], [x1, x2]) = (numbers(circle, ["cx"]), numbers(line, ["x1", "x2"]));
        assert!(x1 <= cx && cx <= x2 && (cx - zero) * sign > 0.0, "{circle} {line} {zero}");
    }
    let ratio = group[2].versus("iops").unwrap().ratio.unwrap().interval.unwrap();
    let unit = tick(&drawing, "x", "5%") - zero;
    let [x1, x2] = numbers(lines[1], ["x1", "x2"]);
    assert!(
        near(x1, zero + (ratio.low - 1.0) / 0.05 * unit) && near(x2, zero + (ratio.high - 1.0) / 0.05 * unit)
    );
    assert!(drawing.contains("Change of IOPS against epoll/classic, "), "{drawing}");
}
