//! The tables of the tier, made and changed by whichever process comes first.

use tokio_postgres::Client;

use crate::error::TierError;

/// What leads from each version of the tables to the next. They are not logged: a cache may be lost in a
/// crash, and writes cost half. Entries are compressed before they come here.
const MIGRATIONS: &[&str] = &["
    create unlogged table levelflow_cache (
        key bytea primary key,
        sealed bytea not null,
        tenant text not null,
        workflow text not null,
        tags jsonb not null,
        expires_at bigint not null
    );
    alter table levelflow_cache alter column sealed set storage external;
    create index levelflow_cache_expiry on levelflow_cache (expires_at);
    create index levelflow_cache_labels on levelflow_cache (tenant, workflow);
    create unlogged table levelflow_cache_lease (
        key bytea primary key,
        holder bytea not null,
        expires_at timestamptz not null
    );
"];

/// The number of the advisory lock under which tables are changed: `cache` in letters.
const LOCK: i64 = 0x63_61_63_68_65;

/// Brings the tables to the newest version.
pub(super) async fn migrate(client: &mut Client) -> Result<(), TierError> {
    let transaction = client.transaction().await?;
    transaction
        .execute("select pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    transaction
        .batch_execute("create table if not exists levelflow_cache_version (version int not null)")
        .await?;
    let found = transaction
        .query_opt("select version from levelflow_cache_version", &[])
        .await?
        .map(|row| row.get::<_, i32>(0));
    let supported = MIGRATIONS.len() as i32;
    let version = found.unwrap_or(0);
    if version > supported {
        return Err(TierError::TooNew {
            found: version,
            supported,
        });
    }
    for migration in &MIGRATIONS[version as usize..] {
        transaction.batch_execute(migration).await?;
    }
    let record = match found {
        Some(_) => "update levelflow_cache_version set version = $1",
        None => "insert into levelflow_cache_version values ($1)",
    };
    transaction.execute(record, &[&supported]).await?;
    transaction.commit().await?;
    Ok(())
}
