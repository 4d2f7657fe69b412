//! Workflows for the tests.

use std::sync::Arc;

use levelflow_common::Workflow;
use levelflow_engine::Definition;
use serde_json::{Value, json};

/// The definition of a workflow whose edges are only those that its tasks name under `needs`.
pub(crate) fn define(workflow: Value) -> Arc<Definition> {
    let workflow: Workflow = serde_json::from_value(workflow).unwrap();
    let place = |id: &str| {
        let found = workflow.tasks.iter().position(|task| task.id == id);
        found.expect("a known task") as u32
    };
    let mut edges = Vec::new();
    for (to, task) in workflow.tasks.iter().enumerate() {
        for need in &task.needs {
            edges.push((place(need), to as u32));
        }
    }
    Arc::new(Definition::new(workflow, &edges).unwrap())
}

/// A workflow of these tasks.
pub(crate) fn flow<const N: usize>(tasks: [Value; N]) -> Arc<Definition> {
    define(json!({ "name": "flow", "tasks": Vec::from(tasks) }))
}

/// A task with constant input, and what else is given.
pub(crate) fn task(id: &str, needs: &[&str], more: Value) -> Value {
    let mut task = json!({
        "id": id, "type": "transform", "needs": needs, "with": { "value": 1 },
    });
    let Value::Object(more) = more else {
        panic!("{more} is not a map");
    };
    task.as_object_mut().unwrap().extend(more);
    task
}
