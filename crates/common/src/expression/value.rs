//! JSON into the values of expressions and back, bounded on the way back.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde::Deserialize as _;
use serde_json::{Map, Number};

use crate::limits::MAX_EXPRESSION_OUTPUT_BYTES;

/// Nesting of values that expressions make; what is read from JSON cannot be deeper either.
const MAX_DEPTH: usize = 128;

/// Why a value has no JSON form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotJson {
    Undefined,
    TooLarge,
    Other(String),
}

/// The value of a JSON value.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    Value::deserialize(json).expect("every JSON value has a form in expressions")
}

/// The JSON form of a value, of at most `MAX_EXPRESSION_OUTPUT_BYTES` together with what `bytes` has
/// counted before.
pub(super) fn to_json(value: &Value, bytes: &mut usize) -> Result<serde_json::Value, NotJson> {
    convert(value, bytes, MAX_DEPTH)
}

fn convert(value: &Value, bytes: &mut usize, depth: usize) -> Result<serde_json::Value, NotJson> {
    if depth == 0 {
        return Err(NotJson::Other("the value is nested too deeply".to_owned()));
    }
    let count = |bytes: &mut usize, more: usize| {
        *bytes += more;
        if *bytes > MAX_EXPRESSION_OUTPUT_BYTES {
            Err(NotJson::TooLarge)
        } else {
            Ok(())
        }
    };
    count(bytes, 2)?;
    let iterate = |value: &Value| {
        value
            .try_iter()
            .map_err(|error| NotJson::Other(message_of(&error)))
    };
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(NotJson::Undefined),
        ValueKind::None => serde_json::Value::Null,
        ValueKind::Bool => serde_json::Value::Bool(value.is_true()),
        ValueKind::Number => serde_json::Value::Number(to_number(value)?),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            count(bytes, text.len())?;
            serde_json::Value::String(text.to_owned())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut list = Vec::new();
            for item in iterate(value)? {
                list.push(convert(&item, bytes, depth - 1)?);
            }
            serde_json::Value::Array(list)
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in iterate(value)? {
                let item = value
                    .get_item(&key)
                    .map_err(|error| NotJson::Other(message_of(&error)))?;
                let key = match key.as_str() {
                    Some(text) => text.to_owned(),
                    None => match convert(&key, bytes, 1)? {
                        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                            return Err(NotJson::Other("a key of a map is not text".to_owned()));
                        }
                        plain => plain.to_string(),
                    },
                };
                count(bytes, key.len() + 2)?;
                map.insert(key, convert(&item, bytes, depth - 1)?);
            }
            serde_json::Value::Object(map)
        }
        other => {
            return Err(NotJson::Other(format!(
                "a value of type {other} has no JSON form"
            )));
        }
    })
}

fn to_number(value: &Value) -> Result<Number, NotJson> {
    if value.is_integer() {
        let whole = i128::try_from(value.clone()).ok();
        let number = whole.and_then(|whole| {
            (u64::try_from(whole).map(Number::from))
                .or_else(|_| i64::try_from(whole).map(Number::from))
                .ok()
        });
        return number.ok_or_else(|| NotJson::Other("a number needs more than 64 bits".to_owned()));
    }
    f64::try_from(value.clone())
        .ok()
        .and_then(Number::from_f64)
        .ok_or_else(|| NotJson::Other("a number is not finite".to_owned()))
}

/// The text of a value inside other text: text as it is, everything else as JSON.
pub(super) fn to_text(value: &Value) -> Result<String, NotJson> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    to_json(value, &mut 0).map(|json| json.to_string())
}

/// The same for the inside of the engine.
pub(super) fn to_text_or_fail(value: &Value) -> Result<String, Error> {
    to_text(value).map_err(not_json)
}

/// An engine error for a value that has no JSON form.
pub(super) fn not_json(error: NotJson) -> Error {
    match error {
        NotJson::Undefined => Error::from(ErrorKind::UndefinedError),
        NotJson::TooLarge => super::budget::spent(),
        NotJson::Other(message) => Error::new(ErrorKind::InvalidOperation, message),
    }
}

/// The message of an engine error without its position.
pub(super) fn message_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}
