//! What each task type takes under `with`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::HumanDuration;

/// `with` of an `http` task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpInput {
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The address.
    pub url: String,
    /// Query parameters, added to those of the address.
    #[serde(default)]
    pub query: BTreeMap<String, Value>,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body: text as it is, everything else as JSON.
    #[serde(default)]
    pub body: Option<Value>,
    /// Statuses that count as success; by default 200 to 299.
    #[serde(default)]
    pub expect_status: Vec<u16>,
    /// The longest that the exchange may take, within the timeout of the task.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
}

fn get() -> String {
    "GET".to_owned()
}

/// `with` of a `process` task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessInput {
    /// The program and its arguments; no shell reads them.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// What the program reads: text as it is, everything else as JSON.
    #[serde(default)]
    pub stdin: Option<Value>,
    /// Environment variables, added to those of the worker.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// How its standard output is read.
    #[serde(default)]
    pub output: ProcessOutput,
    /// The most that it may write to its standard output.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_output_bytes: Option<usize>,
}

/// How the standard output of a program is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessOutput {
    /// As JSON.
    Json,
    /// As text.
    #[default]
    Text,
    /// As a list of lines.
    Lines,
}

/// `with` of a `transform` task: either `value`, or `template` with `values`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransformInput {
    /// The output itself.
    pub value: Option<Value>,
    /// A text template, rendered with `values` as its variables. It is not searched for `${{ }}`.
    pub template: Option<String>,
    /// The variables of the template.
    pub values: Option<BTreeMap<String, Value>>,
}

/// `with` of a `sleep` task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SleepInput {
    /// How long.
    pub duration: HumanDuration,
}

/// `with` of a `handler` task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandlerInput {
    /// The name under which a worker registered the handler; no expression.
    pub name: String,
    /// What the handler is given.
    #[serde(default)]
    pub input: Value,
}
