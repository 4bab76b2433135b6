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

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.3
}

fn golden() -> Document {
    Document::parse(include_str!("../../../one_percent/golden/first.json")).unwrap()
}

#[test]
fn the_curve_has_its_lines_points_and_intervals_where_the_axes_say() {
    let outcomes = outcomes(&golden().results);
    let drawing = curve::render(&outcomes);
    let y = |share: f64| between(share, (0.01, tick(&drawing, "y", "1%")), (0.1, tick(&drawing, "y", "10%")));
    let x = |us: f64| between(us, (10.0, tick(&drawing, "x", "10")), (100.0, tick(&drawing, "x", "100")));
    assert!(y(0.1) < y(0.01) && x(10.0) < x(100.0));

    // t_read / t_iter, as measured and as proposed (1 us).
    let read_us = reference(&outcomes).unwrap().read_ns.unwrap().median / 1e3;
    for (class, read_us) in [("line c0", read_us), ("line dash c5", 1.0)] {
        let path =
            elements(&drawing, "path").into_iter().find(|path| attribute(path, "class") == class).unwrap();
        let [left, right] = places(path).try_into().unwrap();
        assert!(left.1 < right.1, "what is saved falls with the time: {path}");
        for at in [left, right] {
            let us = 10.0 * 10f64.powf((at.0 - x(10.0)) / (x(100.0) - x(10.0)));
            // An end may be cut off by the drawing's upper edge.
            assert!(near(at.1, y(read_us / us)) || (at == left && at.1 > y(read_us / us)), "{path}: {us} us");
        }
    }
    // The proposal's point: 1% of 100 us.
    let circles: Vec<[f64; 3]> =
        elements(&drawing, "circle").into_iter().map(|circle| numbers(circle, ["cx", "cy", "r"])).collect();
    let [.., outer, inner] = circles.as_slice() else { panic!("{drawing}") };
    assert!(near(inner[0], x(100.0)) && near(inner[1], y(0.01)) && outer[..2] == inner[..2], "{inner:?}");

    // The first cell, whose interval is inside the drawing.
    let first = &outcomes[0];
    let (saved, place) = (first.saved.unwrap(), x(first.iteration_us));
    assert!(
        circles.iter().any(|circle| near(circle[0], place) && near(circle[1], y(saved.median))),
        "{circles:?}"
    );
    let interval = saved.interval.unwrap();
    let ends = [y(interval.low), y(interval.high)];
    let drawn = elements(&drawing, "line").into_iter().map(|line| numbers(line, ["x1", "x2", "y1", "y2"]));
    let drawn: Vec<[f64; 4]> = drawn.collect();
    let is_first = |line: &[f64; 4]| {
        near(line[0], place) && near(line[1], place) && near(line[2], ends[0]) && near(line[3], ends[1])
    };
    assert!(drawn.iter().any(is_first), "{ends:?} at {place}: {drawn:?}");
}

#[test]
fn a_latency_is_drawn_at_its_share() {
    let document = golden();
    let group = document.groups().next().unwrap();
    let drawing = charts::latency(group).unwrap();
    let [low, high] = ["10%", "90%"].map(|label| tick(&drawing, "y", label));
    let curves: Vec<Vec<(f64, f64)>> = elements(&drawing, "path")
        .into_iter()
        .filter(|path| !attribute(path, "d").starts_with("M1 4L"))
        .map(places)
        .collect();
    assert_eq!(curves.len(), group.len(), "{drawing}");
    for (curve, entry) in curves.iter().zip(group) {
        let quantiles = entry.metrics.keys().filter_map(|name| quantile(name)).count();
        assert_eq!(curve.len(), quantiles);
        // More requests to the top, and they take longer.
        assert!(curve.windows(2).all(|pair| pair[1].1 < pair[0].1 && pair[1].0 >= pair[0].0), "{curve:?}");
        assert!(near(curve[0].1, low) && curve.iter().any(|point| near(point.1, high)), "{curve:?}");
    }
    for entry in group {
        assert!(drawing.contains(&format!("</svg>{}</li>", escape(&entry.case))), "{}", entry.case);
    }
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
