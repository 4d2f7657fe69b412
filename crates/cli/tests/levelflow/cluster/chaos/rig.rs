//! The cluster that faults are done to: coordinators in seats with an address that stays, workers, and the
//! servers that they share, all of them behind proxies.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{HumanDuration, Timestamp};
use levelflow_proto::v1;
use levelflow_proto::v1::cluster_service_client::ClusterServiceClient;
use levelflow_worker::{CancellationToken, NatsConfig, Secret};
use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tonic::transport::{Channel, Endpoint};

use super::load::HANDLER;
use super::postgres_server::PostgresServer;
use super::proxy::Proxy;
use super::starts::{Starts, Trace, now};
use crate::client::{Client, eventually};
use crate::harness::{Home, Running};
use crate::nats_server::NatsServer;

pub(crate) const COORDINATORS: usize = 3;
pub(crate) const WORKERS: usize = 4;
const SLOTS: usize = 6;
const NATS_KEEPALIVE: Duration = Duration::from_millis(500);
const SHARDS: u32 = 16;
/// How long a silent worker keeps its attempts.
const LEASE: Duration = Duration::from_secs(2);
/// How long an answer may take that is asked for again if it does not come.
const PATIENCE: Duration = Duration::from_secs(3);
/// Runs that a coordinator may have open.
pub(crate) const MAX_OPEN_RUNS: usize = 12;

/// A place for a coordinator.
pub(crate) struct Seat {
    /// Where others reach it.
    pub(crate) door: Proxy,
    /// Its way to the database.
    pub(crate) database: Proxy,
    /// None while nobody sits here.
    pub(crate) process: Option<Running>,
    pub(crate) channel: Channel,
}

impl Seat {
    pub(crate) fn client(&self) -> Client {
        Client::over(self.channel.clone())
    }
}

/// A worker in a process of its own.
pub(crate) struct Hired {
    pub(crate) process: Running,
    id: String,
}

/// All of it.
pub(crate) struct Rig {
    home: Home,
    pub(crate) seats: Vec<Seat>,
    pub(crate) workers: Vec<Hired>,
    /// The worker in this process, which has the handlers. It ends with this.
    _handlers: DropGuard,
    /// How many workers there were.
    hired: usize,
    pub(crate) postgres: PostgresServer,
    pub(crate) nats: Option<(NatsServer, Proxy)>,
    pub(crate) starts: Arc<Starts>,
    pub(crate) trace: Trace,
}

impl Rig {
    /// Starts everything, and waits until the shards are spread.
    pub(crate) async fn start(is_over_nats: bool) -> Self {
        let home = Home::new();
        let postgres = PostgresServer::start();
        let nats = if is_over_nats {
            let server = NatsServer::start("");
            let address = server.url().trim_start_matches("nats://").to_owned();
            Some((server, Proxy::start(Some(address)).await))
        } else {
            None
        };
        let mut seats = Vec::new();
        for _ in 0..COORDINATORS {
            let door = Proxy::start(None).await;
            let endpoint = Endpoint::from_shared(format!("http://{}", door.address));
            let channel = endpoint.unwrap().tcp_nodelay(true).connect_lazy();
            seats.push(Seat {
                door,
                database: Proxy::start(Some(postgres.address())).await,
                process: None,
                channel,
            });
        }
        let trace = Trace::new(&home);
        let starts = Arc::new(Starts::record().await);
        let handlers = handlers(&starts, &seats[0].door, nats.as_ref().map(|(_, way)| way));
        let mut rig = Self {
            home,
            seats,
            workers: Vec::new(),
            _handlers: handlers,
            hired: 0,
            postgres,
            nats,
            starts,
            trace,
        };
        for seat in 0..COORDINATORS {
            rig.seat(seat).await;
        }
        for _ in 0..WORKERS {
            let worker = rig.hire().await;
            rig.workers.push(worker);
        }
        rig.is_even().await;
        rig
    }

    fn command(&self, arguments: &[&str], role: &str) -> Command {
        let mut command = self.home.command(arguments);
        if let Some((_, proxy)) = &self.nats {
            command
                .args(["--nats", &format!("nats://{}", proxy.address)])
                .env(
                    format!("LEVELFLOW_{role}__NATS__KEEPALIVE"),
                    HumanDuration(NATS_KEEPALIVE).to_string(),
                );
        }
        command
    }

    /// Starts a coordinator in an empty seat.
    pub(crate) async fn seat(&mut self, seat: usize) {
        let Seat { door, database, .. } = &self.seats[seat];
        let url = format!("postgres://postgres@{}/postgres", database.address);
        let arguments = [
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--no-http",
        ];
        let mut command = self.command(&arguments, "COORDINATOR");
        command
            .env("LEVELFLOW_COORDINATOR__POSTGRES__URL", url)
            .env(
                "LEVELFLOW_COORDINATOR__POSTGRES__SHARDS",
                SHARDS.to_string(),
            )
            .env("LEVELFLOW_COORDINATOR__CLUSTER__ADVERTISE", &door.address)
            .env("LEVELFLOW_COORDINATOR__CLUSTER__LEASE", "2s")
            .env("LEVELFLOW_COORDINATOR__CLUSTER__HAND_OVER", "2s")
            .env(
                "LEVELFLOW_COORDINATOR__LEASE",
                format!("{}s", LEASE.as_secs()),
            )
            .env("LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL", "500ms")
            // The tasks are not to blame.
            .env("LEVELFLOW_COORDINATOR__QUARANTINE_AFTER", "0")
            .env(
                "LEVELFLOW_COORDINATOR__MAX_OPEN_RUNS",
                MAX_OPEN_RUNS.to_string(),
            );
        let (process, address) = Running::server(command).await;
        self.seats[seat].door.lead_to(&address);
        self.seats[seat].process = Some(process);
    }

    /// Starts a worker.
    pub(crate) async fn hire(&mut self) -> Hired {
        let id = format!("worker-{}", self.hired);
        let slots = SLOTS.to_string();
        let arguments = ["worker", "--id", &id, "--slots", &slots, "--allow-process"];
        let mut command = self.command(&arguments, "WORKER");
        command
            .args(["--json", "--allow-http", "127.0.0.1"])
            .env("LEVELFLOW_WORKER__DRAIN_TIMEOUT", "5s");
        if self.nats.is_none() {
            let seat = &self.seats[self.hired % COORDINATORS];
            command.args(["--address", &seat.door.address]);
        }
        self.hired += 1;
        let mut process = Running::start(command);
        process.json_line().await;
        Hired { process, id }
    }

    /// Kills the coordinator in a seat.
    pub(crate) async fn kill(&mut self, seat: usize) {
        let process = self.seats[seat].process.take();
        process.expect("somebody sits there").kill().await;
    }

    /// Starts another worker in the place of one that ends, and tells how that ended.
    pub(crate) async fn replace(&mut self, worker: usize) -> ExitStatus {
        let hired = self.hire().await;
        let before = std::mem::replace(&mut self.workers[worker], hired);
        before.process.ended().await
    }

    pub(crate) fn signal(&self, seat: usize, signal: Signal) {
        let process = self.seats[seat].process.as_ref();
        process.expect("somebody sits there").signal(signal);
    }

    /// Clients of all seats.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.seats.iter().map(Seat::client).collect()
    }

    /// What the coordinator in a seat says of the cluster.
    async fn view(&self, seat: usize) -> Option<v1::GetClusterResponse> {
        let mut service = ClusterServiceClient::new(self.seats[seat].channel.clone());
        let asking = service.get_cluster(v1::GetClusterRequest {});
        let answered = timeout(PATIENCE, asking).await.ok()?;
        Some(answered.ok()?.into_inner())
    }

    /// Waits until everybody who sits has its share of the shards, as each of them says.
    pub(crate) async fn is_even(&self) {
        let sitting: Vec<usize> = (0..COORDINATORS)
            .filter(|seat| self.seats[*seat].process.is_some())
            .collect();
        for seat in &sitting {
            self.shards_are_with(*seat, &sitting).await;
        }
    }

    /// Waits until, as one says, the shards are with those in these seats alone, evenly.
    pub(crate) async fn shards_are_with(&self, asked: usize, seats: &[usize]) {
        let mut wanted: Vec<&str> = seats
            .iter()
            .map(|seat| &*self.seats[*seat].door.address)
            .collect();
        wanted.sort_unstable();
        let is_so = async || {
            let Some(view) = self.view(asked).await else {
                return false;
            };
            let owning = view.coordinators.iter().filter(|it| it.shards > 0);
            let mut owners: Vec<&str> = owning.clone().map(|it| &*it.address).collect();
            owners.sort_unstable();
            let counts = owning.clone().map(|it| it.shards);
            let (least, most) = (counts.clone().min(), counts.clone().max());
            owners == wanted
                && counts.sum::<u32>() == SHARDS
                && most.unwrap_or_default() - least.unwrap_or_default() <= 1
        };
        eventually("each has its share of the shards", is_so).await;
    }

    /// How often each shard was taken, at most.
    pub(crate) async fn moves(&self) -> u32 {
        let view = self.view(0).await.expect("it answers after all faults");
        let epochs = view.shards.iter().map(|it| it.epoch).max();
        epochs.unwrap_or_default().try_into().expect("they are few")
    }

    /// The server between coordinators and workers, and the way to it.
    pub(crate) fn nats(&mut self) -> &mut (NatsServer, Proxy) {
        self.nats.as_mut().expect("workers are reached over NATS")
    }

    /// Waits until none of those in these seats has a session with a worker any more.
    pub(crate) async fn are_without_sessions(&self, seats: &[usize]) {
        let has_none = |worker: &v1::Worker| worker.session.is_none();
        self.workers_are("sessions have ended", seats, has_none)
            .await;
    }

    /// Waits until none of those in these seats has heard of a worker for longer than its leases last.
    pub(crate) async fn leases_are_over(&self, worker: usize, seats: &[usize]) {
        let id = &self.workers[worker].id;
        let is_silent = |worker: &v1::Worker| {
            let last = worker.session.as_ref().map_or(0, |session| {
                let heartbeat = session.heartbeat.as_ref();
                heartbeat.map_or(session.connected_at_us, |it| it.at_us)
            });
            worker.worker_id != *id || now().since(Timestamp::from_micros(last)) > LEASE * 3 / 2
        };
        self.workers_are("its leases are over", seats, is_silent)
            .await;
    }

    /// Waits until those in some seats say something of all workers that they know.
    async fn workers_are(&self, what: &str, seats: &[usize], holds: impl Fn(&v1::Worker) -> bool) {
        let is_so = async || {
            for seat in seats {
                let mut service = self.seats[*seat].client().service;
                let asking = service.list_workers(v1::ListWorkersRequest::default());
                let Ok(Ok(listed)) = timeout(PATIENCE, asking).await else {
                    return false;
                };
                if !listed.into_inner().workers.iter().all(&holds) {
                    return false;
                }
            }
            true
        };
        eventually(what, is_so).await;
    }
}

/// Starts a worker in this process, for as long as it is held.
fn handlers(starts: &Starts, door: &Proxy, nats: Option<&Proxy>) -> DropGuard {
    let mut builder = starts
        .handler(HANDLER)
        .id("handlers")
        .slots(SLOTS)
        .allow_http("127.0.0.1");
    builder = match nats {
        None => builder.address(format!("http://{}", door.address)),
        Some(way) => builder.nats(NatsConfig {
            url: Some(Secret::new(format!("nats://{}", way.address))),
            keepalive: HumanDuration(NATS_KEEPALIVE),
            ..NatsConfig::default()
        }),
    };
    let stop = CancellationToken::new();
    let worker = builder.build().unwrap();
    levelflow_runtime::task::spawn("handlers", worker.run(stop.clone()));
    stop.drop_guard()
}
