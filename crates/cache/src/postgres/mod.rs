//! The tier in PostgreSQL.

mod migration;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::{CacheKey, Timestamp};
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::postgres::{Address, Connection, Pool};
use tokio::sync::OnceCell;
use tokio_postgres::types::ToSql;

use crate::config::{PostgresConfig, wrong};
use crate::entry::Target;
use crate::error::TierError;
use crate::tier::{LeaseToken, Record, SharedTier, Tier, TierKind, Usage};
use migration::migrate;

/// Rows that one statement removes.
const PAGE: u64 = 1_000;
/// Statements of one sweep.
const MAX_PAGES_PER_SWEEP: usize = 20;

const GET: &str = "select sealed from levelflow_cache where key = $1 and expires_at > $2";
/// In the order of their keys, so that two processes that write the same keys do not wait for each other.
const PUT: &str = "insert into levelflow_cache (key, sealed, tenant, workflow, tags, expires_at) \
    select key, sealed, tenant, workflow, tags::jsonb, expires_at from \
    unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bigint[]) \
    as given (key, sealed, tenant, workflow, tags, expires_at) order by key \
    on conflict (key) do update set sealed = excluded.sealed, tenant = excluded.tenant, \
    workflow = excluded.workflow, tags = excluded.tags, expires_at = excluded.expires_at";
const USAGE: &str =
    "select count(*), coalesce(sum(octet_length(sealed)), 0)::bigint from levelflow_cache";
const TAKE_LEASE: &str = "insert into levelflow_cache_lease as lease (key, holder, expires_at) \
    values ($1, $2, clock_timestamp() + $3::bigint * interval '1 microsecond') \
    on conflict (key) do update set holder = excluded.holder, expires_at = excluded.expires_at \
    where lease.holder = excluded.holder or lease.expires_at <= clock_timestamp()";
const END_LEASE: &str = "delete from levelflow_cache_lease where key = $1 and holder = $2";
const SWEEP_LEASES: &str =
    "delete from levelflow_cache_lease where expires_at <= clock_timestamp()";

/// The tier in PostgreSQL.
pub(crate) struct PostgresTier {
    pool: Pool,
    is_migrated: OnceCell<()>,
}

impl PostgresTier {
    /// The tier at an address. Nothing is connected yet.
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self, InvalidSetting> {
        let url = config.address()?;
        let address =
            Address::parse(url.reveal()).map_err(|problem| wrong("postgres.url", problem))?;
        let pool = Pool::new(address, config.max_connections, config.timeout.0);
        Ok(Self {
            pool,
            is_migrated: OnceCell::new(),
        })
    }

    /// Does something with a connection to a database that has the tables.
    async fn with<T>(
        &self,
        request: impl AsyncFnOnce(&Connection) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, TierError> {
        let mut connection = self.pool.get().await?;
        self.is_migrated
            .get_or_try_init(|| migrate(&mut connection))
            .await?;
        let result = request(&connection).await;
        connection.give_back();
        Ok(result?)
    }

    async fn execute(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, TierError> {
        self.with(async |connection| {
            let statement = connection.prepare_cached(statement).await?;
            connection.execute(&statement, parameters).await
        })
        .await
    }

    /// Removes the rows that a condition names, some at a time, for at most so many statements.
    async fn remove_rows(
        &self,
        condition: &str,
        lock: &str,
        parameters: &[&(dyn ToSql + Sync)],
        max_pages: usize,
    ) -> Result<u64, TierError> {
        let statement = format!(
            "with gone as (select key from levelflow_cache where {condition} order by key \
             limit {PAGE} for update {lock}) \
             delete from levelflow_cache using gone where levelflow_cache.key = gone.key"
        );
        let mut removed = 0;
        for _ in 0..max_pages {
            let count = self.execute(&statement, parameters).await?;
            removed += count;
            if count < PAGE {
                break;
            }
        }
        Ok(removed)
    }
}

#[async_trait]
impl Tier for PostgresTier {
    fn kind(&self) -> TierKind {
        TierKind::Postgres
    }

    async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<Bytes>, TierError> {
        let row = self
            .with(async |connection| {
                let statement = connection.prepare_cached(GET).await?;
                let parameters: [&(dyn ToSql + Sync); 2] =
                    [&key.as_bytes().as_slice(), &micros(now)];
                connection.query_opt(&statement, &parameters).await
            })
            .await?;
        let sealed = row.map(|row| row.try_get::<_, Vec<u8>>(0)).transpose()?;
        Ok(sealed.map(Bytes::from))
    }

    async fn put(&self, records: &[Record], _now: Timestamp) -> Result<(), TierError> {
        let all = || records.iter();
        let keys: Vec<&[u8]> = all().map(|record| &record.key.as_bytes()[..]).collect();
        let sealed: Vec<&[u8]> = all().map(|record| &record.sealed[..]).collect();
        let tenants: Vec<&str> = all().map(|record| &*record.labels.tenant).collect();
        let workflows: Vec<&str> = all().map(|record| &*record.labels.workflow).collect();
        let tags = all().map(|record| serde_json::json!(record.labels.tags).to_string());
        let tags: Vec<String> = tags.collect();
        let expiries: Vec<i64> = all().map(|record| micros(record.expires_at)).collect();
        let columns: [&(dyn ToSql + Sync); 6] =
            [&keys, &sealed, &tenants, &workflows, &tags, &expiries];
        self.execute(PUT, &columns).await?;
        Ok(())
    }

    async fn remove(&self, target: &Target) -> Result<u64, TierError> {
        let key;
        let (condition, parameters): (_, Vec<&(dyn ToSql + Sync)>) = match target {
            Target::Key(named) => {
                key = named.as_bytes().as_slice();
                ("key = $1", vec![&key])
            }
            Target::Tag { tenant, tag } => {
                ("tenant = $1 and jsonb_exists(tags, $2)", vec![tenant, tag])
            }
            Target::Workflow { tenant, workflow } => {
                ("tenant = $1 and workflow = $2", vec![tenant, workflow])
            }
            Target::Tenant(tenant) => ("tenant = $1", vec![tenant]),
            Target::All => ("true", vec![]),
        };
        self.remove_rows(condition, "", &parameters, usize::MAX)
            .await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, TierError> {
        self.execute(SWEEP_LEASES, &[]).await?;
        // What others sweep or write at the same time is passed over.
        let condition = "expires_at <= $1";
        self.remove_rows(
            condition,
            "skip locked",
            &[&micros(now)],
            MAX_PAGES_PER_SWEEP,
        )
        .await
    }

    async fn usage(&self) -> Result<Usage, TierError> {
        let row = self
            .with(async |connection| connection.query_one(USAGE, &[]).await)
            .await?;
        Ok(Usage {
            entries: row.try_get::<_, i64>(0)?.unsigned_abs(),
            bytes: row.try_get::<_, i64>(1)?.unsigned_abs(),
        })
    }
}

#[async_trait]
impl SharedTier for PostgresTier {
    async fn prepare(&self) -> Result<(), TierError> {
        self.with(async |_| Ok(())).await
    }

    async fn lease(
        &self,
        key: &CacheKey,
        token: LeaseToken,
        span: Duration,
    ) -> Result<bool, TierError> {
        let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let key = key.as_bytes().as_slice();
        let holder = token.as_bytes().as_slice();
        let taken = self.execute(TAKE_LEASE, &[&key, &holder, &span]).await?;
        Ok(taken == 1)
    }

    async fn release(&self, key: &CacheKey, token: LeaseToken) -> Result<(), TierError> {
        let key = key.as_bytes().as_slice();
        let holder = token.as_bytes().as_slice();
        self.execute(END_LEASE, &[&key, &holder]).await?;
        Ok(())
    }
}

/// Times beyond what the database can hold never come either way.
fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
