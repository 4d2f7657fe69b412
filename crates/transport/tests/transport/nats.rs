//! The suite over NATS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_runtime::task;
use levelflow_transport::nats::{Connector, Listener, Nats, NatsConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::conformance::{CoordinatorEnd, Transport, WorkerEnd, conformance, hello};
use crate::proxy::Proxy;
use crate::server::variable;

pub(crate) const COORDINATOR: &str = "c1";

static PREFIXES: AtomicU32 = AtomicU32::new(0);

/// Settings for a server, with a prefix of their own.
pub(crate) fn settings(url: &str) -> NatsConfig {
    let number = PREFIXES.fetch_add(1, Ordering::Relaxed);
    NatsConfig {
        prefix: format!("test.{}-{number}", std::process::id()),
        ..NatsConfig::at(url)
    }
}

/// A coordinator that hands its ends of sessions to the test, until it is dropped.
pub(crate) struct Coordinator {
    pub(crate) accepted: mpsc::Receiver<CoordinatorEnd>,
    task: JoinHandle<()>,
}

impl Coordinator {
    pub(crate) async fn start(settings: &NatsConfig) -> Self {
        Self::named(settings, COORDINATOR).await
    }

    pub(crate) async fn named(settings: &NatsConfig, name: &str) -> Self {
        let nats = Nats::connect(settings).await.unwrap();
        let mut listener = Listener::start(&nats, name).await.unwrap();
        let (sender, accepted) = mpsc::channel(8);
        let task = task::spawn("coordinator", async move {
            while let Some(session) = listener.accept().await {
                if sender.send(session).await.is_err() {
                    return listener.leave().await;
                }
            }
        });
        Self { accepted, task }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A worker that hears coordinators.
pub(crate) async fn worker(settings: &NatsConfig) -> Connector {
    let nats = Nats::connect(settings).await.unwrap();
    Connector::start(nats).await.unwrap()
}

/// Waits until a coordinator is there.
pub(crate) async fn heard(connector: &Connector, coordinator: &str) {
    let mut there = connector.coordinators();
    there
        .wait_for(|ids| ids.contains(coordinator))
        .await
        .unwrap();
}

/// Both ends of a new session; the worker has said hello.
pub(crate) async fn open(
    connector: &Connector,
    coordinator: &mut Coordinator,
) -> (WorkerEnd, CoordinatorEnd) {
    let worker: WorkerEnd = connector.open(COORDINATOR).await.unwrap();
    worker.outbound.send(hello("w1")).await.unwrap();
    (worker, coordinator.accepted.recv().await.unwrap())
}

struct OverNats {
    connector: Connector,
    coordinator: Coordinator,
    proxy: Proxy,
}

impl OverNats {
    async fn start() -> Self {
        let url = variable("TEST_NATS_URL");
        let server: SocketAddr = url.strip_prefix("nats://").unwrap().parse().unwrap();
        let proxy = Proxy::to(server).await;
        let settings = NatsConfig {
            keepalive: HumanDuration(Duration::from_millis(500)),
            ..settings(&url)
        };
        let coordinator = Coordinator::start(&settings).await;
        let through_proxy = NatsConfig {
            prefix: settings.prefix,
            keepalive: settings.keepalive,
            ..NatsConfig::at(format!("nats://{}", proxy.address()))
        };
        let connector = worker(&through_proxy).await;
        heard(&connector, COORDINATOR).await;
        Self {
            connector,
            coordinator,
            proxy,
        }
    }
}

impl Transport for OverNats {
    async fn open(&mut self) -> (WorkerEnd, CoordinatorEnd) {
        open(&self.connector, &mut self.coordinator).await
    }

    async fn cut(&mut self) {
        self.proxy.block();
    }
}

conformance!(OverNats::start());
