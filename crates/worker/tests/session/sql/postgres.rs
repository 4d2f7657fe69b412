//! PostgreSQL.

use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_worker::{SqlConnection, Worker};
use serde_json::{Value, json};

use super::server::Database;
use super::{Asked, sql};

/// Sessions that run a statement of a test with this mark in it.
const SLEEPERS: &str = "select count(*) from pg_stat_activity where state = 'active' \
                        and query like '%pg_sleep(600)%' and query not like '%pg_stat_activity%' \
                        and datname = current_database()";

async fn asked() -> (Database, Asked) {
    let database = Database::create().await;
    let asked = Asked::start(database.connection()).await;
    (database, asked)
}

#[tokio::test]
async fn values_keep_their_types() {
    let (database, mut asked) = asked().await;
    database
        .execute(
            "create type mood as enum ('good', 'bad'); create domain zip as text; \
             create type point2 as (x int, y numeric)",
        )
        .await;
    for (expression, value) in [
        ("null::int4", json!(null)),
        ("true", json!(true)),
        ("(-7)::int2", json!(-7)),
        ("9007199254740993::int8", json!(9_007_199_254_740_993_i64)),
        ("(-9223372036854775808)::int8", json!(i64::MIN)),
        ("4294967295::oid", json!(4_294_967_295_u32)),
        ("0.1::float4", json!(0.1)),
        ("1e300::float8", json!(1e300)),
        ("'NaN'::float8", json!("NaN")),
        ("'-Infinity'::float4", json!("-Infinity")),
        (
            "12345678901234567890.1200::numeric",
            json!("12345678901234567890.1200"),
        ),
        ("(-0.00001)::numeric", json!("-0.00001")),
        ("0::numeric", json!("0")),
        ("10000::numeric", json!("10000")),
        ("0.000100020003::numeric", json!("0.000100020003")),
        ("1e20::numeric(30,5)", json!("100000000000000000000.00000")),
        ("'NaN'::numeric", json!("NaN")),
        ("'a\"b'::text", json!("a\"b")),
        ("'ab'::char(4)", json!("ab  ")),
        ("'x'::\"char\"", json!("x")),
        ("'good'::mood", json!("good")),
        ("'12345'::zip", json!("12345")),
        ("'{\"a\": [1, 2.50]}'::json", json!({ "a": [1, 2.5] })),
        ("'{\"a\": null}'::jsonb", json!({ "a": null })),
        ("'\\x00ff10'::bytea", json!("AP8Q")),
        (
            "'01890a5d-ac96-774b-bcce-b302099a8057'::uuid",
            json!("01890a5d-ac96-774b-bcce-b302099a8057"),
        ),
        (
            "timestamptz '2024-02-29 13:14:15.123456+02'",
            json!("2024-02-29T11:14:15.123456Z"),
        ),
        (
            "timestamp '2024-02-29 13:14:15'",
            json!("2024-02-29T13:14:15"),
        ),
        (
            "timestamp '1899-12-31 23:59:59.5'",
            json!("1899-12-31T23:59:59.5"),
        ),
        ("'infinity'::timestamptz", json!("infinity")),
        ("date '0001-01-01'", json!("0001-01-01")),
        ("date '2024-02-29'", json!("2024-02-29")),
        ("'-infinity'::date", json!("-infinity")),
        ("time '24:00'", json!("24:00:00")),
        ("time '01:02:03.04'", json!("01:02:03.04")),
        ("timetz '01:02:03-03:30'", json!("01:02:03-03:30")),
        ("interval '1 year 2 days 3.5 seconds'", json!("P1Y2DT3.5S")),
        ("inet '10.0.0.1'", json!("10.0.0.1")),
        ("inet '10.0.0.1/8'", json!("10.0.0.1/8")),
        ("cidr '2001:db8::/32'", json!("2001:db8::/32")),
        ("macaddr '08:00:2b:01:02:03'", json!("08:00:2b:01:02:03")),
        ("B'0101'", json!("0101")),
        ("array[1, null, 3]", json!([1, null, 3])),
        ("array[[1, 2], [3, 4]]", json!([[1, 2], [3, 4]])),
        ("array[]::text[]", json!([])),
        ("array['a,b', '\"']", json!(["a,b", "\""])),
        ("array['1.50'::numeric]", json!(["1.50"])),
        ("row(1, 2.5)::point2", json!({ "x": 1, "y": "2.5" })),
        (
            "int4range(1, 5)",
            json!({ "lower": 1, "upper": 5, "bounds": "[)" }),
        ),
        (
            "daterange('2024-01-01', null)",
            json!({ "lower": "2024-01-01", "upper": null, "bounds": "[)" }),
        ),
        ("int4range(1, 1)", json!("empty")),
    ] {
        let row = asked
            .row(&format!("select {expression} as v"), json!([]))
            .await;
        assert_eq!(row, json!({ "v": value }), "{expression}");
    }
    let (code, message, retryable) = asked
        .failure(json!({ "query": "select 'a b'::tsvector as words" }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", false));
    assert_eq!(
        message,
        "column `words`: values of type `tsvector` have no JSON form here; cast it, for example to text"
    );
    assert_eq!(asked.statistics().opened, 1, "one connection did it all");
}

#[tokio::test]
async fn parameters_become_what_the_statement_asks_for() {
    let (database, mut asked) = asked().await;
    database
        .execute(
            "create type mood as enum ('good', 'bad'); \
             create table t (id int8 primary key, m mood, j jsonb, b bytea, n numeric(30, 10), \
             at timestamptz, tags text[], u uuid, d interval, r int4range, f bool)",
        )
        .await;
    let insert = "insert into t values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let params = json!([
        9_007_199_254_740_993_i64,
        "bad",
        { "deep": [1, { "x": "'; drop table t; --" }] },
        "AP8Q",
        "12345678901234567.1234567891",
        "2024-02-29T13:14:15+02:00",
        ["a", null, "b\"c\\d,{}"],
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "P1DT2H",
        "[1,5)",
        true,
    ]);
    let output = asked
        .output(json!({ "execute": insert, "params": params }))
        .await;
    assert_eq!(output, json!({ "rows_affected": 1 }));
    let row = asked
        .row(
            "select * from t where id = any($1)",
            json!([[1, 9_007_199_254_740_993_i64]]),
        )
        .await;
    assert_eq!(row["id"], params[0]);
    assert_eq!(row["j"], params[2]);
    assert_eq!(row["b"], params[3]);
    assert_eq!(row["n"], params[4]);
    assert_eq!(row["at"], "2024-02-29T11:14:15Z");
    assert_eq!(row["tags"], params[6]);
    assert_eq!(row["d"], "P1DT2H");

    let output = asked
        .output(json!({ "query": "select $1::int4 is null as n, $2::jsonb as j", "params": [null, "text"] }))
        .await;
    assert_eq!(output["rows"], json!([{ "n": true, "j": "text" }]));

    for (query, params, expected) in [
        (
            "select $1::int4 + $2::int4 as v",
            json!([1, "two"]),
            "`params[1]` is $2 of type `int4`: it must be a whole number, not text",
        ),
        (
            "select $1::int4 as v",
            json!([]),
            "the statement has 1 parameters, `params` has 0",
        ),
    ] {
        let (code, message, retryable) = asked
            .failure(json!({ "query": query, "params": params }))
            .await;
        assert_eq!((code.as_str(), retryable), ("task_input_invalid", false));
        assert_eq!(message, expected);
    }
    let (code, message, retryable) = asked
        .failure(json!({ "query": "select $1::int4, $2::uuid", "params": [1, "not one"] }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", false));
    assert_eq!(
        message,
        "invalid input syntax for type uuid: \"not one\" (SQLSTATE 22P02) in parameter $2"
    );
    assert_eq!(
        asked.statistics().opened,
        1,
        "none of it cost the connection"
    );
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_its_state() {
    let (database, mut asked) = asked().await;
    database
        .execute("create table t (id int primary key); insert into t values (1)")
        .await;
    let raise = |state: &str| json!({ "execute": format!("do $$ begin raise exception using errcode = '{state}', message = 'no'; end $$") });
    for (input, code, message, retryable) in [
        (
            json!({ "query": "selec 1" }),
            "sql_failed",
            "syntax error at or near \"selec\" (SQLSTATE 42601) at character 1",
            false,
        ),
        (
            json!({ "execute": "insert into t values (1)" }),
            "sql_failed",
            "duplicate key value violates unique constraint \"t_pkey\" (SQLSTATE 23505); \
             Key (id)=(1) already exists.",
            false,
        ),
        (
            json!({ "query": "select 1 as a, 2 as a" }),
            "task_input_invalid",
            "the query gives two columns `a`; name one of them with `as`",
            false,
        ),
        (
            json!({ "query": "select 1; select 2" }),
            "sql_failed",
            "cannot insert multiple commands into a prepared statement (SQLSTATE 42601)",
            false,
        ),
        (raise("40001"), "sql_failed", "no (SQLSTATE 40001)", true),
        (raise("40P01"), "sql_failed", "no (SQLSTATE 40P01)", true),
        (
            raise("53100"),
            "sql_unavailable",
            "no (SQLSTATE 53100)",
            true,
        ),
        (raise("P0001"), "sql_failed", "no (SQLSTATE P0001)", false),
    ] {
        let shown = input.to_string();
        assert_eq!(
            asked.failure(input).await,
            (code.to_owned(), message.to_owned(), retryable),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn statements_are_one_transaction() {
    let (database, mut asked) = asked().await;
    database
        .execute("create table t (id int primary key, v text)")
        .await;
    let insert = |id: i32| json!({ "execute": "insert into t values ($1, 'x')", "params": [id] });
    let output = asked
        .output(json!({
            "isolation": "serializable",
            "statements": [
                insert(1),
                { "query": "select current_setting('transaction_isolation') as i, count(*) as n from t" },
                { "execute": "update t set v = $1", "params": ["y"] },
            ],
        }))
        .await;
    assert_eq!(
        output["results"],
        json!([
            { "rows_affected": 1 },
            { "rows": [{ "i": "serializable", "n": 1 }], "row_count": 1, "truncated": false },
            { "rows_affected": 1 },
        ])
    );

    for (second, problem) in [
        (insert(1), "statement 2: duplicate key value"),
        (
            json!({ "query": "select $1::int4", "params": ["x"] }),
            "statement 2: `params[0]` is $1",
        ),
        (
            json!({ "query": "select generate_series(1, 3) as v" }),
            "the query gives more than 2 rows",
        ),
    ] {
        let (_, message, retryable) = asked
            .failure(json!({ "max_rows": 2, "statements": [insert(2), second] }))
            .await;
        assert!(message.starts_with(problem), "{message}");
        assert!(!retryable);
        assert_eq!(database.count("select count(*) from t").await, 1);
    }
    let (code, message, _) = asked
        .failure(json!({ "statements": [insert(2), { "execute": "commit" }] }))
        .await;
    assert_eq!(code, "task_input_invalid");
    assert_eq!(
        message,
        "`COMMIT` is not for tasks; what is listed in `statements` is one transaction"
    );
    let output = asked
        .output(json!({
            "max_rows": 2,
            "on_limit": "truncate",
            "statements": [{ "query": "select generate_series(1, 9) as v" }, insert(2)],
        }))
        .await;
    assert_eq!(output["results"][0]["row_count"], 2);
    assert_eq!(output["results"][0]["truncated"], true);
    assert_eq!(database.count("select count(*) from t").await, 2);
    assert_eq!(
        asked.statistics().opened,
        1,
        "the connection was free each time"
    );
}

#[tokio::test]
async fn too_much_fails_or_is_cut() {
    let (database, mut asked) = asked().await;
    let endless = "select generate_series(1, 1000000000) as v, repeat('x', 100) as fill";
    let (code, message, retryable) = asked
        .failure(json!({ "query": endless, "max_rows": 10 }))
        .await;
    assert_eq!((code.as_str(), retryable), ("output_too_large", false));
    assert_eq!(
        message,
        "the query gives more than 10 rows (`max_rows`); ask for less, or set `on_limit: truncate`"
    );
    let output = asked
        .output(json!({ "query": endless, "max_rows": 10, "on_limit": "truncate" }))
        .await;
    assert_eq!(output["rows"].as_array().unwrap().len(), 10);
    assert_eq!(output["truncated"], true);
    let output = asked
        .output(json!({ "query": endless, "max_bytes": 1000, "on_limit": "truncate" }))
        .await;
    assert!(output["rows"].to_string().len() <= 1000, "{output}");
    assert_eq!(
        output["row_count"],
        output["rows"].as_array().unwrap().len()
    );
    let (code, _, _) = asked
        .failure(json!({ "query": endless, "max_rows": 1_000_000_000_i64 }))
        .await;
    assert_eq!(code, "output_too_large");
    // The server does not go on with what nobody reads.
    let series = "select count(*) from pg_stat_activity where state = 'active' \
                  and query like 'select generate_series%' and datname = current_database()";
    database.until(series, 0).await;
}

#[tokio::test]
async fn the_server_ends_what_takes_too_long() {
    let (database, mut asked) = asked().await;
    let (code, message, retryable) = asked
        .failure(json!({ "query": "select pg_sleep(600)", "timeout": "100ms" }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", true));
    assert_eq!(
        message,
        "canceling statement due to statement timeout (SQLSTATE 57014)"
    );
    let (_, message, _) = asked
        .failure(json!({
            "timeout": "100ms",
            "statements": [{ "query": "select pg_sleep(600)" }],
        }))
        .await;
    assert!(message.starts_with("statement 1: canceling"), "{message}");
    database.until(SLEEPERS, 0).await;
    let row = asked.row("show statement_timeout", json!([])).await;
    assert_eq!(row["statement_timeout"], "30s");
    assert_eq!(asked.statistics().opened, 1, "the connection is still good");
}

#[tokio::test]
async fn a_cancel_reaches_the_server() {
    let (database, mut asked) = asked().await;
    for input in [
        json!({ "query": "select pg_sleep(600)" }),
        json!({ "statements": [{ "query": "select pg_sleep(600)" }] }),
    ] {
        asked.session.dispatch(vec![sql(7, input)]).await;
        database.until(SLEEPERS, 1).await;
        asked.session.cancel(7).await;
        let outcome = asked.session.outcome().await;
        assert_eq!(outcome.failure.unwrap().code, "cancelled");
        database.until(SLEEPERS, 0).await;
        asked.until(|pool| pool.open == 0).await;
    }
    asked.row("select 1 as v", json!([])).await;
}

#[tokio::test]
async fn a_pool_opens_no_more_connections_than_it_may() {
    let database = Database::create().await;
    let mut asked = Asked::start(SqlConnection {
        max_connections: 2,
        idle_timeout: HumanDuration(Duration::from_secs(2)),
        ..database.connection()
    })
    .await;
    let nap = |token| sql(token, json!({ "query": "select pg_sleep(0.02)" }));
    asked.session.dispatch((1..=10).map(nap).collect()).await;
    let outcomes = asked.session.outcomes(10).await;
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
    let statistics = asked.statistics();
    assert_eq!((statistics.opened, statistics.reused), (2, 8));
    assert!(
        statistics.wait_time >= Duration::from_millis(20),
        "{statistics:?}"
    );
    assert!(statistics.connect_time > Duration::ZERO);
    assert_eq!((statistics.in_use, statistics.waiting), (0, 0));

    // Those that wait give up in their time, and those that hold the connections do not notice.
    let hold = |token| sql(token, json!({ "query": "select pg_sleep(600)" }));
    asked.session.dispatch(vec![hold(11), hold(12)]).await;
    database.until(SLEEPERS, 2).await;
    let (code, message, retryable) = asked
        .failure(json!({ "query": "select 1", "timeout": "50ms" }))
        .await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", true));
    assert_eq!(message, "all 2 connections were in use for 50ms");
    asked.session.cancel(11).await;
    asked.session.cancel(12).await;
    asked.session.outcomes(2).await;

    asked.row("select 1 as v", json!([])).await;
    asked.until(|pool| pool.open == 0).await;
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let (database, mut asked) = asked().await;
    let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                     where datname = current_database() and pid <> pg_backend_pid()";
    let sleep = sql(7, json!({ "query": "select pg_sleep(600)" }));
    asked.session.dispatch(vec![sleep]).await;
    database.until(SLEEPERS, 1).await;
    assert_eq!(database.count(terminate).await, 1);
    let outcome = asked.session.outcome().await;
    let failure = outcome.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("sql_unavailable", true)
    );
    assert!(failure.message.contains("57P01"), "{}", failure.message);
    assert!(outcome.calls[0].failed, "its breaker is told");

    asked.row("select 1 as v", json!([])).await;
    assert_eq!(asked.statistics().opened, 2);
    // An idle connection that the server closed is not used.
    assert_eq!(database.count(terminate).await, 1);
    let gone = "select count(*) from pg_stat_activity where application_name = 'levelflow' \
                and datname = current_database()";
    database.until(gone, 0).await;
    let outcome = crate::coordinator::outcome_of(
        &mut asked.session,
        sql(8, json!({ "query": "select 1 as v" })),
    )
    .await;
    assert!(outcome.failure.is_none_or(|failure| failure.retryable));
    asked.row("select 1 as v", json!([])).await;
    assert_eq!(asked.statistics().opened, 3);
}

#[tokio::test]
async fn nothing_of_a_task_stays_on_its_connection() {
    let database = Database::create().await;
    let mut asked = Asked::start(SqlConnection {
        max_connections: 1,
        ..database.connection()
    })
    .await;
    for statement in [
        "set search_path = 'nowhere'",
        "set role pg_read_all_data",
        "create temp table leftovers (id int)",
    ] {
        asked.output(json!({ "execute": statement })).await;
    }
    asked.row("select pg_advisory_lock(7)", json!([])).await;
    let row = asked
        .row(
            "select current_setting('search_path') as path, current_user as who, \
             to_regclass('leftovers') is null as clean, \
             (select count(*) from pg_locks where locktype = 'advisory') as locks",
            json!([]),
        )
        .await;
    assert_eq!(
        row,
        json!({ "path": "\"$user\", public", "who": "postgres", "clean": true, "locks": 0 })
    );
    assert_eq!(asked.statistics().opened, 1);
}

#[tokio::test]
async fn statements_outlive_changes_of_their_tables() {
    let database = Database::create().await;
    let mut asked = Asked::start(SqlConnection {
        max_connections: 1,
        ..database.connection()
    })
    .await;
    database
        .execute("create table t (a int); insert into t values (1)")
        .await;
    assert_eq!(
        asked.row("select * from t", json!([])).await,
        json!({ "a": 1 })
    );
    database.execute("alter table t add b text").await;
    let row = asked.row("select * from t", json!([])).await;
    assert_eq!(row, json!({ "a": 1, "b": null }));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_passing_failure_without_secrets() {
    // A port that is taken, and where nobody answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = SqlConnection {
        connect_timeout: HumanDuration(Duration::from_millis(100)),
        ..SqlConnection::at(format!("postgres://u:hunter2@127.0.0.1:{port}/d"))
    };
    let database = Database::create().await;
    let encrypted = SqlConnection::at(format!("{}?sslmode=require", database.url));
    for (connection, problem) in [
        (silent, "no connection could be opened within 100ms"),
        (encrypted, "server does not support TLS"),
    ] {
        let mut asked = Asked::start(connection).await;
        let (code, message, retryable) = asked.failure(json!({ "query": "select 1" })).await;
        assert_eq!((code.as_str(), retryable), ("sql_unavailable", true));
        assert!(message.contains(problem), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let unknown = SqlConnection::at(format!("{}_no", database.url));
    let mut asked = Asked::start(unknown).await;
    let (code, message, retryable) = asked.failure(json!({ "query": "select 1" })).await;
    assert_eq!((code.as_str(), retryable), ("sql_failed", false));
    assert!(message.contains("(SQLSTATE 3D000)"), "{message}");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_at_the_start() {
    let problem = |connection: SqlConnection| {
        let built = Worker::builder().connection("main", connection).build();
        built.err().expect("it is refused").to_string()
    };
    assert_eq!(
        problem(SqlConnection::at("mysql://u:hunter2@h/d")),
        "`connections.main.url` must begin with `postgres://` or `sqlite:`"
    );
    assert_eq!(
        problem(SqlConnection::at("postgres://u:hunter2@h/d?sslmode=prefer")),
        "`connections.main.url` has an `sslmode` that is not supported; it may be `disable`, \
         `require` or `verify-full`"
    );
    let named = SqlConnection {
        url: None,
        url_env: Some("NO_SUCH_VARIABLE".to_owned()),
        ..SqlConnection::at("")
    };
    assert_eq!(
        problem(named),
        "`connections.main.url_env` names the environment variable `NO_SUCH_VARIABLE`, which is not set"
    );
    let settings = format!("{:?}", SqlConnection::at("postgres://u:hunter2@h/d"));
    assert!(!settings.contains("hunter2"), "{settings}");
    let printed: Value = serde_json::to_value(SqlConnection::at("x")).unwrap();
    assert_eq!(printed["url"], "[hidden]");
}
