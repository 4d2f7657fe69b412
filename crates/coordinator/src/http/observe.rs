//! What is done with every request: its id, its log line, and the bodies of refusals.

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use uuid::Uuid;

use super::Api;
use super::problem::Refusal;

/// The header that carries the id of a request, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client chose.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What stands for the route of a request that has none.
const UNKNOWN_ROUTE: &str = "none";

/// Does it.
pub(super) async fn observe(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        let written = refusal.response(id.to_str().ok());
        let (parts, body) = written.into_parts();
        // The router counted the body that was not there yet.
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().extend(parts.headers);
        *response.body_mut() = body;
    }
    let route = route.as_ref().map_or(UNKNOWN_ROUTE, |route| route.as_str());
    let method = method_name(&method);
    let status = response.status().as_u16();
    let took = started.elapsed();
    api.requests.answered(method, route, status, took);
    tracing::debug!(
        method,
        route,
        status,
        request_id = id.to_str().unwrap_or_default(),
        took = ?took,
        "http request"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The method of a request, of which there are only so many.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The id that the client gave, if it is fit to be logged and sent back; else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= MAX_REQUEST_ID_BYTES
            && bytes.iter().all(u8::is_ascii_graphic)
    });
    match given {
        Some(id) => id.clone(),
        None => {
            HeaderValue::from_str(&Uuid::now_v7().to_string()).expect("a UUID is a header value")
        }
    }
}
