//! Upstreams: what tasks call, by the names under which their breakers are kept.

use serde_json::Value;

use crate::limits::MAX_UPSTREAM_BYTES;
use crate::workflow::TaskKind;

/// How a call to an upstream ended, for its breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCall {
    /// The upstream, such as `http:api.example.com:443`.
    pub upstream: String,
    /// The upstream was at fault: it could not be reached, took too long or answered that it cannot
    /// serve.
    pub failed: bool,
}

/// What an attempt tells of upstreams beside its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamReport {
    /// The calls that it made, in the order in which they ended.
    pub calls: Vec<UpstreamCall>,
    /// The attempt failed because the breaker of this upstream is open: it does not count as one.
    pub parked_on: Option<String>,
}

/// Whether a text can be the name of an upstream.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_UPSTREAM_BYTES
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The upstream that a task calls, as far as its evaluated input tells. Nothing that may be secret gets
/// into the name: a host that is not plain gives none.
pub fn of_task(kind: TaskKind, input: &Value) -> Option<String> {
    let name = match kind {
        TaskKind::Http => of_url(known_start(input.get("url")?)?)?,
        TaskKind::Sql => of_connection(input.get("connection")?.as_str()?),
        TaskKind::Chat => of_chat(input)?,
        TaskKind::Process | TaskKind::Transform | TaskKind::Sleep | TaskKind::Handler => {
            return None;
        }
    };
    is_name(&name).then_some(name)
}

/// An address as far as it is no secret; none if that leaves the host open.
fn known_start(url: &Value) -> Option<&str> {
    match url {
        Value::String(url) => Some(url),
        Value::Array(parts) => {
            let start = parts.first()?.as_str()?;
            let (_, rest) = start.split_once("://")?;
            rest.contains(['/', '?', '#']).then_some(start)
        }
        _ => None,
    }
}

/// The upstream of a database.
pub fn of_connection(name: &str) -> String {
    format!("sql:{name}")
}

/// The upstream of a language model that a worker knows by this name.
pub fn of_model(name: &str) -> String {
    format!("chat:{name}")
}

/// A model alone, or the endpoint that the task names: one of several models can stand in for another
/// whose breaker is open, so the task has no upstream of its own then.
fn of_chat(input: &Value) -> Option<String> {
    let several = ["fallbacks", "models", "prefer", "require"]
        .iter()
        .any(|key| match input.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        });
    if several {
        return None;
    }
    match input.get("base_url").filter(|url| !url.is_null()) {
        Some(url) => of_url(known_start(url)?),
        None => Some(of_model(input.get("model")?.as_str()?)),
    }
}

/// `http:host:port` of an address; the scheme gives the port where the address has none.
pub fn of_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let authority = authority.rsplit_once('@').map_or(authority, |(_, it)| it);
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (address, port) = literal.split_once(']')?;
            let port = port.strip_prefix(':').unwrap_or(port);
            let plain = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            (
                address
                    .bytes()
                    .all(plain)
                    .then_some(&authority[..=address.len() + 1])?,
                port,
            )
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            (host.bytes().all(plain).then_some(host)?, port)
        }
    };
    if host.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = if port.is_empty() { default_port } else { port };
    Some(format!("http:{}:{port}", host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_names_host_and_port() {
        for (url, name) in [
            ("http://example.com", "http:example.com:80"),
            ("HTTPS://Example.COM/a?b=http://c", "http:example.com:443"),
            ("http://user:p@ss@10.0.0.1:8080/x", "http:10.0.0.1:8080"),
            ("https://[::1]:9/", "http:[::1]:9"),
            ("http://[2001:db8::1]?x", "http:[2001:db8::1]:80"),
        ] {
            assert_eq!(of_url(url).as_deref(), Some(name), "{url}");
        }
    }

    #[test]
    fn what_is_not_a_plain_address_names_nothing() {
        for url in [
            "example.com",
            "ftp://example.com",
            "http://",
            "http://:80",
            "http://${{ secrets.HOST }}/",
            "http://host:port/",
            "http://[::1/",
            "http://[x]/",
            "http://ex ample.com/",
        ] {
            assert_eq!(of_url(url), None, "{url}");
        }
        let long = format!("http://{}/", "h".repeat(MAX_UPSTREAM_BYTES));
        assert_eq!(of_task(TaskKind::Http, &json!({ "url": long })), None);
    }

    #[test]
    fn a_secret_after_the_host_does_not_hide_it() {
        let of = |url| of_task(TaskKind::Http, &json!({ "url": url }));
        let name = of(json!(["http://h/?key=", null]));
        assert_eq!(name.as_deref(), Some("http:h:80"));
        for url in [
            json!([null, "/x"]),
            json!(["http://", null, "/x"]),
            json!(["http://user:", null, "@h/x"]),
            json!(["http://h", null, "/x"]),
            json!([]),
        ] {
            assert_eq!(of(url), None);
        }
    }

    #[test]
    fn only_tasks_that_call_one_have_an_upstream() {
        let input = json!({ "url": "http://h/" });
        let name = of_task(TaskKind::Http, &input);
        assert_eq!(name.as_deref(), Some("http:h:80"));
        assert_eq!(of_task(TaskKind::Handler, &input), None);
        assert_eq!(of_task(TaskKind::Http, &json!({ "url": 7 })), None);
        let input = json!({ "connection": "orders" });
        let name = of_task(TaskKind::Sql, &input);
        assert_eq!(name.as_deref(), Some("sql:orders"));
    }

    #[test]
    fn a_chat_has_an_upstream_if_no_other_model_can_stand_in() {
        let of = |input| of_task(TaskKind::Chat, &input);
        let alone = json!({ "model": "small", "fallbacks": [], "prefer": null });
        assert_eq!(of(alone).as_deref(), Some("chat:small"));
        let endpoint = json!({ "model": "small", "base_url": "http://10.0.0.1:11434/v1" });
        assert_eq!(of(endpoint).as_deref(), Some("http:10.0.0.1:11434"));
        assert_eq!(
            of(json!({ "model": "small", "fallbacks": ["large"] })),
            None
        );
        assert_eq!(of(json!({ "models": ["small"] })), None);
        assert_eq!(of(json!({ "prefer": "cheapest" })), None);
    }
}
