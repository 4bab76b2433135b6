//! A drawing as text: the few shapes that the charts need. Colours are classes of the page's style
//! sheet, so that one drawing serves light, dark and paper.
//!
//! This is not a plotting crate on purpose. plotters 0.3.7, the best kept one that writes SVG, puts
//! fixed colours into each element, so dark mode and paper would need drawings of their own. It has
//! no titles for marks, no description, and no axis that stretches shares or differences, which
//! would all have to be added to its output. What the charts need of it are the scales and some
//! ten shapes of this file and of `scale.rs`, which tests check against the data.

use std::fmt::Write as _;

/// Width of every drawing, in its own units: with text of 12 it can be read on a screen of 400
/// pixels and on a wide one.
pub(super) const WIDTH: f64 = 420.0;

/// The largest average width of a character: that of DejaVu Sans, the widest of the usual fonts.
const CHARACTER: f64 = 6.6;

/// Whether a text of that many characters fits into `width`.
pub(super) fn fits(characters: usize, width: f64) -> bool {
    characters as f64 * CHARACTER <= width
}

/// Breaks a text into lines that fit into `width`, because SVG does not. A word that is longer than
/// a line gets its own line.
pub(super) fn wrap(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if fits(line.chars().count() + 1 + word.chars().count(), width) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A text as HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

/// A drawing.
#[derive(Debug)]
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
    label: String,
}

/// Which end of a text is at its position.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// `label` describes the drawing for screen readers.
    pub(super) fn new(height: f64, label: &str) -> Self {
        Self::of_width(WIDTH, height, label)
    }

    /// The same for a drawing that is as wide as the page. On a narrow screen its text would be too
    /// small.
    pub(super) fn of_width(width: f64, height: f64, label: &str) -> Self {
        Self { body: String::new(), width, height, label: escape(label) }
    }

    // Writing to a String cannot fail.
    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], closed: bool) {
        let mut d = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
        }
        let end = if closed { "Z" } else { "" };
        let _ = write!(self.body, r#"<path class="{class}" d="{d}{end}"/>"#);
    }

    pub(super) fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let title = escape(title);
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
        );
    }

    /// Dots without titles, of which there may be many.
    pub(super) fn dots(&mut self, class: &str, places: &[(f64, f64)]) {
        let d: String = places.iter().map(|(x, y)| format!("M{x:.1} {y:.1}h0")).collect();
        if !d.is_empty() {
            let _ = write!(self.body, r#"<path class="dot {class}" d="{d}"/>"#);
        }
    }

    /// The mark of the n-th series, which has a shape and a colour of its own. `class` is added.
    pub(super) fn mark(&mut self, index: usize, class: &str, place: (f64, f64), radius: f64, title: &str) {
        let (title, d) = (escape(title), shape(index, place, radius));
        let colour = if class.contains("bad") { "" } else { colour(index) };
        let _ =
            write!(self.body, r#"<path class="mark {colour} {class}" d="{d}"><title>{title}</title></path>"#);
    }

    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let title = escape(title);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"><title>{title}</title></rect>"#
        );
    }

    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    pub(super) fn finish(self) -> String {
        let Self { body, width, height, label } = self;
        format!(
            r#"<svg viewBox="0 0 {width} {height:.0}" role="img" aria-label="{label}"><desc>{label}. The numbers are in the tables of this page.</desc>{body}</svg>"#
        )
    }
}

/// The colours by name and class, as a list below a drawing.
pub(super) fn key(names: &[String]) -> String {
    let items: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| format!(r#"<li><i class="{}"></i>{}</li>"#, colour(index), escape(name)))
        .collect();
    format!(r#"<ul class="key">{items}</ul>"#)
}

/// The same for lines. If there are more lines than colours, they also differ in their dashes.
pub(super) fn key_of_lines(names: &[String]) -> String {
    let items: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let class = stroke(index);
            format!(
                r#"<li><svg class="key" viewBox="0 0 28 8" aria-hidden="true"><path class="{class}" d="M1 4L27 4"/></svg>{}</li>"#,
                escape(name)
            )
        })
        .collect();
    format!(r#"<ul class="key">{items}</ul>"#)
}

/// The same for marks.
pub(super) fn key_of_marks(names: &[String]) -> String {
    let items: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let (colour, d) = (colour(index), shape(index, (6.0, 6.0), 4.5));
            format!(
                r#"<li><svg class="key square" viewBox="0 0 12 12" aria-hidden="true"><path class="mark {colour}" d="{d}"/></svg>{}</li>"#,
                escape(name)
            )
        })
        .collect();
    format!(r#"<ul class="key">{items}</ul>"#)
}

/// The shape of the n-th series: there are more shapes than colours, so that all differ without
/// colour.
fn shape(index: usize, (x, y): (f64, f64), r: f64) -> String {
    let s = r * 0.85;
    let polygon = |points: &[(f64, f64)]| {
        let places: Vec<String> =
            points.iter().map(|(dx, dy)| format!("{:.1} {:.1}", x + dx, y + dy)).collect();
        format!("M{}Z", places.join("L"))
    };
    match index % SHAPES {
        0 => format!("M{:.1} {y:.1}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0Z", x - r, d = 2.0 * r),
        1 => polygon(&[(-s, -s), (s, -s), (s, s), (-s, s)]),
        2 => polygon(&[(0.0, -r), (r, s), (-r, s)]),
        3 => polygon(&[(0.0, -r), (r, 0.0), (0.0, r), (-r, 0.0)]),
        4 => polygon(&[
            (-s, -s * 0.5),
            (-s * 0.5, -s),
            (0.0, -s * 0.4),
            (s * 0.5, -s),
            (s, -s * 0.5),
            (s * 0.4, 0.0),
            (s, s * 0.5),
            (s * 0.5, s),
            (0.0, s * 0.4),
            (-s * 0.5, s),
            (-s, s * 0.5),
            (-s * 0.4, 0.0),
        ]),
        5 => polygon(&[(-r, -s), (r, -s), (0.0, r)]),
        6 => polygon(&[(-r, -0.3 * r), (r, -0.3 * r), (r, 0.3 * r), (-r, 0.3 * r)]),
        7 => polygon(&[(-0.3 * r, -r), (0.3 * r, -r), (0.3 * r, r), (-0.3 * r, r)]),
        8 => polygon(&[(-r, 0.0), (s, -r), (s, r)]),
        9 => polygon(&[(r, 0.0), (-s, -r), (-s, r)]),
        _ => polygon(&[
            (-r, -0.3 * r),
            (-0.3 * r, -0.3 * r),
            (-0.3 * r, -r),
            (0.3 * r, -r),
            (0.3 * r, -0.3 * r),
            (r, -0.3 * r),
            (r, 0.3 * r),
            (0.3 * r, 0.3 * r),
            (0.3 * r, r),
            (-0.3 * r, r),
            (-0.3 * r, 0.3 * r),
            (-r, 0.3 * r),
        ]),
    }
}

const SHAPES: usize = 11;

/// The classes of the n-th line.
pub(super) fn stroke(index: usize) -> String {
    let dash = ["", " dash", " dots"][index / COLOURS % 3];
    format!("line {}{dash}", colour(index))
}

const COLOURS: usize = 6;

/// The class of the n-th colour.
pub(super) fn colour(index: usize) -> &'static str {
    ["c0", "c1", "c2", "c3", "c4", "c5"][index % COLOURS]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_broken_between_words_only() {
        assert_eq!(wrap("one two three", 8.0 * CHARACTER), ["one two", "three"]);
        assert_eq!(wrap("  incomprehensibilities a b", 4.0 * CHARACTER), ["incomprehensibilities", "a b"]);
        assert!(wrap(" ", 9.0).is_empty());
    }

    #[test]
    fn more_lines_than_colours_differ_in_their_dashes() {
        let strokes: Vec<String> = (0..18).map(stroke).collect();
        for (index, stroke) in strokes.iter().enumerate() {
            assert!(!strokes[..index].contains(stroke), "{stroke}");
        }
    }

    #[test]
    fn no_text_becomes_markup() {
        let mut svg = Svg::new(10.0, "a\"b");
        svg.text("", (0.0, 1.0), Anchor::Start, "<script>'&");
        svg.circle("c0", (1.0, 2.0), 3.0, "</title>");
        let text = svg.finish();
        assert!(
            text.contains("&lt;script&gt;&#39;&amp;") && text.contains("aria-label=\"a&quot;b\""),
            "{text}"
        );
        assert!(!text.contains("<script") && text.matches("</title>").count() == 1, "{text}");
    }
}
