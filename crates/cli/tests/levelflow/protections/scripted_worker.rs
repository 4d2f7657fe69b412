//! A worker that does what a test says, in a session of its own.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use levelflow_common::{Code, RunId};
use levelflow_proto::protocol::PROTOCOL_VERSION;
use levelflow_proto::v1;
use levelflow_proto::v1::worker_service_client::WorkerServiceClient;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{channel, eventually};
use crate::cluster::chaos::starts::{Start, now};
use crate::harness::DEADLINE;

/// The attempts that scripted workers were given.
#[derive(Clone, Default)]
pub(crate) struct Given(Arc<Mutex<Vec<Start>>>);

/// An attempt.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) token: u64,
    pub(crate) task: String,
    /// What it gives when it succeeds.
    pub(crate) mark: String,
}

/// A worker that a test has in hand.
pub(crate) struct ScriptedWorker {
    frames: mpsc::Sender<v1::WorkerFrame>,
    inbound: Streaming<v1::CoordinatorFrame>,
    given: Given,
    /// Those that the test has not looked at yet.
    attempts: VecDeque<Attempt>,
    acknowledged: BTreeSet<u64>,
    has_returned: bool,
}

impl Given {
    pub(crate) fn all(&self) -> Vec<Start> {
        self.0.lock().unwrap().clone()
    }

    /// Notes that the starts of a task until now were on that result.
    pub(crate) fn rest_on(&self, task: &str, result: &Attempt) {
        for start in self.0.lock().unwrap().iter_mut() {
            if start.task == task && start.needs.is_empty() {
                start.needs.push(result.mark.clone());
            }
        }
    }

    fn note(&self, attempt: v1::Attempt) -> Attempt {
        let mut starts = self.0.lock().unwrap();
        let input: Value = serde_json::from_slice(&attempt.input).unwrap();
        let path = input["url"]
            .as_str()
            .and_then(|url| url.splitn(4, '/').nth(3));
        let start = Start {
            run_id: RunId::from_slice(&attempt.run_id).unwrap().to_string(),
            task: attempt.task_id,
            item: attempt.item,
            attempt: Some(attempt.attempt),
            mark: format!("start-{}", starts.len()),
            needs: Vec::new(),
            input: path.unwrap_or_default().to_owned(),
            at: now(),
            answered_at: None,
        };
        starts.push(start.clone());
        Attempt {
            token: attempt.token,
            task: start.task,
            mark: start.mark,
        }
    }

    fn answered(&self, mark: &str) {
        let mut starts = self.0.lock().unwrap();
        for start in starts.iter_mut().filter(|it| it.mark == mark) {
            start.answered_at = Some(now());
        }
    }
}

impl ScriptedWorker {
    /// Joins as the process `instance` of a worker, as soon as its last session is over.
    pub(crate) async fn join(
        address: &str,
        given: &Given,
        name: &str,
        instance: u64,
        held: &[u64],
    ) -> Self {
        let hello = v1::Hello {
            worker_id: name.to_owned(),
            version: "scripted".to_owned(),
            protocol: PROTOCOL_VERSION,
            slots: 16,
            queues: vec!["default".to_owned()],
            kinds: vec!["http".to_owned()],
            held: held.to_vec(),
            instance,
            ..Default::default()
        };
        let joined = Mutex::new(None);
        let is_welcome = async || {
            let session = Self::open(address, given, hello.clone()).await;
            let is_welcome = session.is_ok();
            *joined.lock().unwrap() = session.ok();
            is_welcome
        };
        eventually("the worker is welcome", is_welcome).await;
        joined.into_inner().unwrap().expect("it is welcome")
    }

    async fn open(address: &str, given: &Given, hello: v1::Hello) -> Result<Self, Status> {
        let (frames, outbound) = mpsc::channel(16);
        let first = v1::WorkerFrame {
            hello: Some(hello),
            ..Default::default()
        };
        frames.send(first).await.unwrap();
        let mut service = WorkerServiceClient::new(channel(address).await);
        let session = service.session(ReceiverStream::new(outbound)).await?;
        let mut worker = Self {
            frames,
            inbound: session.into_inner(),
            given: given.clone(),
            attempts: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            has_returned: false,
        };
        worker.frame().await?;
        Ok(worker)
    }

    /// Takes in the next frame.
    async fn frame(&mut self) -> Result<(), Status> {
        let frame = timeout(DEADLINE, self.inbound.message());
        let frame = frame.await.expect("a frame comes before the deadline")?;
        let frame = frame.ok_or_else(|| Status::aborted("the session is over"))?;
        for attempt in frame.attempts {
            self.attempts.push_back(self.given.note(attempt));
        }
        self.acknowledged.extend(frame.acknowledged);
        self.has_returned |= frame.returned.is_some();
        Ok(())
    }

    async fn send(&self, frame: v1::WorkerFrame) {
        self.frames.send(frame).await.unwrap();
    }

    /// Asks for attempts.
    pub(crate) async fn grant(&self, credits: u32) {
        let frame = v1::WorkerFrame {
            credits,
            ..Default::default()
        };
        self.send(frame).await;
    }

    /// The next attempt.
    pub(crate) async fn attempt(&mut self) -> Attempt {
        loop {
            if let Some(attempt) = self.attempts.pop_front() {
                return attempt;
            }
            self.frame().await.unwrap();
        }
    }

    /// Asks for the credits back. What was sent before the answer has come then.
    pub(crate) async fn reclaim(&mut self) {
        let frame = v1::WorkerFrame {
            reclaimed: 1,
            ..Default::default()
        };
        self.send(frame).await;
        while !self.has_returned {
            self.frame().await.unwrap();
        }
    }

    /// Sends an outcome.
    async fn end(&self, attempt: &Attempt, failure: Option<v1::Failure>) {
        self.given.answered(&attempt.mark);
        let output = json!({ "body": { "mark": attempt.mark } });
        let outcome = v1::Outcome {
            token: attempt.token,
            output: output.to_string().into(),
            failure,
            duration_us: 1,
            ..Default::default()
        };
        let frame = v1::WorkerFrame {
            outcomes: vec![outcome],
            ..Default::default()
        };
        self.send(frame).await;
    }

    /// Reports a success, and does not wait until that is durable.
    pub(crate) async fn report(&self, attempt: &Attempt) {
        self.end(attempt, None).await;
    }

    /// Reports a success, and waits until that is durable or refused.
    pub(crate) async fn succeed(&mut self, attempt: &Attempt) {
        self.end(attempt, None).await;
        self.settled(attempt).await;
    }

    /// Reports a failure that a retry may help, and waits until that is durable or refused.
    pub(crate) async fn fail(&mut self, attempt: &Attempt) {
        let failure = v1::Failure {
            code: Code::HandlerFailed.as_str().to_owned(),
            message: "as the script says".to_owned(),
            retryable: true,
            retry_after_us: None,
        };
        self.end(attempt, Some(failure)).await;
        self.settled(attempt).await;
    }

    /// Succeeds with whatever comes.
    pub(crate) async fn work(&mut self) -> Infallible {
        loop {
            let attempt = self.attempt().await;
            self.succeed(&attempt).await;
        }
    }

    async fn settled(&mut self, attempt: &Attempt) {
        while !self.acknowledged.remove(&attempt.token) {
            self.frame().await.unwrap();
        }
    }
}
