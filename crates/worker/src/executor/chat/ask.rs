//! Asking one model.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::{Code, Failure, HumanDuration};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::candidate::Candidate;
use super::latency::Latencies;
use super::reply::{Reply, quoted};
use super::request::Question;
use crate::context::Context;
use crate::executor::http::{Client, SendError, USER_AGENT_OF_OURS, retry_after};
use crate::executor::sse::EventReader;
use crate::executor::text_stream::TextStream;
use crate::upstream::BreakerOpen;

/// Bytes of an answer that is not a stream: a text that fits into an output, and what is around it.
const MAX_DOCUMENT_BYTES: usize = 2 * MAX_OUTPUT_BYTES;
/// Bytes that are read of an answer that tells of an error.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Why a model did not answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Problem {
    /// Its breaker is open.
    Open(BreakerOpen),
    /// The endpoint may not be called, or its address is none.
    Forbidden(Failure),
    /// The endpoint could not be reached, or took too long.
    Unreachable(String),
    /// The endpoint answered with a status that is no success.
    Status {
        status: StatusCode,
        message: String,
        retry_after: Option<Duration>,
    },
    /// The answer tells of an error.
    Told(String),
    /// The answer makes no sense, or broke off.
    Broken(String),
    /// The answer is longer than an output may be.
    TooLong,
    /// What it says cannot be given on.
    Untold(Failure),
}

impl Problem {
    /// Without the secrets of the attempt: what an endpoint says was cut, perhaps in the midst of one.
    fn redacted(self, context: &Context) -> Self {
        let redacted = |text: &str| context.redact_cut(text).into_owned();
        match self {
            Self::Told(text) => Self::Told(redacted(&text)),
            Self::Status {
                status,
                message,
                retry_after,
            } => Self::Status {
                status,
                message: redacted(&message),
                retry_after,
            },
            other => other,
        }
    }

    pub(super) fn failure(&self, model: &str) -> Failure {
        let failure = |text: &str, retryable| {
            Failure::new(Code::ChatFailed, format!("{model}: {text}"), retryable)
        };
        match self {
            Self::Open(open) => failure(&open.to_string(), true),
            Self::Forbidden(refusal) | Self::Untold(refusal) => Failure {
                message: format!("{model}: {}", refusal.message),
                ..refusal.clone()
            },
            Self::Unreachable(text) | Self::Told(text) | Self::Broken(text) => failure(text, true),
            Self::TooLong => Failure::permanent(
                Code::OutputTooLarge,
                format!("{model}: the answer is larger than {MAX_OUTPUT_BYTES} bytes"),
            ),
            Self::Status {
                status,
                message,
                retry_after,
            } => {
                let passing =
                    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429);
                let text = match message.as_str() {
                    "" => format!("the endpoint answered {status}"),
                    message => format!("the endpoint answered {status}: {message}"),
                };
                match retry_after {
                    Some(wait) if passing => failure(&text, true).with_retry_after(*wait),
                    _ => failure(&text, passing),
                }
            }
        }
    }
}

/// Asks models.
pub(super) struct Asker<'a> {
    pub(super) client: &'a Client,
    pub(super) context: &'a Context,
    pub(super) question: &'a Question,
    pub(super) latencies: &'a Latencies,
    pub(super) limit: Duration,
}

impl Asker<'_> {
    /// Asks a model, and tells its breaker and the measurements how it went.
    pub(super) async fn ask(&self, candidate: &Candidate) -> Result<Reply, Problem> {
        let uri: Uri = format!(
            "{}/chat/completions",
            candidate.base_url.trim_end_matches('/')
        )
        .parse()
        .map_err(|error| {
            let message = format!("`base_url` is not an address: {error}");
            Problem::Forbidden(Failure::permanent(Code::TaskInputInvalid, message))
        })?;
        // Waiting for room is no fault of the endpoint.
        let place = self.client.place(&uri).await;
        let upstream = candidate.upstream.as_deref();
        let call = upstream
            .map(|upstream| self.context.call(upstream))
            .transpose()
            .map_err(Problem::Open)?;
        let asked_at = Instant::now();
        let exchange = async {
            let request = self.message(&uri, candidate)?;
            let sent = self.client.send(&uri, request, place).await;
            let received = sent.map_err(|error| not_sent(&error))?;
            let status = received.head.status;
            if !status.is_success() {
                return Err(told(status, &received.head.headers, received.body).await);
            }
            let reply = if is_stream(&received.head.headers) {
                self.read_stream(received.body, candidate).await?
            } else {
                let document = read_all(received.body, MAX_DOCUMENT_BYTES).await?;
                let reply = Reply::of_document(&document)?;
                let mut text = self.text_stream(candidate);
                forward(&mut text, &reply.text).await?;
                end(text).await?;
                reply
            };
            received.connection.give_back();
            if self.question.wants_json {
                reply
                    .json()
                    .map_err(|failure| Problem::Broken(failure.message))?;
            }
            Ok(reply)
        };
        let result = timeout(self.limit, exchange).await.unwrap_or_else(|_| {
            let message = format!("no answer within {}", HumanDuration(self.limit));
            Err(Problem::Unreachable(message))
        });
        let result = result.map_err(|problem| problem.redacted(self.context));
        let took = asked_at.elapsed();
        match &result {
            Ok(_) => self.latencies.answered(&candidate.name, took),
            Err(_) => self.latencies.failed(&candidate.name, took),
        }
        if let Some(call) = call {
            // What may be mended by another attempt is the fault of the endpoint, or of the way there.
            match &result {
                Err(problem) if problem.failure("").retryable => call.failed(),
                _ => call.succeeded(),
            }
        }
        result
    }

    /// Where the text of the answer goes while it is written.
    fn text_stream<'c>(&'c self, candidate: &'c Candidate) -> Option<TextStream<'c>> {
        let stream = TextStream::of_model(self.context, &candidate.name);
        self.question.wants_stream.then_some(stream)
    }

    /// Reads an answer while it is written.
    async fn read_stream(
        &self,
        mut body: Incoming,
        candidate: &Candidate,
    ) -> Result<Reply, Problem> {
        let mut events = EventReader::default();
        let mut reply = Reply::default();
        let mut text = self.text_stream(candidate);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broke_off(&error))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let known = reply.text.len();
            let mut taken = Ok(());
            events
                .read(&bytes, |data| {
                    if taken.is_ok() && !reply.is_done() {
                        taken = reply.take(data);
                    }
                })
                .map_err(|error| Problem::Broken(error.to_string()))?;
            forward(&mut text, &reply.text[known..]).await?;
            taken?;
        }
        reply.ended()?;
        end(text).await?;
        Ok(reply)
    }

    fn message(&self, uri: &Uri, candidate: &Candidate) -> Result<Request<Full<Bytes>>, Problem> {
        let body = self.question.body(&candidate.model);
        let mut message = Request::new(Full::new(body.into()));
        *message.method_mut() = Method::POST;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *message.uri_mut() = path.parse().expect("a part of an address is one");
        let headers = message.headers_mut();
        if let Some(authority) = uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            headers.insert(HOST, host);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("text/event-stream, application/json"),
        );
        headers.insert(USER_AGENT, USER_AGENT_OF_OURS);
        if let Some(key) = &candidate.key {
            // The value is a secret, so it is not quoted.
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", key.reveal())).map_err(|_| {
                    let message = "the key of the endpoint cannot be in a header";
                    Problem::Forbidden(Failure::permanent(Code::TaskInputInvalid, message))
                })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(message)
    }
}

fn not_sent(error: &SendError) -> Problem {
    match error {
        SendError::Refused(refused) => {
            Problem::Forbidden(Failure::permanent(Code::EgressRefused, refused.to_string()))
        }
        SendError::NotConnected(_) | SendError::BrokeOff(_) => {
            Problem::Unreachable(error.to_string())
        }
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with(b"text/event-stream"))
}

/// Gives on what is new of an answer, unless nobody wants that.
async fn forward(text: &mut Option<TextStream<'_>>, new: &str) -> Result<(), Problem> {
    match text {
        Some(text) => text.push(new).await.map_err(Problem::Untold),
        None => Ok(()),
    }
}

async fn end(text: Option<TextStream<'_>>) -> Result<(), Problem> {
    match text {
        Some(text) => text.end().await.map_err(Problem::Untold),
        None => Ok(()),
    }
}

async fn read_all(mut body: Incoming, most: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broke_off(&error))?;
        if let Ok(chunk) = frame.into_data() {
            if bytes.len() + chunk.len() > most {
                return Err(Problem::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok(bytes)
}

fn broke_off(error: &hyper::Error) -> Problem {
    Problem::Broken(format!("the answer broke off: {error}"))
}

/// What an answer with another status than a success says.
async fn told(status: StatusCode, headers: &HeaderMap, body: Incoming) -> Problem {
    let retry_after = retry_after(headers, SystemTime::now());
    let body = read_all(body, MAX_ERROR_BYTES).await.unwrap_or_default();
    let message = match serde_json::from_slice::<Value>(&body) {
        Ok(value) => quoted(value.get("error").unwrap_or(&value)),
        Err(_) => quoted(&String::from_utf8_lossy(&body).trim().into()),
    };
    Problem::Status {
        status,
        message,
        retry_after,
    }
}
