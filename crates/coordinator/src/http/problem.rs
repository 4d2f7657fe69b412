//! Errors as clients read them: `application/problem+json`, RFC 9457.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use levelflow_common::Code;
use levelflow_proto::{ApiError, http_status};
use schemars::JsonSchema;
use serde::Serialize;

/// What stands before the code in the type of a problem.
const TYPE_PREFIX: &str = "urn:levelflow:problem:";
/// The media type of problems.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// An error that becomes the answer to a request.
#[derive(Clone, Debug)]
pub(super) struct Refusal(pub(super) ApiError);

/// Why a request was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// `urn:levelflow:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What people read.
    detail: String,
    /// The stable code that programs match on, such as `queue_full`.
    code: &'static str,
    /// The fields that are wrong.
    violations: Vec<Violation>,
    /// When trying again may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The id of the request, as in the header `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// A field of a request that is wrong.
#[derive(Debug, Serialize, JsonSchema)]
struct Violation {
    /// Its path, such as `tasks[3].needs[0]`.
    field: String,
    /// What is wrong, and what to do.
    description: String,
    /// The line in the text that was sent, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    /// The column in the text that was sent, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
}

impl Problem {
    pub(super) fn new(error: &ApiError, request_id: Option<&str>) -> Self {
        let code = error.code();
        let millis =
            |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            kind: format!("{TYPE_PREFIX}{code}"),
            title: code.as_str().replace('_', " "),
            status: http_status(code).as_u16(),
            detail: error.message.clone(),
            code: code.as_str(),
            violations: error
                .violations
                .iter()
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                    line: violation.position.map(|(line, _)| line),
                    column: violation.position.map(|(_, column)| column),
                })
                .collect(),
            retry_after_ms: error.retry_after.map(millis),
            request_id: request_id.map(ToOwned::to_owned),
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }

    /// The answer, with the id of its request.
    pub(super) fn response(&self, request_id: Option<&str>) -> Response {
        let problem = Problem::new(&self.0, request_id);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = http_status(self.0.code());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(wait) = self.0.retry_after {
            // Whole seconds, and never too early.
            let seconds = wait.as_millis().div_ceil(1000);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                headers.insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

/// The body is written where the id of the request is known.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http_status(self.0.code());
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use levelflow_proto::FieldViolation;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_tells_all_that_the_error_does() {
        let mut error = ApiError::new(Code::QueueFull, "the queue is full");
        error.retry_after = Some(Duration::from_millis(1001));
        error.violations = vec![FieldViolation {
            position: Some((3, 7)),
            ..FieldViolation::new("tasks[0].id", "is a duplicate")
        }];
        let problem = serde_json::to_value(Problem::new(&error, Some("r1"))).unwrap();
        assert_eq!(
            problem,
            json!({
                "type": "urn:levelflow:problem:queue_full",
                "title": "queue full",
                "status": 429,
                "detail": "the queue is full",
                "code": "queue_full",
                "violations": [{
                    "field": "tasks[0].id",
                    "description": "is a duplicate",
                    "line": 3,
                    "column": 7,
                }],
                "retry_after_ms": 1001,
                "request_id": "r1",
            })
        );
        let response = Refusal(error).response(None);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
