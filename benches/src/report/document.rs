//! What suites wrote, as rows of cells.

use anyhow::{Context as _, Result};
use indexmap::IndexMap;
use serde::Deserialize;

/// Any JSON value, with keys in the order of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Figure(Figure),
    Map(IndexMap<String, Value>),
    Null,
}

/// The median over rounds, and between what it lay.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// A value of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Number(f64),
    Figure(Figure),
}

/// Cells by the names of their columns.
pub(super) type Row = IndexMap<String, Cell>;

/// A file of a suite.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) suite: String,
    /// Name and value of what is known of the machine.
    pub(super) machine: Row,
    pub(super) command: Option<String>,
    /// What all rows have in common.
    pub(super) settings: Row,
    /// By name; `rows` are the main ones.
    pub(super) tables: IndexMap<String, Vec<Row>>,
    pub(super) notes: Vec<String>,
}

impl Document {
    pub(super) fn parse(json: &str) -> Result<Self> {
        let mut fields: IndexMap<String, Value> = serde_json::from_str(json)?;
        let mut text = |name: &str| match fields.shift_remove(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        };
        let suite = text("suite").context("it names no suite")?;
        let command = text("command");
        let mut machine = Flat::default();
        if let Some(described) = fields.shift_remove("machine") {
            machine.add("", described);
        }
        let mut notes = Vec::new();
        if let Some(Value::List(list)) = fields.shift_remove("notes") {
            notes.extend(list.into_iter().filter_map(|note| match note {
                Value::Text(note) => Some(note),
                _ => None,
            }));
        }
        let mut all = Flat::default();
        all.add("", Value::Map(fields));
        let (settings, tables) = all.into_settings_and_tables();
        Ok(Self {
            suite,
            machine: machine.cells,
            command,
            settings,
            tables,
            notes,
        })
    }
}

/// A value with its maps unfolded: the name of a cell is the path to it.
#[derive(Default)]
struct Flat {
    cells: Row,
    tables: IndexMap<String, Vec<Row>>,
}

impl Flat {
    fn add(&mut self, path: &str, value: Value) {
        let cell = match value {
            Value::Null => return,
            Value::Flag(flag) => Cell::Text(if flag { "yes" } else { "no" }.to_owned()),
            Value::Number(number) => Cell::Number(number),
            Value::Text(text) => Cell::Text(text),
            Value::Figure(figure) => Cell::Figure(figure),
            Value::Map(fields) => {
                for (name, value) in fields {
                    self.add(format!("{path} {name}").trim_start(), value);
                }
                return;
            }
            Value::List(items) => {
                for item in items {
                    self.add_item(path, item);
                }
                return;
            }
        };
        self.cells.insert(path.to_owned(), cell);
    }

    /// An item is a row of the list's table. Lists in it become tables of their own, whose rows begin
    /// with what the item begins with.
    fn add_item(&mut self, path: &str, item: Value) {
        let mut row = Self::default();
        let name = if matches!(item, Value::Map(_)) {
            ""
        } else {
            path
        };
        row.add(name, item);
        // Before the tables of the lists in it.
        let rows = self.tables.entry(path.to_owned()).or_default();
        rows.push(row.cells.clone());
        let first = row
            .cells
            .first()
            .map(|(name, cell)| (name.clone(), cell.clone()));
        for (name, rows) in row.tables {
            let rows = rows.into_iter().map(|mut inner| {
                if let Some((name, cell)) = &first {
                    inner.shift_insert(0, name.clone(), cell.clone());
                }
                inner
            });
            self.tables.entry(name).or_default().extend(rows);
        }
    }

    /// A suite that lists no rows is itself one: what was measured, and the texts that tell it from
    /// others.
    fn into_settings_and_tables(self) -> (Row, IndexMap<String, Vec<Row>>) {
        let Self { cells, mut tables } = self;
        if tables.contains_key("rows") {
            return (cells, tables);
        }
        let (settings, row) = cells
            .into_iter()
            .partition(|(_, cell)| matches!(cell, Cell::Number(_)));
        tables.shift_insert(0, "rows".to_owned(), vec![row]);
        (settings, tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_the_order_of_the_file_and_unfold_maps() {
        let json = r#"{ "suite": "s", "command": "c", "machine": { "cores": 2 }, "rounds": 3,
            "notes": ["n"], "rows": [
            { "shape": "small", "levelflow": { "b_ms": { "median": 2, "min": 1, "max": 3 }, "a": 1 },
              "steps": [{ "name": "one", "met": true }] }] }"#;
        let document = Document::parse(json).unwrap();
        assert_eq!(document.suite, "s");
        assert_eq!(document.command.as_deref(), Some("c"));
        assert_eq!(document.machine["cores"], Cell::Number(2.0));
        assert_eq!(document.settings["rounds"], Cell::Number(3.0));
        assert_eq!(document.notes, ["n"]);
        let row = &document.tables["rows"][0];
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(names, ["shape", "levelflow b_ms", "levelflow a"]);
        let figure = Figure {
            median: 2.0,
            min: 1.0,
            max: 3.0,
        };
        assert_eq!(row["levelflow b_ms"], Cell::Figure(figure));
        let step = &document.tables["steps"][0];
        assert_eq!(step["shape"], Cell::Text("small".to_owned()));
        assert_eq!(step["met"], Cell::Text("yes".to_owned()));
    }

    #[test]
    fn a_suite_without_rows_is_one() {
        let json = r#"{ "suite": "engine", "shape": "small", "rounds": 3,
            "p50_ms": { "median": 2.5, "min": 1, "max": 3 } }"#;
        let document = Document::parse(json).unwrap();
        assert_eq!(document.settings["rounds"], Cell::Number(3.0));
        let row = &document.tables["rows"][0];
        assert_eq!(row["shape"], Cell::Text("small".to_owned()));
        assert!(row.contains_key("p50_ms"));
        assert!(Document::parse("{}").is_err());
    }
}
