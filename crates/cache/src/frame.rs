//! What is left of an input when one text is taken out of it.

use serde_json::{Map, Value, json};

/// Takes a text out of all texts of a value. Two values have the same frame if, and only if, one becomes the other
/// by writing its own text in all places of that of the other.
pub fn frame(value: &Value, text: &str) -> Value {
    match value {
        Value::String(whole) if !text.is_empty() && whole.contains(text) => {
            json!({ "parts": whole.split(text).collect::<Vec<_>>() })
        }
        Value::Array(items) => items.iter().map(|item| frame(item, text)).collect(),
        // Within another object, so that none can be taken for parts.
        Value::Object(fields) => {
            let frames = fields
                .iter()
                .map(|(name, value)| (name.clone(), frame(value, text)));
            json!({ "object": frames.collect::<Map<_, _>>() })
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Puts a text back where it was taken out.
    fn fill(frame: &Value, text: &str) -> Value {
        match frame {
            Value::Array(items) => items.iter().map(|item| fill(item, text)).collect(),
            Value::Object(of) => match (of.get("parts"), of.get("object")) {
                (Some(Value::Array(parts)), None) => {
                    let parts: Vec<_> = parts.iter().filter_map(Value::as_str).collect();
                    parts.join(text).into()
                }
                (None, Some(Value::Object(fields))) => fields
                    .iter()
                    .map(|(name, value)| (name.clone(), fill(value, text)))
                    .collect(),
                _ => panic!("{frame} is no frame"),
            },
            other => other.clone(),
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3).prop_map(Value::from),
            "[ab]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("parts|object|[ab]", inner, 0..3)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_frame_with_its_text_is_the_value(value in value(), text in "[ab]{0,2}") {
            prop_assert_eq!(fill(&frame(&value, &text), &text), value);
        }
    }

    #[test]
    fn only_the_text_may_differ() {
        let ask = |question: &str, language: &str| {
            let prompt = format!("Answer: {question}");
            frame(&json!({ "prompt": prompt, "language": language }), question)
        };
        assert_eq!(ask("Who?", "en"), ask("What is it?", "en"));
        assert_ne!(ask("Who?", "en"), ask("Who?", "de"));
    }
}
