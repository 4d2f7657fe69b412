//! The report: what the suites wrote, as Markdown with plots.

mod document;
mod plot;
mod table;
mod text;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexMap;

use document::{Cell, Document, Figure, Row};
use plot::{Kind, Plot, Series};
use table::Table;

/// The columns of a suite that are drawn as bars, one group for each row.
const BARS: [(&str, &[&str]); 3] = [
    ("engine", &["tasks_per_s"]),
    ("latency", &["p50_ms", "p99_ms"]),
    (
        "baseline",
        &["baseline executions_per_s", "levelflow executions_per_s"],
    ),
];

/// A line takes this many points.
const POINTS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// JSON files of suites [default: all in the directory of the report]
    files: Vec<PathBuf>,
    /// Where report.md and its plots go.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
}

/// The files of one suite.
type Documents = Vec<(PathBuf, Document)>;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let files = if arguments.files.is_empty() {
        json_files(&arguments.output)?
    } else {
        arguments.files.clone()
    };
    ensure!(
        !files.is_empty(),
        "no JSON files in {}; `levelflow-bench SUITE --json FILE` writes them",
        arguments.output.display()
    );
    let mut suites: IndexMap<String, Documents> = IndexMap::new();
    for file in files {
        let named = || format!("cannot read {}", file.display());
        let json = fs::read_to_string(&file).with_context(named)?;
        let document = Document::parse(&json).with_context(named)?;
        let suite = suites.entry(document.suite.clone()).or_default();
        suite.push((file, document));
    }
    let report = Report::of(&suites);
    fs::create_dir_all(&arguments.output)
        .with_context(|| format!("cannot create {}", arguments.output.display()))?;
    for (name, plot) in &report.plots {
        write(&arguments.output.join(name), &plot.svg()?)?;
    }
    let file = arguments.output.join("report.md");
    write(&file, &report.markdown)?;
    println!("{}", file.display());
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn json_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Debug, Default)]
struct Report {
    markdown: String,
    /// By the names of their files.
    plots: IndexMap<String, Plot>,
}

impl Report {
    fn of(suites: &IndexMap<String, Documents>) -> Self {
        let mut report = Self::default();
        report.line("# Benchmarks\n");
        let all = || suites.values().flatten().map(|(_, document)| document);
        let machines: Vec<&Row> = all().map(|document| &document.machine).collect();
        let same = machines.windows(2).all(|pair| pair[0] == pair[1]);
        if same {
            report.machine(machines[0]);
        }
        report.line("Figures are medians over the rounds, with the least and the greatest.\n");
        for (suite, documents) in suites {
            report.suite(suite, documents, !same);
        }
        report
    }

    fn line(&mut self, line: &str) {
        writeln!(self.markdown, "{line}").expect("text takes all that is written to it");
    }

    fn machine(&mut self, machine: &Row) {
        if !machine.is_empty() {
            self.line(&format!("Machine: {}.\n", text::list(machine)));
        }
    }

    fn suite(&mut self, suite: &str, documents: &Documents, machines: bool) {
        self.line(&format!("## {}\n", text::title(suite)));
        for (file, document) in documents {
            if machines {
                self.machine(&document.machine);
            }
            match &document.command {
                Some(command) => self.line(&format!("```sh\n{command}\n```\n")),
                None => self.line(&format!("From `{}`.\n", file.display())),
            }
        }
        let (common, rows) = merged(documents);
        if !common.is_empty() {
            self.line(&format!("All with: {}.\n", text::list(&common)));
        }
        for (name, rows) in rows {
            if name != "rows" {
                self.line(&format!("### {}\n", text::title(&name)));
            }
            for table in table::tables(rows) {
                if let Some(kind) = &table.name {
                    self.line(&format!("### {}\n", text::title(kind)));
                }
                self.line(&table.markdown());
                self.plots(suite, &name, &table);
            }
        }
        for note in documents.iter().flat_map(|(_, document)| &document.notes) {
            self.line(&format!("- {note}"));
        }
        self.line("");
    }

    fn plots(&mut self, suite: &str, list: &str, table: &Table) {
        if list != "rows" {
            return;
        }
        let title = match &table.name {
            Some(kind) => format!("{}: {}", text::title(suite), text::title(kind)),
            None => text::title(suite),
        };
        for plot in lines(&title, table)
            .into_iter()
            .chain(bars(suite, &title, table))
        {
            let name = format!("{} {}", plot.title, plot.unit);
            let name = format!("{}.svg", file_name(&name));
            self.line(&format!("![{}, {}]({name})\n", plot.title, plot.unit));
            self.plots.insert(name, plot);
        }
    }
}

/// What all rows of a suite's files have in common, and the tables of the files as one: settings that
/// differ become columns.
fn merged(documents: &Documents) -> (Row, IndexMap<String, Vec<Row>>) {
    let settings = |(name, value): (&String, &Cell)| {
        documents
            .iter()
            .all(|(_, document)| document.settings.get(name) == Some(value))
    };
    let mut common = Row::new();
    let mut tables: IndexMap<String, Vec<Row>> = IndexMap::new();
    for (_, document) in documents {
        let mut differing = Row::new();
        for (name, value) in &document.settings {
            let to = if settings((name, value)) {
                &mut common
            } else {
                &mut differing
            };
            to.insert(name.clone(), value.clone());
        }
        for (name, rows) in &document.tables {
            let rows = rows.iter().map(|row| {
                // What kind of row it is stays first.
                let mut cells: Vec<_> = row.iter().collect();
                let texts = cells
                    .iter()
                    .take_while(|(_, cell)| matches!(cell, Cell::Text(_)))
                    .count();
                cells.splice(texts..texts, &differing);
                let cells = cells.into_iter();
                cells
                    .map(|(name, cell)| (name.clone(), cell.clone()))
                    .collect()
            });
            tables.entry(name.clone()).or_default().extend(rows);
        }
    }
    (common, tables)
}

/// Where rows begin with a number: the figures over it, those of one unit in one plot.
fn lines(title: &str, table: &Table) -> Vec<Plot> {
    let Some((axis, Cell::Number(_))) = table.rows.first().and_then(|row| row.first()) else {
        return Vec::new();
    };
    let at: Vec<f64> = table
        .rows
        .iter()
        .filter_map(|row| match row.get(axis) {
            Some(Cell::Number(at)) => Some(*at),
            _ => None,
        })
        .collect();
    let mut distinct = at.clone();
    distinct.sort_by(f64::total_cmp);
    distinct.dedup();
    if at.len() != table.rows.len() || distinct.len() != at.len() || at.len() < POINTS {
        return Vec::new();
    }
    let mut by_unit: IndexMap<String, Vec<Series>> = IndexMap::new();
    for name in table.columns() {
        if let Some(series) = series(table, name) {
            by_unit.entry(text::unit(name)).or_default().push(series);
        }
    }
    let plot = |(unit, series)| Plot {
        title: title.to_owned(),
        unit,
        series,
        kind: Kind::Lines {
            axis: text::title(axis),
            at: at.clone(),
        },
    };
    by_unit.into_iter().map(plot).collect()
}

fn bars(suite: &str, title: &str, table: &Table) -> Option<Plot> {
    let (_, columns) = BARS.iter().find(|(name, _)| *name == suite)?;
    let series: Vec<Series> = columns
        .iter()
        .filter_map(|name| series(table, name))
        .collect();
    (!series.is_empty()).then(|| Plot {
        title: title.to_owned(),
        unit: text::unit(columns[0]),
        series,
        kind: Kind::Bars {
            labels: table.rows.iter().map(Table::label).collect(),
        },
    })
}

/// A column, if all its cells are figures.
fn series(table: &Table, name: &str) -> Option<Series> {
    let figure = |row: &Row| match row.get(name) {
        Some(Cell::Figure(figure)) => Some(*figure),
        _ => None,
    };
    let figures: Option<Vec<Figure>> = table.rows.iter().map(figure).collect();
    Some(Series {
        name: text::title(name),
        figures: figures?,
    })
}

/// Lower case letters, digits and dashes.
fn file_name(title: &str) -> String {
    let words = title.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(files: &[&str]) -> Report {
        let mut suites: IndexMap<String, Documents> = IndexMap::new();
        for (number, json) in files.iter().enumerate() {
            let document = Document::parse(json).unwrap();
            let file = PathBuf::from(format!("{number}.json"));
            let suite = suites.entry(document.suite.clone()).or_default();
            suite.push((file, document));
        }
        Report::of(&suites)
    }

    const FIGURE: &str = r#"{ "median": 2, "min": 1, "max": 3 }"#;

    #[test]
    fn files_of_one_suite_are_one_table() {
        let file = |shape: &str, in_flight: u32| {
            format!(
                r#"{{ "suite": "engine", "command": "bench {shape}", "machine": {{ "cores": 2 }},
                "shape": "{shape}", "in_flight": {in_flight}, "rounds": 3, "tasks_per_s": {FIGURE} }}"#
            )
        };
        let report = report(&[&file("small", 64), &file("large", 512)]);
        for line in [
            "Machine: cores 2.",
            "bench large",
            "All with: rounds 3.",
            "| shape | in flight | tasks/s |",
            "| small | 64 | 2 (1–3) |",
            "| large | 512 | 2 (1–3) |",
            "![engine, tasks/s](engine-tasks-s.svg)",
        ] {
            assert!(
                report.markdown.contains(line),
                "{line}: {}",
                report.markdown
            );
        }
        assert!(report.plots.contains_key("engine-tasks-s.svg"));
    }

    #[test]
    fn rows_over_a_number_are_drawn_as_lines() {
        let rows: Vec<String> = [1, 10, 100]
            .iter()
            .map(|x| {
                format!(r#"{{ "axis": "dag", "tasks": {x}, "a_ms": {FIGURE}, "b_ms": {FIGURE} }}"#)
            })
            .collect();
        let json = format!(
            r#"{{ "suite": "scale", "rows": [{}, {{ "axis": "payload", "kib": 1, "a_ms": {FIGURE} }}] }}"#,
            rows.join(",")
        );
        let report = report(&[&json]);
        assert!(report.markdown.contains("### payload"));
        let plots: Vec<&String> = report.plots.keys().collect();
        assert_eq!(plots, ["scale-dag-ms.svg"]);
        assert_eq!(report.plots[0].series.len(), 2);
    }
}
