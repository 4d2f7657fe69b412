//! Expressions: `${{ … }}` inside the values of a workflow, and text templates.
//!
//! A string that is one whole expression keeps the type of its value; an expression inside other text
//! is written into it. Names are strict, and evaluation is bounded: in steps by
//! [`crate::limits::MAX_EXPRESSION_FUEL`], in the data that it makes by
//! [`crate::limits::MAX_EXPRESSION_OUTPUT_BYTES`].

mod budget;
mod compiled;
mod environment;
mod error;
mod guard;
mod references;
mod scan;
mod scope;
mod template;
mod text;
mod value;

pub use error::ExpressionError;
pub use references::References;
pub use scan::has_expression;
pub(crate) use scan::is_whole_expression;
pub use scope::Scope;
pub use template::{Condition, Template};
pub(crate) use template::{check_condition, text_references};
pub use text::{check_text, render_text};

#[cfg(test)]
mod tests;
