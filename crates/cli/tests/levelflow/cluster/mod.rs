//! Several coordinators on one PostgreSQL.

mod autoscale;
pub(crate) mod chaos;
mod nats;
mod shards;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::process::Command;

use crate::client::eventually;
use crate::harness::{Home, Running};

/// Coordinators and workers of one test, with tables of its own.
struct Cluster {
    home: Home,
    schema: String,
    /// How long a coordinator owns its shards without a word.
    lease: &'static str,
}

/// A coordinator that runs.
struct Coordinator {
    process: Running,
    address: String,
}

impl Cluster {
    fn new() -> Self {
        Self::with_lease("2s")
    }

    fn with_lease(lease: &'static str) -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        let (pid, test) = (std::process::id(), TESTS.fetch_add(1, Ordering::Relaxed));
        Self {
            home: Home::new(),
            schema: format!("cluster_{pid}_{test}"),
            lease,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let url = std::env::var("TEST_POSTGRES_URL")
            .expect("`cargo xtask servers -- …` starts PostgreSQL and says where it is");
        let mut command = self.home.command(arguments);
        command
            .env("LEVELFLOW_COORDINATOR__POSTGRES__URL", url)
            .env("LEVELFLOW_COORDINATOR__POSTGRES__SCHEMA", &self.schema)
            .env("LEVELFLOW_COORDINATOR__POSTGRES__SHARDS", "16")
            .env("LEVELFLOW_COORDINATOR__CLUSTER__LEASE", self.lease);
        command
    }

    async fn coordinator(&self) -> Coordinator {
        let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--json"];
        let (process, address) = Running::server(self.command(&arguments)).await;
        Coordinator { process, address }
    }

    /// A worker that is told of one coordinator only.
    async fn worker(&self, coordinator: &Coordinator, slots: u32) -> Running {
        let slots = slots.to_string();
        let arguments = [
            "worker",
            "--address",
            &coordinator.address,
            "--slots",
            &slots,
            "--allow-process",
            "--json",
        ];
        let mut worker = Running::start(self.command(&arguments));
        worker.json_line().await;
        worker
    }

    /// What a coordinator says of the cluster.
    async fn view(&self, coordinator: &Coordinator) -> Value {
        let arguments = ["cluster", "--address", &coordinator.address];
        self.home.json(&arguments).await.1
    }

    /// Waits until that many coordinators have all the shards, evenly.
    async fn is_even(&self, coordinator: &Coordinator, coordinators: usize) {
        let even = async || {
            let view = self.view(coordinator).await;
            let counts: Vec<u64> = members(&view)
                .map(|it| it["shards"].as_u64().unwrap())
                .collect();
            counts.len() == coordinators
                && counts.iter().sum::<u64>() == 16
                && counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1
        };
        eventually("every coordinator has its share", even).await;
    }
}

fn members(view: &Value) -> impl Iterator<Item = &Value> {
    view["coordinators"].as_array().unwrap().iter()
}
