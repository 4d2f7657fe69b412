//! What errors of PostgreSQL mean for an attempt.

use std::error::Error as _;

use levelflow_common::{Code, Failure};
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use crate::executor::sql::SqlError;

/// The failure that an error stands for; `what` says where, such as `statement 2: `.
pub(super) fn classify(what: &str, error: &Error) -> SqlError {
    match error.as_db_error() {
        Some(refusal) => refused(what, refusal),
        None => SqlError::Unreachable(Failure::retryable(
            Code::SqlUnavailable,
            format!("{what}{}", chain(error)),
        )),
    }
}

fn refused(what: &str, refusal: &DbError) -> SqlError {
    let message = describe(what, refusal);
    let state = refusal.code();
    if is_unavailable(state) {
        return SqlError::Unreachable(Failure::retryable(Code::SqlUnavailable, message));
    }
    if is_stale_plan(refusal) {
        return SqlError::Outdated(Failure::retryable(Code::SqlFailed, message));
    }
    SqlError::Refused(Failure::new(Code::SqlFailed, message, is_passing(state)))
}

/// Whether the server cannot serve now, or the connection is lost.
fn is_unavailable(state: &SqlState) -> bool {
    let code = state.code();
    // Connection exceptions, too few resources, errors outside the database, and shutdowns.
    ["08", "53", "58"]
        .iter()
        .any(|class| code.starts_with(class))
        || matches!(code, "57P01" | "57P02" | "57P03" | "57P05")
}

/// Whether the same statement may go through another time.
fn is_passing(state: &SqlState) -> bool {
    matches!(
        *state,
        SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE
            | SqlState::OBJECT_IN_USE
            | SqlState::QUERY_CANCELED
    ) || matches!(state.code(), "25P03" | "25P04" | "26000")
}

/// Whether a prepared statement outlived the tables that it was prepared for. The state of that error
/// says no more than that something is not supported.
fn is_stale_plan(refusal: &DbError) -> bool {
    refusal.routine() == Some("RevalidateCachedQuery")
}

fn describe(what: &str, refusal: &DbError) -> String {
    let mut message = format!(
        "{what}{} (SQLSTATE {})",
        refusal.message(),
        refusal.code().code()
    );
    if let Some(ErrorPosition::Original(character)) = refusal.position() {
        message.push_str(&format!(" at character {character}"));
    }
    if let Some(parameter) = refusal.where_().and_then(parameter_in) {
        message.push_str(&format!(" in parameter {parameter}"));
    }
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        message.push_str(&format!("; {more}"));
    }
    message
}

/// The parameter that a context of an error names, such as `$2`.
fn parameter_in(context: &str) -> Option<&str> {
    let rest = &context[context.find("parameter $")? + "parameter ".len()..];
    let end = rest[1..].find(|c: char| !c.is_ascii_digit());
    Some(&rest[..end.map_or(rest.len(), |end| end + 1)])
}

/// An error with its causes.
pub(super) fn chain(error: &Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !message.ends_with(&cause_text) {
            message.push_str(": ");
            message.push_str(&cause_text);
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        let unavailable = ["08006", "53300", "57P01", "57P03", "58030"];
        let passing = ["40001", "40P01", "55P03", "57014"];
        let permanent = ["42601", "23505", "22P02", "28P01", "3D000", "42P01"];
        for code in unavailable {
            assert!(is_unavailable(&SqlState::from_code(code)), "{code}");
        }
        for code in passing {
            let state = SqlState::from_code(code);
            assert!(is_passing(&state) && !is_unavailable(&state), "{code}");
        }
        for code in permanent {
            let state = SqlState::from_code(code);
            assert!(!is_passing(&state) && !is_unavailable(&state), "{code}");
        }
    }

    #[test]
    fn a_context_may_name_a_parameter() {
        assert_eq!(
            parameter_in("unnamed portal parameter $12 = '...'"),
            Some("$12")
        );
        assert_eq!(parameter_in("unnamed portal parameter $1"), Some("$1"));
        assert_eq!(parameter_in("PL/pgSQL function f()"), None);
    }
}
