//! Tasks of type `sql`, against a real PostgreSQL and against SQLite files.

mod postgres;
mod server;
mod sqlite;
mod tls;

use levelflow_proto::v1;
use levelflow_worker::{SqlConnection, SqlDatabases, SqlPoolStatistics, Worker};
use serde_json::{Value, json};

use crate::coordinator::{Coordinator, Running, Session, attempt, outcome_of, soon};

/// A worker whose connection `main` is to a database.
struct Asked {
    session: Session,
    databases: SqlDatabases,
    _worker: Running,
}

impl Asked {
    async fn start(connection: SqlConnection) -> Self {
        let mut coordinator = Coordinator::start().await;
        let worker = Worker::builder()
            .address(coordinator.address.as_str())
            .connection("main", connection)
            .build()
            .unwrap();
        let databases = worker.databases();
        let worker = Running::start(worker);
        let (mut session, hello) = coordinator.accept().await;
        assert!(hello.kinds.contains(&"sql".to_owned()), "{hello:?}");
        assert_eq!(hello.connections, ["main"]);
        // No heartbeat comes between, so that outcomes tell of all calls.
        session.welcome(60_000, &[]).await;
        session.until(|session| session.credits > 0).await;
        Self {
            session,
            databases,
            _worker: worker,
        }
    }

    /// What comes of a task that succeeds.
    async fn output(&mut self, input: Value) -> Value {
        let outcome = outcome_of(&mut self.session, sql(1, input)).await;
        assert_eq!(outcome.failure, None);
        serde_json::from_slice(&outcome.output).unwrap()
    }

    /// The only row of a query.
    async fn row(&mut self, query: &str, params: Value) -> Value {
        let output = self
            .output(json!({ "query": query, "params": params }))
            .await;
        assert_eq!(output["row_count"], 1, "{output}");
        output["rows"][0].clone()
    }

    /// Code, message and whether it is retryable, of a task that fails.
    async fn failure(&mut self, input: Value) -> (String, String, bool) {
        let outcome = outcome_of(&mut self.session, sql(1, input)).await;
        let failure = outcome.failure.expect("it fails");
        (failure.code, failure.message, failure.retryable)
    }

    fn statistics(&self) -> SqlPoolStatistics {
        self.databases.statistics()["main"]
    }

    /// Waits until the connections are as a test wants them.
    async fn until(&self, condition: impl Fn(SqlPoolStatistics) -> bool) {
        soon(async {
            while !condition(self.statistics()) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// An attempt at a statement of the connection `main`.
fn sql(token: u64, mut input: Value) -> v1::Attempt {
    input["connection"] = json!("main");
    v1::Attempt {
        kind: v1::TaskKind::Sql.into(),
        upstream: "sql:main".to_owned(),
        ..attempt(token, "", &input.to_string())
    }
}
