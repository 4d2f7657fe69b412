//! Text templates: the whole template language, for reports and messages.

use minijinja::machinery::{self, CodeGenerator, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Error, ErrorKind};

use super::budget::is_spent;
use super::environment::ENVIRONMENT;
use super::error::{ExpressionError, shown};
use super::guard;
use super::value::{from_json, message_of};
use crate::limits::MAX_EXPRESSION_OUTPUT_BYTES;

/// Renders a text template with `values`, a JSON object, as its variables.
///
/// # Errors
/// When the template is not well-formed or fails, or when it makes too much.
pub fn render_text(template: &str, values: &serde_json::Value) -> Result<String, ExpressionError> {
    let mut text = String::new();
    run(template, values, &mut text).map_err(|error| explain(template, &error))?;
    // The parser drops the last line's end, but what is rendered is often a whole file.
    if template.ends_with('\n') {
        text.push('\n');
    }
    if text.len() > MAX_EXPRESSION_OUTPUT_BYTES {
        return Err(ExpressionError::TooLarge {
            expression: shown(template),
        });
    }
    Ok(text)
}

/// Whether a text template is well-formed.
///
/// # Errors
/// When it is not.
pub fn check_text(template: &str) -> Result<(), ExpressionError> {
    parse(template, "template", SyntaxConfig::default())
        .map(drop)
        .map_err(|error| explain(template, &error))
}

fn run(template: &str, values: &serde_json::Value, text: &mut String) -> Result<(), Error> {
    let ast = parse(template, "template", SyntaxConfig::default())?;
    let guarded = guard::statement(&ast);
    let mut generator = CodeGenerator::new("template", template);
    generator.compile_stmt(&guarded);
    let (instructions, blocks) = generator.finish();
    machinery::eval(
        &ENVIRONMENT,
        &instructions,
        from_json(values),
        &blocks,
        &mut machinery::make_string_output(text),
        AutoEscape::None,
    )
    .map(drop)
}

fn explain(template: &str, error: &Error) -> ExpressionError {
    let place = |message: String| match error.line() {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    };
    let expression = shown(template);
    match error.kind() {
        ErrorKind::SyntaxError => ExpressionError::Syntax {
            expression,
            message: place(message_of(error)),
        },
        ErrorKind::OutOfFuel => ExpressionError::TooSlow { expression },
        _ if is_spent(error) => ExpressionError::TooLarge { expression },
        _ => ExpressionError::Failed {
            expression,
            message: place(message_of(error)),
        },
    }
}
