//! Runs: listing, looking at, cancelling and resuming them.

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use levelflow_common::{RunStatus, Timestamp};
use levelflow_proto::json::{Run, RunList, TaskOutputs, parse_timestamp};
use levelflow_proto::{ApiError, Enumeration as _, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json as value;

use super::document::{Operation, Parameter, Place, schema};
use super::problem::Refusal;
use super::request::{Payload, Query, RunPath, invalid};
use super::route::Routes;
use super::{Api, json};

const FILTERS: &[Parameter] = &[
    Parameter {
        name: "status",
        place: Place::Query,
        description: "Only runs that stand like this; may be given several times.",
        schema: schema::<RunStatus>,
    },
    Parameter {
        name: "workflow",
        place: Place::Query,
        description: "Only runs of the workflow with this name.",
        schema: schema::<String>,
    },
    Parameter {
        name: "label",
        place: Place::Query,
        description: "Only runs with this label, `name=value`; may be given several times.",
        schema: schema::<String>,
    },
    Parameter {
        name: "tenant",
        place: Place::Query,
        description: "Only runs of this tenant.",
        schema: schema::<String>,
    },
    Parameter {
        name: "submitted_after",
        place: Place::Query,
        description: "Only runs that were submitted after this point in time, in RFC 3339.",
        schema: schema::<String>,
    },
    Parameter {
        name: "submitted_before",
        place: Place::Query,
        description: "Only runs that were submitted before this point in time, in RFC 3339.",
        schema: schema::<String>,
    },
    Parameter {
        name: "limit",
        place: Place::Query,
        description: "The most runs to list: 100 if not given, at most 1000.",
        schema: schema::<u32>,
    },
    Parameter {
        name: "page_token",
        place: Place::Query,
        description: "The `next_page_token` of the page before.",
        schema: schema::<String>,
    },
];

/// Why a run is cancelled.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct CancelRequest {
    /// What people read.
    reason: String,
}

/// An accepted cancel.
#[derive(Serialize, JsonSchema)]
struct Cancelled {
    /// How the run stands now: attempts that run are still told to stop.
    status: RunStatus,
}

/// A resume takes nothing.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ResumeRequest {}

/// A run that goes on from an earlier one.
#[derive(Serialize, JsonSchema)]
struct Resumed {
    /// The id of the new run.
    run_id: String,
    /// Tasks whose results were kept.
    kept: u32,
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get("/api/v1/runs", "listRuns", "Lists runs, the newest first")
            .takes(FILTERS)
            .answers::<RunList<'static>>(200, "A page of runs."),
        list,
    );
    routes.add(
        Operation::get("/api/v1/runs/{run}", "getRun", "A run with its tasks")
            .answers::<Run<'static>>(200, "The run."),
        get,
    );
    routes.add(
        Operation::post(
            "/api/v1/runs/{run}:cancel",
            "cancelRun",
            "Cancels a run; no attempt starts after this has answered",
        )
        .body::<CancelRequest>(value!({ "reason": "wrong inputs" }))
        .answers::<Cancelled>(200, "The cancel is durable."),
        cancel,
    );
    routes.add(
        Operation::post(
            "/api/v1/runs/{run}:resume",
            "resumeRun",
            "Starts a run that keeps the results of a failed or cancelled one and does the rest again",
        )
        .body::<ResumeRequest>(value!({}))
        .answers::<Resumed>(201, "The new run was accepted."),
        resume,
    );
}

async fn list(State(api): State<Api>, query: Query) -> Result<Response, Refusal> {
    let page = api
        .backend()?
        .list(request(&query.only(&[FILTERS])?)?)
        .await?;
    json(&RunList::new(&page.runs, page.next.as_deref()))
}

fn request(query: &Query) -> Result<v1::ListRunsRequest, ApiError> {
    let text = |name| Ok::<_, ApiError>(query.text(name)?.unwrap_or_default().to_owned());
    let time = |name| {
        let time = query.text(name)?.map(parse_timestamp).transpose();
        let time = time.map_err(|error| invalid(name, error))?;
        Ok::<_, ApiError>(time.map_or(0, Timestamp::as_micros))
    };
    let status = |word: &str| {
        let status = RunStatus::parse(word).ok_or_else(|| {
            let known = RunStatus::ALL.map(RunStatus::as_str).join(", ");
            invalid("status", format!("`{word}` is none; known are {known}"))
        });
        status.map(RunStatus::number)
    };
    let label = |label: &str| {
        let (name, value) = label
            .split_once('=')
            .ok_or_else(|| invalid("label", "write name=value"))?;
        Ok::<_, ApiError>((name.to_owned(), value.to_owned()))
    };
    Ok(v1::ListRunsRequest {
        statuses: query.all("status").map(status).collect::<Result<_, _>>()?,
        workflow: text("workflow")?,
        tenant: text("tenant")?,
        labels: query.all("label").map(label).collect::<Result<_, _>>()?,
        submitted_after_us: time("submitted_after")?,
        submitted_before_us: time("submitted_before")?,
        page_size: query.one("limit")?.unwrap_or_default(),
        page_token: text("page_token")?,
    })
}

async fn get(
    State(api): State<Api>,
    RunPath(run_id): RunPath,
    query: Query,
) -> Result<Response, Refusal> {
    query.only(&[])?;
    let run = api.backend()?.view(run_id).await?;
    json(&Run::new(&run, TaskOutputs::Included))
}

async fn cancel(
    State(api): State<Api>,
    RunPath(run_id): RunPath,
    payload: Payload,
) -> Result<Response, Refusal> {
    let request: CancelRequest = payload.json()?;
    let status = api.backend()?.cancel(run_id, request.reason).await?;
    json(&Cancelled { status })
}

async fn resume(
    State(api): State<Api>,
    RunPath(run_id): RunPath,
    payload: Payload,
) -> Result<Response, Refusal> {
    let ResumeRequest {} = payload.json()?;
    let resumed = api.backend()?.resume(run_id).await?;
    let location = format!("/api/v1/runs/{}", resumed.run_id);
    let mut response = json(&Resumed {
        run_id: resumed.run_id,
        kept: resumed.kept,
    })?;
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}
