//! Submitting runs.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use levelflow_common::view::RunView;
use levelflow_common::workflow::Durability;
use levelflow_common::{CacheUse, Code, HumanDuration, Priority, RunId, WorkflowDigest};
use levelflow_proto::json::{Run, TaskOutputs};
use levelflow_proto::v1::workflow_source::Source;
use levelflow_proto::{ApiError, Enumeration as _, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json as value;
use serde_json::value::RawValue;

use super::document::{Operation, Parameter, Place, schema};
use super::problem::Refusal;
use super::request::{Media, Payload, Query, invalid, not_read};
use super::route::Routes;
use super::workflows::{YAML, example, source};
use super::{Api, json};
use crate::service::parse_run_id;

/// The longest that a submit waits for the end of its run.
const MAX_WAIT: Duration = Duration::from_secs(60);

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "wait",
        place: Place::Query,
        description: "How long to wait for the end of the run, such as `30s`; at most `60s`.",
        schema: schema::<HumanDuration>,
    },
    Parameter {
        name: "inputs",
        place: Place::Query,
        description: "With a workflow in YAML: the inputs, a JSON object.",
        schema: schema::<String>,
    },
    Parameter {
        name: "priority",
        place: Place::Query,
        description: "With a workflow in YAML: how urgent the run is.",
        schema: schema::<Priority>,
    },
    Parameter {
        name: "label",
        place: Place::Query,
        description: "With a workflow in YAML: `name=value`; may be given several times.",
        schema: schema::<String>,
    },
];

const HEADERS: &[Parameter] = &[Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    description: "The same key gives the same run.",
    schema: schema::<String>,
}];

/// What to run.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SubmitRequest {
    /// The workflow: its structure, or a text in YAML or JSON.
    #[schemars(with = "Option<WorkflowForm>")]
    workflow: Option<Box<RawValue>>,
    /// In its place: the digest of a workflow that the server knows.
    workflow_digest: Option<String>,
    /// The inputs.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    inputs: Option<Box<RawValue>>,
    /// How urgent the run is, in place of what the workflow says.
    priority: Option<Priority>,
    /// When tasks may start, in place of what the workflow says.
    durability: Option<Durability>,
    /// What its tasks do with the result cache: look in it and put results there (`use`), compute anew and put
    /// results there (`refresh`), or neither (`off`).
    cache: CacheUse,
    /// Labels of the run.
    labels: BTreeMap<String, String>,
    /// The same key gives the same run.
    idempotency_key: Option<String>,
    /// Take a submit of the same workflow and inputs within the dedup window for the same run.
    deduplicate: bool,
    /// Whose run it is.
    tenant: String,
}

/// A workflow, or its text.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "it only has a schema")]
enum WorkflowForm {
    /// Its structure.
    Structure(levelflow_common::Workflow),
    /// A text in YAML or JSON.
    Text(String),
}

/// An accepted run.
#[derive(Serialize, JsonSchema)]
struct Submitted<'a> {
    /// Its id.
    run_id: String,
    /// It was there before: the key or the dedup window found it.
    existing: bool,
    /// The digest of the workflow: send it in place of the definition next time.
    workflow_digest: String,
    /// The run as it stands after the wait that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Run<'a>>,
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::post(
            "/api/v1/runs",
            "submitRun",
            "Submits a run; it is durable when this answers",
        )
        .takes(PARAMETERS)
        .takes(HEADERS)
        .body_or::<SubmitRequest>(
            YAML,
            value!({
                "workflow": example(),
                "inputs": { "who": "you" },
                "labels": { "env": "test" },
            }),
        )
        .answers::<Submitted<'static>>(201, "The run was accepted, or has ended while this waited.")
        .answers::<Submitted<'static>>(200, "The run was there before.")
        .answers::<Submitted<'static>>(202, "The run did not end while this waited.")
        .takes_its_time(),
        submit,
    );
}

async fn submit(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Query,
    payload: Payload,
) -> Result<Response, Refusal> {
    let backend = api.backend()?;
    let query = query.only(&[PARAMETERS])?;
    let wait: Option<HumanDuration> = query.one("wait")?;
    let mut request = match payload.media {
        Media::Json => {
            for parameter in &PARAMETERS[1..] {
                if query.text(parameter.name)?.is_some() {
                    let problem = "goes with a workflow in YAML; put it into the body";
                    return Err(invalid(parameter.name, problem).into());
                }
            }
            from_json(&payload)?
        }
        Media::Yaml => from_yaml(&payload, &query)?,
    };
    if let Some(key) = headers.get("idempotency-key") {
        let key = key
            .to_str()
            .map_err(|_| invalid("Idempotency-Key", "is not visible ASCII"))?;
        if !request.idempotency_key.is_empty() && request.idempotency_key != key {
            let problem = "differs from `idempotency_key` in the body";
            return Err(invalid("Idempotency-Key", problem).into());
        }
        key.clone_into(&mut request.idempotency_key);
    }
    let submitted = tokio::time::timeout(api.config.request_timeout, backend.submit(request))
        .await
        .map_err(|_| {
            Refusal::new(
                Code::RequestTimeout,
                "the run was not recorded in time, and may be later; ask again with the same key",
            )
        })?;
    let submitted = submitted.map_err(|error| in_body(error, &payload))?;
    let run_id = parse_run_id(&submitted.run_id)?;
    let mut run = None;
    if let Some(HumanDuration(wait)) = wait {
        // The coordinator may stop first, and the run goes on after that.
        let ended = tokio::time::timeout(wait.min(MAX_WAIT), backend.wait_for_end(run_id));
        tokio::select! {
            _ = ended => {}
            () = api.stop.cancelled() => {}
        }
        run = Some(backend.view(run_id).await?);
    }
    answer(&submitted, run_id, run.as_ref())
}

fn answer(
    submitted: &v1::SubmitWorkflowResponse,
    run_id: RunId,
    run: Option<&RunView>,
) -> Result<Response, Refusal> {
    let digest = WorkflowDigest::from_slice(&submitted.workflow_digest);
    let mut response = json(&Submitted {
        run_id: submitted.run_id.clone(),
        existing: submitted.existing,
        workflow_digest: digest.map_or_else(String::new, |digest| digest.to_string()),
        run: run.map(|run| Run::new(run, TaskOutputs::LeftOut)),
    })?;
    *response.status_mut() = match run {
        Some(run) if !run.summary.status.is_terminal() => StatusCode::ACCEPTED,
        _ if submitted.existing => StatusCode::OK,
        _ => StatusCode::CREATED,
    };
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/runs/{run_id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

fn from_yaml(payload: &Payload, query: &Query) -> Result<v1::SubmitWorkflowRequest, ApiError> {
    let priority = query.text("priority")?.map(|word| {
        let known = Priority::ALL
            .into_iter()
            .find(|known| known.as_str() == word);
        known.ok_or_else(|| invalid("priority", format!("`{word}` is none")))
    });
    let mut labels = BTreeMap::new();
    for label in query.all("label") {
        let (name, value) = label
            .split_once('=')
            .ok_or_else(|| invalid("label", "write name=value"))?;
        labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(v1::SubmitWorkflowRequest {
        workflow: Some(source(payload)),
        inputs: Bytes::from(query.text("inputs")?.unwrap_or_default().to_owned()),
        priority: priority.transpose()?.map_or(0, Priority::number),
        labels,
        ..Default::default()
    })
}

fn from_json(payload: &Payload) -> Result<v1::SubmitWorkflowRequest, ApiError> {
    let request: SubmitRequest = payload.json()?;
    let source = match (request.workflow, request.workflow_digest) {
        (Some(workflow), None) => Source::Text(text_of(workflow)?),
        (None, Some(digest)) => {
            let digest: WorkflowDigest = digest
                .parse()
                .map_err(|error| invalid("workflow_digest", error))?;
            Source::Digest(Bytes::copy_from_slice(digest.as_bytes()))
        }
        _ => {
            return Err(invalid(
                "workflow",
                "give either a workflow or the digest of one",
            ));
        }
    };
    Ok(v1::SubmitWorkflowRequest {
        workflow: Some(v1::WorkflowSource {
            source: Some(source),
        }),
        inputs: request.inputs.map_or_else(Bytes::new, into_bytes),
        priority: request.priority.map_or(0, Priority::number),
        durability: request.durability.map_or(0, Durability::number),
        cache: request.cache.number(),
        labels: request.labels,
        idempotency_key: request.idempotency_key.unwrap_or_default(),
        deduplicate: request.deduplicate,
        tenant: request.tenant,
    })
}

/// A workflow that is a JSON string is a text; any other value is the text itself.
fn text_of(workflow: Box<RawValue>) -> Result<Bytes, ApiError> {
    if is_text(&workflow) {
        let text: String =
            serde_json::from_str(workflow.get()).map_err(|error| not_read(&error))?;
        Ok(Bytes::from(text))
    } else {
        Ok(into_bytes(workflow))
    }
}

fn is_text(workflow: &RawValue) -> bool {
    workflow.get().starts_with('"')
}

fn into_bytes(value: Box<RawValue>) -> Bytes {
    Bytes::from(Box::<str>::from(value).into_boxed_bytes())
}

/// Problems of a workflow have their positions in the body that it was part of. Those of a text within a
/// JSON string stay in that text.
fn in_body(mut error: ApiError, payload: &Payload) -> ApiError {
    #[derive(Deserialize)]
    struct Located<'a> {
        #[serde(borrow)]
        workflow: &'a RawValue,
    }

    if payload.media != Media::Json || error.code() != Code::WorkflowInvalid {
        return error;
    }
    let Ok(Located { workflow }) = serde_json::from_slice(&payload.bytes) else {
        return error;
    };
    if is_text(workflow) {
        return error;
    }
    let offset = workflow.get().as_ptr().addr() - payload.bytes.as_ptr().addr();
    let before = String::from_utf8_lossy(&payload.bytes[..offset]);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let lines = number(before.matches('\n').count());
    let columns = number(before[line_start..].chars().count());
    for violation in &mut error.violations {
        if let Some((line, column)) = &mut violation.position {
            if *line == 1 {
                *column = column.saturating_add(columns);
            }
            *line = line.saturating_add(lines);
        }
    }
    error
}
