//! What is done with every request: its id, its log line, and the bodies of refusals.

use axum::extract::{MatchedPath, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use uuid::Uuid;

use super::problem::Refusal;

/// The header that carries the id of a request, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client chose.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Does it.
pub(super) async fn observe(request: Request, next: Next) -> Response {
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
    tracing::debug!(
        method = %method,
        route = route.as_ref().map_or("", |route| route.as_str()),
        status = response.status().as_u16(),
        request_id = id.to_str().unwrap_or_default(),
        took = ?started.elapsed(),
        "http request"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response
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
