//! Prompts that differ in case and white space only, made the same. Word order is kept: with words in
//! order "A to B" would be "B to A".

use serde_json::Value;

/// The parts of a `chat` task's input that people write.
const PROMPTS: [&str; 3] = ["system", "prompt", "messages"];

/// Lower case, with one space where white space was, and none at the ends.
pub fn words(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(&word.to_lowercase());
    }
    normal
}

/// Normalizes every text of a value; the keys of objects stay.
pub fn words_in(value: &mut Value) {
    match value {
        Value::String(text) => *text = words(text),
        Value::Array(items) => items.iter_mut().for_each(words_in),
        Value::Object(fields) => fields.values_mut().for_each(words_in),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Normalizes the prompts in the input of a `chat` task, and leaves models, addresses and parameters.
pub fn words_in_prompts(input: &mut Value) {
    for name in PROMPTS {
        if let Some(prompt) = input.get_mut(name) {
            words_in(prompt);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn case_and_space_do_not_count_and_order_does() {
        assert_eq!(words("  From A\n\tto  Ätna "), "from a to ätna");
        assert_ne!(words("A to B"), words("B to A"));
        assert_eq!(words(" \n"), "");
    }

    #[test]
    fn only_prompts_are_normalized_in_a_chat_input() {
        let mut input = json!({
            "model": "Small",
            "prompt": " Hello  YOU",
            "messages": [{ "role": "user", "content": ["A  b", 1, null] }],
        });
        words_in_prompts(&mut input);
        assert_eq!(
            input,
            json!({
                "model": "Small",
                "prompt": "hello you",
                "messages": [{ "role": "user", "content": ["a b", 1, null] }],
            })
        );
    }
}
