//! From the input of a task to a request, and from a request to the one that a redirect asks for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use hyper::{Method, StatusCode, Uri};
use levelflow_common::task_input::HttpInput;
use levelflow_common::{Code, Failure, upstream};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::{Serializer, Target};

use crate::context::Context;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Who sends the requests of this worker.
pub(in crate::executor) const OURS: HeaderValue =
    HeaderValue::from_static(concat!("levelflow/", env!("CARGO_PKG_VERSION")));
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What is sent to another origin than the one that the task named: all that cannot be a credential.
const KEPT_ACROSS_ORIGINS: [HeaderName; 5] = [
    ACCEPT,
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    IDEMPOTENCY_KEY,
    USER_AGENT,
];

/// A request that can be sent.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    method: Method,
    /// Without user, password and fragment.
    url: Url,
    pub(super) uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    /// The request that a task asks for.
    pub(super) fn of(input: &mut HttpInput, context: &Context) -> Result<Self, Failure> {
        let method = Method::from_bytes(input.method.to_ascii_uppercase().as_bytes())
            .ok()
            // It asks for a tunnel, not for a resource.
            .filter(|method| *method != Method::CONNECT)
            .ok_or_else(|| invalid(format!("`{}` is not a method", input.method)))?;
        let mut url = Url::parse(&input.url)
            .map_err(|error| invalid(format!("`url` is not an address: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("`url` must start with http:// or https://"));
        }
        let mut headers = given_headers(&input.headers)?;
        headers.remove(HOST).map_or(Ok(()), |_| {
            Err(invalid("the header `host` is made from `url`"))
        })?;
        if let Some(credentials) = take_credentials(&mut url) {
            headers.entry(AUTHORIZATION).or_insert(credentials);
        }
        if !input.query.is_empty() {
            append(&mut url.query_pairs_mut(), &input.query);
        }
        let (body, content_type) = body(input)?;
        if let Some(content_type) = content_type {
            headers.entry(CONTENT_TYPE).or_insert(content_type);
        }
        headers.entry(IDEMPOTENCY_KEY).or_insert_with(|| {
            HeaderValue::try_from(context.idempotency_key())
                .expect("ids of runs and tasks are visible ASCII")
        });
        headers.entry(USER_AGENT).or_insert(OURS);
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("*/*"));
        Ok(Self {
            method,
            uri: uri(&mut url)?,
            url,
            headers,
            body,
        })
    }

    /// The message.
    pub(super) fn message(&self) -> hyper::Request<Full<Bytes>> {
        let mut message = hyper::Request::new(Full::new(self.body.clone()));
        *message.method_mut() = self.method.clone();
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        *message.uri_mut() = path.parse().expect("a part of an address is one");
        *message.headers_mut() = self.headers.clone();
        if let Some(authority) = self.uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            message.headers_mut().insert(HOST, host);
        }
        message
    }

    /// Method and address without what may be secret in it.
    pub(super) fn describe(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        format!("{} {url}", self.method)
    }

    /// The name of the host for its breaker.
    pub(super) fn upstream(&self) -> Option<String> {
        upstream::of_url(self.url.as_str())
    }

    /// Whether scheme, host and port are the same.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin()
    }

    /// The request that a response redirects to, if it does.
    pub(super) fn redirected(
        &self,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Option<Result<Self, Failure>> {
        let keeps_method = match status.as_u16() {
            301 | 302 => self.method != Method::POST,
            303 => matches!(self.method, Method::GET | Method::HEAD),
            307 | 308 => true,
            _ => return None,
        };
        let location = answer.get(LOCATION)?;
        Some(self.follow(location, keeps_method))
    }

    fn follow(&self, location: &HeaderValue, keeps_method: bool) -> Result<Self, Failure> {
        let wrong = |problem: &str| {
            let message = format!("{} redirects to {problem}", self.describe());
            Failure::permanent(Code::HttpFailed, message)
        };
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| wrong("no address"))?;
        let mut url = self.url.join(location).map_err(|_| wrong("no address"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("an address that is not http:// or https://"));
        }
        take_credentials(&mut url);
        let mut next = self.clone();
        if url.origin() != self.url.origin() {
            next.headers = KEPT_ACROSS_ORIGINS
                .into_iter()
                .filter_map(|name| self.headers.get(&name).map(|value| (name, value.clone())))
                .collect();
        }
        if !keeps_method {
            next.method = Method::GET;
            next.body = Bytes::new();
            next.headers.remove(CONTENT_TYPE);
            next.headers.remove(CONTENT_LENGTH);
        }
        next.uri = uri(&mut url).map_err(|_| wrong("no address"))?;
        next.url = url;
        Ok(next)
    }
}

fn invalid(problem: impl Into<String>) -> Failure {
    Failure::permanent(Code::TaskInputInvalid, problem)
}

fn uri(url: &mut Url) -> Result<Uri, Failure> {
    url.set_fragment(None);
    url.as_str()
        .parse()
        .map_err(|error| invalid(format!("`url` is not an address: {error}")))
}

/// Takes user and password out of an address, for a header.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    let user = percent_decode_str(url.username()).collect::<Vec<u8>>();
    let password = url
        .password()
        .map(|password| percent_decode_str(password).collect::<Vec<u8>>());
    if user.is_empty() && password.is_none() {
        return None;
    }
    // Refused only by addresses that have no host, and http addresses have one.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let pair = [user, b":".to_vec(), password.unwrap_or_default()].concat();
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .expect("base64 is visible ASCII");
    value.set_sensitive(true);
    Some(value)
}

/// The body and what its content type is unless the task says otherwise.
fn body(input: &mut HttpInput) -> Result<(Bytes, Option<HeaderValue>), Failure> {
    let forms = (
        input.body.take(),
        input.json.take(),
        input.form.take(),
        input.body_base64.take(),
    );
    Ok(match forms {
        (None, None, None, None) => (Bytes::new(), None),
        (Some(Value::String(text)), None, None, None) => (text.into(), None),
        (Some(value), None, None, None) | (None, Some(value), None, None) => {
            (value.to_string().into(), Some(JSON))
        }
        (None, None, Some(fields), None) => {
            let mut form = Serializer::new(String::new());
            append(&mut form, &fields);
            (form.finish().into(), Some(FORM))
        }
        (None, None, None, Some(text)) => {
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|error| invalid(format!("`body_base64` is not base64: {error}")))?;
            (bytes.into(), None)
        }
        _ => {
            return Err(invalid(
                "`body`, `json`, `form` and `body_base64` exclude each other",
            ));
        }
    })
}

/// Adds fields: a list repeats its name, null is left out, text is taken as it is.
fn append<T: Target>(pairs: &mut Serializer<'_, T>, fields: &BTreeMap<String, Value>) {
    for (name, value) in fields {
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

fn given_headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, Failure> {
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
