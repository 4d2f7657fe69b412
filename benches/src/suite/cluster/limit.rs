//! What PostgreSQL allows: a bare loop that writes a journal and the rows of its runs, one transaction after the
//! other, each in one round trip.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use levelflow_runtime::postgres::{Address, Connection, Pool};
use tokio_postgres::types::ToSql;

/// Rows of the journal in a transaction.
pub(super) const BATCHES: [usize; 2] = [64, 256];
/// Rows of runs that change with them.
const RUNS: usize = 16;
/// About what a record of the journal takes.
const ROW_BYTES: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The tables of the loop, which are dropped with it.
pub(super) struct Limit {
    connection: Connection,
    schema: String,
    next_run: i64,
}

impl Limit {
    pub(super) async fn open(url: &str, schema: String) -> Result<Self> {
        let address = Address::parse(url).map_err(anyhow::Error::msg)?;
        let connection = Pool::new(address, 1, TIMEOUT).get().await?;
        connection
            .batch_execute(&format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.journal (
                     run int8, sequence int8, record bytea NOT NULL, PRIMARY KEY (run, sequence));
                 CREATE TABLE {schema}.runs (run int8 PRIMARY KEY, status int2, counts bytea)"
            ))
            .await?;
        Ok(Self {
            connection,
            schema,
            next_run: 0,
        })
    }

    /// Journal rows per second, in transactions of so many.
    pub(super) async fn rows_per_s(&mut self, batch: usize, time: Duration) -> Result<f64> {
        let Self {
            connection, schema, ..
        } = self;
        let insert = format!(
            "INSERT INTO {schema}.journal SELECT * FROM unnest($1::int8[], $2::int8[], $3::bytea[])"
        );
        let upsert = format!(
            "INSERT INTO {schema}.runs SELECT * FROM unnest($1::int8[], $2::int2[], $3::bytea[])
             ON CONFLICT (run) DO UPDATE SET status = excluded.status, counts = excluded.counts"
        );
        let insert = connection.prepare(&insert).await?;
        let upsert = connection.prepare(&upsert).await?;
        let records = vec![vec![0x5a_u8; ROW_BYTES]; batch];
        let counts = vec![vec![0x5a_u8; ROW_BYTES / 2]; RUNS];
        let statuses = vec![1_i16; RUNS];
        let each = batch / RUNS;
        let sequences: Vec<i64> = (0..batch).map(|row| (row % each) as i64).collect();
        let started = Instant::now();
        let mut commits = 0_u64;
        while started.elapsed() < time {
            let runs: Vec<i64> = (self.next_run..).take(RUNS).collect();
            let runs_of_rows: Vec<i64> = (0..batch).map(|row| runs[row / each]).collect();
            self.next_run += RUNS as i64;
            let rows: [&(dyn ToSql + Sync); 3] = [&runs_of_rows, &sequences, &records];
            let changes: [&(dyn ToSql + Sync); 3] = [&runs, &statuses, &counts];
            // All of it is sent before the first answer comes.
            futures_util::try_join!(
                connection.batch_execute("BEGIN"),
                connection.execute(&insert, &rows),
                connection.execute(&upsert, &changes),
                connection.batch_execute("COMMIT"),
            )
            .context("the bare loop cannot write")?;
            commits += 1;
        }
        Ok(commits as f64 * batch as f64 / started.elapsed().as_secs_f64())
    }

    pub(super) async fn close(self) -> Result<()> {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        Ok(self.connection.batch_execute(&drop).await?)
    }
}
