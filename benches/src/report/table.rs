//! Rows as Markdown tables.

use std::fmt::Write as _;

use indexmap::{IndexMap, IndexSet};

use super::document::{Cell, Row};
use super::text;

/// A table with more columns than this is turned around, if that makes it narrower.
const WIDE: usize = 8;

/// Rows with the same columns.
#[derive(Debug)]
pub(super) struct Table {
    /// What all its rows begin with, where there are other tables beside it.
    pub(super) name: Option<String>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// The names of its columns.
    pub(super) fn columns(&self) -> Vec<&str> {
        let names = self.rows.iter().flat_map(|row| row.keys());
        let names: IndexSet<&str> = names.map(String::as_str).collect();
        names.into_iter().collect()
    }

    /// What tells a row from the others: its texts, and the numbers that come before any figure.
    pub(super) fn label(row: &Row) -> String {
        let parts: Vec<String> = row
            .iter()
            .take_while(|(_, cell)| !matches!(cell, Cell::Figure(_)))
            .map(|(name, cell)| match cell {
                Cell::Number(_) => format!("{} {}", text::title(name), text::cell(Some(cell))),
                _ => text::cell(Some(cell)),
            })
            .collect();
        parts.join(", ")
    }

    pub(super) fn markdown(&self) -> String {
        let columns = self.columns();
        if columns.len() > WIDE && self.rows.len() + 1 < columns.len() {
            return self.turned(&columns);
        }
        let titles = columns.iter().map(|name| text::title(name));
        let rows = self.rows.iter().map(|row| {
            let cells = columns.iter().map(|&name| text::cell(row.get(name)));
            cells.collect()
        });
        markdown(titles.collect(), rows)
    }

    /// A column for each row.
    fn turned(&self, columns: &[&str]) -> String {
        let mut columns = columns.iter();
        let first = columns.next().copied().unwrap_or_default();
        let line = |title: String, name: &str| {
            let cells = self.rows.iter().map(|row| text::cell(row.get(name)));
            std::iter::once(title).chain(cells).collect()
        };
        let rows = columns.map(|name| line(text::title(name), name));
        markdown(line(text::title(first), first), rows)
    }
}

/// One table if all rows have the same columns, and otherwise one for each first cell: suites put what
/// kind of row it is there.
pub(super) fn tables(rows: Vec<Row>) -> Vec<Table> {
    let alike = rows
        .windows(2)
        .all(|pair| pair[0].keys().eq(pair[1].keys()));
    if alike {
        return vec![Table { name: None, rows }];
    }
    let mut by_kind: IndexMap<String, Vec<Row>> = IndexMap::new();
    for mut row in rows {
        let kind = row.shift_remove_index(0);
        let kind = text::cell(kind.as_ref().map(|(_, cell)| cell));
        by_kind.entry(kind).or_default().push(row);
    }
    by_kind
        .into_iter()
        .map(|(name, rows)| Table {
            name: Some(name),
            rows,
        })
        .collect()
}

fn markdown(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rule = vec!["---".to_owned(); head.len()];
    let mut text = String::new();
    for cells in [head, rule].into_iter().chain(rows) {
        writeln!(text, "| {} |", cells.join(" | ")).expect("text takes all that is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[(&str, Cell)]) -> Row {
        let cells = cells.iter().cloned();
        cells.map(|(name, cell)| (name.to_owned(), cell)).collect()
    }

    fn text(value: &str) -> Cell {
        Cell::Text(value.to_owned())
    }

    #[test]
    fn rows_become_lines() {
        let rows = vec![
            row(&[("shape", text("small")), ("p50_ms", Cell::Number(1.5))]),
            row(&[("shape", text("large")), ("p50_ms", Cell::Number(2.0))]),
        ];
        let tables = tables(rows);
        assert_eq!(
            tables[0].markdown(),
            "| shape | p50, ms |\n| --- | --- |\n| small | 1.5 |\n| large | 2 |\n"
        );
    }

    #[test]
    fn a_wide_table_is_turned() {
        let names: Vec<String> = (0..9).map(|name| format!("n{name}")).collect();
        let mut cells = vec![("shape", text("small"))];
        cells.extend(names.iter().map(|name| (name.as_str(), Cell::Number(1.0))));
        let text = tables(vec![row(&cells)])[0].markdown();
        assert!(text.starts_with("| shape | small |\n| --- | --- |\n| n0 | 1 |\n"));
    }

    #[test]
    fn rows_of_several_kinds_become_several_tables() {
        let rows = vec![
            row(&[("kind", text("a")), ("x", Cell::Number(1.0))]),
            row(&[("kind", text("b")), ("y", Cell::Number(1.0))]),
            row(&[("kind", text("a")), ("x", Cell::Number(2.0))]),
        ];
        let tables = tables(rows);
        let names: Vec<_> = tables.iter().map(|table| table.name.as_deref()).collect();
        assert_eq!(names, [Some("a"), Some("b")]);
        assert_eq!(tables[0].rows.len(), 2);
        assert_eq!(tables[1].columns(), ["y"]);
    }
}
