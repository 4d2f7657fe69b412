//! What a task asks of its database.

use std::time::Duration;

use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::task_input::{SqlInput, SqlIsolation, SqlOnLimit};
use levelflow_common::{Code, Failure};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ROWS: usize = 10_000;
/// Bytes of an output that are kept for what is around its rows.
const AROUND_ROWS: usize = 4 * 1024;
/// Bytes that rows may take.
const MAX_ROW_BYTES: usize = MAX_OUTPUT_BYTES - AROUND_ROWS;

/// Words with which statements begin that start or end a transaction. On a connection that others use
/// afterwards they would reach beyond their task.
const TRANSACTION_CONTROL: [&str; 9] = [
    "abort",
    "begin",
    "commit",
    "end",
    "prepare",
    "release",
    "rollback",
    "savepoint",
    "start",
];

/// What a task asks of its database.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) statements: Vec<Statement>,
    /// All statements are one transaction, and each result is in a list.
    pub(super) in_transaction: bool,
    pub(super) isolation: Option<SqlIsolation>,
    pub(super) timeout: Duration,
    pub(super) bounds: Bounds,
}

/// A statement with its parameters.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
    pub(super) wants_rows: bool,
}

/// How much is taken of what the database gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) on_limit: SqlOnLimit,
}

impl Work {
    pub(super) fn of(input: SqlInput) -> Result<Self, Failure> {
        let in_transaction = input.statements.is_some();
        let statements = match input.statements {
            Some(statements) => statements
                .into_iter()
                .map(|one| Statement::of(one.query, one.execute, one.params))
                .collect::<Result<_, _>>()?,
            None => vec![Statement::of(input.query, input.execute, input.params)?],
        };
        Ok(Self {
            statements,
            in_transaction,
            isolation: input.isolation,
            timeout: input.timeout.map_or(TIMEOUT, |timeout| timeout.0),
            bounds: Bounds {
                rows: input.max_rows.unwrap_or(MAX_ROWS),
                bytes: input
                    .max_bytes
                    .map_or(MAX_ROW_BYTES, |bytes| bytes.min(MAX_ROW_BYTES)),
                on_limit: input.on_limit,
            },
        })
    }
}

impl Statement {
    fn of(
        query: Option<String>,
        execute: Option<String>,
        params: Vec<Value>,
    ) -> Result<Self, Failure> {
        let wants_rows = query.is_some();
        let ((Some(sql), None) | (None, Some(sql))) = (query, execute) else {
            let problem = "a statement is given in either `query` or `execute`";
            return Err(invalid(problem));
        };
        let word = first_word(&sql);
        if word.is_empty() {
            return Err(invalid("a statement is empty"));
        }
        if TRANSACTION_CONTROL.contains(&word.as_str()) {
            return Err(invalid(format!(
                "`{}` is not for tasks; what is listed in `statements` is one transaction",
                word.to_ascii_uppercase()
            )));
        }
        Ok(Self {
            sql,
            params,
            wants_rows,
        })
    }
}

pub(super) fn invalid(problem: impl Into<String>) -> Failure {
    Failure::permanent(Code::TaskInputInvalid, problem)
}

/// The first word of a statement, in lower case; comments and `;` before it are passed over.
fn first_word(sql: &str) -> String {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find('\n').map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else {
            break;
        }
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic());
    match end.unwrap_or(rest.len()) {
        // Something that is no word, such as a parenthesis.
        0 => rest.chars().take(1).collect(),
        end => rest[..end].to_ascii_lowercase(),
    }
}

/// What follows a comment, within which there may be others.
fn after_block_comment(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut at = 0;
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return &text[at..];
                }
            }
            _ => at += 1,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn work(input: Value) -> Result<Work, Failure> {
        Work::of(serde_json::from_value(input).unwrap())
    }

    #[test]
    fn the_first_word_is_found_behind_comments() {
        for (sql, word) in [
            ("select 1", "select"),
            (" -- a\n /* b /* c */ */ ;; With x as", "with"),
            ("(values (1))", "("),
            ("commit", "commit"),
            ("/* open", ""),
            ("-- only", ""),
            ("", ""),
        ] {
            assert_eq!(first_word(sql), word, "{sql}");
        }
    }

    #[test]
    fn a_task_cannot_end_its_transaction() {
        for sql in ["BEGIN", "/**/commit", "savepoint a", "Rollback to a"] {
            let failure =
                work(json!({ "connection": "c", "statements": [{ "execute": sql }] })).unwrap_err();
            assert!(failure.message.contains("is not for tasks"), "{failure:?}");
            assert!(!failure.retryable);
        }
    }

    #[test]
    fn bounds_are_those_of_the_task_within_those_of_outputs() {
        let bounds = |more: Value| {
            let mut input = json!({ "connection": "c", "query": "select 1" });
            input
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let bounds = work(input).unwrap().bounds;
            (bounds.rows, bounds.bytes)
        };
        assert_eq!(bounds(json!({})), (10_000, MAX_ROW_BYTES));
        assert_eq!(bounds(json!({ "max_rows": 1, "max_bytes": 9 })), (1, 9));
        assert_eq!(
            bounds(json!({ "max_bytes": usize::MAX })),
            (10_000, MAX_ROW_BYTES)
        );
    }

    #[test]
    fn a_statement_is_one_of_two() {
        let both = json!({ "connection": "c", "query": "select 1", "execute": "select 1" });
        assert!(work(both).is_err());
        assert!(work(json!({ "connection": "c" })).is_err());
        let failure = work(json!({ "connection": "c", "query": " ;-- x" })).unwrap_err();
        assert_eq!(failure.message, "a statement is empty");
    }
}
