//! What the engine is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{
    AttemptResult, CacheKey, Failure, FencingToken, RunId, TaskKind, UpstreamCall, UpstreamReport,
    WorkerId,
};

use crate::definition::Definition;
use crate::flight::Lookup;
use crate::handler_version::HandlerVersion;
use crate::limit::LimitKeys;
use crate::record::{RecordedStream, Submitted, TaskIndex};

/// A run in the memory of one engine. Given again after the run was evicted, so whoever keeps one also
/// keeps a ticket or a batch number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunKey(pub(crate) u32);

/// One piece of work that was asked for, so that a late answer can be told from the current one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub(crate) u64);

/// A request whose answer comes as a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplyId(pub u64);

/// A connection of a worker. Never given twice in one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// What the engine is told.
#[derive(Debug)]
pub enum Event {
    /// A client submits a run.
    Submit {
        /// Where the answer goes.
        reply: ReplyId,
        /// The run.
        submitted: Box<Submitted>,
        /// Its workflow.
        definition: Arc<Definition>,
    },
    /// A client cancels a run.
    Cancel {
        /// Where the answer goes.
        reply: ReplyId,
        /// The run.
        run_id: RunId,
        /// What the client says.
        reason: Arc<str>,
    },
    /// The answer to [`crate::Command::Prepare`].
    Prepared {
        /// The run.
        run: RunKey,
        /// The task.
        task: TaskIndex,
        /// The ticket of the command.
        ticket: Ticket,
        /// What was found.
        result: Result<Preparation, Failure>,
    },
    /// The answer to [`crate::Command::RenderOutputs`].
    OutputsRendered {
        /// The run.
        run: RunKey,
        /// The ticket of the command.
        ticket: Ticket,
        /// A JSON object.
        result: Result<Bytes, Failure>,
    },
    /// A worker opened a session.
    Joined {
        /// Its connection.
        session: SessionId,
        /// What it said.
        hello: Box<Hello>,
    },
    /// A session ended.
    Left {
        /// The connection.
        session: SessionId,
    },
    /// A worker takes more attempts.
    Granted {
        /// Its connection.
        session: SessionId,
        /// How many more.
        credits: u32,
    },
    /// A worker takes no more attempts.
    Draining {
        /// Its connection.
        session: SessionId,
    },
    /// An attempt ended.
    Outcome {
        /// The connection.
        session: SessionId,
        /// The attempt.
        token: FencingToken,
        /// What came of it.
        result: AttemptResult,
        /// How long it ran.
        duration: Duration,
        /// What it saw of upstreams, if anything.
        upstreams: Option<Box<UpstreamReport>>,
        /// The chunks that it gave, to be recorded if it succeeded.
        stream: Option<Box<RecordedStream>>,
    },
    /// A worker received an attempt and did not start it.
    Refused {
        /// The connection.
        session: SessionId,
        /// The attempt.
        token: FencingToken,
    },
    /// A worker is alive.
    Heartbeat {
        /// The connection.
        session: SessionId,
        /// Attempts under way.
        running: Vec<FencingToken>,
        /// Those that reported progress since the last heartbeat.
        progressed: Vec<FencingToken>,
        /// Calls to upstreams that ended since the last heartbeat, of attempts that go on.
        calls: Vec<(FencingToken, UpstreamCall)>,
        /// What it takes.
        intake: Intake,
    },
    /// The answer to [`crate::Command::Keep`].
    Kept {
        /// Of what.
        key: CacheKey,
    },
    /// Time passed.
    Tick,
}

/// Which attempts a worker takes, as far as its memory is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Intake {
    /// Any.
    #[default]
    All,
    /// None of low priority.
    NoLow,
    /// None.
    Nothing,
}

/// What has to be known of a task before it can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// Its `when` is false.
    Skip,
    /// It can start.
    Input {
        /// A JSON value.
        input: Bytes,
        /// The upstream that it calls, as far as the input tells.
        upstream: Option<Arc<str>>,
        /// The keys of its limits, if it has any.
        keys: Option<Box<LimitKeys>>,
        /// What the cache said, if it was asked.
        cache: Option<Box<Lookup>>,
    },
    /// The items of its list, each a JSON value.
    Items(Vec<Bytes>),
    /// How long it sleeps.
    Sleep(Duration),
}

/// What a worker says first.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its name.
    pub worker: WorkerId,
    /// Drawn when its process started.
    pub instance: u64,
    /// Attempts that it runs at once.
    pub slots: u32,
    /// How often it is given a task, compared with others, where that is by weight.
    pub weight: u32,
    /// The queues that it subscribes to.
    pub queues: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The task kinds that it runs.
    pub kinds: BTreeSet<TaskKind>,
    /// The handlers that it has.
    pub handlers: BTreeSet<String>,
    /// The versions of those of them that have one.
    pub handler_versions: BTreeMap<String, HandlerVersion>,
    /// The databases and language models that it can ask.
    pub connections: BTreeSet<String>,
    /// Attempts of an earlier session that are still running or whose outcomes are not acknowledged.
    pub held: Vec<FencingToken>,
}
