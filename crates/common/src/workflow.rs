//! The definition of a workflow: a named DAG of tasks, as data.
//!
//! These types are the canonical form. Files and requests are read into them by [`crate::document`],
//! which knows positions and reports every problem at once; their JSON Schema is generated from them.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::cache::CachePolicy;
use crate::duration::HumanDuration;
use crate::id::WorkflowDigest;
use crate::retry::RetryPolicy;

/// A workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workflow {
    /// What people call it.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The values that a run must or may be given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputSpec>,
    /// How urgent its runs are, unless the submit says otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// When a task may start on the results it needs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub durability: Durability,
    /// Whether levels are a barrier.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dispatch: Dispatch,
    /// The most tasks of one run that are queued or running at once; with `dispatch: level`, in a level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_parallel: Option<u32>,
    /// The longest that a run may take in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// Labels that each run gets, for finding it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The tasks, in the order of the file.
    pub tasks: Vec<Task>,
    /// Edges beside those that tasks declare with `needs` and those that expressions imply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
    /// What a finished run gives back; the values may hold expressions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Value>,
    /// Inputs that are likely to be asked for next. After a run that succeeded, their results are computed
    /// into the cache when nothing else is to do; the values may hold expressions, as those of `outputs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefetch: Vec<BTreeMap<String, Value>>,
}

impl Workflow {
    /// The canonical form: JSON without white space, defaults left out, maps in key order.
    pub fn canonical_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a workflow has only string keys and finite numbers")
    }

    /// The digest of the canonical form.
    pub fn digest(&self) -> WorkflowDigest {
        WorkflowDigest::of(&self.canonical_json())
    }
}

/// A node of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = describe_depends_on)]
pub struct Task {
    /// Its id: letters, digits, `_` and `-`, not starting with a digit or `-`; at most 128 bytes.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_-]{0,127}$"))]
    pub id: String,
    /// What runs it.
    #[serde(rename = "type")]
    pub kind: TaskKind,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The input of the task type; may hold expressions.
    #[serde(default, skip_serializing_if = "is_null")]
    pub with: Value,
    /// Tasks that must end before this one starts.
    #[serde(default, alias = "depends_on", skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// An expression; the task is skipped when it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Runs the task once for each item of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// When a failed attempt is tried again; by default five attempts, 1 s × 2 up to 16 s, with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Time limits; a plain duration limits one attempt.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "timeouts_or_duration"
    )]
    #[schemars(with = "Option<DurationOrTimeouts>")]
    pub timeout: Option<Timeouts>,
    /// Overrides the priority of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Which workers may run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerSelector>,
    /// How many tasks with the same key may run at once, in all runs of a tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How often tasks with the same key may start, in all runs of a tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// That its results may be used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
    /// The run goes on and may succeed although this task failed; its output is then null.
    #[serde(default, skip_serializing_if = "is_default")]
    pub continue_on_error: bool,
}

/// Serde's aliases are not part of the schemas that are derived.
fn describe_depends_on(schema: &mut Schema) {
    let alias = json_schema!({
        "description": "The same as `needs`.",
        "type": "array",
        "items": { "type": "string" },
    });
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("depends_on".to_owned(), alias.to_value());
    }
}

/// A task for each item of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForEach {
    /// The list: an expression, or the list itself.
    pub items: Value,
    /// The name by which expressions of the task refer to the item.
    #[serde(rename = "as", default = "default_item_name")]
    pub item: String,
    /// The most items that are queued or running at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_parallel: Option<u32>,
}

fn default_item_name() -> String {
    "item".to_owned()
}

/// How many tasks with the same key may run at once, in all runs of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// What tasks have in common that count together; may hold expressions.
    pub key: String,
    /// The most of them that run at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// What becomes of a task that is over the limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_full: OnFull,
}

/// What becomes of a task over its concurrency limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It waits until one of those that run has ended.
    #[default]
    Queue,
    /// It fails at once, when as many as may run are waiting or running.
    Fail,
    /// The oldest of those that are waiting or running fails in its place.
    CancelOldest,
}

/// How often tasks with the same key may start, in all runs of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// What tasks have in common that count together; may hold expressions.
    pub key: String,
    /// The most of them that start in a row.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// In which time as many may start again.
    pub per: HumanDuration,
}

/// What runs a task.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Calls an HTTP service.
    Http,
    /// Asks a database.
    Sql,
    /// Asks a language model.
    Chat,
    /// Runs a program.
    Process,
    /// Computes a value or renders a text.
    Transform,
    /// Waits, without a worker.
    Sleep,
    /// Calls code that the user registered with a worker.
    Handler,
}

impl TaskKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Http,
        Self::Sql,
        Self::Chat,
        Self::Process,
        Self::Transform,
        Self::Sleep,
        Self::Handler,
    ];

    /// Whether its input can refer to secrets. That of a transform becomes its output.
    pub const fn takes_secrets(self) -> bool {
        !matches!(self, Self::Transform | Self::Sleep)
    }

    /// The word in files and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sql => "sql",
            Self::Chat => "chat",
            Self::Process => "process",
            Self::Transform => "transform",
            Self::Sleep => "sleep",
            Self::Handler => "handler",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How urgent a run or task is.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// Before normal work.
    High,
    /// The default.
    #[default]
    Normal,
    /// When nothing else waits, or when it has waited long enough.
    Low,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The word in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// When a task may start on the results it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// After they are durable.
    #[default]
    Strict,
    /// At once; the run is reported finished only when its journal is durable.
    Relaxed,
}

/// Whether levels are a barrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dispatch {
    /// A task starts as soon as its own needs are met.
    #[default]
    Ready,
    /// A level starts when the one before it has ended.
    Level,
}

/// Time limits of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// One attempt, from its start on a worker; 300 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<HumanDuration>,
    /// The wait for a worker; unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<HumanDuration>,
    /// From the moment when the task could first start to its end, all attempts together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<HumanDuration>,
    /// The longest silence of a handler that reports heartbeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HumanDuration>,
}

/// The two forms of a task's `timeout`.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum DurationOrTimeouts {
    /// One attempt.
    Run(HumanDuration),
    /// Each limit by name.
    Limits(Timeouts),
}

fn timeouts_or_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timeouts>, D::Error> {
    let form = Option::<DurationOrTimeouts>::deserialize(deserializer)?;
    Ok(form.map(|form| match form {
        DurationOrTimeouts::Run(run) => Timeouts {
            run: Some(run),
            ..Timeouts::default()
        },
        DurationOrTimeouts::Limits(limits) => limits,
    }))
}

/// Which workers may run a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSelector {
    /// The queue that the worker must subscribe to; `default` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Labels that the worker must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it goes, if it can, to the worker that got the last such task of the same run: for what workers
    /// keep, such as files or models in memory. Where that worker has no free slot, it goes to another.
    #[serde(skip_serializing_if = "is_default")]
    pub sticky: bool,
}

/// An edge of the DAG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// The task that must end first.
    pub from: String,
    /// The task that waits for it.
    pub to: String,
}

/// An input of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The type that a value must have.
    #[serde(rename = "type", default, skip_serializing_if = "is_default")]
    pub kind: InputType,
    /// Whether a run must give it; an input without `required` and `default` is null when not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub required: bool,
    /// The value when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The type of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputType {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array,
    /// A map.
    Object,
    /// Anything.
    #[default]
    Any,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_null(value: &Value) -> bool {
    value.is_null()
}
