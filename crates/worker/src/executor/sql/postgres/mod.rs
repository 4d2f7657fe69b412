//! PostgreSQL.
//!
//! Connections are kept in a pool, with the statements that were prepared on them. Before each task its
//! connection is set back to how it was opened; that travels with the first statement and so takes no
//! time of its own. A connection on which something is still under way when its task ends is not given to
//! others: the server is told to stop, and the connection is closed.

mod failure;
mod parameter;
mod value;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, RecyclingMethod};
use futures_util::TryStreamExt as _;
use levelflow_common::task_input::SqlIsolation;
use levelflow_common::{Code, Failure};
use levelflow_runtime::postgres::Address;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{CancelToken, IsolationLevel, NoTls, RowStream, Statement as Prepared};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::answer::{Answer, More};
use super::config::SqlConnection;
use super::pool::{SqlPool, SqlPoolStatistics, is_new};
use super::work::{Statement, Work};
use super::{SqlError, out_of_time};
use failure::classify;
use parameter::parameters;
use value::Raw;

pub(super) use levelflow_runtime::postgres::is_postgres;

/// Statements that stay prepared on one connection.
const MAX_PREPARED: usize = 256;
/// How much later than the server the worker gives a statement up.
const SERVER_FIRST: Duration = Duration::from_secs(1);
/// How long telling the server to stop may take.
const CANCEL_WITHIN: Duration = Duration::from_secs(3);
/// Makes a connection as if it had just been opened.
const RESET: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

/// A database.
pub(super) struct Postgres {
    pool: SqlPool<Manager>,
    tls: Option<MakeRustlsConnect>,
}

impl Postgres {
    /// The database at an address. Nothing is connected yet.
    pub(super) fn new(url: &str, settings: &SqlConnection) -> Result<Self, String> {
        let Address { mut config, tls } = Address::parse(url)?;
        config.connect_timeout(settings.connect_timeout.0);
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match tls.clone() {
            Some(tls) => Manager::from_config(config, tls, recycling),
            None => Manager::from_config(config, NoTls, recycling),
        };
        Ok(Self {
            pool: SqlPool::new(manager, settings),
            tls,
        })
    }

    pub(super) fn statistics(&self) -> SqlPoolStatistics {
        self.pool.statistics()
    }

    /// Does the work of a task.
    pub(super) async fn run(&self, work: &Work) -> Result<Bytes, SqlError> {
        let deadline = Instant::now() + work.timeout;
        let mut lease = self.lease(work.timeout).await?;
        let exchanges = async {
            match exchange(&mut lease, work).await {
                Err(SqlError::Outdated(_)) => {
                    lease.client().statement_cache.clear();
                    exchange(&mut lease, work).await
                }
                result => result,
            }
        };
        match timeout_at(deadline + SERVER_FIRST, exchanges).await {
            Ok(result) => result,
            Err(_) => Err(SqlError::Unreachable(out_of_time(work.timeout))),
        }
    }

    async fn lease(&self, wait: Duration) -> Result<Lease, SqlError> {
        let object = self.pool.get(wait, |error| classify("", &error)).await?;
        if object.statement_cache.size() >= MAX_PREPARED {
            object.statement_cache.clear();
        }
        Ok(Lease {
            cancel: object.cancel_token(),
            is_new: is_new(&object),
            object: Some(object),
            tls: self.tls.clone(),
            is_settled: false,
        })
    }
}

/// A connection in the hands of one task.
struct Lease {
    object: Option<Object>,
    cancel: CancelToken,
    tls: Option<MakeRustlsConnect>,
    is_new: bool,
    /// Everything that was sent is answered: others may have the connection.
    is_settled: bool,
}

impl Lease {
    fn client(&mut self) -> &mut ClientWrapper {
        self.object
            .as_mut()
            .expect("the connection is here until the lease ends")
    }

    /// What sets the connection back, and the server's own limit of time.
    fn preamble(&self, limit: Duration) -> String {
        let reset = if self.is_new { "" } else { RESET };
        // Milliseconds; 0 would be no limit.
        let limit = limit.as_millis().clamp(1, i32::MAX as u128);
        format!("{reset}SET statement_timeout = {limit}")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without a runtime the process ends, and its connections with it.
        if self.is_settled || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let Some(object) = self.object.take() else {
            return;
        };
        let (cancel, tls) = (self.cancel.clone(), self.tls.clone());
        // Closes the connection; the server would notice only when it has something to send.
        drop(Object::take(object));
        levelflow_runtime::task::spawn("cancel a statement", async move {
            let told = async {
                match tls {
                    Some(tls) => cancel.cancel_query(tls).await,
                    None => cancel.cancel_query(NoTls).await,
                }
            };
            match timeout(CANCEL_WITHIN, told).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "statement not cancelled"),
                Err(_) => tracing::debug!("statement not cancelled in time"),
            }
        });
    }
}

async fn exchange(lease: &mut Lease, work: &Work) -> Result<Bytes, SqlError> {
    lease.is_settled = false;
    if work.in_transaction {
        transaction(lease, work).await
    } else {
        single(lease, work).await
    }
}

/// Runs a statement alone.
async fn single(lease: &mut Lease, work: &Work) -> Result<Bytes, SqlError> {
    let preamble = lease.preamble(work.timeout);
    let [statement] = work.statements.as_slice() else {
        unreachable!("more than one statement is a transaction");
    };
    let client: &ClientWrapper = lease.client();
    let mut answer = Answer::new(work.bounds, false);
    let reset = async {
        let sent = client.batch_execute(&preamble).await;
        // What follows it may still be under way.
        sent.map_err(|error| SqlError::Unreachable(classify("", &error).into()))
    };
    let mut rows_come = false;
    let asked = async {
        let prepared = prepare(client, "", statement).await?;
        let params = parameters("", prepared.params(), &statement.params)?;
        let refused = |error| classify("", &error);
        if !statement.wants_rows {
            let rows = client
                .execute_raw(&prepared, params)
                .await
                .map_err(refused)?;
            answer.affected(rows);
            return Ok(More::Wanted);
        }
        // Before the statement has any effect.
        answer.begin_query(names(&prepared))?;
        let rows = client.query_raw(&prepared, params).await.map_err(refused)?;
        rows_come = true;
        let more = read(rows, &prepared, &mut answer, "").await?;
        answer.end_query();
        Ok(more)
    };
    // The second follows the first without waiting for its answer.
    let result = tokio::try_join!(reset, asked);
    lease.is_settled = match &result {
        Ok(((), more)) => *more == More::Wanted,
        // Rows that nobody wants may still be on their way.
        Err(SqlError::Local(_)) => !rows_come,
        Err(error) => error.is_answer(),
    };
    result?;
    Ok(answer.finish()?)
}

/// Runs all statements as one transaction.
async fn transaction(lease: &mut Lease, work: &Work) -> Result<Bytes, SqlError> {
    let started = Instant::now();
    let preamble = lease.preamble(work.timeout);
    let result = async {
        let client = lease.client();
        let refused = |error| classify("", &error);
        client.batch_execute(&preamble).await.map_err(refused)?;
        let mut builder = client.build_transaction();
        if let Some(isolation) = work.isolation {
            builder = builder.isolation_level(match isolation {
                SqlIsolation::ReadCommitted => IsolationLevel::ReadCommitted,
                SqlIsolation::RepeatableRead => IsolationLevel::RepeatableRead,
                SqlIsolation::Serializable => IsolationLevel::Serializable,
            });
        }
        let transaction = builder.start().await.map_err(refused)?;
        let mut answer = Answer::new(work.bounds, true);
        for (number, statement) in (1..).zip(&work.statements) {
            if started.elapsed() >= work.timeout {
                return Err(SqlError::Refused(out_of_time(work.timeout)));
            }
            step(&transaction, number, statement, work, &mut answer).await?;
        }
        transaction.commit().await.map_err(refused)?;
        Ok(answer)
    }
    .await;
    // What was begun was rolled back when the transaction was dropped.
    lease.is_settled = match &result {
        Ok(_) | Err(SqlError::Local(_)) => true,
        Err(error) => error.is_answer(),
    };
    Ok(result?.finish()?)
}

/// Runs a statement of a transaction. No more rows are asked for than are wanted, so that the connection
/// is free for the next.
async fn step(
    transaction: &deadpool_postgres::Transaction<'_>,
    number: usize,
    statement: &Statement,
    work: &Work,
    answer: &mut Answer,
) -> Result<(), SqlError> {
    let what = format!("statement {number}: ");
    let refused = |error| classify(&what, &error);
    let prepared = transaction
        .prepare_cached(&statement.sql)
        .await
        .map_err(refused)?;
    let params = parameters(&what, prepared.params(), &statement.params)?;
    if !statement.wants_rows {
        let rows = transaction
            .execute_raw(&prepared, params)
            .await
            .map_err(refused)?;
        answer.affected(rows);
        return Ok(());
    }
    answer.begin_query(names(&prepared))?;
    let portal = transaction
        .bind_raw(&prepared, params)
        .await
        .map_err(refused)?;
    let most = i32::try_from(work.bounds.rows.saturating_add(1)).unwrap_or(i32::MAX);
    let rows = transaction
        .query_portal_raw(&portal, most)
        .await
        .map_err(refused)?;
    read(rows, &prepared, answer, &what).await?;
    answer.end_query();
    Ok(())
}

async fn prepare(
    client: &ClientWrapper,
    what: &str,
    statement: &Statement,
) -> Result<Prepared, SqlError> {
    client
        .prepare_cached(&statement.sql)
        .await
        .map_err(|error| classify(what, &error))
}

fn names(prepared: &Prepared) -> impl Iterator<Item = &str> {
    prepared.columns().iter().map(tokio_postgres::Column::name)
}

/// Reads rows until there are no more, or enough.
async fn read(
    rows: RowStream,
    prepared: &Prepared,
    answer: &mut Answer,
    what: &str,
) -> Result<More, SqlError> {
    let mut rows = pin!(rows);
    let columns = prepared.columns();
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(|error| classify(what, &error))?
    {
        let more = answer.row(|place, out| {
            let column = &columns[place];
            let Raw(raw) = row.try_get(place).unwrap_or(Raw(None));
            value::write(out, column.type_(), raw).map_err(|problem| {
                Failure::permanent(
                    Code::SqlFailed,
                    format!("{what}column `{}`: {problem}", column.name()),
                )
            })
        })?;
        if more == More::Enough {
            return Ok(More::Enough);
        }
    }
    Ok(More::Wanted)
}
