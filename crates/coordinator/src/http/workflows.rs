//! Workflows: checking them and laying them out, without running them.

use axum::extract::State;
use axum::response::Response;
use levelflow_common::Workflow;
use levelflow_common::view::PlanView;
use levelflow_proto::v1;
use levelflow_proto::v1::workflow_source::Source;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json as value};

use super::document::Operation;
use super::problem::Refusal;
use super::request::{Payload, Query};
use super::route::Routes;
use super::{Api, json};

/// The media types of YAML that are read.
pub(super) const YAML: &[&str] = &["application/yaml"];

/// What a workflow is, when it is one.
#[derive(Serialize, JsonSchema)]
struct Validation {
    /// True: problems are answered as such.
    valid: bool,
    /// The name of the workflow.
    name: String,
    /// The digest of its definition.
    digest: String,
    /// How many tasks it has.
    tasks: usize,
    /// How many levels.
    levels: usize,
}

/// A workflow for examples.
pub(super) fn example() -> Value {
    value!({
        "name": "hello",
        "inputs": { "who": { "type": "string", "default": "world" } },
        "tasks": [{
            "id": "greet",
            "type": "transform",
            "with": { "value": "Hello, ${{ inputs.who }}!" },
        }],
        "outputs": { "text": "${{ tasks.greet.output }}" },
    })
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::post(
            "/api/v1/workflows:validate",
            "validateWorkflow",
            "Checks a workflow and tells every problem",
        )
        .body_or::<Workflow>(YAML, example())
        .answers::<Validation>(200, "It has no problem."),
        validate,
    );
    routes.add(
        Operation::post(
            "/api/v1/workflows:plan",
            "planWorkflow",
            "Lays out the levels and the critical path of a workflow",
        )
        .body_or::<Workflow>(YAML, example())
        .answers::<PlanView>(200, "The layout."),
        plan,
    );
}

/// The body as a workflow.
pub(super) fn source(payload: &Payload) -> v1::WorkflowSource {
    v1::WorkflowSource {
        source: Some(Source::Text(payload.bytes.clone())),
    }
}

async fn validate(
    State(api): State<Api>,
    query: Query,
    payload: Payload,
) -> Result<Response, Refusal> {
    query.only(&[])?;
    let definition = api.backend()?.read_source(Some(source(&payload))).await?;
    json(&Validation {
        valid: true,
        name: definition.workflow.name.clone(),
        digest: definition.digest.to_string(),
        tasks: definition.plan.len(),
        levels: definition.plan.levels().len(),
    })
}

async fn plan(State(api): State<Api>, query: Query, payload: Payload) -> Result<Response, Refusal> {
    query.only(&[])?;
    let definition = api.backend()?.read_source(Some(source(&payload))).await?;
    json(&definition.plan_view())
}
