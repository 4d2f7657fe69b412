//! Workers whose software is older or newer than that of the coordinator.

use levelflow_common::{Code, RunStatus};
use levelflow_proto::v1::worker_service_client::WorkerServiceClient;
use levelflow_proto::{from_status, v1};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{Client, channel};
use crate::harness::{DEADLINE, Home, Running};

/// A worker of another version, as far as the coordinator can tell.
struct Foreign {
    frames: mpsc::UnboundedSender<v1::WorkerFrame>,
    inbound: Streaming<v1::CoordinatorFrame>,
    welcome: v1::Welcome,
}

impl Foreign {
    async fn open(address: &str, hello: v1::Hello) -> Result<Self, Status> {
        let (frames, outbound) = mpsc::unbounded_channel();
        let first = v1::WorkerFrame {
            hello: Some(hello),
            ..v1::WorkerFrame::default()
        };
        frames.send(first).unwrap();
        let outbound = UnboundedReceiverStream::new(outbound);
        let mut client = WorkerServiceClient::new(channel(address).await);
        let mut inbound = client.session(outbound).await?.into_inner();
        let answer = timeout(DEADLINE, inbound.message()).await.unwrap()?;
        let welcome = answer.unwrap().welcome.unwrap();
        let granted = v1::WorkerFrame {
            credits: 1,
            ..v1::WorkerFrame::default()
        };
        frames.send(granted).unwrap();
        Ok(Self {
            frames,
            inbound,
            welcome,
        })
    }

    /// Runs the next attempt: it gives 1.
    async fn work(&mut self) {
        let attempt = loop {
            let frame = timeout(DEADLINE, self.inbound.message()).await.unwrap();
            if let Some(attempt) = frame.unwrap().unwrap().attempts.pop() {
                break attempt;
            }
        };
        let outcome = v1::Outcome {
            token: attempt.token,
            output: "1".into(),
            ..v1::Outcome::default()
        };
        let frame = v1::WorkerFrame {
            outcomes: vec![outcome],
            credits: 1,
            ..v1::WorkerFrame::default()
        };
        self.frames.send(frame).unwrap();
    }
}

fn hello(id: &str) -> v1::Hello {
    v1::Hello {
        worker_id: id.to_owned(),
        protocol: 1,
        slots: 1,
        queues: vec![id.to_owned()],
        kinds: vec!["transform".to_owned()],
        instance: 7,
        ..v1::Hello::default()
    }
}

#[tokio::test]
async fn older_and_newer_workers_work_side_by_side() {
    let home = Home::new();
    let (_coordinator, address) = Running::serve(&home, &["coordinator"]).await;
    let arguments = ["worker", "--address", &address, "--queue", "ours", "--json"];
    let mut ours = Running::start(home.command(&arguments));
    ours.line().await;

    // Of before features were named.
    let mut older = Foreign::open(&address, hello("older")).await.unwrap();
    assert_eq!(older.welcome.protocol, 1);
    assert_eq!(older.welcome.features, [] as [&str; 0]);
    // It speaks what is to come, and what is spoken here.
    let newer = v1::Hello {
        protocol: 9,
        oldest_protocol: 1,
        features: vec!["shared_slots".to_owned(), "telepathy".to_owned()],
        kinds: vec!["transform".to_owned(), "telepathy".to_owned()],
        ..hello("newer")
    };
    let mut newer = Foreign::open(&address, newer).await.unwrap();
    assert_eq!(newer.welcome.protocol, 1);
    assert_eq!(newer.welcome.features, ["shared_slots"]);

    let client = Client::connect(&address).await;
    let task = |queue: &str, needs: &[&str]| {
        json!({
            "id": queue, "type": "transform", "needs": needs,
            "with": { "value": 1 }, "worker": { "queue": queue },
        })
    };
    let tasks = [
        task("older", &[]),
        task("newer", &["older"]),
        task("ours", &["newer"]),
    ];
    let run = client
        .start(&json!({ "name": "mixed", "tasks": tasks }))
        .await;
    older.work().await;
    newer.work().await;
    assert_eq!(
        client.ended(&run).await.summary.status,
        RunStatus::Succeeded
    );
}

#[tokio::test]
async fn a_worker_without_a_common_version_is_told_so() {
    let home = Home::new();
    let (_coordinator, address) = Running::serve(&home, &["coordinator"]).await;
    let hello = v1::Hello {
        protocol: 9,
        oldest_protocol: 8,
        ..hello("future")
    };
    let refused = Foreign::open(&address, hello).await.err().unwrap();
    let error = from_status(&refused);
    assert_eq!(error.code(), Code::ProtocolUnsupported);
    assert_eq!(
        error.to_string(),
        "worker `future`: it speaks versions 8 to 9 of the session protocol, and here 1 to 1 are spoken"
    );
}
