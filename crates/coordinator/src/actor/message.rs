//! What the actor is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::alert::Alert;
use levelflow_common::event::{RunEvent, TaskRef};
use levelflow_common::overview::{Overview, WorkerView};
use levelflow_common::view::{BreakerView, RunSummary, RunView};
use levelflow_common::{Failure, RunId, RunStatus, ShardId, Timestamp};
use levelflow_engine::autoscale::Demand;
use levelflow_engine::event::{Hello, SessionId};
use levelflow_engine::{Definition, Event, Explanation, Record, Rejection, Submitted};
use levelflow_proto::{ApiError, v1};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::measures::Measures;
use super::sessions::Agreed;
use crate::alert::AlertFeed;
use crate::recovery::Recovered;
use crate::service::TaskFollowing;

/// What the actor is sent.
pub(crate) enum Message {
    /// An event without a reply.
    Engine(Event),
    /// A client submits a run.
    Submit {
        submitted: Box<Submitted>,
        definition: Arc<Definition>,
        reply: SubmitReply,
    },
    /// A client cancels a run.
    Cancel {
        run_id: RunId,
        reason: Arc<str>,
        reply: oneshot::Sender<Result<RunStatus, Refused>>,
    },
    /// A client looks at a run; none if it is not open.
    View {
        run_id: RunId,
        reply: oneshot::Sender<Option<Box<RunView>>>,
    },
    /// A client lists runs: the rows of those that are open.
    Summaries {
        run_ids: Vec<RunId>,
        reply: oneshot::Sender<Vec<RunSummary>>,
    },
    /// A client asks why a task waits.
    Explain {
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
        reply: oneshot::Sender<Result<Explanation, Rejection>>,
    },
    /// A client lists breakers.
    Breakers {
        reply: oneshot::Sender<Vec<BreakerView>>,
    },
    /// A client resets the breaker of an upstream; none if it is not known.
    ResetBreaker {
        upstream: String,
        reply: oneshot::Sender<Option<BreakerView>>,
    },
    /// Someone asks for the alerts after the one with this number.
    Alerts {
        after: u64,
        reply: oneshot::Sender<AlertFeed>,
    },
    /// A client asks for so many alerts after the one with this number, the newest.
    NewestAlerts {
        after: u64,
        most: usize,
        reply: oneshot::Sender<Vec<Alert>>,
    },
    /// A client lists workers.
    Workers {
        reply: oneshot::Sender<Vec<WorkerView>>,
    },
    /// A client asks how much is under way.
    Overview { reply: oneshot::Sender<Overview> },
    /// Whoever decides how many workers there are asks what waits for them.
    Demand { reply: oneshot::Sender<Demand> },
    /// Shards that the coordinator now owns.
    TakeUp {
        recovered: Box<Recovered>,
        reply: oneshot::Sender<()>,
    },
    /// Shards that another coordinator is to have. Answered when nothing of them is left here, and all
    /// that was said of them is durable.
    GiveAway {
        shards: Vec<ShardId>,
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
    /// The shards are certain to be this coordinator's until then.
    Renewed { until: Instant },
    /// Shards were lost: everything is read again. Answered with what is left.
    Reload {
        reply: oneshot::Sender<Vec<ShardId>>,
    },
    /// The coordinators that share the store have changed.
    Coordinators(Vec<v1::CoordinatorAddress>),
    /// Whoever has work for later waits until no run is open.
    Idle { reply: oneshot::Sender<()> },
    /// A client watches a run; none if it is not open.
    Watch {
        run_id: RunId,
        /// With the streams of its tasks.
        chunks: bool,
        reply: oneshot::Sender<Option<mpsc::Receiver<Watched>>>,
    },
    /// A client follows the chunks of a task.
    FollowTask {
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
        reply: oneshot::Sender<Result<TaskFollowing, Rejection>>,
    },
    /// A worker opened a stream.
    Opened {
        session: SessionId,
        hello: Box<Hello>,
        agreed: Agreed,
        frames: mpsc::UnboundedSender<SessionFrame>,
    },
    /// A worker sent a frame.
    Frame {
        session: SessionId,
        frame: Box<v1::WorkerFrame>,
    },
    /// The stream of a worker ended.
    Closed { session: SessionId },
    /// Someone asks how everything stands.
    Measures {
        reply: oneshot::Sender<Box<Measures>>,
    },
    /// Stop: take nothing new, let attempts end within the grace time, close.
    Stop {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// Where the answer to a submit goes.
pub(crate) enum SubmitReply {
    /// To a single request.
    One(oneshot::Sender<Result<Accepted, Refused>>),
    /// To a stream of requests.
    Stream {
        tag: u64,
        report_end: bool,
        answers: mpsc::UnboundedSender<StreamAnswer>,
    },
}

/// An accepted submit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) run_id: RunId,
    pub(crate) existing: bool,
}

/// Something to tell a client that submits over a stream.
pub(crate) enum StreamAnswer {
    /// The answer to a submit.
    Submitted {
        tag: u64,
        result: Result<Accepted, Refused>,
    },
    /// The same from wherever it was submitted.
    SubmittedElsewhere {
        tag: u64,
        result: Result<v1::SubmitWorkflowResponse, Box<ApiError>>,
    },
    /// The end of a run that was asked for.
    Ended { tag: u64, end: RunEnding },
    /// The end of a run is not to be expected here any more.
    Moved { tag: u64 },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct RunEnding {
    pub(crate) status: RunStatus,
    pub(crate) outputs: Option<Bytes>,
    pub(crate) failure: Option<Failure>,
}

/// Why the actor refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The engine did.
    #[error(transparent)]
    Engine(#[from] Rejection),
    /// The journal did not take it; whether it happened is unknown until the store has recovered.
    #[error("the store failed, and it is not known whether this was recorded; ask again")]
    Store,
    /// The coordinator stops.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The worker has opened another stream.
    #[error("the worker has a newer session")]
    Replaced,
}

/// What a watcher gets, in order.
#[derive(Debug)]
pub(crate) enum Watched {
    /// Durable records, the first with this sequence number.
    Records {
        first_sequence: u64,
        records: Vec<Record>,
    },
    /// The store may have more than it had when the watcher came.
    Stored,
    /// A task gives chunks.
    Streaming(TaskRef),
    /// Something that is not recorded.
    Live { at: Timestamp, event: RunEvent },
}

/// What a session task is told.
pub(crate) enum SessionFrame {
    /// Send this.
    Send(v1::CoordinatorFrame),
    /// End the stream.
    Close(Refused),
}
