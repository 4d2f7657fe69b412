//! The executor that Levelflow is compared with, in a process of its own: it keeps runs in memory
//! only, and what makes it faster or safer is switched on step by step.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use levelflow_common::retry::RetryPolicy;
use levelflow_runtime::task;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::outcome::Outcome;
use super::workload::{hash, retry, value};
use crate::process::peak_resident_bytes;
use crate::role::runtime;
use crate::shape::Shape;

/// What the pool of connections keeps, as Levelflow's worker does.
const IDLE_CONNECTIONS: usize = 100;
/// Far more than there are values that repeat.
const CACHED_ANSWERS: usize = 10_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than the runs a process of this role may take.
const GRACE: Duration = Duration::from_secs(60);
const SEED: u64 = 1;

/// What an executor does; each has what the one before it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rung {
    /// One task after the other, a connection for each call; the first failed call fails the run.
    Sequential,
    /// The tasks of a level at once.
    Parallel,
    /// Connections are kept.
    Pooled,
    /// Failed calls are tried again.
    Retrying,
    /// Answers are kept, and repeated calls are not made.
    Caching,
}

impl Rung {
    pub(super) const ALL: [Self; 5] = [
        Self::Sequential,
        Self::Parallel,
        Self::Pooled,
        Self::Retrying,
        Self::Caching,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Parallel => "+ parallel levels",
            Self::Pooled => "+ pooled connections",
            Self::Retrying => "+ retries",
            Self::Caching => "+ cache",
        }
    }
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ExecutorArguments {
    #[arg(long)]
    pub(super) url: String,
    #[arg(long, value_enum)]
    pub(super) shape: Shape,
    #[arg(long, value_enum)]
    pub(super) rung: Rung,
    #[arg(long)]
    pub(super) in_flight: usize,
    #[arg(long)]
    pub(super) warm_up_ms: u64,
    #[arg(long)]
    pub(super) measured_ms: u64,
    #[arg(long)]
    pub(super) threads: usize,
}

/// Runs the executor in a process of its own, and gives what it saw.
pub(super) async fn measure(arguments: &ExecutorArguments) -> Result<Outcome> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let word = |value: Option<clap::builder::PossibleValue>| {
        value
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    };
    let mut command = Command::new(program);
    command
        .arg("executor")
        .args(["--url", &arguments.url])
        .args(["--shape", &word(arguments.shape.to_possible_value())])
        .args(["--rung", &word(arguments.rung.to_possible_value())])
        .args(["--in-flight", &arguments.in_flight.to_string()])
        .args(["--warm-up-ms", &arguments.warm_up_ms.to_string()])
        .args(["--measured-ms", &arguments.measured_ms.to_string()])
        .args(["--threads", &arguments.threads.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let within =
        Duration::from_millis(arguments.warm_up_ms + arguments.measured_ms).saturating_add(GRACE);
    let output = timeout(within, command.output())
        .await
        .context("the executor did not end in time")??;
    ensure!(
        output.status.success(),
        "the executor failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("the executor says what it saw")
}

/// The role: warms up, measures, and prints what it saw.
pub(crate) fn execute(arguments: &ExecutorArguments) -> Result<()> {
    levelflow_worker::install_tls_provider();
    let outcome = runtime(arguments.threads)?.block_on(async {
        let executor = Arc::new(Executor::new(arguments)?);
        let in_flight = arguments.in_flight;
        let warm_up = Duration::from_millis(arguments.warm_up_ms);
        keep_in_flight(&executor, in_flight, warm_up).await?;
        let time = Duration::from_millis(arguments.measured_ms);
        keep_in_flight(&executor, in_flight, time).await
    })?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

struct Executor {
    client: reqwest::Client,
    url: String,
    levels: &'static [usize],
    rung: Rung,
    retry: RetryPolicy,
    /// Answers by the value that was asked for.
    cache: Mutex<HashMap<String, Value>>,
    next_run: AtomicU64,
    waits: AtomicU64,
}

impl Executor {
    fn new(arguments: &ExecutorArguments) -> Result<Self> {
        let kept = if arguments.rung >= Rung::Pooled {
            IDLE_CONNECTIONS
        } else {
            0
        };
        let retry = if arguments.rung >= Rung::Retrying {
            retry()
        } else {
            RetryPolicy {
                max_attempts: 1,
                ..retry()
            }
        };
        Ok(Self {
            client: reqwest::Client::builder()
                .pool_max_idle_per_host(kept)
                .timeout(CALL_TIMEOUT)
                .no_proxy()
                .build()?,
            url: arguments.url.clone(),
            levels: arguments.shape.levels(),
            rung: arguments.rung,
            retry,
            cache: Mutex::default(),
            next_run: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        })
    }

    /// Runs the workflow once.
    async fn run(&self) -> Result<()> {
        let run = self.next_run.fetch_add(1, Ordering::Relaxed);
        let mut first = 0;
        for &width in self.levels {
            let tasks = first..first + width;
            if self.rung >= Rung::Parallel {
                try_join_all(tasks.map(|task| self.task(run, task))).await?;
            } else {
                for task in tasks {
                    self.task(run, task).await?;
                }
            }
            first += width;
        }
        Ok(())
    }

    async fn task(&self, run: u64, task: usize) -> Result<Value> {
        let value = value(run, task);
        if self.rung < Rung::Caching {
            return self.tried(&value).await;
        }
        if let Some(known) = self.cache().get(&value) {
            return Ok(known.clone());
        }
        let answer = self.tried(&value).await?;
        let mut cache = self.cache();
        if cache.len() < CACHED_ANSWERS {
            cache.insert(value, answer.clone());
        }
        Ok(answer)
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tried(&self, value: &str) -> Result<Value> {
        let mut attempt = 1;
        loop {
            match self.call(value).await {
                Err(_) if attempt < self.retry.max_attempts => {
                    let random = hash(SEED, self.waits.fetch_add(1, Ordering::Relaxed));
                    sleep(self.retry.backoff(attempt, random)).await;
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn call(&self, value: &str) -> Result<Value> {
        let request = self.client.get(&self.url).query(&[("value", value)]);
        let response = request.send().await?.error_for_status()?;
        Ok(response.json().await?)
    }
}

/// Keeps `in_flight` runs open for a time, and waits for the last of them.
async fn keep_in_flight(
    executor: &Arc<Executor>,
    in_flight: usize,
    time: Duration,
) -> Result<Outcome> {
    let started = Instant::now();
    let lanes: Vec<_> = (0..in_flight)
        .map(|_| task::spawn("lane", lane(Arc::clone(executor), started + time)))
        .collect();
    let mut runs = 0;
    let mut latency = Histogram::new(3)?;
    for lane in lanes {
        let (ended, completed) = lane.await?;
        runs += ended;
        for time in completed {
            latency.record(time.as_micros() as u64)?;
        }
    }
    let peak = peak_resident_bytes(std::process::id())?;
    Ok(Outcome::new(runs, started.elapsed(), &latency, peak))
}

/// Runs one after the other: how many ended, and how long those took that completed.
async fn lane(executor: Arc<Executor>, until: Instant) -> (u64, Vec<Duration>) {
    let mut runs = 0;
    let mut completed = Vec::new();
    while Instant::now() < until {
        let started = Instant::now();
        if executor.run().await.is_ok() {
            completed.push(started.elapsed());
        }
        runs += 1;
    }
    (runs, completed)
}
