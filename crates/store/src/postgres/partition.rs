//! The partitions of runs and journal: so many run numbers each, which are so much time.

use std::time::Duration;

use levelflow_common::{RunId, ShardCount};
use levelflow_engine::RunNumber;
use tokio_postgres::{Client, Error};

use crate::column;

/// Run numbers of one shard that a millisecond has.
const NUMBERS_PER_MILLISECOND: u64 = 1 << 8;
/// Run numbers of a partition where they are counted from 1 and say nothing of time.
const COUNTED_WIDTH: u64 = 1 << 22;

/// How far the number of a run may be from the time of its id, unless clocks are wrong.
const AROUND_MILLISECONDS: u64 = 10 * 60 * 1000;

/// How runs are cut into partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partitions {
    /// How many run numbers one has.
    pub(super) width: i64,
    /// Run numbers that a millisecond has. None if they are counted and say nothing of time; otherwise what
    /// is in a partition becomes old together.
    pub(super) per_millisecond: Option<u64>,
}

/// One partition, by its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partition(pub(super) i64);

impl Partitions {
    /// Of a new store.
    pub(super) fn new(shards: ShardCount, span: Duration) -> Self {
        let per_millisecond =
            (shards != ShardCount::ONE).then(|| NUMBERS_PER_MILLISECOND * u64::from(shards.get()));
        let width = per_millisecond.map_or(COUNTED_WIDTH, |numbers| {
            let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            milliseconds.saturating_mul(numbers)
        });
        Self {
            width: column::integer(width),
            per_millisecond,
        }
    }

    /// The numbers of runs of about the time that an id was made, if numbers tell of time.
    pub(super) fn around(self, id: RunId) -> Option<(i64, i64)> {
        let per_millisecond = self.per_millisecond?;
        let [a, b, c, d, e, f, ..] = *id.as_bytes();
        let milliseconds = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let number =
            |milliseconds: u64| column::integer(milliseconds.saturating_mul(per_millisecond));
        let from = milliseconds.saturating_sub(AROUND_MILLISECONDS);
        Some((number(from), number(milliseconds + AROUND_MILLISECONDS)))
    }

    /// Where a run is.
    pub(super) fn of(self, run: RunNumber) -> Partition {
        Partition(column::integer(run.0) / self.width)
    }

    /// The first number of a partition, and the first after it.
    pub(super) fn bounds(self, partition: Partition) -> (i64, i64) {
        let from = partition.0.saturating_mul(self.width);
        (from, from.saturating_add(self.width))
    }

    /// Makes the tables of a partition, unless they are there. To be called in a transaction that holds
    /// the lock of the schema.
    ///
    /// The table is attached, and not made as a partition, because that would wait for everybody who
    /// reads, and have everybody wait who comes after.
    pub(super) async fn make(
        self,
        client: &Client,
        schema: &str,
        partition: Partition,
    ) -> Result<(), Error> {
        let (from, to) = self.bounds(partition);
        let exists = client
            .query_typed(
                &format!("SELECT to_regclass('{}')::text", partition.runs(schema)),
                &[],
            )
            .await?;
        let exists: Option<String> = exists.first().and_then(|row| row.get(0));
        if exists.is_some() {
            return Ok(());
        }
        let parts = [
            ("runs", partition.runs(schema)),
            ("journal", partition.journal(schema)),
        ];
        for (parent, part) in parts {
            client
                .batch_execute(&format!(
                    "CREATE TABLE {part} (LIKE {schema}.{parent} INCLUDING ALL); \
                     ALTER TABLE {schema}.{parent} ATTACH PARTITION {part} \
                     FOR VALUES FROM ({from}) TO ({to})"
                ))
                .await?;
        }
        tracing::info!(partition = partition.0, "made a partition");
        Ok(())
    }
}

impl Partition {
    /// The one after it.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The table with its runs.
    pub(super) fn runs(self, schema: &str) -> String {
        format!("{schema}.runs_{}", self.0)
    }

    /// The table with their journals.
    pub(super) fn journal(self, schema: &str) -> String {
        format!("{schema}.journal_{}", self.0)
    }

    /// The partition of a table that has its runs.
    pub(super) fn of_runs_table(name: &str) -> Option<Self> {
        name.strip_prefix("runs_")?.parse().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::ShardId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_partition_is_a_time() {
        let shards = ShardCount::new(64).unwrap();
        let day = Duration::from_secs(86_400);
        let partitions = Partitions::new(shards, day);
        let number = |milliseconds: u64| RunNumber((milliseconds << 8) * 64 + 5);
        assert_eq!(partitions.of(number(86_400_000 * 3 - 1)), Partition(2));
        assert_eq!(partitions.of(number(86_400_000 * 3)), Partition(3));
        let (from, to) = partitions.bounds(Partition(3));
        assert_eq!(to - from, partitions.width);
        assert!(from <= column::integer(number(86_400_000 * 3).0));
        let id = shards.run_id(ShardId(5), Uuid::from_u64_pair(86_400_000 << 16, 7));
        let (from, to) = partitions.around(id).unwrap();
        let number = column::integer(number(86_400_000).0);
        assert!(from <= number && number < to);
        assert_eq!(partitions.of(RunNumber(column::number(from))), Partition(0));
        assert_eq!(partitions.of(RunNumber(column::number(to))), Partition(1));
        assert_eq!(Partitions::new(ShardCount::ONE, day).around(id), None);
    }

    #[test]
    fn tables_tell_their_partition() {
        let name = Partition(17).runs("s");
        let (_, table) = name.split_once('.').unwrap();
        assert_eq!(Partition::of_runs_table(table), Some(Partition(17)));
        assert_eq!(Partition::of_runs_table("runs"), None);
    }
}
