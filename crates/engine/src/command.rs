//! What the engine asks for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{
    CacheKey, CacheUse, Code, Failure, FencingToken, RunId, RunStatus, SecretPart, TaskKind,
    TaskStatus, WorkerId,
};

use crate::breaker::BreakerState;
use crate::definition::Definition;
use crate::event::{ReplyId, RunKey, SessionId, Ticket};
use crate::flight::Output;
use crate::handler_version::HandlerVersion;
use crate::record::{RunNumber, TaskIndex};

/// The number of a batch of journal entries, from 1. What happened in one batch becomes durable at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchNumber(pub u64);

/// A command, and the batch that must be durable before it is carried out.
#[derive(Debug)]
pub struct Effect {
    /// The batch.
    pub after: BatchNumber,
    /// The command.
    pub command: Command,
}

/// What the engine asks for.
#[derive(Debug)]
pub enum Command {
    /// Answer a request.
    Reply {
        /// Which.
        reply: ReplyId,
        /// The answer.
        answer: Answer,
    },
    /// Evaluate what a task needs before it can start; answer with [`crate::Event::Prepared`].
    Prepare(Box<Prepare>),
    /// Evaluate the outputs of a run; answer with [`crate::Event::OutputsRendered`].
    RenderOutputs(Box<RenderOutputs>),
    /// Send an attempt, if [`crate::Engine::start`] still gives it.
    Dispatch {
        /// To whom.
        session: SessionId,
        /// Which.
        token: FencingToken,
    },
    /// Tell a worker to stop an attempt.
    Stop {
        /// Whom.
        session: SessionId,
        /// Which.
        token: FencingToken,
    },
    /// Tell a worker to forget an outcome.
    Acknowledge {
        /// Whom.
        session: SessionId,
        /// Which.
        token: FencingToken,
    },
    /// Answer a worker's hello.
    Welcome {
        /// Whom.
        session: SessionId,
        /// Attempts that it holds and may not.
        revoked: Vec<FencingToken>,
    },
    /// End a session.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        code: Code,
    },
    /// Tell the workers, if need be, that a breaker opened or closed, and whoever keeps a log.
    BreakerChanged {
        /// Of which upstream.
        upstream: Arc<str>,
        /// How it stands now.
        state: BreakerState,
    },
    /// Tell whoever watches over workers that one went without a word.
    WorkerLost {
        /// Which.
        worker: WorkerId,
        /// How that was seen.
        reason: String,
        /// Attempts that were lost with it.
        attempts: usize,
    },
    /// Tell whoever watches over workers that a task is tried no more, since workers went down with it.
    Quarantined(Box<Quarantined>),
    /// Put a result into the cache, and say [`crate::Event::Kept`] then, also when it is not taken.
    Keep(Box<Computed>),
    /// No task here computes a result any more.
    GiveUp {
        /// Which.
        key: CacheKey,
    },
    /// Tell whoever waits for the run that it has ended, then evict it.
    Ended(Box<Ended>),
}

/// An answer to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a submit.
    Submitted {
        /// The run.
        run_id: RunId,
        /// Whether it was there before.
        existing: bool,
    },
    /// To a cancel.
    Cancelling {
        /// How the run stands.
        status: RunStatus,
    },
}

/// What to evaluate for a task.
#[derive(Debug)]
pub struct Prepare {
    /// The run.
    pub run: RunKey,
    /// The task.
    pub task: TaskIndex,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// The place of the task in the definition.
    pub defined: TaskIndex,
    /// The place in the list and the JSON value, for an item.
    pub item: Option<(u32, Bytes)>,
    /// Whose run it is.
    pub tenant: Arc<str>,
    /// What it does with the cache.
    pub cache: CacheUse,
    /// Under which version of its handler it is looked up and kept; none if it is neither.
    pub handler_version: Option<HandlerVersion>,
    /// What expressions can refer to.
    pub context: RunContext,
}

/// The outputs to evaluate.
#[derive(Debug)]
pub struct RenderOutputs {
    /// The run.
    pub run: RunKey,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// What expressions can refer to.
    pub context: RunContext,
}

/// What expressions can refer to.
#[derive(Debug)]
pub struct RunContext {
    /// The run.
    pub run_id: RunId,
    /// Its workflow.
    pub definition: Arc<Definition>,
    /// Its inputs, a JSON object.
    pub inputs: Bytes,
    /// Tasks that have ended.
    pub tasks: Vec<EndedTask>,
}

/// A task that has ended.
#[derive(Debug)]
pub struct EndedTask {
    /// Its id.
    pub id: Arc<str>,
    /// How it ended.
    pub status: TaskStatus,
    /// Its output, a JSON value.
    pub output: Option<Bytes>,
}

/// A result that others can use.
#[derive(Debug)]
pub struct Computed {
    /// What it is found by.
    pub key: CacheKey,
    /// The workflow.
    pub definition: Arc<Definition>,
    /// The place of the task in it.
    pub task: TaskIndex,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The run that computed it.
    pub run_id: RunId,
    /// The version of the handler that did.
    pub handler_version: HandlerVersion,
    /// The output, or a failure that no retry can help.
    pub result: Result<Output, Failure>,
    /// How long the attempt took.
    pub took: Duration,
}

/// An attempt to send.
#[derive(Debug)]
pub struct Attempt {
    /// The right to it.
    pub token: FencingToken,
    /// The run.
    pub run_id: RunId,
    /// The number of the run in the store.
    pub number: RunNumber,
    /// The place of the task in the run.
    pub task: TaskIndex,
    /// The task.
    pub task_id: Arc<str>,
    /// The place in the list, for an item.
    pub item: Option<u32>,
    /// Its number, from 1.
    pub attempt: u32,
    /// What runs it.
    pub kind: TaskKind,
    /// The handler; empty for other kinds.
    pub handler: Arc<str>,
    /// Whose run it is.
    pub tenant: Arc<str>,
    /// A JSON value.
    pub input: Bytes,
    /// The secrets that belong into it.
    pub secrets: Arc<[SecretPart]>,
    /// The longest that it may run.
    pub timeout: Duration,
    /// The longest silence of a handler.
    pub heartbeat_timeout: Option<Duration>,
    /// The upstream that it may call whatever its breaker says.
    pub upstream: Option<Arc<str>>,
    /// The result of a nearly equal text that a handler is shown: see [`crate::NearHit::shown`].
    pub near_hit: Option<Bytes>,
}

/// A task that is tried no more, since workers went down with it.
#[derive(Debug)]
pub struct Quarantined {
    /// The run.
    pub run_id: RunId,
    /// The task.
    pub task_id: Arc<str>,
    /// The place in the list, for an item.
    pub item: Option<u32>,
    /// How its last attempt went down.
    pub code: Code,
    /// All that is known of its attempts.
    pub reason: String,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The run in memory.
    pub run: RunKey,
    /// The number of the run in the store.
    pub number: RunNumber,
    /// The run.
    pub run_id: RunId,
    /// Its terminal status.
    pub status: RunStatus,
    /// Its outputs, when it succeeded.
    pub outputs: Option<Bytes>,
    /// Why it failed.
    pub failure: Option<Failure>,
}
