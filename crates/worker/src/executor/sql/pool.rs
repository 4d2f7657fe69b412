//! The connections to a database, and what they are doing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Object, Pool, PoolError, QueueMode, TimeoutType, Timeouts};
use levelflow_common::{Code, Failure, HumanDuration};
use levelflow_proto::v1;
use tokio::time::Instant;

use super::SqlError;
use super::config::SqlConnection;
use crate::usage::{count, micros};

/// The shortest time between looks for connections that nobody uses.
const SHORTEST_REAP: Duration = Duration::from_millis(50);

/// What a worker's connections to one database are doing, and what they did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SqlPoolStatistics {
    /// Connections that there may be.
    pub size: usize,
    /// Connections that are open.
    pub open: usize,
    /// Connections that tasks use.
    pub in_use: usize,
    /// Open connections that nobody uses.
    pub idle: usize,
    /// Tasks that wait for a connection.
    pub waiting: usize,
    /// Connections that were opened.
    pub opened: u64,
    /// Tasks that got a connection that had been used before.
    pub reused: u64,
    /// How long tasks waited for a connection that had been used before, in all.
    pub wait_time: Duration,
    /// How long tasks waited for a new connection, TLS included, in all.
    pub connect_time: Duration,
}

impl SqlPoolStatistics {
    /// What a heartbeat says of the connections to the database of that name.
    pub(super) fn to_message(self, database: &str) -> v1::Pool {
        v1::Pool {
            name: format!("sql:{database}"),
            size: count(self.size),
            busy: count(self.in_use),
            idle: count(self.idle),
            waiting: count(self.waiting),
            opened: self.opened,
            used: self.opened + self.reused,
            waited_us: micros(self.wait_time + self.connect_time),
        }
    }
}

/// The connections to a database.
pub(super) struct SqlPool<M: Manager> {
    pool: Pool<M>,
    counters: Counters,
    idle_timeout: Duration,
    connect_timeout: Duration,
    reaper_started: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    waiting: AtomicUsize,
    opened: AtomicU64,
    reused: AtomicU64,
    wait_us: AtomicU64,
    connect_us: AtomicU64,
}

impl<M: Manager + 'static> SqlPool<M> {
    /// A pool without connections.
    pub(super) fn new(manager: M, settings: &SqlConnection) -> Self {
        let pool = Pool::builder(manager)
            .max_size(settings.max_connections)
            // The connection that was used last is the first to be used again, so that others may end.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("timeouts have the runtime that they need");
        Self {
            pool,
            counters: Counters::default(),
            idle_timeout: settings.idle_timeout.0,
            connect_timeout: settings.connect_timeout.0,
            reaper_started: AtomicBool::new(false),
        }
    }

    pub(super) fn statistics(&self) -> SqlPoolStatistics {
        let status = self.pool.status();
        let counters = &self.counters;
        SqlPoolStatistics {
            size: status.max_size,
            open: status.size,
            in_use: status.size.saturating_sub(status.available),
            idle: status.available,
            waiting: counters.waiting.load(Ordering::Relaxed),
            opened: counters.opened.load(Ordering::Relaxed),
            reused: counters.reused.load(Ordering::Relaxed),
            wait_time: Duration::from_micros(counters.wait_us.load(Ordering::Relaxed)),
            connect_time: Duration::from_micros(counters.connect_us.load(Ordering::Relaxed)),
        }
    }

    /// Takes a connection, or opens one; `refused` says what an error of the database means.
    pub(super) async fn get(
        &self,
        wait: Duration,
        refused: impl FnOnce(M::Error) -> SqlError,
    ) -> Result<Object<M>, SqlError> {
        self.start_reaper();
        let timeouts = Timeouts {
            wait: Some(wait),
            create: Some(self.connect_timeout),
            recycle: None,
        };
        let waited = self.counters.wait();
        let unreachable =
            |message| SqlError::Unreachable(Failure::retryable(Code::SqlUnavailable, message));
        let got = self.pool.timeout_get(&timeouts).await;
        let object = got.map_err(|error| match error {
            PoolError::Backend(error) => refused(error),
            PoolError::Timeout(TimeoutType::Wait) => SqlError::Busy(Failure::retryable(
                Code::SqlFailed,
                format!(
                    "all {} connections were in use for {}",
                    self.pool.status().max_size,
                    HumanDuration(wait)
                ),
            )),
            PoolError::Timeout(_) => unreachable(format!(
                "no connection could be opened within {}",
                HumanDuration(self.connect_timeout)
            )),
            _ => unreachable("the connections are closed".to_owned()),
        })?;
        waited.ended(is_new(&object));
        Ok(object)
    }

    /// Closes connections that nobody uses, from the first use of the pool to its end.
    fn start_reaper(&self) {
        if self.reaper_started.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = self.pool.weak();
        let idle_timeout = self.idle_timeout;
        let period = (idle_timeout / 4).max(SHORTEST_REAP);
        levelflow_runtime::task::spawn("idle database connections", async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                pool.retain(|_, metrics| metrics.last_used() < idle_timeout);
            }
        });
    }
}

/// Whether nobody used a connection before.
pub(super) fn is_new<M: Manager>(object: &Object<M>) -> bool {
    Object::metrics(object).recycle_count == 0
}

impl Counters {
    /// A task waits for a connection until what is returned is ended or dropped.
    fn wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait {
            counters: self,
            since: Instant::now(),
        }
    }
}

/// A task waits for a connection.
struct Wait<'a> {
    counters: &'a Counters,
    since: Instant,
}

impl Wait<'_> {
    /// It got one.
    fn ended(self, is_new: bool) {
        let (count, time) = if is_new {
            (&self.counters.opened, &self.counters.connect_us)
        } else {
            (&self.counters.reused, &self.counters.wait_us)
        };
        count.fetch_add(1, Ordering::Relaxed);
        time.fetch_add(micros(self.since.elapsed()), Ordering::Relaxed);
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
