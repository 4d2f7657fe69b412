//! The store in a real PostgreSQL.

mod faults;
mod opening;
mod proxy;
mod retention;
mod shards;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering as Order};
use std::time::Duration;

use levelflow_common::{ShardCount, ShardId};
use levelflow_engine::{Entry, RunNumber};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::*;
use crate::conformance::{conformance, sample};
use crate::shards::{Member, MemberId};

/// Long enough for a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// A time that has run out in the next transaction.
const NO_TIME: Duration = Duration::ZERO;

static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// The address of a server.
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with `cargo xtask test`, or single ones with `cargo xtask servers -- cargo nextest run …`")
    })
}

/// Settings with a schema of their own.
fn settings(shards: ShardCount) -> Config {
    let number = SCHEMAS.fetch_add(1, Order::Relaxed);
    Config {
        schema: format!("store_{}_{number}", std::process::id()),
        shards: shards.get(),
        max_connections: 4,
        ..Config::at(server("TEST_POSTGRES_URL"))
    }
}

fn count(shards: u16) -> ShardCount {
    ShardCount::new(shards).unwrap()
}

fn member(number: u64) -> Member {
    Member {
        id: MemberId(Uuid::from_u64_pair(5, number)),
        address: format!("127.0.0.1:{number}"),
        http_address: None,
        version: "1".to_owned(),
        is_leaving: false,
    }
}

/// A coordinator that owns nothing yet.
async fn join(config: &Config, number: u64) -> Postgres {
    let store = Postgres::open(config).await.unwrap();
    store.renew(&member(number), LONG).await.unwrap();
    store
}

/// A coordinator that owns all shards.
async fn own_all(config: &Config) -> Postgres {
    let store = join(config, 1).await;
    let all: Vec<ShardId> = store.count().all().collect();
    let claimed = store.claim(&all, LONG).await.unwrap();
    assert_eq!(claimed.shards, all);
    store
}

async fn append(store: &Postgres, entries: Vec<Entry>) -> Result<(), StoreError> {
    store.append(sample::batch(entries)).await.unwrap()
}

async fn sequences(store: &Postgres, run: u64) -> Vec<u64> {
    let records = store.journal(sample::run_id(run), 0, 1_000).await.unwrap();
    let records = records.unwrap_or_default().into_iter();
    records.map(|record| record.sequence).collect()
}

/// A session beside the store.
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    task::spawn("session of the test", connection);
    client
}

fn url(config: &Config) -> &str {
    config.url.as_ref().unwrap().reveal()
}

conformance!((own_all(&settings(ShardCount::ONE)).await, ()));

/// Through a pooler that gives each transaction another session.
mod pooled {
    use super::*;

    async fn fresh() -> Postgres {
        let config = Config {
            url: Config::at(server("TEST_PGBOUNCER_URL")).url,
            ..settings(ShardCount::ONE)
        };
        own_all(&config).await
    }

    conformance!((fresh().await, ()));
}

#[tokio::test]
async fn any_text_is_kept_and_found() {
    let store = own_all(&settings(ShardCount::ONE)).await;
    let mut submitted = sample::submitted(1);
    submitted.workflow = "a\0b".into();
    submitted.tenant = "\0".into();
    submitted.labels = BTreeMap::from([("k\0".to_owned(), "\0v".to_owned())]);
    submitted.key = Some(levelflow_engine::record::SubmitKey {
        key: "\0key".into(),
        content: [7; 32],
        expires_at: None,
    });
    let entry = sample::submit_as(1, submitted.clone());
    append(&store, vec![entry.clone()]).await.unwrap();
    let filter = RunFilter {
        workflow: Some("a\0b".to_owned()),
        tenant: Some("\0".to_owned()),
        labels: submitted.labels,
        ..RunFilter::default()
    };
    let page = store.list(filter, None, 10).await.unwrap();
    assert_eq!(page.runs.len(), 1);
    let known = store.find_key("\0", "\0key", Timestamp::default()).await;
    assert_eq!(known.unwrap().unwrap().content, [7; 32]);
    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open, [(RunNumber(1), entry.records)]);
}

#[tokio::test]
async fn runs_are_found_whatever_their_id_says_of_their_time() {
    const MILLISECONDS: u64 = 1_700_000_000_000;

    let shards = count(4);
    let store = own_all(&settings(shards)).await;
    let number = |milliseconds: u64| (milliseconds << 8) * 4 + 1;
    for (place, number) in [
        (1, number(MILLISECONDS)),
        (2, number(MILLISECONDS + 3_600_000)),
    ] {
        let fresh = Uuid::from_u64_pair((MILLISECONDS << 16) | 0x7000, place);
        let mut submitted = sample::submitted(number);
        submitted.run_id = shards.run_id(ShardId(1), fresh);
        let id = submitted.run_id;
        append(&store, vec![sample::submit_as(number, submitted)])
            .await
            .unwrap();
        let found = store.summary(id).await.unwrap().unwrap();
        assert_eq!(found.run_id, id);
        assert_eq!(store.journal(id, 0, 9).await.unwrap().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn dropping_the_store_writes_what_waits() {
    let config = settings(ShardCount::ONE);
    let store = own_all(&config).await;
    let waiting: Vec<_> = (1..=100)
        .map(|number| store.append(sample::batch(vec![sample::submit(number)])))
        .collect();
    drop(store);
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
}
