//! Reads workflows: files in YAML or JSON, and structures that came another way.
//!
//! A text becomes a tree of values that know where they stand; the tree is checked against the shape
//! that the JSON Schema of [`Workflow`] gives, and against what must hold beyond it; then it is
//! decoded. Every problem is reported, not only the first.

mod check;
mod decode;
mod path;
mod problem;
mod report;
mod scalar;
mod shape;
mod tree;

use std::sync::{Arc, LazyLock};

pub use problem::{Position, Problem, Problems};

use self::path::{Path, TextStep, steps};
use self::report::Report;
use self::shape::{Shape, ShapeCheck};
use self::tree::{Flaw, Node};
use crate::limits::MAX_FILE_BYTES;
use crate::workflow::Workflow;

static WORKFLOW_SHAPE: LazyLock<Shape> =
    LazyLock::new(|| Shape::of_schema(&schemars::schema_for!(Workflow).to_value()));

/// A workflow that was read, with what is wrong with it.
#[derive(Debug)]
pub struct Draft {
    /// The workflow; none if the text does not have its shape.
    pub workflow: Option<Workflow>,
    /// The edges as indexes of tasks, from and to: those of `needs`, of `edges`, and of expressions
    /// that mention a task. Sorted, without repetition. An edge of a task to itself is kept.
    pub edges: Vec<(u32, u32)>,
    /// What is wrong, but for cycles.
    pub problems: Problems,
    ids: Vec<String>,
}

/// Reads a file, YAML or JSON. `name` is what messages call it.
pub fn read(name: &str, bytes: &[u8]) -> Draft {
    let (root, report) = parse(name, bytes);
    Draft::new(root.as_ref(), report)
}

/// Reads a map of any values, such as the inputs of a run, from YAML or JSON.
///
/// # Errors
/// When the text is not well-formed, or not a map.
pub fn read_map(
    name: &str,
    bytes: &[u8],
) -> Result<serde_json::Map<String, serde_json::Value>, Problems> {
    let (root, mut report) = parse(name, bytes);
    if let (Some(root), true) = (root, report.problems.is_empty()) {
        match decode::decode(&root) {
            Ok(map) => return Ok(map),
            Err(error) => report.flaw(Flaw::new(error.position, error.message)),
        }
    }
    Err(report.problems)
}

/// The tree of a file, as far as there is one, and what is wrong with the text.
fn parse<'s>(name: &str, bytes: &'s [u8]) -> (Option<Node<'s>>, Report) {
    let (text, root, flaws) = match text_of(bytes) {
        Ok(text) => {
            let (root, mut flaws) = tree::parse(text);
            let root = root.filter(|root| root.value != tree::Value::Null);
            if root.is_none() && flaws.is_empty() {
                flaws.push(Flaw::new(None, "the file is empty"));
            }
            (text, root, flaws)
        }
        Err((flaw, text)) => (text, None, vec![flaw]),
    };
    let mut report = Report {
        problems: Problems::new(name, Arc::from(text)),
    };
    flaws.into_iter().for_each(|flaw| report.flaw(flaw));
    (root, report)
}

/// The text of a file, or why it has none and what of it can be shown.
fn text_of(bytes: &[u8]) -> Result<&str, (Flaw, &str)> {
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!(
            "the file is {} bytes long; the most is {MAX_FILE_BYTES}",
            bytes.len()
        );
        return Err((Flaw::new(None, message), ""));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let (good, bad) = bytes.split_at(error.valid_up_to());
            let good = std::str::from_utf8(good).unwrap_or_default();
            let line_start = good.rfind('\n').map_or(0, |end| end + 1);
            let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let position = Position {
                line: number(good.matches('\n').count() + 1),
                column: number(good[line_start..].chars().count() + 1),
            };
            let message = format!(
                "the file is not UTF-8: byte 0x{:02x} at offset {}",
                bad[0],
                good.len()
            );
            Err((Flaw::new(Some(position), message), good))
        }
    }
}

impl Draft {
    /// A draft of a workflow that did not come as a file. Problems have paths and no positions.
    pub fn from_workflow(workflow: &Workflow) -> Self {
        let json = serde_json::to_value(workflow)
            .expect("a workflow has only string keys and finite numbers");
        let report = Report {
            problems: Problems::new("", Arc::from("")),
        };
        Self::new(Some(&Node::from_json(json)), report)
    }

    fn new(root: Option<&Node<'_>>, mut report: Report) -> Self {
        let root = root.filter(|root| !check::has_too_many_tasks(root, &mut report));
        let Some(root) = root else {
            return Self {
                workflow: None,
                edges: Vec::new(),
                problems: report.problems,
                ids: Vec::new(),
            };
        };
        let fits = ShapeCheck { expressions: false }.check(
            &WORKFLOW_SHAPE,
            root,
            &Path::ROOT,
            &mut report,
        );
        let checked = check::check(root, &mut report);
        let workflow = if fits {
            decode::decode::<Workflow>(root)
                .map_err(|error| {
                    // The shape leaves nothing to be found here but what `needs` twice is.
                    if report.problems.is_empty() {
                        report.flaw(Flaw::new(error.position, error.message));
                    }
                })
                .ok()
        } else {
            None
        };
        report.problems.sort();
        Self {
            workflow,
            edges: checked.edges,
            problems: report.problems,
            ids: checked.ids,
        }
    }

    /// How many tasks there are, also where there is no workflow.
    pub fn task_count(&self) -> usize {
        self.ids.len()
    }

    /// The id of a task, also where there is no workflow; empty if it has none.
    pub fn task_id(&self, index: u32) -> &str {
        self.ids.get(index as usize).map_or("", String::as_str)
    }

    /// The path of what makes an edge: an item of `needs` or `edges`, else the task, whose expressions
    /// mention the other.
    pub fn edge_path(&self, from: u32, to: u32) -> String {
        let (from_id, to_id) = (self.task_id(from), self.task_id(to));
        let task = self
            .workflow
            .as_ref()
            .and_then(|workflow| workflow.tasks.get(to as usize));
        if let Some(place) =
            task.and_then(|task| task.needs.iter().position(|need| need == from_id))
        {
            return format!("tasks[{to}].needs[{place}]");
        }
        let edges = self.workflow.iter().flat_map(|workflow| &workflow.edges);
        match edges
            .into_iter()
            .position(|edge| edge.from == from_id && edge.to == to_id)
        {
            Some(place) => format!("edges[{place}]"),
            None => format!("tasks[{to}]"),
        }
    }

    /// Adds a problem that was found elsewhere. Its position in the file is looked up.
    pub fn add_problem(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let path = path.into();
        let position = self.position(&path);
        self.problems.push(Problem {
            path,
            position,
            message: message.into(),
            help,
        });
        self.problems.sort();
    }

    /// Where a path such as `tasks[3].needs[0]` stands in the file.
    ///
    /// The file is read again for it: only wrong workflows pay, and good ones need no table of every
    /// position.
    pub fn position(&self, path: &str) -> Option<Position> {
        let (root, _) = tree::parse(self.problems.source());
        let root = root?;
        let mut node = &root;
        for step in steps(path)? {
            node = match step {
                TextStep::Key("needs") => node.get("needs").or_else(|| node.get("depends_on"))?,
                TextStep::Key(key) => node.get(key)?,
                TextStep::Index(index) => node.as_list()?.get(index)?,
            };
        }
        node.position
    }
}

#[cfg(test)]
mod input_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
