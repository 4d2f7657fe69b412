//! The connections that `http` tasks share: how many there are, and which are idle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::client::conn::http1::SendRequest;
use levelflow_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::usage::{count, micros};

/// Connections to all hosts together.
pub(super) const MAX_CONNECTIONS: usize = 1_000;
/// How long a connection may take to be ready again after its exchange.
const BACK_WITHIN: Duration = Duration::from_secs(1);
const SHORTEST_SWEEP: Duration = Duration::from_millis(100);
const LONGEST_SWEEP: Duration = Duration::from_secs(10);
/// Hosts that are remembered before those that nobody uses are forgotten.
const REMEMBERED_HOSTS: usize = 256;

/// Sends requests over one connection.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// What the connections of a worker's `http` tasks are doing, and what they did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpPoolStatistics {
    /// Connections that are open.
    pub open: usize,
    /// Exchanges that are under way.
    pub in_use: usize,
    /// Open connections that nobody uses.
    pub idle: usize,
    /// Exchanges that wait for room.
    pub waiting: usize,
    /// Connections that were opened.
    pub opened: u64,
    /// Exchanges over a connection that had been used before.
    pub reused: u64,
    /// How long exchanges waited for room, in all.
    pub wait_time: Duration,
    /// How long it took to open connections, TLS included, in all.
    pub connect_time: Duration,
}

/// The connections of a worker's `http` tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpPool(pub(super) Arc<Pool>);

impl HttpPool {
    /// What a heartbeat says of them.
    pub(crate) fn to_message(&self) -> v1::Pool {
        let statistics = self.statistics();
        v1::Pool {
            name: "http".to_owned(),
            size: count(MAX_CONNECTIONS),
            busy: count(statistics.in_use),
            idle: count(statistics.idle),
            waiting: count(statistics.waiting),
            opened: statistics.opened,
            used: statistics.opened + statistics.reused,
            waited_us: micros(statistics.wait_time),
        }
    }

    /// What they are doing, and what they did.
    pub fn statistics(&self) -> HttpPoolStatistics {
        let Counters {
            open,
            in_use,
            waiting,
            starved: _,
            opened,
            reused,
            wait_us,
            connect_us,
        } = &self.0.counters;
        let open = open.load(Ordering::Relaxed);
        let in_use = in_use.load(Ordering::Relaxed);
        HttpPoolStatistics {
            open,
            in_use,
            idle: open.saturating_sub(in_use),
            waiting: waiting.load(Ordering::Relaxed),
            opened: opened.load(Ordering::Relaxed),
            reused: reused.load(Ordering::Relaxed),
            wait_time: Duration::from_micros(wait_us.load(Ordering::Relaxed)),
            connect_time: Duration::from_micros(connect_us.load(Ordering::Relaxed)),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    open: AtomicUsize,
    in_use: AtomicUsize,
    waiting: AtomicUsize,
    /// New connections that wait for room.
    starved: AtomicUsize,
    opened: AtomicU64,
    reused: AtomicU64,
    wait_us: AtomicU64,
    connect_us: AtomicU64,
}

/// The connections to all hosts.
#[derive(Debug)]
pub(super) struct Pool {
    per_host: usize,
    keep_alive: Duration,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    /// Room for connections to any host.
    room: Arc<Semaphore>,
    counters: Counters,
}

/// The connections to one host. Each exchange has one for itself, so that there are never more than there
/// may be exchanges: a new one is opened only when none is idle.
#[derive(Debug)]
struct Host {
    exchanges: Arc<Semaphore>,
    /// The one that was used last comes last, and is used next.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(super) fn new(per_host: usize, keep_alive: Duration) -> Self {
        Self::bounded(MAX_CONNECTIONS, per_host, keep_alive)
    }

    fn bounded(all: usize, per_host: usize, keep_alive: Duration) -> Self {
        Self {
            per_host,
            keep_alive,
            hosts: Mutex::default(),
            room: Arc::new(Semaphore::new(all)),
            counters: Counters::default(),
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Host>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, uri: &Uri) -> Arc<Host> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let key = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        let mut hosts = self.hosts();
        if hosts.len() >= REMEMBERED_HOSTS && !hosts.contains_key(&key) {
            hosts.retain(|_, host| host.is_used());
        }
        let new = || {
            Arc::new(Host {
                exchanges: Arc::new(Semaphore::new(self.per_host)),
                idle: Mutex::default(),
            })
        };
        Arc::clone(hosts.entry(key).or_insert_with(new))
    }

    /// Waits for room for an exchange.
    pub(super) async fn place(self: &Arc<Self>, uri: &Uri) -> Place {
        let host = self.host(uri);
        let waits_since = Instant::now();
        let waiting = Counted::new(self, |counters| &counters.waiting);
        let permit = acquire(&host.exchanges).await;
        drop(waiting);
        add(&self.counters.wait_us, waits_since.elapsed());
        Place {
            host,
            in_use: Counted::new(self, |counters| &counters.in_use),
            _permit: permit,
        }
    }

    /// Waits for room for a connection. While there is none, idle connections are closed to make some.
    pub(super) async fn room(self: &Arc<Self>) -> OwnedSemaphorePermit {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return room;
        }
        // From here on none becomes idle, so that one that is about to is not missed.
        let _starved = Counted::new(self, |counters| &counters.starved);
        self.close_oldest();
        acquire(&self.room).await
    }

    /// Closes the connection that has been idle for longest, if one is.
    fn close_oldest(&self) {
        let hosts = self.hosts();
        let since = |host: &Arc<Host>| host.idle().first().map(|idle| idle.since);
        let oldest = hosts
            .values()
            .filter_map(|host| Some((since(host)?, host)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, host)) = oldest {
            let mut idle = host.idle();
            if !idle.is_empty() {
                idle.remove(0);
            }
        }
    }

    /// Notes a new connection; it counts as open until what is returned is dropped.
    pub(super) fn opened(self: &Arc<Self>, room: OwnedSemaphorePermit, took: Duration) -> Open {
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        add(&self.counters.connect_us, took);
        Open {
            _open: Counted::new(self, |counters| &counters.open),
            _room: room,
        }
    }

    /// Closes connections that nobody has used for long, as long as there is a pool.
    pub(super) async fn sweep(pool: Weak<Self>, keep_alive: Duration) {
        let period = (keep_alive / 4).clamp(SHORTEST_SWEEP, LONGEST_SWEEP);
        loop {
            sleep(period).await;
            let Some(pool) = pool.upgrade() else {
                return;
            };
            for host in pool.hosts().values() {
                host.idle().retain(|idle| idle.is_usable(pool.keep_alive));
            }
        }
    }
}

impl Host {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || !self.idle().is_empty()
    }
}

impl Idle {
    fn is_usable(&self, keep_alive: Duration) -> bool {
        self.sender.is_ready() && self.since.elapsed() < keep_alive
    }
}

/// Room for an exchange, until it is dropped.
#[derive(Debug)]
pub(in crate::executor) struct Place {
    host: Arc<Host>,
    in_use: Counted,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn pool(&self) -> &Arc<Pool> {
        &self.in_use.pool
    }

    /// The connection that was used last, if one is idle.
    pub(super) fn take_idle(&self) -> Option<Sender> {
        let pool = self.pool();
        let mut idle = self.host.idle();
        while let Some(last) = idle.pop() {
            if last.is_usable(pool.keep_alive) {
                pool.counters.reused.fetch_add(1, Ordering::Relaxed);
                return Some(last.sender);
            }
        }
        None
    }

    /// Ends an exchange and keeps its connection for the next one.
    pub(super) fn give_back(self, mut sender: Sender) {
        if sender.is_closed() || self.pool().keep_alive.is_zero() {
            return;
        }
        if sender.is_ready() {
            self.keep(sender);
            return;
        }
        // The end of the response was read before the connection has noticed. Until it has, it is one
        // of those in use.
        levelflow_runtime::task::spawn("http connection comes back", async move {
            if let Ok(Ok(())) = timeout(BACK_WITHIN, sender.ready()).await {
                self.keep(sender);
            }
        });
    }

    fn keep(self, sender: Sender) {
        let mut idle = self.host.idle();
        if self.pool().counters.starved.load(Ordering::Relaxed) == 0 {
            let since = Instant::now();
            idle.push(Idle { sender, since });
        }
    }
}

/// A connection is open until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    _open: Counted,
    _room: OwnedSemaphorePermit,
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .expect("the semaphores of a pool are never closed")
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(micros(time), Ordering::Relaxed);
}

/// One more in a gauge, until it is dropped.
#[derive(Debug)]
struct Counted {
    pool: Arc<Pool>,
    gauge: fn(&Counters) -> &AtomicUsize,
}

impl Counted {
    fn new(pool: &Arc<Pool>, gauge: fn(&Counters) -> &AtomicUsize) -> Self {
        gauge(&pool.counters).fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(pool),
            gauge,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.pool.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;

    use super::*;

    fn a() -> Uri {
        Uri::from_static("http://a/")
    }

    #[tokio::test]
    async fn hosts_have_room_of_their_own_and_are_forgotten_when_nobody_uses_them() {
        let pool = Arc::new(Pool::new(1, Duration::from_secs(1)));
        let a = pool.place(&Uri::from_static("http://a/")).await;
        let b = pool.place(&Uri::from_static("https://a/x")).await;
        let statistics = || HttpPool(Arc::clone(&pool)).statistics();
        assert_eq!(statistics().in_use, 2);

        let same = Uri::from_static("http://a/y");
        let mut waits = Box::pin(pool.place(&same));
        assert!(futures_util::poll!(&mut waits).is_pending());
        assert_eq!(statistics().waiting, 1);
        drop(a);
        drop(waits.await);
        drop(b);
        assert_eq!((statistics().in_use, statistics().waiting), (0, 0));

        for number in 0..3 * REMEMBERED_HOSTS {
            let uri: Uri = format!("http://h{number}/").parse().unwrap();
            drop(pool.place(&uri).await);
        }
        assert!(pool.hosts().len() <= REMEMBERED_HOSTS);
    }

    /// Has an exchange with a host, whose end of the connection is given back.
    async fn exchange(pool: &Arc<Pool>, uri: &Uri) -> tokio::io::DuplexStream {
        let place = pool.place(uri).await;
        let room = pool.room().await;
        let (ours, theirs) = tokio::io::duplex(1024);
        let (sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let open = pool.opened(room, Duration::ZERO);
        levelflow_runtime::task::spawn("connection", async move {
            let _ = connection.await;
            drop(open);
        });
        place.give_back(sender);
        theirs
    }

    /// Waits until so many connections are open.
    async fn open(pool: &Arc<Pool>, expected: usize) {
        let wait = async {
            while HttpPool(Arc::clone(pool)).statistics().open != expected {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_makes_room_for_one_to_another_host() {
        let pool = Arc::new(Pool::bounded(1, 1, Duration::from_secs(60)));
        let _a = exchange(&pool, &a()).await;
        open(&pool, 1).await;
        let b = Uri::from_static("http://b/");
        let _b = timeout(Duration::from_secs(20), exchange(&pool, &b))
            .await
            .unwrap();
        assert!(pool.place(&a()).await.take_idle().is_none());
        assert!(pool.place(&b).await.take_idle().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_is_closed() {
        let keep_alive = Duration::from_secs(30);
        let pool = Arc::new(Pool::new(1, keep_alive));
        let sweep = Pool::sweep(Arc::downgrade(&pool), keep_alive);
        let sweep = levelflow_runtime::task::spawn("sweep", sweep);
        let _peer = exchange(&pool, &a()).await;
        tokio::time::advance(keep_alive / 2).await;
        assert!(
            pool.host(&a()).is_used(),
            "a connection is kept for as long as it may be"
        );
        tokio::time::advance(keep_alive * 2).await;
        open(&pool, 0).await;
        drop(pool);
        tokio::time::advance(keep_alive).await;
        sweep.await.unwrap();
    }
}
