//! Plain-text tables: a title, two header lines (name and unit), aligned columns.

use std::fmt::Write as _;

/// Which side of its column a cell leans on: text left, numbers right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Shown below the name; empty for none.
    pub(crate) unit: &'static str,
    pub(crate) align: Align,
}

impl Column {
    pub(crate) const fn text(name: &'static str) -> Self {
        Self { name, unit: "", align: Align::Left }
    }

    pub(crate) const fn number(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, align: Align::Right }
    }
}

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tint {
    Bold,
    Green,
    Red,
    Dim,
}

impl Tint {
    /// The parameter of ECMA-48's "select graphic rendition".
    fn code(self) -> &'static str {
        match self {
            Tint::Bold => "1",
            Tint::Green => "32",
            Tint::Red => "31",
            Tint::Dim => "2",
        }
    }
}

/// A cell's text and colour.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    tint: Option<Tint>,
}

impl Cell {
    pub(crate) fn tinted(text: impl Into<String>, tint: Tint) -> Self {
        Self { text: text.into(), tint: Some(tint) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tint: None }
    }
}

#[derive(Debug)]
enum Line {
    Cells(Vec<Cell>),
    /// A first cell, and a remark in place of all the others.
    Remark(String, String),
}

/// A table that is filled row by row and then rendered.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<Column>,
    lines: Vec<Line>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[Column]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), lines: Vec::new() }
    }

    /// Adds a row. Missing cells are empty, cells beyond the last column are dropped.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.lines.push(Line::Cells(cells));
    }

    /// Adds a row that has a name and, instead of numbers, a remark.
    pub(crate) fn remark(&mut self, name: impl Into<String>, remark: impl Into<String>) {
        self.lines.push(Line::Remark(name.into(), remark.into()));
    }

    /// The table as text, each line ended, with escape sequences for `colour`.
    pub(crate) fn render(&self, colour: bool) -> String {
        let widths = self.widths();
        let names: Vec<Cell> =
            self.columns.iter().map(|column| Cell::tinted(column.name, Tint::Bold)).collect();
        let units: Vec<Cell> =
            self.columns.iter().map(|column| Cell::tinted(column.unit, Tint::Dim)).collect();
        let mut text = format!("{}\n", paint(&self.title, Some(Tint::Bold), colour));
        self.push_cells(&mut text, &names, &widths, colour);
        if self.columns.iter().any(|column| !column.unit.is_empty()) {
            self.push_cells(&mut text, &units, &widths, colour);
        }
        let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", "-".repeat(rule));
        for line in &self.lines {
            match line {
                Line::Cells(cells) => self.push_cells(&mut text, cells, &widths, colour),
                Line::Remark(name, remark) => {
                    let width = widths.first().copied().unwrap_or(0);
                    let _ = writeln!(text, "{name:width$}  {}", paint(remark, Some(Tint::Dim), colour));
                }
            }
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let widths = self.columns.iter().enumerate().map(|(index, column)| {
            let cells = self.lines.iter().map(|line| match line {
                Line::Cells(cells) => cells.get(index).map_or(0, |cell| width(&cell.text)),
                Line::Remark(name, _) if index == 0 => width(name),
                Line::Remark(..) => 0,
            });
            cells.chain([width(column.name), width(column.unit)]).max().unwrap_or(0)
        });
        widths.collect()
    }

    fn push_cells(&self, text: &mut String, cells: &[Cell], widths: &[usize], colour: bool) {
        let empty = Cell::default();
        let mut line = String::new();
        for (index, (column, &column_width)) in self.columns.iter().zip(widths).enumerate() {
            let cell = cells.get(index).unwrap_or(&empty);
            let padding = " ".repeat(column_width.saturating_sub(width(&cell.text)));
            let painted = paint(&cell.text, cell.tint, colour);
            if index > 0 {
                line.push_str("  ");
            }
            match column.align {
                Align::Left => line.extend([painted, padding]),
                Align::Right => line.extend([padding, painted]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Columns on the screen. All our texts are of characters that take one each.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn paint(text: &str, tint: Option<Tint>, colour: bool) -> String {
    match tint {
        Some(tint) if colour && !text.is_empty() => format!("\x1b[{}m{text}\x1b[0m", tint.code()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let columns = [Column::text("case"), Column::number("time", "ns"), Column::text("verdict")];
        let mut table = Table::new("Title", &columns);
        table.row(vec!["a".into(), "1,234".into(), Cell::tinted("faster", Tint::Green)]);
        table.row(vec!["long name".into(), "5".into()]);
        table.remark("b", "not available: why");
        table
    }

    #[test]
    fn numbers_lean_right_and_text_left() {
        let expected = "\
Title
case        time  verdict
              ns
-------------------------
a          1,234  faster
long name      5
b          not available: why
";
        assert_eq!(sample().render(false), expected);
    }

    #[test]
    fn colours_change_no_alignment() {
        let coloured = sample().render(true);
        assert!(coloured.contains("\x1b[32mfaster\x1b[0m"));
        let mut plain = coloured;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m"] {
            plain = plain.replace(code, "");
        }
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(trimmed(&plain), trimmed(&sample().render(false)));
    }

    #[test]
    fn a_table_without_rows_or_units_is_a_header() {
        let table = Table::new("T", &[Column::text("one"), Column::number("two", "")]);
        assert_eq!(table.render(false), "T\none  two\n--------\n");
        assert_eq!(Table::new("T", &[]).render(false), "T\n\n\n");
    }

    #[test]
    fn surplus_cells_are_dropped() {
        let mut table = Table::new("T", &[Column::text("one")]);
        table.row(vec!["a".into(), "b".into()]);
        assert_eq!(table.render(false), "T\none\n---\na\n");
    }
}
