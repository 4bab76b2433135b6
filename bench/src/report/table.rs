//! Plain-text tables: a title, a header of two lines (name and unit), aligned columns.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, LineStyle, TableStyle};

/// A rule below the header, and two spaces between columns.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('-'));
const GAP: u16 = 2;

/// A column's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    /// Shown below the name; empty for none.
    unit: &'static str,
    align: CellAlignment,
}

impl Column {
    /// A column of text, aligned to the left.
    pub(crate) const fn text(name: &'static str) -> Self {
        Self { name, unit: "", align: CellAlignment::Left }
    }

    /// A column of numbers, aligned to the right.
    pub(crate) const fn number(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, align: CellAlignment::Right }
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

    fn styled(&self) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(&self.text);
        match self.tint {
            // An empty text has no colour.
            _ if self.text.is_empty() => cell,
            None => cell,
            Some(Tint::Bold) => cell.add_attribute(Attribute::Bold),
            Some(Tint::Dim) => cell.add_attribute(Attribute::Dim),
            Some(Tint::Green) => cell.fg(Color::DarkGreen),
            Some(Tint::Red) => cell.fg(Color::DarkRed),
        }
    }

    /// The cell outside any table.
    fn alone(&self, colour: bool) -> String {
        let mut table = table(NOTHING, colour);
        table.add_row([self.styled()]);
        if let Some(column) = table.column_mut(0) {
            column.set_padding((0, 0));
        }
        table.to_string()
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

    /// The table as text, each line ended, with escape sequences if `colour` is set.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut table = table(STYLE, colour);
        let units = self.columns.iter().any(|column| !column.unit.is_empty());
        let heads = self.columns.iter().map(|Column { name, unit, .. }| {
            let head = if units { format!("{name}\n{unit}") } else { (*name).to_owned() };
            Cell::tinted(head, Tint::Bold).styled()
        });
        table.set_header(heads);
        for line in &self.lines {
            match line {
                Line::Cells(cells) => table.add_row(cells.iter().take(self.columns.len()).map(Cell::styled)),
                Line::Remark(name, _) => table.add_row([name]),
            };
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if index == 0 { 0 } else { GAP }, 0));
        }
        for (column, head) in table.column_iter_mut().zip(&self.columns) {
            column.set_cell_alignment(head.align);
        }
        let first = table.column_max_content_widths().first().map_or(0, |width| usize::from(*width));
        let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        // No cell of comfy-table spans several columns, so a remark is put into its finished line.
        let begin = lines.len().saturating_sub(self.lines.len());
        for (text, line) in lines.iter_mut().skip(begin).zip(&self.lines) {
            if let Line::Remark(name, remark) = line {
                *text = format!("{name:first$}  {}", Cell::tinted(remark, Tint::Dim).alone(colour));
            }
        }
        lines.insert(0, Cell::tinted(&self.title, Tint::Bold).alone(colour));
        lines.join("\n") + "\n"
    }
}

fn table(style: TableStyle, colour: bool) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table.style_text_only();
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let columns = [Column::text("case"), Column::number("time", "ns"), Column::text("verdict")];
        let mut table = Table::new("Title", &columns);
        table.row(vec!["a".into(), "1,234".into(), Cell::tinted("saves", Tint::Green)]);
        table.row(vec!["long name".into(), "5".into()]);
        table.remark("b", "not available: why");
        table
    }

    #[test]
    fn numbers_are_aligned_right_and_text_left() {
        let expected = "\
Title
case        time  verdict
              ns
-------------------------
a          1,234  saves
long name      5
b          not available: why
";
        assert_eq!(sample().render(false), expected);
    }

    #[test]
    fn colours_change_no_alignment() {
        let coloured = sample().render(true);
        // The second colour of the terminal's palette.
        assert!(coloured.contains("\x1b[38;5;2msaves"), "{coloured:?}");
        // Each escape sequence ends in an m.
        let mut parts = coloured.split('\x1b');
        let mut plain = parts.next().unwrap().to_owned();
        parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(trimmed(&plain), trimmed(&sample().render(false)));
    }

    #[test]
    fn a_table_without_rows_or_units_is_a_header() {
        let table = Table::new("T", &[Column::text("one"), Column::number("two", "")]);
        assert_eq!(table.render(false), "T\none  two\n--------\n");
        assert!(Table::new("T", &[]).render(false).starts_with("T\n"));
    }

    #[test]
    fn surplus_cells_are_dropped() {
        let mut table = Table::new("T", &[Column::text("one")]);
        table.row(vec!["a".into(), "b".into()]);
        assert_eq!(table.render(false), "T\none\n---\na\n");
    }
}
