//! Errors of the API, as the same thing on both sides of the wire.

use std::time::Duration;

use levelflow_common::Code;

use crate::v1;

/// Why the API refused a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The stable code; none if the peer sent no code, or one that is not known here.
    pub code: Option<Code>,
    /// What people read.
    pub message: String,
    /// The fields that are wrong.
    pub violations: Vec<FieldViolation>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

/// A field of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path, such as `tasks[3].needs[0]`.
    pub field: String,
    /// What is wrong, and what to do.
    pub description: String,
    /// Line and column in the source text, from 1.
    pub position: Option<(u32, u32)>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// The stable code; [`Code::Internal`] if the peer sent none that is known here.
    pub fn code(&self) -> Code {
        self.code.unwrap_or(Code::Internal)
    }
}

impl FieldViolation {
    /// A violation without a position.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
            position: None,
        }
    }
}

impl From<ApiError> for v1::Error {
    fn from(error: ApiError) -> Self {
        Self {
            code: error.code().as_str().to_owned(),
            message: error.message,
            violations: error.violations.into_iter().map(Into::into).collect(),
            retry_after_ms: error.retry_after.map_or(0, |wait| {
                u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }
}

impl From<v1::Error> for ApiError {
    fn from(message: v1::Error) -> Self {
        Self {
            code: Code::parse(&message.code),
            message: message.message,
            violations: message.violations.into_iter().map(Into::into).collect(),
            retry_after: (message.retry_after_ms > 0)
                .then(|| Duration::from_millis(message.retry_after_ms)),
        }
    }
}

impl From<FieldViolation> for v1::FieldViolation {
    fn from(violation: FieldViolation) -> Self {
        let (line, column) = violation.position.unwrap_or_default();
        Self {
            field: violation.field,
            description: violation.description,
            line,
            column,
        }
    }
}

impl From<v1::FieldViolation> for FieldViolation {
    fn from(message: v1::FieldViolation) -> Self {
        Self {
            field: message.field,
            description: message.description,
            position: (message.line > 0).then_some((message.line, message.column)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for &code in Code::ALL {
            let error = ApiError {
                code: Some(code),
                message: "no".to_owned(),
                violations: vec![
                    FieldViolation::new("inputs.since", "is missing"),
                    FieldViolation {
                        position: Some((3, 7)),
                        ..FieldViolation::new("tasks[0].id", "is a duplicate")
                    },
                ],
                retry_after: Some(Duration::from_millis(1500)),
            };
            assert_eq!(ApiError::from(v1::Error::from(error.clone())), error);
        }
    }
}
