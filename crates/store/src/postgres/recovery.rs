//! What a coordinator starts from: the open runs of its shards.

use std::collections::BTreeMap;

use bytes::Bytes;
use levelflow_common::{ShardId, WorkflowDigest};
use levelflow_engine::{Record, RunNumber};
use tokio_postgres::types::Type;

use super::commit::{lock_member, raise_epochs};
use super::database::{Database, Parameter};
use super::membership::{Membership, from_column, to_column};
use super::query::{self, OPEN};
use crate::codec;
use crate::column;
use crate::error::{DecodeError, StoreError};
use crate::journal_page::check_follows;
use crate::port::Recovery;

/// Runs whose journals are read by one statement.
const RUNS_AT_ONCE: usize = 256;

/// Has all that a member committed before be decided, and reads what is open in the shards that are left
/// to it.
pub(super) async fn recover(
    database: &Database,
    membership: &Membership,
) -> Result<Recovery, StoreError> {
    let schema = &database.schema;
    let next_epoch = format!("SELECT nextval('{schema}.epochs')");
    let Ok(owned) = membership.owned() else {
        // Who is no member yet has nothing that it could have lost.
        let rows = database.query("raise the epoch", &next_epoch, &[]).await?;
        return read(database, Vec::new(), rows[0].get(0)).await;
    };
    let (lock, raise) = (lock_member(schema), raise_epochs(schema));
    let member: [Parameter<'_>; 1] = [(&owned.member, Type::UUID)];
    let shards: [Parameter<'_>; 2] = [
        (&owned.member, Type::UUID),
        (&owned.shards, Type::INT2_ARRAY),
    ];
    let statements: [(&str, &[Parameter<'_>]); 3] =
        [(&lock, &member), (&next_epoch, &[]), (&raise, &shards)];
    let rows = database.transact("raise the epoch", &statements).await?;
    let epoch: i64 = rows[1][0].get(0);
    let mut kept: Vec<_> = rows[2].iter().map(|row| from_column(row.get(0))).collect();
    kept.sort();
    let all = owned.shards.iter().map(|&shard| from_column(shard));
    let lost: Vec<_> = all.filter(|shard| !kept.contains(shard)).collect();
    membership.drop_shards(&lost);
    membership.raise(&kept, epoch);
    read(database, kept, epoch).await
}

/// Reads what is open in some shards, which nobody else writes to.
pub(super) async fn read(
    database: &Database,
    shards: Vec<ShardId>,
    epoch: i64,
) -> Result<Recovery, StoreError> {
    let schema = &database.schema;
    let count = i64::from(database.shards.get());
    let columns: Vec<i16> = shards.iter().map(|&shard| to_column(shard)).collect();
    let last = format!("SELECT max(number) FROM {schema}.runs");
    let last = database.query("read run numbers", &last, &[]).await?;
    let last: Option<i64> = last[0].get(0);
    let open = format!(
        "SELECT number, digest FROM {schema}.runs \
         WHERE {OPEN} AND (number % $1)::smallint = ANY ($2) ORDER BY number"
    );
    let parameters: [Parameter<'_>; 2] = [(&count, Type::INT8), (&columns, Type::INT2_ARRAY)];
    let rows = database.query("read open runs", &open, &parameters).await?;
    let mut numbers = Vec::with_capacity(rows.len());
    let mut digests = BTreeMap::new();
    for row in &rows {
        numbers.push(row.get::<_, i64>(0));
        let digest: Vec<u8> = row.get(1);
        digests.insert(digest, ());
    }
    let mut open = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(RUNS_AT_ONCE) {
        open.extend(journals(database, numbers).await?);
    }
    Ok(Recovery {
        epoch: column::number(epoch),
        shards,
        next_run: RunNumber(column::number(last.unwrap_or(0)) + 1),
        definitions: definitions(database, digests.into_keys().collect()).await?,
        open,
    })
}

/// The journals of some runs, by number.
async fn journals(
    database: &Database,
    numbers: &[i64],
) -> Result<Vec<(RunNumber, Vec<Record>)>, StoreError> {
    let read = format!(
        "SELECT run, first_sequence, records FROM {}.journal \
         WHERE run = ANY ($1) ORDER BY run, first_sequence",
        database.schema
    );
    let rows = database
        .query("read journals", &read, &[(&numbers, Type::INT8_ARRAY)])
        .await?;
    let mut runs: Vec<(RunNumber, Vec<Record>)> = Vec::with_capacity(numbers.len());
    for row in &rows {
        let run = RunNumber(column::number(row.get(0)));
        let first = column::number(row.get(1));
        let records = codec::decode(run, first, query::blob(row, 2))?;
        match runs.last_mut().filter(|(last, _)| *last == run) {
            Some((_, known)) => {
                check_follows(run, known.len() as u64 + 1, first)?;
                known.extend(records);
            }
            None => {
                check_follows(run, 1, first)?;
                runs.push((run, records));
            }
        }
    }
    // Every run has at least the record of its submit.
    let missing = numbers
        .iter()
        .map(|&number| RunNumber(column::number(number)));
    match missing
        .into_iter()
        .find(|number| runs.binary_search_by_key(number, |(run, _)| *run).is_err())
    {
        Some(run) => Err(StoreError::RunCorrupt {
            run,
            source: DecodeError::Missing("journal"),
        }),
        None => Ok(runs),
    }
}

async fn definitions(
    database: &Database,
    digests: Vec<Vec<u8>>,
) -> Result<Vec<(WorkflowDigest, Bytes)>, StoreError> {
    let read = format!(
        "SELECT digest, canonical FROM {}.definitions WHERE digest = ANY ($1) ORDER BY digest",
        database.schema
    );
    let rows = database
        .query("read definitions", &read, &[(&digests, Type::BYTEA_ARRAY)])
        .await?;
    let rows = rows.iter().filter_map(|row| {
        let digest = WorkflowDigest::from_slice(row.get(0))?;
        Some((digest, query::blob(row, 1)))
    });
    Ok(rows.collect())
}
