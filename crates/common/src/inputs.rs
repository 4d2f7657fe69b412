//! The inputs of a run: what is given, checked against what the workflow declares.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::limits::MAX_INPUT_BYTES;
use crate::suggest::did_you_mean;
use crate::workflow::{InputSpec, InputType, Workflow};

/// What is wrong with one input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("input `{field}`: {message}")]
pub struct FieldProblem {
    /// The name of the input; empty where it is not about one.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// The inputs of a run as a JSON object: what is given, defaults where nothing is, null where there
/// is no default either.
///
/// # Errors
/// With every unknown, missing or mistyped input, or when they are too large in all.
pub fn bind(workflow: &Workflow, given: &Map<String, Value>) -> Result<Bytes, Vec<FieldProblem>> {
    let mut problems = Vec::new();
    for name in given.keys() {
        if !workflow.inputs.contains_key(name) {
            let known = workflow.inputs.keys().map(String::as_str);
            let message = match did_you_mean(name, known) {
                Some(help) => format!("the workflow has no such input; {help}"),
                None => "the workflow has no such input".to_owned(),
            };
            problems.push(problem(name, message));
        }
    }
    let mut bound = Map::new();
    for (name, spec) in &workflow.inputs {
        let value = match (given.get(name), &spec.default) {
            (Some(value), _) => {
                if !accepts(spec, value) {
                    problems.push(problem(
                        name,
                        format!("must be {}, not {}", spec.kind.phrase(), phrase(value)),
                    ));
                }
                value.clone()
            }
            (None, Some(default)) => default.clone(),
            (None, None) => {
                if spec.required {
                    problems.push(problem(name, "is required".to_owned()));
                }
                Value::Null
            }
        };
        bound.insert(name.clone(), value);
    }
    let json = Value::Object(bound).to_string();
    if json.len() > MAX_INPUT_BYTES {
        problems.push(problem(
            "",
            format!(
                "the inputs are {} bytes long; the most is {MAX_INPUT_BYTES}",
                json.len()
            ),
        ));
    }
    if problems.is_empty() {
        Ok(Bytes::from(json))
    } else {
        Err(problems)
    }
}

/// The same for inputs that come as JSON text; no text means no inputs.
///
/// # Errors
/// As [`bind`], and when the text is not a JSON object.
pub fn bind_json(workflow: &Workflow, given: &[u8]) -> Result<Bytes, Vec<FieldProblem>> {
    if given.len() > MAX_INPUT_BYTES {
        let message = format!(
            "the inputs are {} bytes long; the most is {MAX_INPUT_BYTES}",
            given.len()
        );
        return Err(vec![problem("", message)]);
    }
    if given.is_empty() {
        return bind(workflow, &Map::new());
    }
    let given: Map<String, Value> = serde_json::from_slice(given).map_err(|error| {
        vec![problem(
            "",
            format!("the inputs are not a JSON object: {error}"),
        )]
    })?;
    bind(workflow, &given)
}

/// The value of an input that is given as text, by its declared type: text as it is, everything else
/// as JSON. Where any type will do, what reads as JSON is JSON.
///
/// # Errors
/// When the text does not read as that type.
pub fn parse_argument(spec: &InputSpec, text: &str) -> Result<Value, String> {
    let parsed = || serde_json::from_str::<Value>(text).ok();
    match spec.kind {
        InputType::String => Ok(Value::String(text.to_owned())),
        InputType::Any => Ok(parsed().unwrap_or_else(|| Value::String(text.to_owned()))),
        kind => parsed()
            .filter(|value| accepts(spec, value))
            .ok_or_else(|| format!("must be {}, not `{text}`", kind.phrase())),
    }
}

/// Whether a value has the declared type. Null is no value, so only an input that is not required
/// takes it.
pub fn accepts(spec: &InputSpec, value: &Value) -> bool {
    match (spec.kind, value) {
        (InputType::Any, _)
        | (InputType::String, Value::String(_))
        | (InputType::Number, Value::Number(_))
        | (InputType::Boolean, Value::Bool(_))
        | (InputType::Array, Value::Array(_))
        | (InputType::Object, Value::Object(_)) => true,
        (InputType::Integer, Value::Number(number)) => !number.is_f64(),
        (_, Value::Null) => !spec.required,
        _ => false,
    }
}

impl InputType {
    /// The type in the words of messages.
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::String => "text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Array => "a list",
            Self::Object => "a map",
            Self::Any => "any value",
        }
    }
}

fn problem(field: &str, message: String) -> FieldProblem {
    FieldProblem {
        field: field.to_owned(),
        message,
    }
}

/// A value in the words of messages.
pub(crate) fn phrase(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workflow() -> Workflow {
        serde_json::from_value(json!({
            "name": "w",
            "inputs": {
                "since": { "type": "string", "required": true },
                "count": { "type": "integer", "default": 3 },
                "tags": { "type": "array" },
            },
            "tasks": [],
        }))
        .unwrap()
    }

    fn bound(given: &Value) -> Result<Value, Vec<String>> {
        bind(&workflow(), given.as_object().unwrap())
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn fills_in_defaults() {
        assert_eq!(
            bound(&json!({ "since": "now" })),
            Ok(json!({ "since": "now", "count": 3, "tags": null }))
        );
        assert_eq!(
            bound(&json!({ "since": "now", "count": 4, "tags": [1] })),
            Ok(json!({ "since": "now", "count": 4, "tags": [1] }))
        );
    }

    #[test]
    fn reports_every_problem() {
        assert_eq!(
            bound(&json!({ "sinc": "x", "count": 1.5, "tags": {} })),
            Err(vec![
                "input `sinc`: the workflow has no such input; did you mean `since`?".to_owned(),
                "input `count`: must be a whole number, not a number".to_owned(),
                "input `since`: is required".to_owned(),
                "input `tags`: must be a list, not a map".to_owned(),
            ])
        );
    }

    #[test]
    fn refuses_what_is_too_large() {
        let long = "x".repeat(MAX_INPUT_BYTES);
        assert_eq!(
            bound(&json!({ "since": long })),
            Err(vec![
                "input ``: the inputs are 1048610 bytes long; the most is 1048576".to_owned()
            ])
        );
        let message = |bytes: &[u8]| {
            bind_json(&workflow(), bytes).unwrap_err()[0]
                .message
                .clone()
        };
        assert_eq!(
            message(&vec![b' '; MAX_INPUT_BYTES + 1]),
            "the inputs are 1048577 bytes long; the most is 1048576"
        );
        assert_eq!(
            message(b"[1]"),
            "the inputs are not a JSON object: invalid type: sequence, expected a map at line 1 \
             column 0"
        );
    }

    #[test]
    fn reads_arguments_by_type() {
        let parse = |kind: &str, text: &str| {
            let spec = serde_json::from_value(json!({ "type": kind })).unwrap();
            parse_argument(&spec, text)
        };
        assert_eq!(parse("string", "5"), Ok(json!("5")));
        assert_eq!(parse("integer", "5"), Ok(json!(5)));
        assert_eq!(parse("any", "5"), Ok(json!(5)));
        assert_eq!(parse("any", "five"), Ok(json!("five")));
        assert_eq!(parse("array", "[1]"), Ok(json!([1])));
        assert_eq!(parse("boolean", "true"), Ok(json!(true)));
        assert_eq!(
            parse("integer", "x"),
            Err("must be a whole number, not `x`".to_owned())
        );
    }
}
