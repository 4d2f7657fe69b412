//! Secrets: the worker puts their values into the inputs of attempts, and takes them out of whatever
//! comes back.

mod config;
mod redactor;
mod source;

use std::collections::BTreeMap;

use bytes::Bytes;
use levelflow_common::{Code, Failure};
use levelflow_proto::v1;
use serde_json::Value;

use self::source::SourceError;

pub use config::SecretsConfig;
pub(crate) use redactor::Redactor;

/// Puts the values of secrets into the input of an attempt.
pub(crate) async fn resolve(
    config: &SecretsConfig,
    input: &[u8],
    places: Vec<v1::SecretPart>,
) -> Result<(Bytes, Redactor), Failure> {
    let mut values = BTreeMap::new();
    for place in &places {
        if !values.contains_key(&place.name) {
            let value = config
                .find(&place.name)
                .await
                .map_err(|error| failure(&error))?;
            values.insert(place.name.clone(), value);
        }
    }
    let malformed = |problem: &str| {
        let message = format!("the places of secrets do not fit the input: {problem}");
        Failure::permanent(Code::Internal, message)
    };
    let mut input: Value =
        serde_json::from_slice(input).map_err(|_| malformed("it is not JSON"))?;
    let mut pointers = Vec::with_capacity(places.len());
    for place in places {
        let part = input
            .pointer_mut(&place.pointer)
            .and_then(|parts| parts.get_mut(place.part as usize))
            .filter(|part| part.is_null())
            .ok_or_else(|| malformed(&place.pointer))?;
        *part = Value::String(values[&place.name].clone());
        if pointers.last() != Some(&place.pointer) {
            pointers.push(place.pointer);
        }
    }
    for pointer in pointers {
        let text = input.pointer_mut(&pointer).and_then(|parts| {
            let texts = parts.as_array()?.iter().map(Value::as_str);
            let text = texts.collect::<Option<String>>()?;
            *parts = Value::String(text);
            Some(())
        });
        text.ok_or_else(|| malformed(&pointer))?;
    }
    let redactor = Redactor::new(values.values().map(String::as_str));
    Ok((input.to_string().into(), redactor))
}

fn failure(error: &SourceError) -> Failure {
    // What cannot be read now may be there when its volume is mounted.
    let retryable = matches!(error, SourceError::Unreadable { .. });
    Failure::new(Code::SecretUnavailable, error.to_string(), retryable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(pointer: &str, part: u32, name: &str) -> v1::SecretPart {
        v1::SecretPart {
            pointer: pointer.to_owned(),
            part,
            name: name.to_owned(),
        }
    }

    fn config() -> SecretsConfig {
        SecretsConfig {
            environment_prefix: "CARGO_PKG_".to_owned(),
            ..SecretsConfig::default()
        }
    }

    #[tokio::test]
    async fn values_come_to_their_places() {
        let input = json!({ "a": ["x ", null, null], "b": { "/": [null] }, "c": ["y", null] });
        let places = vec![
            place("/a", 1, "NAME"),
            place("/a", 2, "VERSION"),
            place("/b/~1", 0, "NAME"),
        ];
        let (input, redactor) = resolve(&config(), input.to_string().as_bytes(), places)
            .await
            .unwrap();
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        assert_eq!(
            serde_json::from_slice::<Value>(&input).unwrap(),
            json!({ "a": format!("x {name}{version}"), "b": { "/": name }, "c": ["y", null] })
        );
        assert_eq!(redactor.redact(name), "***");

        let whole = vec![place("", 0, "NAME")];
        let (input, _) = resolve(&config(), b"[null]", whole).await.unwrap();
        assert_eq!(input, json!(name).to_string());
    }

    #[tokio::test]
    async fn what_does_not_fit_fails() {
        for (input, pointer, name, code) in [
            ("[null]", "", "NO_SUCH", Code::SecretUnavailable),
            ("[\"forged\"]", "", "NAME", Code::Internal),
            ("[null, 1]", "", "NAME", Code::Internal),
            ("[null]", "/a", "NAME", Code::Internal),
            ("{", "", "NAME", Code::Internal),
        ] {
            let places = vec![place(pointer, 0, name)];
            let failure = resolve(&config(), input.as_bytes(), places)
                .await
                .unwrap_err();
            assert_eq!((failure.code, failure.retryable), (code, false), "{input}");
        }
    }
}
