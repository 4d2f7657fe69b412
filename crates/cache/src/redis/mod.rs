//! The tier in Redis.
//!
//! An entry is one key that Redis ends by itself. There is no index of labels beside them: Redis may
//! evict any key, and an index that lost some of its own would leave entries that were to be removed.
//! So entries that have a label are looked for among all, which takes a while, and is asked for rarely.

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::{CacheKey, Timestamp};
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::tls::install_tls_provider;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, Pipeline, cmd};

use crate::codec::{peek_expiry, peek_labels};
use crate::config::{RedisConfig, wrong};
use crate::entry::Target;
use crate::error::TierError;
use crate::tier::{LeaseToken, Record, SharedTier, Tier, TierKind, Usage};

/// Keys that are looked at together.
const PAGE: usize = 1_000;
/// More bytes than the labels of an entry, and what comes before them, can have.
const LABELS_WITHIN: usize = 8 * 1024;
/// The longest time between attempts to connect.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);

const TAKE_LEASE: &str = "local holder = redis.call('GET', KEYS[1]) \
    if holder and holder ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1";
const END_LEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('DEL', KEYS[1]) end return 1";

/// The tier in Redis.
pub(crate) struct RedisTier {
    connection: ConnectionManager,
    prefix: String,
}

impl RedisTier {
    /// The tier at an address. Nothing is connected yet.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, InvalidSetting> {
        let url = config.address()?;
        // What the client says of a wrong address may have a password in it.
        let unusable = |_| wrong("redis.url", "is not an address of Redis");
        let client = Client::open(url.reveal()).map_err(unusable)?;
        install_tls_provider();
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(config.timeout.0))
            .set_response_timeout(Some(config.timeout.0))
            .set_max_delay(RECONNECT_WITHIN);
        let connection =
            ConnectionManager::new_lazy_with_config(client, settings).map_err(unusable)?;
        Ok(Self {
            connection,
            prefix: config.prefix.clone(),
        })
    }

    fn entry(&self, key: &CacheKey) -> String {
        format!("{}:cache:{key}", self.prefix)
    }

    fn lease_of(&self, key: &CacheKey) -> String {
        format!("{}:lease:{key}", self.prefix)
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, TierError> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    async fn ask_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, TierError> {
        Ok(commands.query_async(&mut self.connection.clone()).await?)
    }

    /// The next of all entries, by the names of their keys, and where to go on; at the end that is 0.
    async fn page(&self, cursor: u64) -> Result<(u64, Vec<String>), TierError> {
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(format!("{}:cache:*", self.prefix))
            .arg("COUNT")
            .arg(PAGE);
        self.ask(&scan).await
    }

    /// Those of the entries that are meant.
    async fn meant(&self, target: &Target, names: Vec<String>) -> Result<Vec<String>, TierError> {
        if *target == Target::All || names.is_empty() {
            return Ok(names);
        }
        let mut heads = redis::pipe();
        for name in &names {
            let end = LABELS_WITHIN - 1;
            heads.cmd("GETRANGE").arg(name).arg(0).arg(end);
        }
        let heads: Vec<Vec<u8>> = self.ask_all(&heads).await?;
        let meant = names.into_iter().zip(heads).filter(|(_, head)| {
            let labels = peek_labels(&Bytes::copy_from_slice(head));
            labels.is_ok_and(|labels| target.names_labels(&labels))
        });
        Ok(meant.map(|(name, _)| name).collect())
    }

    async fn unlink(&self, names: &[String]) -> Result<u64, TierError> {
        match names.is_empty() {
            true => Ok(0),
            false => self.ask(cmd("UNLINK").arg(names)).await,
        }
    }
}

#[async_trait]
impl Tier for RedisTier {
    fn kind(&self) -> TierKind {
        TierKind::Redis
    }

    async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<Bytes>, TierError> {
        let sealed: Option<Vec<u8>> = self.ask(cmd("GET").arg(self.entry(key))).await?;
        // Its clock and ours may differ.
        let is_valid = |sealed: &Bytes| peek_expiry(sealed).is_none_or(|expiry| now < expiry);
        Ok(sealed.map(Bytes::from).filter(is_valid))
    }

    async fn put(&self, records: &[Record], now: Timestamp) -> Result<(), TierError> {
        let mut puts = redis::pipe();
        for record in records {
            let millis = record.expires_at.since(now).as_millis();
            if millis > 0 {
                let millis = u64::try_from(millis).unwrap_or(u64::MAX);
                puts.cmd("SET")
                    .arg(self.entry(&record.key))
                    .arg(&record.sealed[..])
                    .arg("PX")
                    .arg(millis)
                    .ignore();
            }
        }
        self.ask_all(&puts).await
    }

    async fn remove(&self, target: &Target) -> Result<u64, TierError> {
        if let Target::Key(key) = target {
            return self.unlink(&[self.entry(key)]).await;
        }
        let mut removed = 0;
        let mut cursor = 0;
        loop {
            let (next, names) = self.page(cursor).await?;
            let meant = self.meant(target, names).await?;
            removed += self.unlink(&meant).await?;
            if next == 0 {
                return Ok(removed);
            }
            cursor = next;
        }
    }

    async fn sweep(&self, _now: Timestamp) -> Result<u64, TierError> {
        // Redis does it.
        Ok(0)
    }

    async fn usage(&self) -> Result<Usage, TierError> {
        let mut usage = Usage::default();
        let mut cursor = 0;
        loop {
            let (next, names) = self.page(cursor).await?;
            let mut sizes = redis::pipe();
            for name in &names {
                sizes.cmd("STRLEN").arg(name);
            }
            let sizes: Vec<u64> = match names.is_empty() {
                true => Vec::new(),
                false => self.ask_all(&sizes).await?,
            };
            usage.entries += sizes.iter().filter(|&&size| size > 0).count() as u64;
            usage.bytes += sizes.iter().sum::<u64>();
            if next == 0 {
                return Ok(usage);
            }
            cursor = next;
        }
    }
}

#[async_trait]
impl SharedTier for RedisTier {
    async fn prepare(&self) -> Result<(), TierError> {
        self.ask(&cmd("PING")).await
    }

    async fn lease(
        &self,
        key: &CacheKey,
        token: LeaseToken,
        span: Duration,
    ) -> Result<bool, TierError> {
        let mut take = cmd("EVAL");
        take.arg(TAKE_LEASE)
            .arg(1)
            .arg(self.lease_of(key))
            .arg(token.as_bytes().as_slice())
            .arg(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        self.ask(&take).await
    }

    async fn release(&self, key: &CacheKey, token: LeaseToken) -> Result<(), TierError> {
        let mut end = cmd("EVAL");
        end.arg(END_LEASE)
            .arg(1)
            .arg(self.lease_of(key))
            .arg(token.as_bytes().as_slice());
        self.ask(&end).await
    }
}
