//! What must hold in a workflow beyond its shape: names exist, ids are unique, bounds are kept.

mod cache;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use super::path::Path;
use super::report::Report;
use super::shape::{Shape, ShapeCheck};
use super::tree::{Node, Value};
use crate::duration::HumanDuration;
use crate::expression::{
    ExpressionError, References, check_condition, check_text, text_references,
};
use crate::inputs::accepts;
use crate::limits::{
    MAX_EDGES, MAX_FOR_EACH_ITEMS, MAX_LABELS, MAX_LIMIT_KEY_BYTES, MAX_NAME_BYTES,
    MAX_TASK_ID_BYTES, MAX_TASKS, MIN_RATE_PERIOD,
};
use crate::schema::input_schema;
use crate::suggest::did_you_mean;
use crate::workflow::{InputSpec, TaskKind};

/// First names that every expression can use.
const NAMES: [&str; 4] = ["inputs", "run", "tasks", "workflow"];

/// How a statement gets values.
const PARAMS_HELP: &str = "write a parameter, such as `$1` or `?1`, and give its value in `params`";
/// The keys of an `http` task that give its body.
const HTTP_BODIES: [&str; 4] = ["body", "json", "form", "body_base64"];

static INPUT_SHAPES: LazyLock<BTreeMap<TaskKind, Shape>> = LazyLock::new(|| {
    let shape = |kind| (kind, Shape::of_schema(&input_schema(kind)));
    TaskKind::ALL.into_iter().map(shape).collect()
});

/// What checking a workflow finds beside problems.
pub(super) struct Checked {
    /// The ids of the tasks; empty where a task has none.
    pub(super) ids: Vec<String>,
    /// The edges, sorted, without repetition.
    pub(super) edges: Vec<(u32, u32)>,
}

/// Reports a workflow of so many tasks that nothing else about it is looked at. True if it is.
pub(super) fn has_too_many_tasks(root: &Node<'_>, report: &mut Report) -> bool {
    let Some((key, tasks)) = root.entry("tasks") else {
        return false;
    };
    let count = list(Some(tasks)).len();
    if count > MAX_TASKS {
        report.add(&Path::ROOT.key("tasks"), key.position, || {
            let message = format!("the workflow has {count} tasks; the most is {MAX_TASKS}");
            (message, None)
        });
    }
    count > MAX_TASKS
}

/// Checks a workflow of at most [`MAX_TASKS`] tasks.
pub(super) fn check(root: &Node<'_>, report: &mut Report) -> Checked {
    let tasks = root
        .get("tasks")
        .and_then(Node::as_list)
        .unwrap_or_default();
    let path = Path::ROOT.key("tasks");
    check_head(root, report);
    let mut check = Check {
        report,
        ids: HashMap::new(),
        names: Vec::with_capacity(tasks.len()),
        inputs: input_names(root),
        edges: Vec::new(),
        references: References::default(),
    };
    check.collect_ids(tasks, &path);
    for (index, task) in tasks.iter().enumerate() {
        check.task(index, task, &path.index(index));
    }
    check.listed_edges(root);
    check.outputs(root);
    check.prefetch(root);
    let mut edges = check.edges;
    edges.sort_unstable();
    edges.dedup();
    let ids = check.names.into_iter().map(str::to_owned).collect();
    if edges.len() > MAX_EDGES {
        report.add(&path, None, || {
            let message = format!(
                "the workflow has {} edges; the most is {MAX_EDGES}",
                edges.len()
            );
            (message, None)
        });
    }
    Checked { ids, edges }
}

fn check_head(root: &Node<'_>, report: &mut Report) {
    if let Some(name) = root.get("name")
        && let Some(text) = name.as_text()
    {
        let path = Path::ROOT.key("name");
        if text.trim().is_empty() {
            report.add(&path, name.position, || {
                ("`name` is empty".to_owned(), None)
            });
        } else if text.len() > MAX_NAME_BYTES {
            report.add(&path, name.position, || {
                let message = format!(
                    "`name` is {} bytes long; the most is {MAX_NAME_BYTES}",
                    text.len()
                );
                (message, None)
            });
        }
    }
    if let Some((key, tasks)) = root.entry("tasks")
        && tasks.as_list().is_some_and(<[_]>::is_empty)
    {
        report.add(&Path::ROOT.key("tasks"), key.position, || {
            ("the workflow has no tasks".to_owned(), None)
        });
    }
    check_labels(root.get("labels"), &Path::ROOT.key("labels"), report);
    for (name, spec) in root
        .get("inputs")
        .and_then(Node::as_map)
        .unwrap_or_default()
    {
        let inputs = Path::ROOT.key("inputs");
        let path = inputs.key(&name.text);
        check_default(spec, &path.key("default"), report);
    }
}

fn check_labels(labels: Option<&Node<'_>>, path: &Path<'_>, report: &mut Report) {
    if let Some(labels) = labels
        && let Some(count) = labels.as_map().map(<[_]>::len)
        && count > MAX_LABELS
    {
        report.add(path, labels.position, || {
            let message = format!("there are {count} labels; the most is {MAX_LABELS}");
            (message, None)
        });
    }
}

fn check_retry(retry: &Node<'_>, path: &Path<'_>, report: &mut Report) {
    let path = path.key("non_retryable");
    let retryable = list(retry.get("retryable"));
    for (place, code) in list(retry.get("non_retryable")).iter().enumerate() {
        let Some(text) = code.as_text() else {
            continue;
        };
        if retryable.iter().any(|other| other.as_text() == Some(text)) {
            report.add(&path.index(place), code.position, || {
                let message = format!("`{text}` is both in `retryable` and in `non_retryable`");
                (message, None)
            });
        }
    }
}

fn check_default(spec: &Node<'_>, path: &Path<'_>, report: &mut Report) {
    let Some(default) = spec.get("default") else {
        return;
    };
    let Ok(decoded) = super::decode::decode::<InputSpec>(spec) else {
        return;
    };
    if let Some(value) = &decoded.default
        && !accepts(&decoded, value)
    {
        report.add(path, default.position, || {
            let message = format!(
                "`default` must be {}, not {}",
                decoded.kind.phrase(),
                default.phrase()
            );
            (message, None)
        });
    }
}

fn input_names<'n>(root: &'n Node<'_>) -> Vec<&'n str> {
    let inputs = root
        .get("inputs")
        .and_then(Node::as_map)
        .unwrap_or_default();
    inputs.iter().map(|(key, _)| &*key.text).collect()
}

/// What the expressions of a place can use beside what all can.
#[derive(Clone, Copy)]
struct Names<'n> {
    /// The name of the item, inside a `for_each`.
    item: Option<&'n str>,
    /// Whether the tasks that are mentioned must end first, and before which one.
    to: Option<u32>,
    /// Whether there can be secrets.
    secrets: bool,
    /// Whether there can be the result of a nearly equal text.
    near_hit: bool,
}

struct Check<'r, 'n> {
    report: &'r mut Report,
    ids: HashMap<&'n str, u32>,
    names: Vec<&'n str>,
    inputs: Vec<&'n str>,
    edges: Vec<(u32, u32)>,
    references: References,
}

impl<'n> Check<'_, 'n> {
    fn collect_ids(&mut self, tasks: &'n [Node<'_>], path: &Path<'_>) {
        for (index, task) in tasks.iter().enumerate() {
            let Some((node, id)) = task.get("id").and_then(|id| Some((id, id.as_text()?))) else {
                self.names.push("");
                continue;
            };
            self.names.push(id);
            let task_path = path.index(index);
            let path = task_path.key("id");
            if !is_task_id(id) {
                self.report.add(&path, node.position, || {
                    let help = format!(
                        "an id has letters, digits, `_` and `-`, does not start with a digit or \
                         `-`, and is at most {MAX_TASK_ID_BYTES} bytes long"
                    );
                    (format!("`{id}` is not a task id"), Some(help))
                });
            }
            let number = u32::try_from(index).expect("tasks are fewer than MAX_TASKS");
            match self.ids.get(id) {
                None => {
                    self.ids.insert(id, number);
                }
                Some(&first) => {
                    let first = tasks[first as usize].get("id").and_then(|id| id.position);
                    self.report.add(&path, node.position, || {
                        let help = first.map(|at| format!("the first one is in line {}", at.line));
                        (format!("the task id `{id}` is used twice"), help)
                    });
                }
            }
        }
    }

    fn task(&mut self, index: usize, task: &'n Node<'_>, path: &Path<'_>) {
        let to = u32::try_from(index).expect("tasks are fewer than MAX_TASKS");
        for key in ["needs", "depends_on"] {
            let path = path.key(key);
            for (place, need) in list(task.get(key)).iter().enumerate() {
                self.edge_end(need, &path.index(place), |from| (from, to));
            }
        }
        if let (Some(_), Some((key, _))) = (task.get("needs"), task.entry("depends_on")) {
            self.report.add(&path.key("depends_on"), key.position, || {
                let message = "`depends_on` is the same as `needs`; give one of them";
                (message.to_owned(), None)
            });
        }
        let outer = Names {
            item: None,
            to: Some(to),
            secrets: false,
            near_hit: false,
        };
        if let Some(when) = task.get("when") {
            self.condition(when, outer, &path.key("when"));
        }
        let mut names = outer;
        if let Some(for_each) = task.get("for_each") {
            names.item = self.for_each(for_each, outer, &path.key("for_each"));
        }
        if let Some(retry) = task.get("retry") {
            check_retry(retry, &path.key("retry"), self.report);
        }
        if let Some(worker) = task.get("worker") {
            let worker_path = path.key("worker");
            check_labels(
                worker.get("labels"),
                &worker_path.key("labels"),
                self.report,
            );
        }
        let kind = task.get("type").and_then(Node::as_text);
        let kind = kind.and_then(TaskKind::parse);
        for name in ["concurrency", "rate_limit"] {
            if let Some((key, limit)) = task.entry(name) {
                let path = path.key(name);
                if kind == Some(TaskKind::Sleep) {
                    self.report.add(&path, key.position, || {
                        let message = format!("`{name}` is not for `sleep`");
                        let help = "a `sleep` takes no worker and runs nothing";
                        (message, Some(help.to_owned()))
                    });
                }
                self.limit(limit, names, &path);
            }
        }
        if let Some((key, policy)) = task.entry("cache") {
            let path = path.key("cache");
            if kind == Some(TaskKind::Sleep) {
                self.report.add(&path, key.position, || {
                    let help = "a `sleep` has no result that could be used again";
                    (
                        "`cache` is not for `sleep`".to_owned(),
                        Some(help.to_owned()),
                    )
                });
            }
            self.cache(policy, names, &path);
        }
        if let Some(kind) = kind {
            names.secrets = kind.takes_secrets();
            names.near_hit = task
                .get("cache")
                .is_some_and(|policy| policy.get("semantic").is_some());
            self.input(kind, task, names, path);
        }
    }

    /// A concurrency or rate limit.
    fn limit(&mut self, limit: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        if let Some(key) = limit.get("key") {
            let path = path.key("key");
            self.expressions(key, names, &path);
            let bytes = key.as_text().map_or(1, str::len);
            let has_expression = || key.as_text().is_some_and(crate::expression::has_expression);
            if bytes == 0 {
                self.report
                    .add(&path, key.position, || ("`key` is empty".to_owned(), None));
            } else if bytes > MAX_LIMIT_KEY_BYTES && !has_expression() {
                self.report.add(&path, key.position, || {
                    let message =
                        format!("`key` is {bytes} bytes long; the most is {MAX_LIMIT_KEY_BYTES}");
                    (message, None)
                });
            }
        }
        if let Some(per) = limit.get("per")
            && super::decode::decode::<HumanDuration>(per).is_ok_and(|per| per.0 < MIN_RATE_PERIOD)
        {
            self.report.add(&path.key("per"), per.position, || {
                let message = format!("`per` must be at least {}", HumanDuration(MIN_RATE_PERIOD));
                (message, None)
            });
        }
    }

    fn for_each(
        &mut self,
        for_each: &'n Node<'_>,
        names: Names<'_>,
        path: &Path<'_>,
    ) -> Option<&'n str> {
        if let Some(items) = for_each.get("items") {
            let path = path.key("items");
            match &items.value {
                Value::List(list) if list.len() > MAX_FOR_EACH_ITEMS => {
                    self.report.add(&path, items.position, || {
                        let message = format!(
                            "`items` has {} items; the most is {MAX_FOR_EACH_ITEMS}",
                            list.len()
                        );
                        (message, None)
                    });
                }
                Value::List(_) => {}
                Value::Text(text) if crate::expression::is_whole_expression(text) => {}
                _ => self.report.add(&path, items.position, || {
                    let message = format!(
                        "`items` must be a list or one expression, not {}",
                        items.phrase()
                    );
                    (message, None)
                }),
            }
            self.expressions(items, names, &path);
        }
        let Some(name) = for_each.get("as") else {
            return Some("item");
        };
        let text = name.as_text()?;
        let taken = NAMES.contains(&text) || matches!(text, "index" | "near_hit" | "secrets");
        let malformed = text.contains('-') || !is_task_id(text);
        if taken || malformed {
            self.report.add(&path.key("as"), name.position, || {
                let message = if taken {
                    format!("an item cannot be called `{text}`; expressions use that name")
                } else {
                    format!("`{text}` is not a name")
                };
                let help = "a name has letters, digits and `_`, and does not start with a digit";
                (message, malformed.then(|| help.to_owned()))
            });
        }
        Some(text)
    }

    fn input(&mut self, kind: TaskKind, task: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        let path = path.key("with");
        let none = Node {
            position: task.position,
            value: Value::Map(Vec::new()),
        };
        let with = match task.get("with") {
            Some(with) if with.value != Value::Null => with,
            _ => &none,
        };
        let shape = &INPUT_SHAPES[&kind];
        let exact = ShapeCheck { expressions: false };
        let lenient = ShapeCheck { expressions: true };
        let is_map = with.as_map().is_some();
        let check = if is_map { lenient } else { exact };
        check.check(shape, with, &path, self.report);
        for (key, node) in with.as_map().unwrap_or_default() {
            let path = path.key(&key.text);
            match (kind, &*key.text) {
                (TaskKind::Transform, "template") => {
                    if let Some(text) = node.as_text()
                        && let Err(error) = check_text(text)
                    {
                        self.error(&error, node, &path);
                    }
                }
                (TaskKind::Handler, "name") => {
                    let help = "the name of a handler must be known before the run";
                    self.literal(node, help, &path);
                }
                (TaskKind::Sql, "connection") => {
                    let help = "the name of a connection must be known before the run";
                    self.literal(node, help, &path);
                }
                (TaskKind::Sql, "query" | "execute") => self.literal(node, PARAMS_HELP, &path),
                (TaskKind::Sql, "statements") => self.statements(node, names, &path),
                _ => self.expressions(node, names, &path),
            }
        }
        match kind {
            TaskKind::Transform if is_map => self.transform(with, &path),
            TaskKind::Sql if is_map => self.sql(with, &path),
            TaskKind::Chat if is_map => self.chat(with, &path),
            TaskKind::Http => self.http(with, &path),
            _ => {}
        }
    }

    /// Reports a text that holds an expression where none may be.
    fn literal(&mut self, node: &Node<'_>, help: &str, path: &Path<'_>) {
        if node
            .as_text()
            .is_some_and(crate::expression::has_expression)
        {
            self.report.add(path, node.position, || {
                let message = format!("{} cannot hold an expression", path.subject());
                (message, Some(help.to_owned()))
            });
        }
    }

    /// The statements of a transaction: expressions are for their parameters only.
    fn statements(&mut self, node: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        self.literal(node, PARAMS_HELP, path);
        for (index, statement) in list(Some(node)).iter().enumerate() {
            let path = path.index(index);
            self.literal(statement, PARAMS_HELP, &path);
            for (key, node) in statement.as_map().unwrap_or_default() {
                let path = path.key(&key.text);
                match &*key.text {
                    "params" => self.expressions(node, names, &path),
                    _ => self.literal(node, PARAMS_HELP, &path),
                }
            }
            if statement.as_map().is_some() {
                self.one_of(statement, ["query", "execute"], &path);
            }
        }
    }

    /// Exactly one of the keys must be there.
    fn one_of<const N: usize>(&mut self, with: &Node<'_>, keys: [&str; N], path: &Path<'_>) {
        let given = keys.iter().filter(|key| with.get(key).is_some()).count();
        if given != 1 {
            self.report.add(path, with.position, || {
                let keys = keys.map(|key| format!("`{key}`"));
                let keys = match keys.split_last() {
                    Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                    None => String::new(),
                };
                let message = match given {
                    0 => format!("{keys} is missing"),
                    _ => format!("only one of {keys} can be given"),
                };
                (message, None)
            });
        }
    }

    fn sql(&mut self, with: &Node<'_>, path: &Path<'_>) {
        self.one_of(with, ["query", "execute", "statements"], path);
        let message = match (with.get("statements"), with.get("params")) {
            (Some(_), Some(_)) => "each of the `statements` has `params` of its own",
            (None, _) if with.get("isolation").is_some() => "`isolation` is for `statements`",
            _ => return,
        };
        self.report
            .add(path, with.position, || (message.to_owned(), None));
    }

    fn chat(&mut self, with: &Node<'_>, path: &Path<'_>) {
        let has = |key: &str| with.get(key).is_some();
        let mut problems = Vec::new();
        match (has("model"), has("models")) {
            (true, true) => problems.push("`model` and `models` exclude each other"),
            (false, false) if !has("prefer") && !has("require") => {
                problems.push("`model`, `models`, `prefer` or `require` is missing");
            }
            (false, _) if has("fallbacks") => problems.push("`fallbacks` are for a `model`"),
            _ => {}
        }
        if !has("messages") && !has("prompt") {
            problems.push("`messages` or `prompt` is missing");
        }
        if has("base_url") && (has("prefer") || has("require")) {
            problems.push("`prefer` and `require` choose among the worker's models, not those of a `base_url`");
        }
        if has("api_key") && !has("base_url") {
            problems.push("`api_key` is for a `base_url`");
        }
        for problem in problems {
            self.report
                .add(path, with.position, || (problem.to_owned(), None));
        }
    }

    fn http(&mut self, with: &Node<'_>, path: &Path<'_>) {
        let bodies: Vec<_> = HTTP_BODIES
            .into_iter()
            .filter(|key| with.get(key).is_some())
            .collect();
        if let [first, second, ..] = bodies[..] {
            self.report.add(path, with.position, || {
                let message = format!("`{first}` and `{second}` exclude each other");
                (message, None)
            });
        }
    }

    fn transform(&mut self, with: &Node<'_>, path: &Path<'_>) {
        let has = |key: &str| with.get(key).is_some();
        let message = match (has("value"), has("template")) {
            (true, true) => "`value` and `template` exclude each other",
            (false, false) => "`value` or `template` is missing",
            (true, false) if has("values") => "`values` are for a `template`",
            _ => return,
        };
        self.report
            .add(path, with.position, || (message.to_owned(), None));
    }

    fn listed_edges(&mut self, root: &Node<'_>) {
        let path = Path::ROOT.key("edges");
        for (index, edge) in list(root.get("edges")).iter().enumerate() {
            let path = path.index(index);
            let end = |key: &str| edge.get(key);
            let (Some(from), Some(to)) = (end("from"), end("to")) else {
                continue;
            };
            let to = self.resolve(to, &path.key("to"));
            let from = self.resolve(from, &path.key("from"));
            if let (Some(from), Some(to)) = (from, to) {
                self.edges.push((from, to));
            }
        }
    }

    fn edge_end(&mut self, node: &Node<'_>, path: &Path<'_>, edge: impl Fn(u32) -> (u32, u32)) {
        if let Some(index) = self.resolve(node, path) {
            self.edges.push(edge(index));
        }
    }

    /// The task of that id.
    fn resolve(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<u32> {
        let id = node.as_text()?;
        let index = self.ids.get(id).copied();
        if index.is_none() {
            let names = &self.names;
            self.report.add(path, node.position, || {
                let help = did_you_mean(id, names.iter().copied());
                (format!("there is no task `{id}`"), help)
            });
        }
        index
    }

    fn outputs(&mut self, root: &Node<'_>) {
        let path = Path::ROOT.key("outputs");
        let names = Names {
            item: None,
            to: None,
            secrets: false,
            near_hit: false,
        };
        for (key, node) in root
            .get("outputs")
            .and_then(Node::as_map)
            .unwrap_or_default()
        {
            self.expressions(node, names, &path.key(&key.text));
        }
    }

    /// Checks every expression in a tree.
    fn expressions(&mut self, node: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        match &node.value {
            Value::Text(text) if crate::expression::has_expression(text) => {
                let mut references = std::mem::take(&mut self.references);
                match text_references(text, &mut references) {
                    Ok(()) => self.use_references(&references, node, names, path),
                    Err(error) => self.error(&error, node, path),
                }
                references.clear();
                self.references = references;
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.expressions(item, names, &path.index(index));
                }
            }
            Value::Map(entries) => {
                for (key, item) in entries {
                    let path = path.key(&key.text);
                    if crate::expression::has_expression(&key.text) {
                        let error = ExpressionError::InKey {
                            key: key.text.to_string(),
                        };
                        self.report
                            .add(&path, key.position, || (error.message(), None));
                    }
                    self.expressions(item, names, &path);
                }
            }
            _ => {}
        }
    }

    fn condition(&mut self, node: &Node<'_>, names: Names<'_>, path: &Path<'_>) {
        let Some(text) = node.as_text() else {
            return;
        };
        match check_condition(text) {
            Ok(references) => self.use_references(&references, node, names, path),
            Err(error) => self.error(&error, node, path),
        }
    }

    /// Names must exist; a task that is mentioned must end first.
    fn use_references(
        &mut self,
        references: &References,
        node: &Node<'_>,
        names: Names<'_>,
        path: &Path<'_>,
    ) {
        if !names.secrets && !references.secrets.is_empty() {
            self.error(&ExpressionError::Secrets, node, path);
        }
        for id in &references.tasks {
            match self.ids.get(id.as_str()) {
                Some(&from) => self.edges.extend(names.to.map(|to| (from, to))),
                None => {
                    let known = &self.names;
                    self.report.add(path, node.position, || {
                        let hyphened = format!("{id}-");
                        let help = known
                            .iter()
                            .find(|known| known.starts_with(&hyphened))
                            .map(|known| format!("an id with `-` is written `tasks['{known}']`"))
                            .or_else(|| did_you_mean(id, known.iter().copied()));
                        (format!("`tasks.{id}` is not defined"), help)
                    });
                }
            }
        }
        for name in &references.inputs {
            if !self.inputs.contains(&name.as_str()) {
                let known = &self.inputs;
                self.report.add(path, node.position, || {
                    let help = did_you_mean(name, known.iter().copied())
                        .unwrap_or_else(|| "declare it under `inputs`".to_owned());
                    (format!("`inputs.{name}` is not defined"), Some(help))
                });
            }
        }
        for name in &references.variables {
            let name = name.as_str();
            if name == "near_hit" && !names.near_hit {
                self.report.add(path, node.position, || {
                    let help = "`near_hit` is for `with` of a task with `cache.semantic`";
                    (
                        format!("`{name}` is not defined here"),
                        Some(help.to_owned()),
                    )
                });
                continue;
            }
            let known = NAMES.contains(&name)
                || name == "near_hit"
                || names
                    .item
                    .is_some_and(|item| item == name || name == "index");
            if !known {
                self.report.add(path, node.position, || {
                    let near_hit = names.near_hit.then_some("near_hit");
                    let known = NAMES.into_iter().chain(names.item).chain(near_hit);
                    let help = did_you_mean(name, known.clone()).unwrap_or_else(|| {
                        let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
                        format!("the names here are {}", known.join(", "))
                    });
                    (format!("`{name}` is not defined"), Some(help))
                });
            }
        }
    }

    fn error(&mut self, error: &ExpressionError, node: &Node<'_>, path: &Path<'_>) {
        self.report.add(path, node.position, || {
            (error.message(), error.help().map(str::to_owned))
        });
    }
}

fn list<'a, 's>(node: Option<&'a Node<'s>>) -> &'a [Node<'s>] {
    node.and_then(Node::as_list).unwrap_or_default()
}

fn is_task_id(id: &str) -> bool {
    id.len() <= MAX_TASK_ID_BYTES
        && id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}
