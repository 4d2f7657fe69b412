//! The store in a real PostgreSQL.

use std::sync::atomic::{AtomicU32, Ordering as Order};

use levelflow_common::{ShardCount, ShardId};
use uuid::Uuid;

use super::*;
use crate::conformance::conformance;
use crate::shards::{Member, MemberId, Shards as _};

/// Long enough for a busy machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(300);

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

fn member(number: u64) -> Member {
    Member {
        id: MemberId(Uuid::from_u64_pair(5, number)),
        address: format!("127.0.0.1:{number}"),
        http_address: None,
        version: "1".to_owned(),
        is_leaving: false,
    }
}

/// A store whose coordinator owns all shards.
async fn fresh(shards: ShardCount) -> Postgres {
    let store = Postgres::open(&settings(shards)).await.unwrap();
    store.renew(&member(1), LONG).await.unwrap();
    let all: Vec<ShardId> = shards.all().collect();
    let claimed = store.claim(&all, LONG).await.unwrap();
    assert_eq!(claimed.shards, all);
    store
}

conformance!((fresh(ShardCount::ONE).await, ()));
