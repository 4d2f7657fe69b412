//! The PostgreSQL server of the tests, and a database on it for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use levelflow_worker::SqlConnection;
use tokio_postgres::{Client, NoTls};

use crate::coordinator::soon;

const VARIABLE: &str = "TEST_POSTGRES_URL";

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database of its own, and a session in it for a look from outside.
pub(super) struct Database {
    pub(super) url: String,
    pub(super) admin: Client,
}

impl Database {
    pub(super) async fn create() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} is not set: run the tests with `cargo xtask test`, or single ones with `cargo xtask servers -- cargo nextest run …`")
        });
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let admin = connect(&server).await;
        admin
            .batch_execute(&format!("create database {name}"))
            .await
            .unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let url = format!("{base}/{name}");
        Self {
            admin: connect(&url).await,
            url,
        }
    }

    pub(super) fn connection(&self) -> SqlConnection {
        SqlConnection::at(&self.url)
    }

    /// Host and port of the server.
    pub(super) fn authority(&self) -> String {
        let (_, rest) = self.url.rsplit_once('@').unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    }

    /// The name of the database.
    pub(super) fn name(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    pub(super) async fn execute(&self, statements: &str) {
        self.admin.batch_execute(statements).await.unwrap();
    }

    /// The number that a query gives.
    pub(super) async fn count(&self, query: &str) -> i64 {
        self.admin.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Waits until a query gives this number.
    pub(super) async fn until(&self, query: &str, count: i64) {
        soon(async { while self.count(query).await != count {} }).await;
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    levelflow_runtime::task::spawn("session of the test", connection);
    client
}
