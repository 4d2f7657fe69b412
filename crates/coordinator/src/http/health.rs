//! Whether the process lives and can take work, and what it serves.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use levelflow_common::Code;
use schemars::{JsonSchema, json_schema};
use serde::Serialize;

use super::document::Operation;
use super::problem::Refusal;
use super::route::Routes;
use super::{Api, json};
use crate::actor::Message;

/// How long the scheduler may take to say that it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How the process is.
#[derive(Serialize, JsonSchema)]
struct Health {
    /// In a word.
    status: &'static str,
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get("/healthz", "health", "Says that the process lives")
            .answers::<Health>(200, "It does."),
        live,
    );
    routes.add(
        Operation::get("/readyz", "readiness", "Says whether runs can be submitted")
            .answers::<Health>(200, "The store has recovered, and the scheduler answers."),
        ready,
    );
    routes.add(
        Operation::get("/api/v1/openapi.json", "openapi", "This document").answers_in(
            "application/json",
            "An OpenAPI 3.1 document.",
            |_| json_schema!({ "type": "object" }),
        ),
        document,
    );
}

async fn live() -> Result<Response, Refusal> {
    json(&Health { status: "live" })
}

async fn ready(State(api): State<Api>) -> Result<Response, Refusal> {
    let backend = api.backend()?;
    if api.draining.is_cancelled() {
        return Err(Refusal::new(
            Code::ShuttingDown,
            "the coordinator is stopping",
        ));
    }
    // While it goes back to the store after a failed commit, the scheduler takes no messages.
    let asked = backend.ask(|reply| Message::Summaries {
        run_ids: Vec::new(),
        reply,
    });
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(answer) => answer?,
        Err(_) => {
            let message = "the scheduler does not answer; the store may have failed";
            return Err(Refusal::new(Code::NotReady, message));
        }
    };
    json(&Health { status: "ready" })
}

async fn document(State(api): State<Api>) -> Response {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (headers, api.document.clone()).into_response()
}
