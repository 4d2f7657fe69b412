//! What the database gave, as the JSON of an output.
//!
//! A query gives `{"rows": [{…}, …], "row_count": n, "truncated": false}` with a map for each row, an
//! `execute` gives `{"rows_affected": n}`, and a transaction `{"results": […]}` with one of these for each
//! of its statements.

use std::collections::BTreeSet;
use std::io::Write as _;

use bytes::Bytes;
use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::task_input::SqlOnLimit;
use levelflow_common::{Code, Failure};

use super::work::{Bounds, invalid};
use crate::attempt::output_too_large;

/// An output that grows row by row, within its bounds.
pub(super) struct Answer {
    json: Vec<u8>,
    bounds: Bounds,
    /// Whether a result needs a comma before it.
    results: usize,
    in_list: bool,
    query: Query,
}

/// The query whose rows come.
#[derive(Default)]
struct Query {
    /// The names of the columns as JSON, each with its colon.
    keys: Vec<String>,
    rows: usize,
    truncated: bool,
}

/// Whether more rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Wanted,
    Enough,
}

impl Answer {
    pub(super) fn new(bounds: Bounds, in_transaction: bool) -> Self {
        let mut json = Vec::new();
        if in_transaction {
            json.extend_from_slice(b"{\"results\":[");
        }
        Self {
            json,
            bounds,
            results: 0,
            in_list: in_transaction,
            query: Query::default(),
        }
    }

    fn next_result(&mut self) {
        if self.results > 0 {
            self.json.push(b',');
        }
        self.results += 1;
    }

    /// A statement changed so many rows.
    pub(super) fn affected(&mut self, rows: u64) {
        self.next_result();
        self.text(&format!("{{\"rows_affected\":{rows}}}"));
    }

    /// The rows of a query with these columns follow.
    pub(super) fn begin_query<'a>(
        &mut self,
        columns: impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        self.next_result();
        let mut names = BTreeSet::new();
        let mut keys = Vec::new();
        for name in columns {
            if !names.insert(name) {
                return Err(invalid(format!(
                    "the query gives two columns `{name}`; name one of them with `as`"
                )));
            }
            keys.push(format!("{}:", serde_json::Value::from(name)));
        }
        self.query = Query {
            keys,
            ..Query::default()
        };
        self.text("{\"rows\":[");
        Ok(())
    }

    /// A row follows. `write` writes the value of a column, by its place.
    pub(super) fn row(
        &mut self,
        mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<More, Failure> {
        if self.query.rows == self.bounds.rows {
            let most = self.bounds.rows;
            return self.over(|| format!("the query gives more than {most} rows (`max_rows`)"));
        }
        let start = self.json.len();
        self.json
            .push(if self.query.rows == 0 { b'{' } else { b',' });
        if self.query.rows > 0 {
            self.json.push(b'{');
        }
        for place in 0..self.query.keys.len() {
            if place > 0 {
                self.json.push(b',');
            }
            self.json
                .extend_from_slice(self.query.keys[place].as_bytes());
            write(place, &mut self.json)?;
            if self.json.len() > self.bounds.bytes {
                self.json.truncate(start);
                let most = self.bounds.bytes;
                return self.over(|| format!("the rows take more than {most} bytes (`max_bytes`)"));
            }
        }
        self.json.push(b'}');
        self.query.rows += 1;
        Ok(More::Wanted)
    }

    fn over(&mut self, problem: impl FnOnce() -> String) -> Result<More, Failure> {
        match self.bounds.on_limit {
            SqlOnLimit::Truncate => {
                self.query.truncated = true;
                Ok(More::Enough)
            }
            SqlOnLimit::Fail => Err(Failure::permanent(
                Code::OutputTooLarge,
                format!("{}; ask for less, or set `on_limit: truncate`", problem()),
            )),
        }
    }

    pub(super) fn end_query(&mut self) {
        let Query {
            rows, truncated, ..
        } = self.query;
        self.text(&format!(
            "],\"row_count\":{rows},\"truncated\":{truncated}}}"
        ));
    }

    fn text(&mut self, text: &str) {
        self.json.extend_from_slice(text.as_bytes());
    }

    pub(super) fn finish(mut self) -> Result<Bytes, Failure> {
        if self.in_list {
            self.text("]}");
        }
        if self.json.len() > MAX_OUTPUT_BYTES {
            return Err(output_too_large());
        }
        Ok(self.json.into())
    }
}

/// Writes a text as JSON.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text to memory does not fail");
}

/// Writes something that is shown in ASCII without quotes or backslashes, in quotes.
pub(super) fn write_plain(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "\"{value}\"").expect("writing to memory does not fail");
}

/// Writes something that is a JSON value as it is shown.
pub(super) fn write_bare(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

/// Writes a number; those that JSON does not have as texts.
pub(super) fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("writing a number to memory does not fail");
    } else if value.is_nan() {
        write_plain(out, "NaN");
    } else if value > 0.0 {
        write_plain(out, "Infinity");
    } else {
        write_plain(out, "-Infinity");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: usize, bytes: usize, on_limit: SqlOnLimit) -> Answer {
        let bounds = Bounds {
            rows,
            bytes,
            on_limit,
        };
        Answer::new(bounds, false)
    }

    fn number(place: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
        write_bare(out, place);
        Ok(())
    }

    fn text(answer: Answer) -> String {
        String::from_utf8(answer.finish().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn rows_are_maps() {
        let mut answer = answer(9, 999, SqlOnLimit::Fail);
        answer.begin_query(["a", "\"b\""].into_iter()).unwrap();
        assert_eq!(answer.row(number).unwrap(), More::Wanted);
        assert_eq!(answer.row(number).unwrap(), More::Wanted);
        answer.end_query();
        assert_eq!(
            text(answer),
            r#"{"rows":[{"a":0,"\"b\"":1},{"a":0,"\"b\"":1}],"row_count":2,"truncated":false}"#
        );
    }

    #[test]
    fn results_of_a_transaction_are_a_list() {
        let bounds = Bounds {
            rows: 1,
            bytes: 999,
            on_limit: SqlOnLimit::Fail,
        };
        let mut answer = Answer::new(bounds, true);
        answer.affected(3);
        answer.begin_query(["a"].into_iter()).unwrap();
        answer.end_query();
        assert_eq!(
            text(answer),
            r#"{"results":[{"rows_affected":3},{"rows":[],"row_count":0,"truncated":false}]}"#
        );
    }

    #[test]
    fn what_is_too_much_fails_or_is_left_out() {
        let mut few = answer(1, 999, SqlOnLimit::Truncate);
        few.begin_query(["a"].into_iter()).unwrap();
        assert_eq!(few.row(number).unwrap(), More::Wanted);
        assert_eq!(few.row(number).unwrap(), More::Enough);
        few.end_query();
        let expected = r#"{"rows":[{"a":0}],"row_count":1,"truncated":true}"#;
        assert_eq!(text(few), expected);

        let mut small = answer(9, 20, SqlOnLimit::Truncate);
        small.begin_query(["a"].into_iter()).unwrap();
        assert_eq!(small.row(number).unwrap(), More::Wanted);
        assert_eq!(small.row(number).unwrap(), More::Enough);
        small.end_query();
        assert_eq!(text(small), expected);

        let mut strict = answer(0, 999, SqlOnLimit::Fail);
        strict.begin_query(["a"].into_iter()).unwrap();
        let failure = strict.row(number).unwrap_err();
        assert_eq!(failure.code, Code::OutputTooLarge);
        assert!(!failure.retryable);
    }

    #[test]
    fn columns_need_names_of_their_own() {
        let mut answer = answer(1, 999, SqlOnLimit::Fail);
        let failure = answer.begin_query(["a", "a"].into_iter()).unwrap_err();
        assert!(failure.message.contains("two columns `a`"));
    }

    #[test]
    fn numbers_that_json_does_not_have_are_texts() {
        let shown = |value| {
            let mut out = Vec::new();
            write_float(&mut out, value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(0.1), "0.1");
        assert_eq!(shown(f64::NAN), "\"NaN\"");
        assert_eq!(shown(f64::INFINITY), "\"Infinity\"");
        assert_eq!(shown(f64::NEG_INFINITY), "\"-Infinity\"");
    }
}
