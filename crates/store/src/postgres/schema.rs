//! Opening the database: whether its server can be relied on, and the tables.

use levelflow_common::ShardCount;
use levelflow_runtime::postgres::{Address, Connection, Pool};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

use super::config::{Config, wrong};
use super::database::Database;
use super::partition::{Partition, Partitions};
use crate::error::StoreError;
use crate::migration;

/// The oldest server, as `server_version_num` has it.
const OLDEST_SERVER: i32 = 140_000;
/// What `synchronous_commit` may be with which a confirmed commit survives a crash of the server.
const SAFE_MODES: [&str; 4] = ["on", "remote_apply", "remote_write", "local"];

/// Opens the database, and makes or migrates its tables.
pub(super) async fn open(config: &Config) -> Result<Database, StoreError> {
    config.validate().map_err(StoreError::Setting)?;
    let shards = config.shard_count().map_err(StoreError::Setting)?;
    let address = config
        .address()
        .and_then(|url| Address::parse(url.reveal()).map_err(|problem| wrong("url", problem)));
    let address = address.map_err(StoreError::Setting)?;
    let timeout = config.timeout.0;
    let mut database = Database {
        pool: Pool::new(address, config.max_connections, timeout),
        schema: format!("\"{}\"", config.schema),
        shards,
        partitions: Partitions::new(shards, config.partition.0),
        timeout,
        synchronous_commit: String::new(),
    };
    let connection = database.connect().await?;
    database.synchronous_commit = check_server(&database, &connection, config.allow_unsafe).await?;
    database.partitions.width = migrate(&database, &connection, config).await?;
    connection.give_back();
    Ok(database)
}

/// Gives the mode in which commits are confirmed.
async fn check_server(
    database: &Database,
    connection: &Connection,
    allow_unsafe: bool,
) -> Result<String, StoreError> {
    let settings = "SELECT current_setting('server_version_num')::int, current_setting('fsync'), \
         current_setting('full_page_writes'), current_setting('synchronous_commit')";
    let rows = database
        .bounded(
            "ask for settings",
            connection.query_typed_one(settings, &[]),
        )
        .await?;
    let found: i32 = rows.get(0);
    if found < OLDEST_SERVER {
        return Err(StoreError::ServerTooOld {
            found: found / 10_000,
            required: OLDEST_SERVER / 10_000,
        });
    }
    let mode: String = rows.get(3);
    for (setting, value, is_safe) in [
        ("fsync", rows.get(1), rows.get::<_, &str>(1) == "on"),
        (
            "full_page_writes",
            rows.get(2),
            rows.get::<_, &str>(2) == "on",
        ),
        (
            "synchronous_commit",
            mode.clone(),
            SAFE_MODES.contains(&mode.as_str()),
        ),
    ] {
        let value: String = value;
        if is_safe {
            continue;
        }
        if !allow_unsafe {
            return Err(StoreError::UnsafeServer { setting, value });
        }
        tracing::warn!(setting, value, "the server may lose what it confirmed");
    }
    // It becomes part of statements.
    Ok(match SAFE_MODES.contains(&mode.as_str()) {
        true => mode,
        false => "off".to_owned(),
    })
}

/// Brings the tables to the newest version, and gives the width of their partitions.
async fn migrate(database: &Database, client: &Client, config: &Config) -> Result<i64, StoreError> {
    const ACTION: &str = "migrate the tables";

    let schema = &database.schema;
    let found = database
        .bounded(ACTION, async {
            client.batch_execute(&database.begin_stepwise()).await?;
            lock(client, schema).await?;
            let exists = "SELECT FROM pg_namespace WHERE nspname = $1";
            let exists = client
                .query_typed(exists, &[(&config.schema, Type::TEXT)])
                .await?;
            // `IF NOT EXISTS` would ask for the right to make one even then.
            if exists.is_empty() {
                client
                    .batch_execute(&format!("CREATE SCHEMA {schema}"))
                    .await?;
            }
            client
                .batch_execute(&format!(
                    "SET LOCAL search_path TO {schema}; CREATE TABLE IF NOT EXISTS meta \
                     (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL)"
                ))
                .await?;
            meta(client, "schema_version").await
        })
        .await?;
    let found = u32::try_from(found.unwrap_or(0)).unwrap_or(u32::MAX);
    let pending =
        migration::pending(migration::POSTGRES, found).ok_or_else(|| StoreError::TooNew {
            database: format!("the schema `{}`", config.schema).into(),
            found,
            supported: migration::latest(migration::POSTGRES),
        })?;
    let (shards, width) = database
        .bounded(ACTION, async {
            for migration in pending {
                client.batch_execute(migration.sql).await?;
                set_meta(client, "schema_version", i64::from(migration.version)).await?;
                tracing::info!(version = migration.version, "migrated the store");
            }
            if found == 0 {
                fill(client, database.shards, database.partitions).await?;
            }
            Ok((
                meta(client, "shards").await?,
                meta(client, "partition_width").await?,
            ))
        })
        .await?;
    let shards = shards.unwrap_or(0);
    if shards != i64::from(config.shards) {
        return Err(StoreError::ShardCountDiffers {
            schema: config.schema.clone(),
            found: shards,
            configured: config.shards,
        });
    }
    database
        .bounded(ACTION, client.batch_execute("COMMIT"))
        .await?;
    Ok(width.unwrap_or(database.partitions.width))
}

/// What is fixed when a store is made.
async fn fill(client: &Client, shards: ShardCount, partitions: Partitions) -> Result<(), Error> {
    set_meta(client, "shards", i64::from(shards.get())).await?;
    set_meta(client, "partition_width", partitions.width).await?;
    let last = i32::from(shards.get()) - 1;
    client
        .execute_typed(
            "INSERT INTO shards (shard) SELECT generate_series(0, $1::int)",
            &[(&last, Type::INT4)],
        )
        .await?;
    Ok(())
}

async fn meta(client: &Client, name: &str) -> Result<Option<i64>, Error> {
    let find = "SELECT value FROM meta WHERE name = $1";
    let row = client.query_typed_opt(find, &[(&name, Type::TEXT)]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

async fn set_meta(client: &Client, name: &str, value: i64) -> Result<(), Error> {
    let set = "INSERT INTO meta (name, value) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    client
        .execute_typed(set, &[(&name, Type::TEXT), (&value, Type::INT8)])
        .await?;
    Ok(())
}

/// Has a transaction be the only one that changes the tables of a schema.
pub(super) async fn lock(client: &Client, schema: &str) -> Result<(), Error> {
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
    client
        .query_typed(lock, &[(&lock_name(schema), Type::TEXT)])
        .await?;
    Ok(())
}

/// Like [`lock`], unless another transaction has it.
pub(super) async fn try_lock(client: &Client, schema: &str) -> Result<bool, Error> {
    let lock = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
    let row = client
        .query_typed_one(lock, &[(&lock_name(schema), Type::TEXT)])
        .await?;
    row.try_get(0)
}

fn lock_name(schema: &str) -> String {
    format!("levelflow {schema}")
}

impl Database {
    /// Makes a partition and the one after it, where they are missing.
    pub(super) async fn make_partitions(&self, partition: Partition) -> Result<(), StoreError> {
        let connection = self.connect().await?;
        self.bounded("make a partition", async {
            connection.batch_execute(&self.begin_stepwise()).await?;
            lock(&connection, &self.schema).await?;
            for partition in [partition, partition.next()] {
                self.partitions
                    .make(&connection, &self.schema, partition)
                    .await?;
            }
            connection.batch_execute("COMMIT").await
        })
        .await?;
        connection.give_back();
        Ok(())
    }

    /// The partitions that there are, the oldest first.
    pub(super) async fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        let parts = "SELECT part.relname::text FROM pg_inherits \
             JOIN pg_class AS part ON part.oid = inhrelid \
             WHERE inhparent = to_regclass($1)";
        let table = format!("{}.runs", self.schema);
        let rows = self
            .query("look for partitions", parts, &[(&table, Type::TEXT)])
            .await?;
        let mut found: Vec<_> = rows
            .iter()
            .filter_map(|row| Partition::of_runs_table(row.get(0)))
            .collect();
        found.sort();
        Ok(found)
    }
}
