//! The database as every part of the store uses it.
//!
//! No state is kept in sessions, so that any connection of a pooler in transaction mode will do: statements
//! have no names, and settings last for one transaction.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use levelflow_common::ShardCount;
use levelflow_runtime::postgres::{Connection, Pool};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::partition::Partitions;
use crate::error::StoreError;

/// How long the server waits for the rest of a transaction that was sent as a whole before it ends the
/// session: a coordinator that stops in the middle of one holds locks, on which others wait that take its
/// shards.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(2);

/// A parameter of a statement, with its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The database of one store.
pub(super) struct Database {
    pub(super) pool: Pool,
    /// The name of the schema, in quotes.
    pub(super) schema: String,
    pub(super) shards: ShardCount,
    pub(super) partitions: Partitions,
    /// The longest that one request may take.
    pub(super) timeout: Duration,
    /// What every transaction that writes sets `synchronous_commit` to.
    pub(super) synchronous_commit: String,
}

impl Database {
    /// A connection for whoever asks.
    pub(super) async fn connect(&self) -> Result<Connection, StoreError> {
        self.pool
            .get()
            .await
            .map_err(|source| StoreError::Unreachable {
                source: Arc::new(source),
            })
    }

    /// Waits for the answer to a request, but not for ever.
    pub(super) async fn bounded<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|error| failed(action, error)),
            Err(_) => Err(StoreError::TimedOut {
                action,
                limit: self.timeout,
            }),
        }
    }

    /// Asks one question: once more if it met a connection that had been closed meanwhile.
    pub(super) async fn query(
        &self,
        action: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let statements = [(statement, parameters)];
        let answer = match self.transact(action, &statements).await {
            Err(StoreError::Postgres { source, .. }) if source.is_closed() => {
                self.transact(action, &statements).await
            }
            answer => answer,
        };
        Ok(answer?.pop().unwrap_or_default())
    }

    /// Does one transaction in one round trip, and gives the rows of each of its statements.
    pub(super) async fn transact(
        &self,
        action: &'static str,
        statements: &[(&str, &[Parameter<'_>])],
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let connection = self.connect().await?;
        let mut pipeline = Pipeline::begin(&connection, self.begin_whole());
        for &(statement, parameters) in statements {
            pipeline.push(statement, parameters);
        }
        let rows = self
            .bounded(action, async {
                pipeline.commit().await.map_err(|(_, error)| error)
            })
            .await?;
        connection.give_back();
        Ok(rows)
    }

    /// What begins a transaction that is sent as a whole.
    pub(super) fn begin_whole(&self) -> String {
        self.begin(IDLE_IN_TRANSACTION)
    }

    /// What begins a transaction whose statements wait for one another's answers.
    pub(super) fn begin_stepwise(&self) -> String {
        self.begin(self.timeout)
    }

    fn begin(&self, idle: Duration) -> String {
        let Self {
            synchronous_commit,
            timeout,
            ..
        } = self;
        let (timeout, idle) = (timeout.as_millis(), idle.as_millis());
        format!(
            "BEGIN; SET LOCAL synchronous_commit TO {synchronous_commit}; \
             SET LOCAL statement_timeout TO {timeout}; \
             SET LOCAL idle_in_transaction_session_timeout TO {idle}"
        )
    }
}

/// A transaction that is sent as a whole before the first answer is read.
pub(super) struct Pipeline<'a> {
    client: &'a Client,
    steps: Vec<BoxFuture<'a, Result<Vec<Row>, Error>>>,
}

/// How far a transaction came that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedStep {
    /// 0 is the beginning.
    pub(super) number: usize,
    /// Whether it was the commit itself.
    pub(super) is_commit: bool,
}

impl<'a> Pipeline<'a> {
    /// Begins with statements that have no parameters.
    pub(super) fn begin(client: &'a Client, begin: String) -> Self {
        let begin = async move { client.batch_execute(&begin).await.map(|()| Vec::new()) };
        Self {
            client,
            steps: vec![begin.boxed()],
        }
    }

    /// Adds a statement.
    pub(super) fn push(&mut self, statement: &'a str, parameters: &'a [Parameter<'a>]) {
        let client = self.client;
        let step = async move { client.query_typed(statement, parameters).await };
        self.steps.push(step.boxed());
    }

    /// Sends all of it. Nothing was changed if a step before the commit failed with an answer of the
    /// server.
    pub(super) async fn commit(mut self) -> Result<Vec<Vec<Row>>, (FailedStep, Error)> {
        let client = self.client;
        let commit = async move { client.batch_execute("COMMIT").await.map(|()| Vec::new()) };
        self.steps.push(commit.boxed());
        let last = self.steps.len() - 1;
        // All are polled in order at first, and each sends its request then.
        let answers = join_all(self.steps).await;
        let rows = answers
            .into_iter()
            .enumerate()
            .map(|(number, answer)| {
                let step = FailedStep {
                    number,
                    is_commit: number == last,
                };
                answer.map_err(|error| (step, error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let statements = rows.into_iter().skip(1).take(last - 1);
        Ok(statements.collect())
    }
}

/// What the server, or the way to it, said to a request.
pub(super) fn failed(action: &'static str, error: Error) -> StoreError {
    StoreError::Postgres {
        action,
        source: Arc::new(error),
    }
}
