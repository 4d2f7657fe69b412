//! The answer of a model: from one document, or piece by piece.

use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::{Code, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Problem;

/// Calls of functions in one answer.
const MAX_TOOL_CALLS: usize = 1_000;
/// Bytes of an error that are quoted.
const QUOTED_BYTES: usize = 1024;
/// The data of the event that ends a stream.
const DONE: &str = "[DONE]";

/// The tokens of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) total_tokens: u64,
}

impl Usage {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self
                .completion_tokens
                .saturating_add(other.completion_tokens),
            total_tokens: self.total_tokens.saturating_add(other.total_tokens),
        }
    }
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<Usage>,
    is_done: bool,
    bytes: usize,
}

/// A function that the model wants called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ToolCall {
    id: String,
    name: String,
    arguments: String,
}

impl ToolCall {
    /// As the endpoint takes it back in the next messages.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "type": "function",
            "function": { "name": self.name, "arguments": self.arguments },
        })
    }
}

/// A document or a piece of a stream: they differ in the name of what the choice holds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: u64,
    #[serde(alias = "delta")]
    message: Option<Part>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<ToolPart>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolPart {
    index: Option<usize>,
    id: Option<String>,
    function: FunctionPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionPart {
    name: Option<String>,
    arguments: Option<String>,
}

impl Reply {
    /// Reads a whole answer.
    pub(super) fn of_document(document: &[u8]) -> Result<Self, Problem> {
        let mut reply = Self::default();
        let wire = parse(document)?;
        if wire.choices.is_empty() && wire.error.is_none() {
            return Err(Problem::Broken("the answer has no `choices`".to_owned()));
        }
        reply.add(wire)?;
        Ok(reply)
    }

    /// Takes in the data of an event. Whoever forwards the answer while it is written finds what is new
    /// at the end of the text.
    pub(super) fn take(&mut self, data: &str) -> Result<(), Problem> {
        if data.trim() == DONE {
            self.is_done = true;
            return Ok(());
        }
        let wire = parse(data.as_bytes())?;
        self.add(wire)
    }

    /// The stream has ended; it must have come to its end.
    pub(super) fn ended(&self) -> Result<(), Problem> {
        if self.is_done || self.finish_reason.is_some() {
            return Ok(());
        }
        Err(Problem::Broken("the answer broke off".to_owned()))
    }

    /// Whether the end of the stream was announced.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    fn add(&mut self, wire: Wire) -> Result<(), Problem> {
        if let Some(error) = wire.error.filter(|error| !error.is_null()) {
            return Err(Problem::Told(quoted(&error)));
        }
        if wire.usage.is_some() {
            self.usage = wire.usage;
        }
        // Others are there only if the task asked for them, and one is what it gets.
        for choice in wire.choices.into_iter().filter(|choice| choice.index == 0) {
            if choice.finish_reason.is_some() {
                self.finish_reason = choice.finish_reason;
            }
            let part = choice.message.unwrap_or_default();
            for text in [part.content, part.refusal].into_iter().flatten() {
                self.grow(text.len())?;
                self.text.push_str(&text);
            }
            for (place, tool) in part.tool_calls.unwrap_or_default().into_iter().enumerate() {
                self.add_tool(tool.index.unwrap_or(place), tool)?;
            }
        }
        Ok(())
    }

    fn add_tool(&mut self, index: usize, part: ToolPart) -> Result<(), Problem> {
        if index >= MAX_TOOL_CALLS {
            return Err(Problem::Broken(format!(
                "the answer has more than {MAX_TOOL_CALLS} calls"
            )));
        }
        if self.tool_calls.len() <= index {
            self.tool_calls.resize_with(index + 1, ToolCall::default);
        }
        let FunctionPart { name, arguments } = part.function;
        let given = [&part.id, &name, &arguments];
        let length = given.into_iter().flatten().map(String::len).sum();
        self.grow(length)?;
        let call = &mut self.tool_calls[index];
        if let Some(id) = part.id {
            call.id = id;
        }
        if let Some(name) = name {
            call.name.push_str(&name);
        }
        if let Some(arguments) = arguments {
            call.arguments.push_str(&arguments);
        }
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        if self.bytes > MAX_OUTPUT_BYTES {
            return Err(Problem::TooLong);
        }
        Ok(())
    }

    /// The text as the JSON that was asked for.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(self.text.trim()).map_err(|error| {
            let cut = match self.finish_reason.as_deref() {
                Some("length") => "; it was cut at the most tokens that it may have",
                _ => "",
            };
            let message = format!("the answer is not the JSON that was asked for: {error}{cut}");
            Failure::retryable(Code::ChatFailed, message)
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Wire, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::Broken(format!("the answer cannot be read: {error}")))
}

/// What an endpoint says went wrong: the message of an OpenAI error object, or all of it.
pub(super) fn quoted(error: &Value) -> String {
    let text = match error.get("message").unwrap_or(error) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let end = text.floor_char_boundary(QUOTED_BYTES);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(events: &[&str]) -> Result<Reply, Problem> {
        let mut reply = Reply::default();
        for event in events {
            reply.take(event)?;
        }
        reply.ended()?;
        Ok(reply)
    }

    #[test]
    fn pieces_make_a_text() {
        let reply = stream(&[
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"lo"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
            "[DONE]",
        ])
        .unwrap();
        assert_eq!(reply.text, "Hello");
        assert_eq!(reply.finish_reason.as_deref(), Some("stop"));
        assert_eq!(reply.usage.unwrap().total_tokens, 5);
    }

    #[test]
    fn pieces_make_calls_of_functions() {
        let reply = stream(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"get","arguments":""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"c2","function":{"name":"put","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        ])
        .unwrap();
        let calls: Vec<_> = reply.tool_calls.iter().map(ToolCall::to_json).collect();
        assert_eq!(
            json!(calls),
            json!([
                { "id": "c1", "type": "function", "function": { "name": "get", "arguments": "{\"a\":1}" } },
                { "id": "c2", "type": "function", "function": { "name": "put", "arguments": "{}" } },
            ])
        );
    }

    #[test]
    fn a_stream_must_come_to_its_end() {
        let half = r#"{"choices":[{"delta":{"content":"Hel"}}]}"#;
        assert!(matches!(stream(&[half]), Err(Problem::Broken(_))));
        assert!(stream(&[half, "[DONE]"]).is_ok());
        assert!(matches!(stream(&[half, "{"]), Err(Problem::Broken(_))));
        let error = r#"{"error":{"message":"overloaded","type":"server_error"}}"#;
        assert!(matches!(stream(&[half, error]), Err(Problem::Told(text)) if text == "overloaded"));
        let long = json!({ "choices": [{ "delta": { "content": "x".repeat(600_000) } }] });
        let long = long.to_string();
        assert!(matches!(stream(&[&long, &long]), Err(Problem::TooLong)));
        let many = r#"{"choices":[{"delta":{"tool_calls":[{"index":100000}]}}]}"#;
        assert!(matches!(stream(&[many]), Err(Problem::Broken(_))));
    }

    #[test]
    fn a_document_is_read_whole() {
        let reply = Reply::of_document(
            br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"{\"a\":1}"},
                 "finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
        )
        .unwrap();
        assert_eq!(reply.json().unwrap(), json!({ "a": 1 }));
        assert_eq!(reply.usage.unwrap().completion_tokens, 2);
        assert!(matches!(Reply::of_document(b"{}"), Err(Problem::Broken(_))));
        assert!(matches!(
            Reply::of_document(b"<html>"),
            Err(Problem::Broken(_))
        ));
        let failure = Reply::default().json().unwrap_err();
        assert!(failure.retryable);
    }
}
