//! Planning a workflow without running it.

use bytes::Bytes;
use levelflow_engine::{Definition, TaskIndex};
use levelflow_proto::v1;

/// The layout of a definition.
pub(crate) fn plan(definition: &Definition) -> v1::PlanWorkflowResponse {
    let ids = |tasks: &[TaskIndex]| -> Vec<String> {
        tasks
            .iter()
            .map(|task| definition.tasks[task.0 as usize].id.as_ref().to_owned())
            .collect()
    };
    v1::PlanWorkflowResponse {
        name: definition.name.as_ref().to_owned(),
        workflow_digest: Bytes::copy_from_slice(definition.digest.as_bytes()),
        levels: definition
            .plan
            .levels()
            .iter()
            .map(|level| v1::PlanLevel {
                task_ids: ids(level),
            })
            .collect(),
        critical_path: ids(&definition.critical_path()),
        tasks: definition.plan.len() as u32,
        edges: definition.plan.edges() as u32,
    }
}
