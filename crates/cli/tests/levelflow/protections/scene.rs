//! Where a scenario plays: a coordinator that may be killed, its clients and its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use levelflow_common::Protection;
use levelflow_common::view::RunView;
use levelflow_proto::{ApiError, v1};
use serde_json::Value;

use super::scripted_worker::{Given, ScriptedWorker};
use crate::client::{Client, eventually, submission};
use crate::cluster::chaos::evidence::{Evidence, Ledger};
use crate::cluster::chaos::guarantees::{Violation, violations};
use crate::harness::{DEADLINE, Home, Running};

/// The variable that holds the address of PostgreSQL.
const POSTGRES: &str = "LEVELFLOW_COORDINATOR__POSTGRES__URL";
const SHARDS: u64 = 4;

pub(crate) struct Scene {
    home: Home,
    without: Option<Protection>,
    settings: Vec<(&'static str, String)>,
    /// None while it is down.
    server: Option<Running>,
    /// One that another has taken its shards from.
    former: Option<Running>,
    pub(crate) address: String,
    pub(crate) client: Client,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) given: Given,
    /// Runs as they were served before their ends.
    served: Vec<RunView>,
    restarts: u32,
    pub(crate) max_open_runs: Option<usize>,
}

/// The address of the PostgreSQL of the tests.
pub(crate) fn postgres() -> String {
    std::env::var("TEST_POSTGRES_URL")
        .expect("`cargo xtask servers -- …` starts PostgreSQL and says where it is")
}

impl Scene {
    /// A coordinator with a store of its own, and without a protection if one is named.
    pub(crate) async fn start(
        without: Option<Protection>,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let home = Home::new();
        // A scripted worker sends no heartbeats.
        let mut all = vec![
            (
                "LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL",
                "30m".to_owned(),
            ),
            ("LEVELFLOW_COORDINATOR__LEASE", "1h".to_owned()),
        ];
        let given = settings.iter();
        all.extend(given.map(|&(name, value)| (name, value.to_owned())));
        let (server, address, client) = serve(&home, without, &all).await;
        Self {
            home,
            without,
            settings: all,
            server: Some(server),
            former: None,
            address,
            client,
            ledger: Arc::default(),
            given: Given::default(),
            served: Vec::new(),
            restarts: 0,
            max_open_runs: None,
        }
    }

    /// The same, in tables of its own in PostgreSQL.
    pub(crate) async fn on_postgres(without: Option<Protection>, url: &str) -> Self {
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let (pid, scene) = (std::process::id(), SCENES.fetch_add(1, Ordering::Relaxed));
        let settings = [
            (POSTGRES, url),
            (
                "LEVELFLOW_COORDINATOR__POSTGRES__SCHEMA",
                &*format!("protections_{pid}_{scene}"),
            ),
            (
                "LEVELFLOW_COORDINATOR__POSTGRES__SHARDS",
                &SHARDS.to_string(),
            ),
            ("LEVELFLOW_COORDINATOR__CLUSTER__LEASE", "3s"),
        ];
        let scene = Self::start(without, &settings).await;
        scene.has_all_shards().await;
        // It has them in the database, and knows: it takes runs.
        scene.pass("1ms").await;
        scene
    }

    /// Kills the coordinator and starts another one on what it has left.
    pub(crate) async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().await;
        }
        let (server, address, client) = serve(&self.home, self.without, &self.settings).await;
        self.server = Some(server);
        (self.address, self.client) = (address, client);
        self.restarts += 1;
    }

    /// The same, with another way to PostgreSQL.
    pub(crate) async fn restart_on_postgres(&mut self, url: &str) {
        self.settings.push((POSTGRES, url.to_owned()));
        self.restart().await;
        self.has_all_shards().await;
    }

    /// Another coordinator, with another way to PostgreSQL, takes all shards and is the one to be asked from
    /// now on. Gives a client of the former one, which goes on.
    pub(crate) async fn take_over_on_postgres(&mut self, url: &str) -> Client {
        self.settings.push((POSTGRES, url.to_owned()));
        let (server, address, client) = serve(&self.home, self.without, &self.settings).await;
        self.former = self.server.replace(server);
        self.address = address;
        self.has_all_shards().await;
        std::mem::replace(&mut self.client, client)
    }

    async fn has_all_shards(&self) {
        let has_all = async || {
            let arguments = ["cluster", "--address", &self.address];
            let (_, view) = self.home.json(&arguments).await;
            let coordinators = view["coordinators"].as_array();
            // Another one that is gone, or is not heard of, has them for as long as its lease.
            coordinators.is_some_and(|it| it.len() == 1 && it[0]["shards"] == SHARDS)
        };
        eventually("the coordinator has all shards", has_all).await;
    }

    pub(crate) async fn submit(&self, workflow: &Value) -> String {
        let accepted = self.submit_as(workflow, submission(workflow)).await;
        accepted.unwrap()
    }

    pub(crate) async fn submit_as(
        &self,
        workflow: &Value,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<String, ApiError> {
        self.ledger.submit(&self.client, workflow, request).await
    }

    /// A worker without an attempt.
    pub(crate) async fn worker(&self, name: &str) -> ScriptedWorker {
        self.worker_process(name, 1, &[]).await
    }

    /// A process of a worker, with what it holds.
    pub(crate) async fn worker_process(
        &self,
        name: &str,
        instance: u64,
        held: &[u64],
    ) -> ScriptedWorker {
        ScriptedWorker::join(&self.address, &self.given, name, instance, held).await
    }

    /// Looks at a run, and remembers what it was told.
    pub(crate) async fn look(&mut self, run_id: &str) {
        self.served.push(self.client.get(run_id).await.unwrap());
    }

    /// Cancels a run.
    pub(crate) async fn cancel(&self, run_id: &str) {
        self.client.cancel(run_id).await.unwrap();
        self.ledger.cancelled(run_id);
    }

    /// Waits for the end of a `sleep` of that length: what was due before on the clock of the coordinator has
    /// happened then.
    pub(crate) async fn pass(&self, time: &str) {
        let sleep = serde_json::json!({
            "name": "sleep",
            "tasks": [{ "id": "sleep", "type": "sleep", "with": { "duration": time } }],
        });
        let run_id = self.submit(&sleep).await;
        self.client.ended(&run_id).await;
    }

    /// What the checks of all guarantees find.
    pub(crate) async fn violations(&self) -> Vec<Violation> {
        // What a protection that is off has left behind may never end.
        let patience = match self.without {
            None => DEADLINE,
            Some(_) => Duration::from_secs(1),
        };
        let evidence = Evidence::within(patience, &self.ledger, &self.client, Vec::new()).await;
        violations(&Evidence {
            starts: self.given.all(),
            served: self.served.clone(),
            restarts: self.restarts,
            max_open_runs: self.max_open_runs,
            ..evidence
        })
    }
}

async fn serve(
    home: &Home,
    without: Option<Protection>,
    settings: &[(&'static str, String)],
) -> (Running, String, Client) {
    let mut arguments = vec![
        "coordinator",
        "--no-http",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ];
    if let Some(protection) = without {
        arguments.extend(["--without", protection.as_str()]);
    }
    let mut command = home.command(&arguments);
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    let (server, address) = Running::server(command).await;
    let client = Client::connect(&address).await;
    (server, address, client)
}
