//! How a handler says that it failed.

use std::error::Error;
use std::fmt::{self, Display, Write as _};

use levelflow_common::{Code, Failure};

/// Why a handler failed.
///
/// Any standard error becomes one with `?`, and the attempt is then tried again as the task's retry
/// policy says. Where another attempt cannot help, use [`HandlerError::permanent`].
#[derive(Clone, PartialEq, Eq)]
pub struct HandlerError {
    code: Code,
    message: String,
    retryable: bool,
}

impl HandlerError {
    /// A failure that another attempt may mend.
    pub fn retryable(message: impl Display) -> Self {
        Self {
            code: Code::HandlerFailed,
            message: message.to_string(),
            retryable: true,
        }
    }

    /// A failure that would come again: the task fails at once.
    pub fn permanent(message: impl Display) -> Self {
        Self {
            code: Code::HandlerFailed,
            message: message.to_string(),
            retryable: false,
        }
    }

    /// The error that stands for a failure.
    pub(crate) fn of(failure: Failure) -> Self {
        Self {
            code: failure.code,
            message: failure.message,
            retryable: failure.retryable,
        }
    }

    /// The stable code: `handler_failed`, unless the library made the error.
    pub fn code(&self) -> &'static str {
        self.code.as_str()
    }
}

impl<E: Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a string does not fail.
            let _ = write!(message, ": {cause}");
            source = cause.source();
        }
        Self::retryable(message)
    }
}

impl Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.retryable {
            "retryable"
        } else {
            "permanent"
        };
        write!(f, "{kind}: {}", self.message)
    }
}

impl From<HandlerError> for Failure {
    fn from(error: HandlerError) -> Self {
        Self::new(error.code, error.message, error.retryable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_error_is_retryable_and_keeps_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not read the settings")]
        struct Outer(#[source] std::num::ParseIntError);

        let inner = "x".parse::<i32>().unwrap_err();
        let failure = Failure::from(HandlerError::from(Outer(inner)));
        assert_eq!(
            failure,
            Failure::retryable(
                Code::HandlerFailed,
                "could not read the settings: invalid digit found in string"
            )
        );
        assert!(!Failure::from(HandlerError::permanent("no")).retryable);
    }
}
