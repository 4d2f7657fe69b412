//! Tasks of type `transform`: a value, or a text template.
//!
//! A `value` was rendered by the coordinator and is the output as it is. A `template` is rendered here
//! with `values` as its variables; the output is the text.

use bytes::Bytes;
use levelflow_common::expression::render_text;
use levelflow_common::task_input::TransformInput;
use levelflow_common::{AttemptResult, Code, Failure};
use serde_json::Value;

use super::output::{read_input, write_output};
use crate::attempt::panicked;

/// Runs an attempt.
pub(crate) async fn run(input: Bytes) -> AttemptResult {
    let TransformInput {
        value,
        template,
        values,
    } = read_input(&input)?;
    let Some(template) = template else {
        return write_output(&value);
    };
    let render = move || {
        let values = Value::Object(values.unwrap_or_default().into_iter().collect());
        let text = render_text(&template, &values)
            .map_err(|error| Failure::permanent(Code::ExpressionFailed, error.to_string()))?;
        write_output(&text)
    };
    // A template may take as long as its fuel lasts.
    tokio::task::spawn_blocking(render)
        .await
        .unwrap_or_else(|error| Err(panicked(error.into_panic().as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn output(input: &'static str) -> Result<String, (Code, bool)> {
        let result = run(Bytes::from_static(input.as_bytes())).await;
        let text = |output: Bytes| String::from_utf8(output.to_vec()).unwrap();
        result
            .map(text)
            .map_err(|failure| (failure.code, failure.retryable))
    }

    #[tokio::test]
    async fn a_value_is_the_output() {
        assert_eq!(
            output(r#"{"value": {"a": [1, 2.5]}}"#).await.unwrap(),
            r#"{"a":[1,2.5]}"#
        );
        assert_eq!(output(r#"{"value": null}"#).await.unwrap(), "null");
    }

    #[tokio::test]
    async fn a_template_is_rendered_with_its_values() {
        let input = r##"{"template": "# {{ title }}\nend", "values": {"title": "Report"}}"##;
        assert_eq!(output(input).await.unwrap(), r##""# Report\nend""##);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_task_is_permanent() {
        assert_eq!(
            output(r#"{"template": "{{ nobody }}"}"#).await.unwrap_err(),
            (Code::ExpressionFailed, false)
        );
        assert_eq!(
            output(r#"{"valeu": 1}"#).await.unwrap_err(),
            (Code::TaskInputInvalid, false)
        );
    }
}
