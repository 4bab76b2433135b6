//! A drawing as text: the few shapes that the charts need. Colours are classes of the page's style
//! sheet, so that one drawing serves light, dark and paper.

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
        Self { body: String::new(), height, label: escape(label) }
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
        let Self { body, height, label } = self;
        format!(r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{label}">{body}</svg>"#)
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
