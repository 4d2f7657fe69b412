//! What is wrong with a message that was received.

use std::fmt;

use levelflow_common::Code;
use levelflow_common::duration::InvalidDuration;

use crate::error::{ApiError, FieldViolation};

/// A field of a message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// The path of the field, such as `tasks[3].retry.initial`.
    pub field: String,
    /// What is wrong with it.
    #[source]
    pub problem: FieldProblem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// It must be given.
    #[error("is missing")]
    Missing,
    /// It is a number that the enumeration does not have.
    #[error("{0} is not a value of this enumeration")]
    UnknownNumber(i32),
    /// It is a word that is not known.
    #[error("`{word}` is unknown; expected {expected}")]
    UnknownWord {
        /// The word.
        word: String,
        /// The words that are known.
        expected: &'static str,
    },
    /// It is not JSON.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// It is not a duration.
    #[error(transparent)]
    NotDuration(#[from] InvalidDuration),
    /// It is not the id of a run.
    #[error(transparent)]
    NotRunId(#[from] levelflow_common::id::InvalidRunId),
    /// It is not a digest.
    #[error("is not a digest: {0} bytes, not 32")]
    NotDigest(usize),
}

impl InvalidField {
    /// A problem of the field at `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<FieldProblem>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// A field that must be given and is not.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new(field, FieldProblem::Missing)
    }

    /// The stable code.
    pub const fn code(&self) -> Code {
        Code::RequestInvalid
    }

    /// The same problem, seen from the message that holds this one under `parent`.
    #[must_use]
    pub fn under(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

/// All fields of a message that cannot be read; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidMessage {
    /// The fields, in the order of the message.
    pub fields: Vec<InvalidField>,
}

impl InvalidMessage {
    /// The stable code.
    pub const fn code(&self) -> Code {
        Code::RequestInvalid
    }
}

impl fmt::Display for InvalidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(ToString::to_string).collect();
        f.write_str(&fields.join("; "))
    }
}

impl std::error::Error for InvalidMessage {}

impl From<InvalidField> for InvalidMessage {
    fn from(field: InvalidField) -> Self {
        Self {
            fields: vec![field],
        }
    }
}

impl From<InvalidMessage> for ApiError {
    fn from(invalid: InvalidMessage) -> Self {
        let message = match invalid.fields.as_slice() {
            [field] => field.to_string(),
            fields => format!("{} fields of the request are invalid", fields.len()),
        };
        Self {
            code: Some(invalid.code()),
            message,
            violations: invalid
                .fields
                .into_iter()
                .map(|field| FieldViolation::new(field.field, field.problem.to_string()))
                .collect(),
            retry_after: None,
        }
    }
}

impl From<InvalidField> for ApiError {
    fn from(field: InvalidField) -> Self {
        InvalidMessage::from(field).into()
    }
}
