//! Measures how fast a store makes journal entries durable.
//!
//! Runs of five tasks move side by side; each batch takes one step of so many runs. With a depth of 1
//! every batch is one commit.
//!
//! `cargo run --release -p levelflow-store --example append_rate -- [BATCH] [DEPTH] [SECONDS] [PLACE]`,
//! where the place is a directory for SQLite, or the address of a PostgreSQL database, in which a schema is
//! made and removed. `cargo xtask servers -- sh -c '… $TEST_POSTGRES_URL'` has one.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use levelflow_common::view::TaskCounts;
use levelflow_common::workflow::{Durability, Priority};
use levelflow_common::{RunId, RunStatus, Timestamp, WorkerId, WorkflowDigest};
use levelflow_engine::{Entry, Fact, Progress, Record, RunNumber, Submitted, TaskIndex};
use levelflow_runtime::postgres::is_postgres;
use levelflow_store::{
    Batch, Member, MemberId, Postgres, Shards as _, Sqlite, Store, postgres, sqlite,
};

const TASKS: u64 = 5;
const SCHEMA: &str = "append_rate";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let batch: u64 = args.next().as_deref().unwrap_or("64").parse()?;
    let depth: usize = args.next().as_deref().unwrap_or("1").parse()?;
    let seconds: u64 = args.next().as_deref().unwrap_or("5").parse()?;
    let temporary = tempfile::tempdir()?;
    let place = args.next();
    let url = place.clone().filter(|place| is_postgres(place));
    let store: Box<dyn Store> = match &url {
        Some(url) => Box::new(open_postgres(url).await?),
        None => {
            let dir = place.map_or_else(|| temporary.path().to_owned(), PathBuf::from);
            Box::new(Sqlite::open(&dir, &sqlite::Options::default())?)
        }
    };
    let mut next_run = store.recover().await?.next_run.0;
    let mut step = 0;
    let mut waiting = VecDeque::new();
    let mut latencies = Vec::new();
    let mut entries = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        while waiting.len() < depth {
            let batch = Batch {
                definitions: Vec::new(),
                entries: (next_run..next_run + batch)
                    .map(|run| entry(run, step))
                    .collect(),
            };
            entries += batch.entries.len();
            step += 1;
            if step == TASKS + 2 {
                step = 0;
                next_run += batch.entries.len() as u64;
            }
            waiting.push_back((Instant::now(), store.append(batch)));
        }
        if let Some((sent, durable)) = waiting.pop_front() {
            durable.await??;
            latencies.push(sent.elapsed());
        }
    }
    for (_, durable) in waiting {
        durable.await??;
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "batch {batch} depth {depth}: {:.0} entries/s, {:.0} batches/s, p50 {:?}, p99 {:?}, max {:?}",
        entries as f64 / elapsed,
        latencies.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
    );

    let reopened = Instant::now();
    let recovery = store.recover().await?;
    let records: usize = recovery.open.iter().map(|(_, records)| records.len()).sum();
    println!(
        "recovered {records} records of {} open runs in {:?}",
        recovery.open.len(),
        reopened.elapsed()
    );
    store.close().await?;
    if let Some(url) = url {
        let remove = format!("DROP SCHEMA {SCHEMA} CASCADE");
        connect(&url).await?.batch_execute(&remove).await?;
    }
    Ok(())
}

/// A store whose coordinator owns all shards.
async fn open_postgres(url: &str) -> Result<Postgres, Box<dyn Error>> {
    let remove = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    connect(url).await?.batch_execute(&remove).await?;
    let config = postgres::Config {
        schema: SCHEMA.to_owned(),
        ..postgres::Config::at(url)
    };
    let store = Postgres::open(&config).await?;
    let member = Member {
        id: MemberId(uuid::Uuid::now_v7()),
        address: "example".to_owned(),
        http_address: None,
        version: String::new(),
        is_leaving: false,
    };
    let time = Duration::from_secs(3600);
    store.renew(&member, time).await?;
    let all: Vec<_> = store.count().all().collect();
    store.claim(&all, time).await?;
    Ok(store)
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, Box<dyn Error>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    levelflow_runtime::task::spawn("session", connection);
    Ok(client)
}

/// What a run writes at a step: its submit, the success of a task, its end.
fn entry(run: u64, step: u64) -> Entry {
    let at = Timestamp::from_micros(run);
    let progress = |status: RunStatus| {
        Some(Progress {
            status,
            finished_at: status.is_terminal().then_some(at),
            counts: TaskCounts::default(),
            failure: None,
        })
    };
    let (fact, progress) = match step {
        0 => (
            Fact::Submitted(Arc::new(submitted(run))),
            progress(RunStatus::Running),
        ),
        step if step <= TASKS => (success(step as u32 - 1, at), None),
        _ => (
            Fact::Finished {
                status: RunStatus::Succeeded,
                outputs: None,
                failure: None,
            },
            progress(RunStatus::Succeeded),
        ),
    };
    Entry {
        run: RunNumber(run),
        first_sequence: step + 1,
        records: vec![Record { at, fact }],
        progress,
    }
}

fn success(task: u32, at: Timestamp) -> Fact {
    Fact::Succeeded {
        task: TaskIndex(task),
        attempt: 1,
        started_at: at,
        worker: Some(WorkerId("worker-1".into())),
        cached: None,
        similar_to: None,
        output: br#"{"ok":true}"#.as_slice().into(),
        stream: None,
    }
}

fn submitted(run: u64) -> Submitted {
    Submitted {
        run_id: RunId::from_uuid(uuid::Uuid::from_u64_pair(7, run)),
        digest: WorkflowDigest::of(b""),
        workflow: "rate".into(),
        tenant: "default".into(),
        priority: Priority::Normal,
        durability: Durability::Strict,
        cache: levelflow_common::CacheUse::Use,
        labels: BTreeMap::new(),
        inputs: b"{}".as_slice().into(),
        key: None,
        resumed_from: None,
        kept: Vec::new(),
    }
}
