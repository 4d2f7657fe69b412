//! Tables in columns that line up.

use anstyle::Style;

use super::style::Styling;

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A cell: a text and its style.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: printable(text.into()),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A table with a line of headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines of the table, each ended.
    pub(crate) fn render(&self, styling: Styling) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(column, (heading, _))| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.text.chars().count())
                    .fold(heading.len(), usize::max)
            })
            .collect();
        let headings = self
            .columns
            .iter()
            .map(|(heading, _)| Cell::styled(*heading, Style::new().dimmed()))
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            let mut spaces = 0;
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let gap = width - cell.text.chars().count();
                if *align == Align::Right {
                    spaces += gap;
                }
                // Spaces are put before a text, never after the last one.
                if !cell.text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', spaces));
                    line.push_str(&styling.paint(cell.style, &cell.text));
                    spaces = 0;
                }
                spaces += 2;
                if *align == Align::Left {
                    spaces += gap;
                }
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

/// The text without what a terminal would obey: it may come from anyone who can reach the coordinator.
pub(crate) fn printable(text: String) -> String {
    if text.contains(char::is_control) {
        text.replace(char::is_control, "\u{fffd}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_at_their_text() {
        let mut table = Table::new(&[
            ("task", Align::Left),
            ("time", Align::Right),
            ("note", Align::Left),
        ]);
        table.row(["fetch".into(), "12ms".into(), "".into()]);
        table.row(["größe".into(), "".into(), "skipped".into()]);
        assert_eq!(
            table.render(Styling::Plain),
            "task   time  note\nfetch  12ms\ngröße        skipped\n"
        );
    }

    #[test]
    fn styles_do_not_move_columns() {
        let mut table = Table::new(&[("a", Align::Left), ("b", Align::Left)]);
        table.row([Cell::styled("x", Style::new().bold()), "y".into()]);
        assert!(
            table
                .render(Styling::Styled)
                .ends_with("\u{1b}[1mx\u{1b}[0m  y\n")
        );
    }

    #[test]
    fn no_cell_commands_the_terminal() {
        let mut table = Table::new(&[("worker", Align::Left)]);
        table.row(["\u{1b}[2Jw\n\u{9b}1m".into()]);
        assert_eq!(
            table.render(Styling::Plain),
            "worker\n\u{fffd}[2Jw\u{fffd}\u{fffd}1m\n"
        );
    }
}
