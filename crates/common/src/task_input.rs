//! What each task type takes under `with`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::HumanDuration;

/// `with` of an `http` task. Of `body`, `json`, `form` and `body_base64` at most one.
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
    /// The body, sent as JSON also when it is text.
    #[serde(default)]
    pub json: Option<Value>,
    /// The body: fields of a form, `application/x-www-form-urlencoded`.
    #[serde(default)]
    pub form: Option<BTreeMap<String, Value>>,
    /// The body: bytes, in base64.
    #[serde(default)]
    pub body_base64: Option<String>,
    /// Statuses that count as success; by default 200 to 299.
    #[serde(default)]
    pub expect_status: Vec<u16>,
    /// The most redirects that are followed; 5 by default, and none with 0.
    #[serde(default)]
    #[schemars(range(max = 20))]
    pub redirects: Option<u32>,
    /// How the body of the response is read.
    #[serde(default)]
    pub response: HttpResponse,
    /// Gives the body of the response on in chunks while it comes, for those who watch the task.
    #[serde(default)]
    pub stream: Option<HttpStream>,
    /// The most bytes that the body of the response may have, within the limit of outputs.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_response_bytes: Option<usize>,
    /// The longest that the exchange may take, within the timeout of the task.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
}

/// How the body of a response is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpResponse {
    /// As JSON if its content type is JSON, and as text otherwise.
    #[default]
    Auto,
    /// As JSON, whatever its content type.
    Json,
    /// As text.
    Text,
    /// As bytes, in base64.
    Base64,
}

/// What the chunks of a response are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpStream {
    /// Pieces of the text as they come, each as `{"text": …}`.
    Text,
    /// Its lines, each a text.
    Lines,
    /// The data of server-sent events, each a text.
    Events,
}

fn get() -> String {
    "GET".to_owned()
}

/// `with` of an `sql` task: one statement, in `query` or `execute`, or several in `statements`.
///
/// Statements hold no expressions: values are given as parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlInput {
    /// The database, by its name in the worker's configuration; no expression.
    pub connection: String,
    /// A statement whose rows are wanted; no expression.
    #[serde(default)]
    pub query: Option<String>,
    /// A statement of which only the number of rows that it changed is wanted; no expression.
    #[serde(default)]
    pub execute: Option<String>,
    /// The parameters of the statement: `$1` and so on in PostgreSQL, `?1` in SQLite.
    #[serde(default)]
    pub params: Vec<Value>,
    /// Statements of one transaction, in their order.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub statements: Option<Vec<SqlStatement>>,
    /// How far the transaction of `statements` is kept apart from others; by default as the database
    /// is configured.
    #[serde(default)]
    pub isolation: Option<SqlIsolation>,
    /// The longest that all of it may take, the wait for a connection included; 30 s by default.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// The most rows of each query; 10000 by default.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_rows: Option<usize>,
    /// The most bytes of all rows, as JSON; as many as an output may have by default.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_bytes: Option<usize>,
    /// What happens when there are more rows or bytes.
    #[serde(default)]
    pub on_limit: SqlOnLimit,
}

/// A statement of a transaction, in `query` or `execute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlStatement {
    /// A statement whose rows are wanted; no expression.
    #[serde(default)]
    pub query: Option<String>,
    /// A statement of which only the number of rows that it changed is wanted; no expression.
    #[serde(default)]
    pub execute: Option<String>,
    /// Its parameters.
    #[serde(default)]
    pub params: Vec<Value>,
}

/// How far a transaction is kept apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SqlIsolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see what was committed before the first.
    RepeatableRead,
    /// As if no other transaction ran at the same time.
    Serializable,
}

/// What happens when a query gives more than is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SqlOnLimit {
    /// The task fails.
    #[default]
    Fail,
    /// The rest is left out, and the output says so.
    Truncate,
}

/// `with` of a `chat` task.
///
/// The model is `model`, then each of `fallbacks`; or several `models`; or, with `prefer`, whichever
/// the worker knows that has what is in `require`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChatInput {
    /// The model, by its name in the worker's configuration; with `base_url`, as the endpoint calls it.
    pub model: Option<String>,
    /// Models that are tried in this order when the one before failed.
    pub fallbacks: Vec<String>,
    /// Several models, in place of `model`.
    pub models: Vec<String>,
    /// How several models are asked.
    pub strategy: ChatStrategy,
    /// What is made of several answers.
    pub fuse: ChatFuse,
    /// Which model is asked first.
    pub prefer: Option<ChatPreference>,
    /// What a model must be able to do, in the words of the worker's configuration.
    pub require: Vec<String>,
    /// An OpenAI-compatible endpoint, such as `http://127.0.0.1:11434/v1`, in place of those of the
    /// worker's configuration.
    pub base_url: Option<String>,
    /// The key of that endpoint.
    pub api_key: Option<String>,
    /// A message of the system, before all others.
    pub system: Option<String>,
    /// A message of the user, after all others.
    pub prompt: Option<String>,
    /// The messages, as the endpoint takes them: `role`, `content` and so on.
    pub messages: Vec<Value>,
    /// How much chance there is in the answer.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// The most tokens of an answer.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// The form of the answer, as the endpoint takes it. With JSON, the output has it parsed.
    pub response_format: Option<Value>,
    /// Functions that the model may call, as the endpoint takes them.
    pub tools: Vec<Value>,
    /// Which of them it should call.
    pub tool_choice: Option<Value>,
    /// Anything else that the endpoint takes, such as `top_p`, `seed` or `stop`.
    pub parameters: BTreeMap<String, Value>,
    /// Whether the answer is read as it is written, and given on in chunks `{"model": …, "text": …}` for those
    /// who watch the task; on by default.
    pub stream: Option<bool>,
    /// The longest that one model may take, within the timeout of the task; 120 s by default.
    pub timeout: Option<HumanDuration>,
}

/// How several models are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatStrategy {
    /// One after the other.
    #[default]
    Serial,
    /// All at once.
    Parallel,
}

/// What is made of several answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatFuse {
    /// The first that comes; the others are not asked or broken off.
    #[default]
    First,
    /// The longest text.
    Longest,
    /// All texts, in the order of the models.
    Concat,
    /// The text that most models gave.
    Vote,
}

/// Which model is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatPreference {
    /// That with the lowest price.
    Cheapest,
    /// That which answered fastest lately.
    Fastest,
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
    /// Gives its standard output on in chunks while it runs, for those who watch the task.
    #[serde(default)]
    pub stream: Option<ProcessStream>,
    /// The most that it may write to its standard output.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_output_bytes: Option<usize>,
}

/// What the chunks of a program are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessStream {
    /// The lines of its standard output, each a text.
    Lines,
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
