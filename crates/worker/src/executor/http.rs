//! Tasks of type `http`.
//!
//! The output is `{"status": …, "headers": {…}, "body": …}`: header names are lower case, and repeated
//! headers are joined with `, `; the body is parsed if its content type is JSON, and is text otherwise.
//! Every request carries an `Idempotency-Key`, the same for all attempts of a task, unless the task sets
//! that header itself. Failed connections, timeouts and the statuses 408, 425, 429 and 5xx are tried
//! again as the retry policy says; other unexpected statuses fail the task at once.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::task_input::HttpInput;
use levelflow_common::{AttemptResult, Code, Failure};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;

use super::output::{read_input, write_output};
use crate::attempt::{cancelled, output_too_large};
use crate::context::Context;

const IDLE_CONNECTIONS: usize = 100;
const IDLE_FOR: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;
/// Bytes of a body that a failure quotes.
const QUOTED_BYTES: usize = 1024;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Makes `ring` the provider of cryptography for this process, unless there is one. Call it first
/// thing in a program that runs `http` tasks and uses TLS elsewhere, too.
pub fn install_tls_provider() {
    // Fails when there is a provider, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The client that all `http` tasks of a worker share. It is made when the first of them runs, because
/// reading the certificates of the system takes time.
#[derive(Clone, Default)]
pub(crate) struct HttpExecutor {
    client: Arc<OnceLock<Result<Client, String>>>,
}

impl HttpExecutor {
    /// Runs an attempt; breaks the exchange off when it is told to stop.
    pub(crate) async fn run(self, context: Context, input: Bytes) -> AttemptResult {
        tokio::select! {
            biased;
            () = context.cancelled() => Err(cancelled()),
            result = self.exchange(&context, &input) => result,
        }
    }

    async fn exchange(&self, context: &Context, input: &[u8]) -> AttemptResult {
        let input: HttpInput = read_input(input)?;
        let expected = input.expect_status.clone();
        let client = self.client()?;
        let request = request(&client, context, input)?;
        let call = context.call_own_upstream();
        let result = send(&client, request, &expected).await;
        if let Some(call) = call {
            // What may be mended by another attempt is the fault of the server, or of the way there.
            match &result {
                Err(failure) if failure.retryable => call.failed(),
                _ => call.succeeded(),
            }
        }
        result
    }

    fn client(&self) -> Result<Client, Failure> {
        let client = self.client.get_or_init(|| {
            install_tls_provider();
            Client::builder()
                .user_agent(concat!("levelflow/", env!("CARGO_PKG_VERSION")))
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE_FOR)
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TIMEOUT)
                .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
                .build()
                .map_err(|error| chain(&error))
        });
        client.clone().map_err(|message| {
            let message = format!("the HTTP client could not be made: {message}");
            Failure::permanent(Code::HttpFailed, message)
        })
    }
}

async fn send(client: &Client, request: Request, expected: &[u16]) -> AttemptResult {
    let what = describe(&request);
    let response = client
        .execute(request)
        .await
        .map_err(|error| broken_off(&what, error))?;
    answer(response, &what, expected).await
}

fn request(client: &Client, context: &Context, input: HttpInput) -> Result<Request, Failure> {
    let method = Method::from_bytes(input.method.as_bytes())
        .map_err(|_| invalid(format!("`{}` is not a method", input.method)))?;
    let mut url = Url::parse(&input.url)
        .map_err(|error| invalid(format!("`url` is not an address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(
            "`url` must start with http:// or https://".to_owned(),
        ));
    }
    add_query(&mut url, &input.query);
    let mut headers = headers(&input.headers)?;
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        let key = HeaderValue::try_from(context.idempotency_key())
            .expect("ids of runs and tasks are visible ASCII");
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    let mut request = client.request(method, url).headers(headers.clone());
    match input.body {
        None => {}
        Some(Value::String(text)) => request = request.body(text),
        Some(value) => {
            if !headers.contains_key(CONTENT_TYPE) {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            request = request.body(value.to_string());
        }
    }
    if let Some(timeout) = input.timeout {
        request = request.timeout(timeout.0);
    }
    request
        .build()
        .map_err(|error| invalid(chain(&error.without_url())))
}

fn invalid(problem: String) -> Failure {
    Failure::permanent(Code::TaskInputInvalid, problem)
}

/// Adds parameters: a list repeats its name, null is left out, text is taken as it is.
fn add_query(url: &mut Url, query: &BTreeMap<String, Value>) {
    if query.is_empty() {
        return;
    }
    let mut pairs = url.query_pairs_mut();
    for (name, value) in query {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            match value {
                Value::Null => {}
                Value::String(text) => {
                    pairs.append_pair(name, text);
                }
                value => {
                    pairs.append_pair(name, &value.to_string());
                }
            }
        }
    }
}

fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, Failure> {
    given
        .iter()
        .map(|(name, value)| {
            // The value may be a secret, so it is not quoted.
            let header = HeaderName::try_from(name)
                .map_err(|_| invalid(format!("`{name}` cannot be the name of a header")))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| invalid(format!("the value of the header `{name}` is malformed")))?;
            Ok((header, value))
        })
        .collect()
}

/// Method and address without what may be secret in it.
fn describe(request: &Request) -> String {
    let mut url = request.url().clone();
    url.set_query(None);
    url.set_fragment(None);
    // Refused only by addresses that have no host, and these were refused before.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    format!("{} {url}", request.method())
}

fn broken_off(what: &str, error: reqwest::Error) -> Failure {
    let retryable = !(error.is_builder() || error.is_redirect());
    let message = format!("{what}: {}", chain(&error.without_url()));
    Failure::new(Code::HttpFailed, message, retryable)
}

fn chain(error: &reqwest::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}

#[derive(Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

async fn answer(response: Response, what: &str, expected: &[u16]) -> AttemptResult {
    let status = response.status();
    let is_expected = if expected.is_empty() {
        status.is_success()
    } else {
        expected.contains(&status.as_u16())
    };
    let headers = joined(response.headers());
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(is_json);
    if !is_expected {
        return Err(unexpected(response, status, what).await);
    }
    let body = read_body(response, what).await?;
    let body = if is_json && !body.is_empty() {
        serde_json::from_slice(&body).map_err(|error| {
            let message = format!("{what}: the body is not the JSON that it claims to be: {error}");
            Failure::retryable(Code::HttpFailed, message)
        })?
    } else if is_json {
        Value::Null
    } else {
        Value::String(String::from_utf8_lossy(&body).into_owned())
    };
    write_output(&Answer {
        status: status.as_u16(),
        headers,
        body,
    })
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

fn is_json(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

async fn read_body(mut response: Response, what: &str) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| broken_off(what, error))?
    {
        if body.len() + chunk.len() > MAX_OUTPUT_BYTES {
            return Err(output_too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

async fn unexpected(mut response: Response, status: StatusCode, what: &str) -> Failure {
    let mut quoted = BytesMut::new();
    while quoted.len() < QUOTED_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        quoted.extend_from_slice(&chunk);
    }
    quoted.truncate(QUOTED_BYTES);
    let quoted = String::from_utf8_lossy(&quoted);
    let message = match quoted.trim() {
        "" => format!("{what} answered {status}"),
        text => format!("{what} answered {status}: {text}"),
    };
    let retryable = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    Failure::new(Code::HttpStatus, message, retryable)
}
