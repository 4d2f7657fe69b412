//! What is sent to an endpoint.

use levelflow_common::task_input::ChatInput;
use levelflow_common::{Code, Failure};
use serde_json::{Map, Value, json};

/// What is sent but for the model.
pub(super) struct Question {
    body: Map<String, Value>,
    /// The answer is to be read as JSON.
    pub(super) wants_json: bool,
    /// The answer is given on while it is written.
    pub(super) wants_stream: bool,
}

impl Question {
    pub(super) fn of(input: &ChatInput) -> Result<Self, Failure> {
        let mut messages = Vec::new();
        if let Some(system) = &input.system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        for (place, message) in input.messages.iter().enumerate() {
            if !message.get("role").is_some_and(Value::is_string) {
                return Err(Failure::permanent(
                    Code::TaskInputInvalid,
                    format!("`messages[{place}]` must be a map with a `role`"),
                ));
            }
            messages.push(message.clone());
        }
        if let Some(prompt) = &input.prompt {
            messages.push(json!({ "role": "user", "content": prompt }));
        }
        if messages.is_empty() {
            return Err(Failure::permanent(
                Code::TaskInputInvalid,
                "there are no messages: give `messages` or `prompt`",
            ));
        }
        let mut body: Map<String, Value> = input
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("messages", Some(messages.into()));
        put("temperature", input.temperature.map(Value::from));
        put("max_tokens", input.max_tokens.map(Value::from));
        put("response_format", input.response_format.clone());
        let tools = (!input.tools.is_empty()).then(|| Value::from(input.tools.clone()));
        put("tools", tools);
        put("tool_choice", input.tool_choice.clone());
        let wants_stream = input.stream.unwrap_or(true);
        if wants_stream {
            put("stream", Some(true.into()));
            // Without it the tokens of a stream are not counted.
            put("stream_options", Some(json!({ "include_usage": true })));
        } else {
            put("stream", Some(false.into()));
        }
        let format = input.response_format.as_ref();
        let kind = format.and_then(|format| format.get("type")?.as_str());
        Ok(Self {
            body,
            wants_json: matches!(kind, Some("json_object" | "json_schema")),
            wants_stream,
        })
    }

    /// The question for a model.
    pub(super) fn body(&self, model: &str) -> Vec<u8> {
        let mut body = self.body.clone();
        body.insert("model".to_owned(), model.into());
        Value::Object(body).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorthands_stand_around_the_messages() {
        let input = json!({
            "system": "be short",
            "messages": [{ "role": "assistant", "content": "yes?" }],
            "prompt": "hello",
            "temperature": 0.5,
            "parameters": { "seed": 7, "stream": "overridden" },
            "response_format": { "type": "json_object" },
            "stream": false,
        });
        let question = Question::of(&serde_json::from_value(input).unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&question.body("m")).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "m",
                "messages": [
                    { "role": "system", "content": "be short" },
                    { "role": "assistant", "content": "yes?" },
                    { "role": "user", "content": "hello" },
                ],
                "temperature": 0.5,
                "seed": 7,
                "stream": false,
                "response_format": { "type": "json_object" },
            })
        );
        assert!(question.wants_json);
    }

    #[test]
    fn messages_need_a_role() {
        for input in [json!({ "messages": ["hello"] }), json!({})] {
            let question = Question::of(&serde_json::from_value(input).unwrap());
            assert!(!question.err().unwrap().retryable);
        }
    }
}
