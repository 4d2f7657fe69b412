//! What requests carry: paths, queries and bodies, read with typed errors.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use levelflow_common::suggest::did_you_mean;
use levelflow_common::{Code, RunId};
use levelflow_proto::{ApiError, FieldViolation};
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::document::{Parameter, Place};
use super::problem::Refusal;
use crate::service::parse_run_id;

/// What of the memory for bodies one permit stands for.
pub(super) const BYTES_OF_PERMIT: usize = 1024;

/// What is read of a body that was refused.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;

/// The run that a path names.
pub(super) struct RunPath(pub(super) RunId);

/// The task that a path names.
pub(super) struct TaskPath {
    pub(super) run_id: RunId,
    pub(super) task_id: String,
}

/// The upstream that a path names.
pub(super) struct UpstreamPath(pub(super) String);

/// A parameter of the path, without the verb that may follow it.
async fn path_parameter(parts: &mut Parts, api: &Api, name: &str) -> Result<String, Refusal> {
    let parameters = RawPathParams::from_request_parts(parts, api)
        .await
        .map_err(|error| Refusal::new(Code::RequestInvalid, error.body_text()))?;
    let value = parameters.iter().find(|&(key, _)| key == name);
    let (_, value) =
        value.ok_or_else(|| Refusal::new(Code::Internal, "the path has no such part"))?;
    Ok(value.to_owned())
}

fn without_verb(value: &str) -> &str {
    value.split_once(':').map_or(value, |(value, _)| value)
}

impl FromRequestParts<Api> for RunPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let run = path_parameter(parts, api, "run").await?;
        Ok(Self(parse_run_id(without_verb(&run))?))
    }
}

impl FromRequestParts<Api> for TaskPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let run = path_parameter(parts, api, "run").await?;
        let task = path_parameter(parts, api, "task").await?;
        Ok(Self {
            run_id: parse_run_id(&run)?,
            task_id: without_verb(&task).to_owned(),
        })
    }
}

impl FromRequestParts<Api> for UpstreamPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let upstream = path_parameter(parts, api, "upstream").await?;
        // Its name has colons of its own.
        let name = upstream
            .rsplit_once(':')
            .map_or(&*upstream, |(name, _)| name);
        Ok(Self(name.to_owned()))
    }
}

/// The parameters of a query.
pub(super) struct Query(Vec<(String, String)>);

impl FromRequestParts<Api> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Ok(Self(pairs.into_owned().collect()))
    }
}

impl Query {
    /// Refuses parameters that are not known.
    pub(super) fn only(self, known: &[&[Parameter]]) -> Result<Self, ApiError> {
        let names = || {
            let known = known.iter().copied().flatten();
            let known = known.filter(|parameter| parameter.place == Place::Query);
            known.map(|parameter| parameter.name)
        };
        for (name, _) in &self.0 {
            if !names().any(|known| known == name) {
                let help = did_you_mean(name, names()).unwrap_or_else(|| {
                    let names: Vec<&str> = names().collect();
                    match names.join(", ").as_str() {
                        "" => "it takes none".to_owned(),
                        names => format!("known are {names}"),
                    }
                });
                return Err(invalid(name, format!("is no parameter of this; {help}")));
            }
        }
        Ok(self)
    }

    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(name);
        let value = values.next();
        if values.next().is_some() {
            return Err(invalid(name, "is given twice"));
        }
        Ok(value)
    }

    /// The same, read.
    pub(super) fn one<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let value = self.text(name)?.map(str::parse).transpose();
        value.map_err(|error| invalid(name, error))
    }
}

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Yaml,
}

/// A body in JSON or YAML.
pub(super) struct Payload {
    pub(super) media: Media,
    pub(super) bytes: Bytes,
    /// Its part of the memory for bodies.
    _memory: OwnedSemaphorePermit,
}

impl FromRequest<Api> for Payload {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let media = media(&request)?;
        let reading = read(request.into_body(), api);
        let read = tokio::time::timeout(api.config.request_timeout, reading).await;
        let (bytes, memory) = read
            .map_err(|_| Refusal::new(Code::RequestTimeout, "the body did not arrive in time"))??;
        Ok(Self {
            media,
            bytes,
            _memory: memory,
        })
    }
}

impl Payload {
    /// A JSON object; nothing stands for an empty one.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if self.media != Media::Json {
            return Err(unsupported("application/json"));
        }
        let bytes: &[u8] = if self.bytes.is_empty() {
            b"{}"
        } else {
            &self.bytes
        };
        serde_json::from_slice(bytes).map_err(|error| not_read(&error))
    }
}

/// What is wrong with JSON that was sent, and where.
pub(super) fn not_read(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&at).unwrap_or(&text);
    let mut refusal = ApiError::new(Code::RequestInvalid, message);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    refusal.violations = vec![FieldViolation {
        position: (error.line() > 0).then(|| (number(error.line()), number(error.column()))),
        ..FieldViolation::new("", message)
    }];
    refusal
}

fn media(request: &Request) -> Result<Media, Refusal> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else {
        // Browsers send bodies without a type for any page; those with a type they ask about first.
        return if axum::body::HttpBody::is_end_stream(request.body()) {
            Ok(Media::Json)
        } else {
            Err(unsupported("application/json or application/yaml").into())
        };
    };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Media::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Media::Yaml),
        _ => Err(unsupported("application/json or application/yaml").into()),
    }
}

fn unsupported(expected: &str) -> ApiError {
    let message = format!("send the body as {expected}, and say so in `content-type`");
    ApiError::new(Code::MediaTypeUnsupported, message)
}

/// Takes memory as the body arrives, so that an announced length costs nothing.
async fn read(body: Body, api: &Api) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let limit = api.config.max_body_bytes;
    let too_large = || Refusal::new(Code::TooLarge, format!("the body is over {limit} bytes"));
    let announced = axum::body::HttpBody::size_hint(&body).lower();
    let mut body = body;
    if announced > limit as u64 {
        discard(&mut body).await;
        return Err(too_large());
    }
    let full = || {
        let mut error = ApiError::new(
            Code::TooManyRequests,
            "too many large requests are being read; send it again a little later",
        );
        error.retry_after = Some(std::time::Duration::from_secs(1));
        Refusal(error)
    };
    let take = |permits: usize| {
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let memory = api.memory.clone();
        memory.try_acquire_many_owned(permits).map_err(|_| full())
    };
    let mut memory = take(0)?;
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(Code::RequestInvalid, format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if collected.len() + data.len() > limit {
            discard(&mut body).await;
            return Err(too_large());
        }
        let needed = (collected.len() + data.len()).div_ceil(BYTES_OF_PERMIT);
        memory.merge(take(needed - memory.num_permits())?);
        collected.extend_from_slice(&data);
    }
    Ok((collected.freeze(), memory))
}

/// Reads on without keeping anything: a client that still sends when the connection closes may not see the
/// answer.
async fn discard(body: &mut Body) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        left = left.saturating_sub(bytes);
        if left == 0 {
            return;
        }
    }
}

/// A parameter or header that is wrong.
pub(super) fn invalid(field: &str, problem: impl Display) -> ApiError {
    let mut error = ApiError::new(Code::RequestInvalid, format!("`{field}`: {problem}"));
    error.violations = vec![FieldViolation::new(field, problem.to_string())];
    error
}
