//! SQLite files.

use levelflow_worker::SqlConnection;
use serde_json::json;
use tempfile::TempDir;

use super::{Asked, sql};
use crate::coordinator::soon;

const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) ";

async fn asked() -> (TempDir, Asked) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let asked = Asked::start(SqlConnection::at(format!("sqlite:{}", path.display()))).await;
    (folder, asked)
}

#[tokio::test]
async fn values_keep_their_types() {
    let (_folder, mut asked) = asked().await;
    asked
        .output(json!({ "execute": "create table t (id integer primary key, v)" }))
        .await;
    let values = json!([null, true, -7, i64::MAX, 2.5, "a\"b", [1, 2], { "a": 1 }]);
    for value in values.as_array().unwrap() {
        let output = asked
            .output(json!({ "execute": "insert into t (v) values (?1)", "params": [value] }))
            .await;
        assert_eq!(output, json!({ "rows_affected": 1 }));
    }
    let output = asked
        .output(json!({ "query": "select v, typeof(v) as t from t order by id" }))
        .await;
    assert_eq!(
        output["rows"],
        json!([
            { "v": null, "t": "null" },
            { "v": 1, "t": "integer" },
            { "v": -7, "t": "integer" },
            { "v": i64::MAX, "t": "integer" },
            { "v": 2.5, "t": "real" },
            { "v": "a\"b", "t": "text" },
            { "v": "[1,2]", "t": "text" },
            { "v": "{\"a\":1}", "t": "text" },
        ])
    );
    let row = asked
        .row("select x'00ff10' as b, 1e999 as i", json!([]))
        .await;
    assert_eq!(row, json!({ "b": "AP8Q", "i": "Infinity" }));
}

#[tokio::test]
async fn statements_are_one_transaction() {
    let (_folder, mut asked) = asked().await;
    let create = json!({ "execute": "create table t (id integer primary key)" });
    let insert = |id: i32| json!({ "execute": "insert into t values (?1)", "params": [id] });
    let output = asked
        .output(json!({ "statements": [create, insert(1), { "query": "select * from t" }] }))
        .await;
    assert_eq!(
        output["results"],
        json!([
            { "rows_affected": 0 },
            { "rows_affected": 1 },
            { "rows": [{ "id": 1 }], "row_count": 1, "truncated": false },
        ])
    );
    let (code, message, retryable) = asked
        .failure(json!({ "statements": [insert(2), insert(1)] }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", false));
    assert_eq!(
        message,
        "statement 2: UNIQUE constraint failed: t.id (SQLite code 1555)"
    );
    assert_eq!(
        asked.row("select count(*) as n from t", json!([])).await["n"],
        1
    );
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let (_folder, mut asked) = asked().await;
    for (input, problem) in [
        (
            json!({ "query": "selec 1" }),
            "near \"selec\": syntax error",
        ),
        (
            json!({ "query": "select 1; select 2" }),
            "Multiple statements",
        ),
        (
            json!({ "query": "select ?1", "params": [] }),
            "the statement has 1 parameters, `params` has 0",
        ),
        (json!({ "execute": "begin" }), "`BEGIN` is not for tasks"),
        (
            json!({ "execute": "attach 'other.db' as o" }),
            "too many attached databases",
        ),
        (
            json!({ "execute": "vacuum into 'other.db'" }),
            "too many attached databases",
        ),
    ] {
        let (_, message, retryable) = asked.failure(input).await;
        assert!(message.starts_with(problem), "{message}");
        assert!(!retryable, "{message}");
    }
}

#[tokio::test]
async fn what_takes_too_long_or_is_cancelled_stops() {
    let (_folder, mut asked) = asked().await;
    let count = format!("{ENDLESS} select count(*) as n from n");
    let (code, message, retryable) = asked
        .failure(json!({ "query": count, "timeout": "50ms" }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", true));
    assert_eq!(message, "it took longer than 50ms");

    asked
        .session
        .dispatch(vec![sql(7, json!({ "query": count }))])
        .await;
    asked.until(|pool| pool.in_use == 1).await;
    asked.session.cancel(7).await;
    let outcome = asked.session.outcome().await;
    assert_eq!(outcome.failure.unwrap().code, "cancelled");
    asked.until(|pool| pool.in_use == 0).await;
    asked.row("select 1 as v", json!([])).await;
    assert_eq!(asked.statistics().opened, 1);
}

#[tokio::test]
async fn too_much_fails_or_is_cut() {
    let (_folder, mut asked) = asked().await;
    let rows = format!("{ENDLESS} select i from n");
    let (code, _, retryable) = asked.failure(json!({ "query": rows })).await;
    assert_eq!((code.as_str(), retryable), ("output_too_large", false));
    let output = asked
        .output(json!({ "query": rows, "max_rows": 3, "on_limit": "truncate" }))
        .await;
    assert_eq!(
        output,
        json!({ "rows": [{ "i": 1 }, { "i": 2 }, { "i": 3 }], "row_count": 3, "truncated": true })
    );
}

#[tokio::test]
async fn writers_wait_for_each_other() {
    let (_folder, mut asked) = asked().await;
    asked
        .output(json!({ "execute": "create table t (n integer)" }))
        .await;
    let add = |token| {
        sql(
            token,
            json!({ "statements": [
                { "query": "select coalesce(max(n), 0) as n from t" },
                { "execute": "insert into t select coalesce(max(n), 0) + 1 from t" },
            ] }),
        )
    };
    asked.session.dispatch((1..=12).map(add).collect()).await;
    let outcomes = soon(asked.session.outcomes(12)).await;
    for outcome in outcomes {
        assert_eq!(outcome.failure, None);
    }
    let row = asked
        .row(
            "select count(distinct n) as n, max(n) as m from t",
            json!([]),
        )
        .await;
    assert_eq!(row, json!({ "n": 12, "m": 12 }));
}

#[tokio::test]
async fn a_file_may_be_for_reading_only_or_missing() {
    let (folder, mut writer) = asked().await;
    writer
        .output(json!({ "execute": "create table t (n integer)" }))
        .await;
    let path = folder.path().join("a.db");
    let mut reader = Asked::start(SqlConnection::at(format!(
        "sqlite:{}?mode=ro",
        path.display()
    )))
    .await;
    let (_, message, retryable) = reader
        .failure(json!({ "execute": "insert into t values (1)" }))
        .await;
    assert!(
        message.starts_with("attempt to write a readonly database"),
        "{message}"
    );
    assert!(!retryable);
    let output = reader
        .output(json!({ "statements": [{ "query": "select count(*) as n from t" }] }))
        .await;
    assert_eq!(output["results"][0]["rows"][0]["n"], 0);

    let missing = folder.path().join("no/such.db");
    let mut nobody = Asked::start(SqlConnection::at(format!("sqlite:{}", missing.display()))).await;
    let (code, message, _) = nobody.failure(json!({ "query": "select 1" })).await;
    assert_eq!(code, "sql_unavailable");
    assert!(
        message.contains("unable to open database file"),
        "{message}"
    );
}
