//! Chunks as people read them.

use bytes::Bytes;
use serde_json::Value;

/// Puts chunks on the screen: pieces of a text one after the other, everything else line by line.
#[derive(Debug, Default)]
pub(crate) struct ChunkText {
    /// Whether a piece is there without the end of its line.
    is_in_line: bool,
    /// The model whose text it is, where there is one.
    model: Option<String>,
}

impl ChunkText {
    /// What a chunk looks like.
    pub(crate) fn chunk(&mut self, chunk: &Bytes) -> String {
        let value = serde_json::from_slice(chunk);
        match value {
            Ok(Value::Object(mut object)) if is_piece(&object) => {
                let model = object.remove("model");
                let model = model.as_ref().and_then(Value::as_str).map(str::to_owned);
                let text = object.remove("text");
                let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
                self.piece(model, text)
            }
            Ok(Value::String(line)) => self.line(&line),
            Ok(other) => self.line(&other.to_string()),
            Err(_) => self.line(&String::from_utf8_lossy(chunk)),
        }
    }

    /// What ends a line that was begun.
    pub(crate) fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_in_line) {
            "\n"
        } else {
            ""
        }
    }

    fn piece(&mut self, model: Option<String>, text: &str) -> String {
        let mut before = "";
        if self.model.is_some() && self.model != model {
            before = self.end();
        }
        self.model = model;
        if !text.is_empty() {
            self.is_in_line = !text.ends_with('\n');
        }
        format!("{before}{text}")
    }

    fn line(&mut self, line: &str) -> String {
        format!("{}{line}\n", self.end())
    }
}

/// Whether a chunk is `{"text": …}`, with or without the model that wrote it.
fn is_piece(object: &serde_json::Map<String, Value>) -> bool {
    let others = object
        .keys()
        .filter(|key| *key != "text" && *key != "model");
    object.get("text").is_some_and(Value::is_string) && others.count() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_stand_in_line_and_everything_else_in_lines() {
        let mut text = ChunkText::default();
        let mut shown = String::new();
        for chunk in [
            r#""a line""#,
            r#"{"text":"Hel"}"#,
            r#"{"text":"lo"}"#,
            r#"{"text":1}"#,
            r#"{"model":"a","text":"half an"}"#,
            r#"{"model":"b","text":"an "}"#,
            r#"{"model":"b","text":"answer\n"}"#,
            "[1]",
            "{",
        ] {
            shown += &text.chunk(&Bytes::from_static(chunk.as_bytes()));
        }
        shown += text.end();
        assert_eq!(
            shown,
            "a line\nHello\n{\"text\":1}\nhalf an\nan answer\n[1]\n{\n"
        );
    }
}
