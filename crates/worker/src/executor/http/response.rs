//! From a response to the output of a task, or to its failure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::task_input::{HttpInput, HttpResponse, HttpStream};
use levelflow_common::{AttemptResult, Code, Failure};
use serde::Serialize;
use serde_json::Value;

use super::client::{Received, chain};
use crate::context::Context;
use crate::executor::output::write_output;
use crate::executor::text_stream::{EventProblem, EventStream, LineStream, TextStream};

/// Bytes of a body that a failure quotes.
const QUOTED_BYTES: usize = 1024;

/// A body as chunks, while it comes.
enum BodyStream<'c> {
    Text(TextStream<'c>),
    Lines(LineStream<'c>),
    Events(EventStream<'c>),
}

impl<'c> BodyStream<'c> {
    fn new(form: HttpStream, context: &'c Context) -> Self {
        match form {
            HttpStream::Text => Self::Text(TextStream::new(context)),
            HttpStream::Lines => Self::Lines(LineStream::new(context)),
            HttpStream::Events => Self::Events(EventStream::new(context)),
        }
    }

    async fn push(&mut self, bytes: &[u8], what: &str) -> Result<(), Failure> {
        match self {
            Self::Text(text) => text.push_bytes(bytes).await,
            Self::Lines(lines) => lines.push(bytes).await,
            Self::Events(events) => events.push(bytes).await.map_err(|problem| match problem {
                EventProblem::NotTaken(failure) => failure,
                EventProblem::TooLong(error) => {
                    Failure::permanent(Code::HttpFailed, format!("{what}: {error}"))
                }
            }),
        }
    }

    async fn end(self) -> Result<(), Failure> {
        match self {
            Self::Text(text) => text.end().await,
            Self::Lines(lines) => lines.end().await,
            // An event without its end is none.
            Self::Events(_) => Ok(()),
        }
    }
}

/// How a task wants its response.
pub(super) struct Wanted {
    statuses: Vec<u16>,
    form: HttpResponse,
    stream: Option<HttpStream>,
    max_bytes: usize,
}

impl Wanted {
    pub(super) fn of(input: &HttpInput) -> Self {
        Self {
            statuses: input.expect_status.clone(),
            form: input.response,
            stream: input.stream,
            max_bytes: input
                .max_response_bytes
                .unwrap_or(MAX_OUTPUT_BYTES)
                .min(MAX_OUTPUT_BYTES),
        }
    }

    /// Whether the task named the status.
    pub(super) fn names(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status.as_u16())
    }

    fn expects(&self, status: StatusCode) -> bool {
        if self.statuses.is_empty() {
            status.is_success()
        } else {
            self.names(status)
        }
    }

    /// What comes of the response to `what`.
    pub(super) async fn read(
        &self,
        received: Received,
        what: &str,
        context: &Context,
    ) -> AttemptResult {
        let Received {
            head,
            body,
            connection,
        } = received;
        if !self.expects(head.status) {
            let (quoted, is_read) = quote(body).await;
            let quoted = context.redact_cut(&quoted);
            let failure = unexpected(head.status, &head.headers, &quoted, what);
            if is_read {
                connection.give_back();
            }
            return Err(failure);
        }
        let stream = self.stream.map(|form| BodyStream::new(form, context));
        let body = self.bytes(body, stream, what).await?;
        connection.give_back();
        let content_type = head.headers.get(CONTENT_TYPE);
        write_output(&Answer {
            status: head.status.as_u16(),
            headers: joined(&head.headers),
            body: self.value(&body, content_type, what)?,
        })
    }

    async fn bytes(
        &self,
        mut body: Incoming,
        mut stream: Option<BodyStream<'_>>,
        what: &str,
    ) -> Result<Bytes, Failure> {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let message = format!("{what}: the body broke off: {}", chain(&error));
                Failure::retryable(Code::HttpFailed, message)
            })?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            if bytes.len() + chunk.len() > self.max_bytes {
                let message = format!("{what}: the body is larger than {} bytes", self.max_bytes);
                return Err(Failure::permanent(Code::OutputTooLarge, message));
            }
            if let Some(stream) = &mut stream {
                stream.push(&chunk, what).await?;
            }
            bytes.extend_from_slice(&chunk);
        }
        if let Some(stream) = stream {
            stream.end().await?;
        }
        Ok(bytes.freeze())
    }

    fn value(
        &self,
        body: &[u8],
        content_type: Option<&HeaderValue>,
        what: &str,
    ) -> Result<Value, Failure> {
        let content_type = content_type.map(HeaderValue::as_bytes).unwrap_or_default();
        let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let claims_json = is_json(&content_type);
        Ok(match self.form {
            HttpResponse::Auto | HttpResponse::Json if claims_json && body.is_empty() => {
                Value::Null
            }
            HttpResponse::Auto if claims_json => json(body, what)?,
            HttpResponse::Json => json(body, what)?,
            HttpResponse::Auto | HttpResponse::Text => Value::String(text(body, &content_type)),
            HttpResponse::Base64 => Value::String(BASE64_STANDARD.encode(body)),
        })
    }
}

#[derive(Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str().to_owned())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    joined
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type == "application/json" || media_type.ends_with("+json")
}

fn json(body: &[u8], what: &str) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("{what}: the body is not JSON: {error}");
        Failure::retryable(Code::HttpFailed, message)
    })
}

/// The text in the encoding that the content type names, or in UTF-8.
fn text(body: &[u8], content_type: &str) -> String {
    let charset = content_type
        .split(';')
        .find_map(|parameter| parameter.trim().strip_prefix("charset="))
        .map(|charset| charset.trim_matches('"'));
    let encoding = charset
        .and_then(|charset| encoding_rs::Encoding::for_label(charset.as_bytes()))
        .unwrap_or(encoding_rs::UTF_8);
    encoding.decode(body).0.into_owned()
}

/// The start of a body, and whether that is all of it.
async fn quote(mut body: Incoming) -> (String, bool) {
    let mut quoted = BytesMut::new();
    while quoted.len() < QUOTED_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(chunk) = frame.into_data() {
            quoted.extend_from_slice(&chunk);
        }
    }
    quoted.truncate(QUOTED_BYTES);
    let quoted = String::from_utf8_lossy(&quoted).into_owned();
    (quoted, body.is_end_stream())
}

fn unexpected(status: StatusCode, headers: &HeaderMap, quoted: &str, what: &str) -> Failure {
    let message = match quoted.trim() {
        "" => format!("{what} answered {status}"),
        text => format!("{what} answered {status}: {text}"),
    };
    let retryable = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    let failure = Failure::new(Code::HttpStatus, message, retryable);
    match retry_after(headers, SystemTime::now()) {
        Some(wait) if retryable => failure.with_retry_after(wait),
        _ => failure,
    }
}

/// How long the server asks to be left alone: so many seconds, or until a date.
pub(in crate::executor) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let wait = |text: &'static str| {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(text))];
            retry_after(&headers.into_iter().collect(), now)
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            wait("Sun, 09 Sep 2001 01:47:10 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait("Sun, 09 Sep 2001 01:46:00 GMT"), Some(Duration::ZERO));
        for malformed in ["", "-1", "1.5", "soon"] {
            assert_eq!(wait(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn text_is_decoded_as_its_content_type_says() {
        assert_eq!(text(b"caf\xe9", "text/plain; charset=iso-8859-1"), "café");
        assert_eq!(text("café".as_bytes(), "text/plain"), "café");
        assert_eq!(
            text(b"caf\xe9", "text/plain; charset=\"unheard\""),
            "caf\u{fffd}"
        );
    }
}
