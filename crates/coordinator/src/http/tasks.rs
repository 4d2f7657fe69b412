//! Tasks of a run: how they stand, and why.

use axum::extract::State;
use axum::response::Response;
use levelflow_common::Code;
use levelflow_proto::ApiError;
use levelflow_proto::json::{Reason, Task, TaskExplanation, TaskOutputs};

use super::document::{Operation, Parameter, Place, schema};
use super::problem::Refusal;
use super::request::{Query, TaskPath};
use super::route::Routes;
use super::{Api, json};

pub(super) const ITEM: &[Parameter] = &[Parameter {
    name: "item",
    place: Place::Query,
    description: "The place in the list of a `for_each`, from 0.",
    schema: schema::<u32>,
}];

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/runs/{run}/tasks/{task}",
            "getTask",
            "A task of a run, with its output",
        )
        .takes(ITEM)
        .answers::<Task<'static>>(200, "The task."),
        get,
    );
    routes.add(
        Operation::get(
            "/api/v1/runs/{run}/tasks/{task}:why",
            "explainTask",
            "Says exactly why a task waits, or how it ended",
        )
        .takes(ITEM)
        .answers::<TaskExplanation<'static>>(200, "How it stands, and why."),
        why,
    );
}

async fn get(
    State(api): State<Api>,
    TaskPath { run_id, task_id }: TaskPath,
    query: Query,
) -> Result<Response, Refusal> {
    let item: Option<u32> = query.only(&[ITEM])?.one("item")?;
    let run = api.backend()?.view(run_id).await?;
    let task = run
        .tasks
        .iter()
        .find(|task| *task.task_id == *task_id && task.item == item)
        .ok_or_else(|| {
            let message = format!("run {run_id} has no task `{task_id}`");
            ApiError::new(Code::TaskNotFound, message)
        })?;
    json(&Task::new(task, TaskOutputs::Included))
}

async fn why(
    State(api): State<Api>,
    TaskPath { run_id, task_id }: TaskPath,
    query: Query,
) -> Result<Response, Refusal> {
    let item: Option<u32> = query.only(&[ITEM])?.one("item")?;
    let explanation = api
        .backend()?
        .explain(run_id, task_id.clone(), item)
        .await?;
    json(&TaskExplanation {
        task: &task_id,
        item,
        state: explanation.status,
        reasons: explanation
            .reasons
            .iter()
            .map(|reason| Reason {
                code: &reason.code,
                text: &reason.text,
            })
            .collect(),
    })
}
