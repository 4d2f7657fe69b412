//! What an expression can refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;

use super::error::ExpressionError;
use super::references::NEAR_HIT_FIELDS;
use super::value::from_json;
use crate::outcome::TaskStatus;

/// The values that expressions are evaluated on. Cheap to clone: values are shared.
#[derive(Clone, Debug)]
pub struct Scope {
    names: BTreeMap<Arc<str>, Value>,
    tasks: BTreeMap<Arc<str>, Value>,
}

impl Scope {
    /// A scope with `run.id`, `run.name`, `workflow.name` and `inputs`, a JSON object.
    ///
    /// # Errors
    /// When `inputs` is not JSON.
    pub fn new(run_id: &str, workflow: &str, inputs: &[u8]) -> Result<Self, ExpressionError> {
        let workflow = Value::from(workflow);
        let mut names = BTreeMap::new();
        names.insert(
            Arc::from("run"),
            Value::from_pairs([("id", Value::from(run_id)), ("name", workflow.clone())]),
        );
        names.insert(
            Arc::from("workflow"),
            Value::from_pairs([("name", workflow)]),
        );
        names.insert(Arc::from("inputs"), parse("`inputs`", inputs)?);
        Ok(Self {
            names,
            tasks: BTreeMap::new(),
        })
    }

    /// Adds how a task ended: `tasks.<id>.status`, and `tasks.<id>.output`, which is null where there
    /// is none.
    ///
    /// # Errors
    /// When `output` is not JSON.
    pub fn add_task(
        &mut self,
        id: &str,
        status: TaskStatus,
        output: Option<&[u8]>,
    ) -> Result<(), ExpressionError> {
        let output = match output {
            Some(bytes) => parse(&format!("the output of task `{id}`"), bytes)?,
            None => Value::from(()),
        };
        let task =
            Value::from_pairs([("output", output), ("status", Value::from(status.as_str()))]);
        self.tasks.insert(Arc::from(id), task);
        Ok(())
    }

    /// Sets the item of a `for_each`, under the name that `as` gives, and its place as `index`.
    pub fn set_item(&mut self, name: &str, item: &serde_json::Value, index: u32) {
        self.names.insert(Arc::from(name), from_json(item));
        self.names.insert(Arc::from("index"), Value::from(index));
    }

    /// Sets the result of a nearly equal text: an object with `output`, `text`, `similarity`, `run_id` and
    /// `task_id`. Without one, each of them is null.
    pub fn set_near_hit(&mut self, near_hit: Option<&serde_json::Value>) {
        let near_hit = match near_hit {
            Some(near_hit) => from_json(near_hit),
            None => Value::from_pairs(NEAR_HIT_FIELDS.map(|field| (field, Value::from(())))),
        };
        self.names.insert(Arc::from("near_hit"), near_hit);
    }

    /// All of it as one value.
    pub(super) fn root(&self) -> Value {
        let tasks = Value::from_pairs(
            self.tasks
                .iter()
                .map(|(id, task)| (Arc::clone(id), task.clone())),
        );
        Value::from_pairs(
            self.names
                .iter()
                .map(|(name, value)| (Arc::clone(name), value.clone()))
                .chain([(Arc::from("tasks"), tasks)]),
        )
    }
}

fn parse(what: &str, bytes: &[u8]) -> Result<Value, ExpressionError> {
    serde_json::from_slice(bytes).map_err(|error| ExpressionError::Data {
        what: what.to_owned(),
        message: error.to_string(),
    })
}
