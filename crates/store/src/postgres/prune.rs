//! Deleting runs that ended long ago, whole partitions at a time.
//!
//! A partition goes when all its runs ended long enough ago. Until then they stay, so some are kept for as
//! long as a partition spans beyond their time. Where a run in a partition is still open that is old
//! otherwise, the others are deleted row by row, and the partition goes when that run has ended. So it is,
//! too, where run numbers say nothing of time.

use levelflow_common::Timestamp;
use levelflow_runtime::postgres::Connection;
use tokio_postgres::Error;
use tokio_postgres::types::Type;

use super::database::{Database, Parameter};
use super::partition::Partition;
use super::query::OPEN;
use super::schema::try_lock;
use crate::column;
use crate::error::StoreError;

/// How long the drop of a partition waits for those who read or write. Everybody who comes after waits
/// behind it, so it is tried again later.
const LOCK_WITHIN_MILLISECONDS: u32 = 500;

/// What becomes of a partition.
enum Fate {
    /// It is too young; so are all after it.
    Stays,
    /// All its runs ended long ago.
    Goes,
    /// Some are open or ended lately.
    Thins,
}

impl Database {
    /// Deletes what ended before a time, the oldest first. Stops after `limit` runs, or after the partition
    /// in which that is reached.
    pub(super) async fn prune(
        &self,
        ended_before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let before = column::micros(ended_before);
        let mut deleted = 0;
        let partitions = self.partitions().await?;
        // New runs go into the newest ones.
        for (place, &partition) in partitions.iter().enumerate() {
            if deleted >= limit {
                break;
            }
            let may_go = place + 2 < partitions.len();
            match self.fate(partition, before, may_go).await? {
                Fate::Stays => break,
                Fate::Goes => deleted += self.drop_partition(partition).await?,
                Fate::Thins => deleted += self.thin(partition, before, limit - deleted).await?,
            }
        }
        Ok(deleted)
    }

    async fn fate(
        &self,
        partition: Partition,
        before: i64,
        may_go: bool,
    ) -> Result<Fate, StoreError> {
        let table = partition.runs(&self.schema);
        // The newest and the oldest run by number are about those by time.
        let look = format!(
            "SELECT (SELECT submitted_at >= $1 FROM {table} ORDER BY number LIMIT 1), \
             (SELECT submitted_at >= $1 FROM {table} ORDER BY number DESC LIMIT 1), \
             EXISTS (SELECT FROM {table} WHERE {OPEN})"
        );
        let parameters: [Parameter<'_>; 1] = [(&before, Type::INT8)];
        let rows = self.query("look at old runs", &look, &parameters).await?;
        let is_young = |column| rows[0].get::<_, Option<bool>>(column);
        let has_open: bool = rows[0].get(2);
        match (is_young(0), is_young(1)) {
            (Some(true), _) => return Ok(Fate::Stays),
            (_, Some(true)) if self.partitions.per_millisecond.is_some() => return Ok(Fate::Stays),
            (_, Some(true)) => return Ok(Fate::Thins),
            // An empty one goes if none will be submitted to it.
            (None, _) | (_, None) if !may_go => return Ok(Fate::Stays),
            _ => {}
        }
        if has_open || !may_go {
            return Ok(Fate::Thins);
        }
        let late = format!("SELECT EXISTS (SELECT FROM {table} WHERE finished_at >= $1)");
        let rows = self.query("look at old runs", &late, &parameters).await?;
        Ok(match rows[0].get(0) {
            true => Fate::Thins,
            false => Fate::Goes,
        })
    }

    /// Drops the tables of a partition, and says how many runs there were. Runs that another coordinator
    /// has just put there stay.
    async fn drop_partition(&self, partition: Partition) -> Result<usize, StoreError> {
        let connection = self.connect().await?;
        let dropped = self
            .bounded("drop a partition", self.drop_tables(&connection, partition))
            .await?;
        connection.give_back();
        Ok(dropped)
    }

    async fn drop_tables(
        &self,
        connection: &Connection,
        partition: Partition,
    ) -> Result<usize, Error> {
        let begin = format!(
            "{}; SET LOCAL lock_timeout TO {LOCK_WITHIN_MILLISECONDS}",
            self.begin_stepwise()
        );
        let (table, journal) = (
            partition.runs(&self.schema),
            partition.journal(&self.schema),
        );
        // Counted before everybody has to wait.
        let count = format!("SELECT count(*) FROM {table}");
        let row = connection.query_typed_one(&count, &[]).await?;
        let mut runs = column::number(row.get(0));
        connection.batch_execute(&begin).await?;
        let mut is_dropped = false;
        if try_lock(connection, &self.schema).await? {
            // In the order in which commits write to them.
            let lock = format!(
                "LOCK TABLE ONLY {schema}.journal, ONLY {schema}.runs",
                schema = self.schema
            );
            connection.batch_execute(&lock).await?;
            let open = format!("SELECT EXISTS (SELECT FROM {table} WHERE {OPEN})");
            let row = connection.query_typed_one(&open, &[]).await?;
            if !row.get::<_, bool>(0) {
                let drop = format!("DROP TABLE {journal}, {table}");
                connection.batch_execute(&drop).await?;
                let (from, to) = self.partitions.bounds(partition);
                let keys = format!(
                    "DELETE FROM {}.submit_keys WHERE run >= {from} AND run < {to}",
                    self.schema
                );
                connection.batch_execute(&keys).await?;
                is_dropped = true;
            }
        }
        connection.batch_execute("COMMIT").await?;
        match is_dropped {
            true => tracing::info!(partition = partition.0, runs, "dropped a partition"),
            false => runs = 0,
        }
        Ok(usize::try_from(runs).unwrap_or(usize::MAX))
    }

    /// Deletes rows of a partition.
    async fn thin(
        &self,
        partition: Partition,
        before: i64,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let (runs, journal) = (
            partition.runs(&self.schema),
            partition.journal(&self.schema),
        );
        // What another coordinator deletes at the same time is passed over.
        let delete = format!(
            "WITH old AS (SELECT number FROM {runs} WHERE finished_at < $1 \
               ORDER BY number LIMIT $2 FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM {journal} USING old WHERE run = old.number), \
             keys AS (DELETE FROM {}.submit_keys USING old WHERE run = old.number) \
             DELETE FROM {runs} AS runs USING old WHERE runs.number = old.number RETURNING runs.number",
            self.schema
        );
        let limit = column::integer(limit as u64);
        let parameters: [Parameter<'_>; 2] = [(&before, Type::INT8), (&limit, Type::INT8)];
        let statements: [(&str, &[Parameter<'_>]); 1] = [(&delete, &parameters)];
        let rows = self.transact("delete old runs", &statements).await?;
        Ok(rows[0].len())
    }
}
