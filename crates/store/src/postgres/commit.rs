//! One commit: what is written in one transaction, and how it is found out whether it was.
//!
//! A transaction goes to the server as a whole, in one round trip:
//!
//! 1. It locks the row of the coordinator in `members`, so that whoever takes shards from it waits for the
//!    end of this transaction.
//! 2. It looks whether the shards that it writes to are still the coordinator's, under the epochs that it
//!    knows. This is a statement of its own, because it must see what happened before the lock was had.
//! 3. It writes the rows, and commits.
//!
//! The first two divide by zero when they do not find what they must: what follows in the transaction fails
//! with them, without a wait for the answer.
//!
//! If the connection breaks, the outcome is unknown, and the transaction may even be on its way to the
//! server still. So the coordinator first gives its shards new epochs, in a transaction that locks its row
//! in the other mode and so waits for a transaction that has begun; one that comes later fails by its
//! epochs. Then a single row tells whether the old transaction is there.

use levelflow_common::Protection;
use levelflow_runtime::postgres::Connection;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::columns::Columns;
use super::database::{Database, FailedStep, Parameter, Pipeline, failed};
use super::membership::{Held, Membership, from_column};
use crate::error::StoreError;

const ACTION: &str = "commit";

/// The steps of the transaction that tell whether the shards are held.
const CHECKS: std::ops::RangeInclusive<usize> = 0..=1;

/// Why a commit did not happen, or may not have.
#[derive(Debug)]
pub(super) enum Setback {
    /// It did not happen, and would not if it were tried again.
    Refused(StoreError),
    /// It did not happen, because a partition is missing that was dropped meanwhile.
    PartitionMissing(StoreError),
    /// Whether it happened is not known, or it can be tried again.
    Unsettled(StoreError),
}

/// What became of a commit whose outcome was unknown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// All of it is there.
    Written,
    /// Nothing of it is there, and never will be.
    NotWritten,
}

/// Writes the rows, all or none.
pub(super) async fn write(
    database: &Database,
    client: &Client,
    columns: &Columns,
    held: &Held,
) -> Result<(), Setback> {
    let schema = &database.schema;
    let begin = format!(
        "{}; SELECT 1 / count(*) FROM \
         (SELECT FROM {schema}.members WHERE id = '{}' FOR KEY SHARE) AS member",
        database.begin_whole(),
        held.member
    );
    let shards = i64::try_from(held.shards.len()).unwrap_or(i64::MAX);
    let owned = match Protection::ShardEpoch.holds() {
        true => "count(*) = $1",
        false => "count(*) <= $1",
    };
    let check = format!(
        "SELECT 1 / ({owned})::int FROM {schema}.shards \
         JOIN unnest($2, $3) AS held (shard, epoch) USING (shard, epoch) WHERE owner = $4"
    );
    let mut statements: Vec<(String, Vec<Parameter<'_>>)> = vec![(
        check,
        vec![
            (&shards, Type::INT8),
            (&held.shards, Type::INT2_ARRAY),
            (&held.epochs, Type::INT8_ARRAY),
            (&held.member, Type::UUID),
        ],
    )];
    let Columns {
        definitions,
        journal,
        submits,
        keys,
        changes,
        ..
    } = columns;
    if !definitions.is_empty() {
        statements.push((definitions.statement(schema), definitions.parameters()));
    }
    if !journal.is_empty() {
        statements.push((journal.statement(schema), journal.parameters()));
    }
    if !submits.is_empty() {
        statements.push((submits.statement(schema), submits.parameters()));
    }
    if !keys.is_empty() {
        statements.push((keys.statement(schema), keys.parameters()));
    }
    for (partition, progresses) in changes {
        let table = partition.runs(schema);
        statements.push((progresses.statement(&table), progresses.parameters()));
    }
    let mut pipeline = Pipeline::begin(client, begin);
    for (statement, parameters) in &statements {
        pipeline.push(statement, parameters);
    }
    match tokio::time::timeout(database.timeout, pipeline.commit()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((step, error))) => Err(setback(step, error)),
        Err(_) => Err(Setback::Unsettled(StoreError::TimedOut {
            action: ACTION,
            limit: database.timeout,
        })),
    }
}

fn setback(step: FailedStep, error: Error) -> Setback {
    let Some(code) = error.code().filter(|_| !step.is_commit).cloned() else {
        return Setback::Unsettled(failed(ACTION, error));
    };
    if code == SqlState::DIVISION_BY_ZERO && CHECKS.contains(&step.number) {
        return Setback::Refused(StoreError::ShardLost);
    }
    let error = failed(ACTION, error);
    match code {
        // What the row is for has no partition, or its partition has no table.
        SqlState::CHECK_VIOLATION | SqlState::UNDEFINED_TABLE => Setback::PartitionMissing(error),
        code if passes(&code) => Setback::Unsettled(error),
        _ => Setback::Refused(error),
    }
}

/// Whether what a server answers with this code may be otherwise a moment later.
pub(super) fn passes(code: &SqlState) -> bool {
    // Connections, transactions that were in each other's way, resources, locks, an operator, a standby.
    ["08", "40", "53", "55", "57"]
        .iter()
        .any(|class| code.code().starts_with(class))
        || [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(code)
}

/// Finds out about a commit, and has it never happen if it has not.
pub(super) async fn settle(
    database: &Database,
    connection: &Connection,
    membership: &Membership,
    columns: &Columns,
) -> Result<Settled, StoreError> {
    let owned = membership.owned()?;
    let schema = &database.schema;
    let lock = lock_member(schema);
    let raise = raise_epochs(schema);
    let look = format!(
        "SELECT EXISTS (SELECT FROM {schema}.journal \
         WHERE run = $1 AND first_sequence = $2 AND records = $3)"
    );
    let epoch = format!("SELECT nextval('{schema}.epochs')");
    let (run, first_sequence, records) = columns.witness().unwrap_or_default();
    let member: [Parameter<'_>; 1] = [(&owned.member, Type::UUID)];
    let shards: [Parameter<'_>; 2] = [
        (&owned.member, Type::UUID),
        (&owned.shards, Type::INT2_ARRAY),
    ];
    let witness: [Parameter<'_>; 3] = [
        (&run, Type::INT8),
        (&first_sequence, Type::INT8),
        (&records, Type::BYTEA),
    ];
    let mut pipeline = Pipeline::begin(connection, database.begin_whole());
    pipeline.push(&lock, &member);
    pipeline.push(&epoch, &[]);
    pipeline.push(&raise, &shards);
    pipeline.push(&look, &witness);
    let action = "find out about a commit";
    let rows = database
        .bounded(action, async {
            pipeline.commit().await.map_err(|(_, error)| error)
        })
        .await?;
    let epoch: i64 = rows[1][0].get(0);
    let raised: Vec<_> = rows[2].iter().map(|row| from_column(row.get(0))).collect();
    membership.raise(&raised, epoch);
    Ok(match rows[3][0].get(0) {
        true => Settled::Written,
        false => Settled::NotWritten,
    })
}

/// Waits for the commits that have begun of a member, and keeps others from beginning.
pub(super) fn lock_member(schema: &str) -> String {
    format!("SELECT FROM {schema}.members WHERE id = $1 FOR UPDATE")
}

/// Gives shards that a member owns the epoch that this transaction drew last, so that older commits fail.
pub(super) fn raise_epochs(schema: &str) -> String {
    format!(
        "UPDATE {schema}.shards SET epoch = currval('{schema}.epochs') \
         WHERE owner = $1 AND shard = ANY ($2) RETURNING shard"
    )
}
