//! Stable codes of errors: what programs match on, and what decides the status on the wire.

use std::fmt;

/// Whose fault an error is, and so what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong; sending it again does not help.
    Caller,
    /// The named thing does not exist.
    NotFound,
    /// The request does not fit the state of the thing.
    Conflict,
    /// A bound was reached; try again later.
    Exhausted,
    /// Ours, and passing; try again.
    Unavailable,
    /// Ours.
    Internal,
    /// The work itself failed.
    Task,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $fault:ident;)*) => {
        /// A stable error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The text of the code, in wire messages and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault,)* }
            }

            /// The code of that text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// A workflow has problems; the error lists them.
    WorkflowInvalid = "workflow_invalid", Caller;
    /// The inputs do not fit the workflow.
    InputInvalid = "input_invalid", Caller;
    /// A field of a request is missing or malformed.
    RequestInvalid = "request_invalid", Caller;
    /// The path of a request leads nowhere.
    RouteUnknown = "route_unknown", NotFound;
    /// What the path names does not know the method of the request.
    MethodNotAllowed = "method_not_allowed", Caller;
    /// The body of a request is of a type that is not read here.
    MediaTypeUnsupported = "media_type_unsupported", Caller;
    /// The request comes from a page of another site, or under a name that is not the server's.
    OriginRefused = "origin_refused", Caller;
    /// A request did not arrive, or could not be answered, in time.
    RequestTimeout = "request_timeout", Unavailable;
    /// A message, input or output is over its limit.
    TooLarge = "too_large", Caller;
    /// No workflow with that digest is known; send its definition.
    WorkflowUnknown = "workflow_unknown", NotFound;
    /// No such run.
    RunNotFound = "run_not_found", NotFound;
    /// No such task in the run.
    TaskNotFound = "task_not_found", NotFound;
    /// No breaker is known for that upstream.
    BreakerNotFound = "breaker_not_found", NotFound;
    /// The run has ended.
    RunEnded = "run_ended", Conflict;
    /// The run has not failed or been cancelled, so there is nothing to resume.
    NotResumable = "not_resumable", Conflict;
    /// The idempotency key was used for another workflow or other inputs.
    KeyReused = "key_reused", Conflict;
    /// A worker with that id has a live session.
    WorkerIdTaken = "worker_id_taken", Conflict;
    /// The protocol version of the peer is not spoken here.
    ProtocolUnsupported = "protocol_unsupported", Caller;
    /// The queue is full.
    QueueFull = "queue_full", Exhausted;
    /// Too many runs are open.
    TooManyRuns = "too_many_runs", Exhausted;
    /// Too many clients watch.
    TooManyWatchers = "too_many_watchers", Exhausted;
    /// Requests that are being read fill the memory that is set aside for them.
    TooManyRequests = "too_many_requests", Exhausted;
    /// The server is starting.
    NotReady = "not_ready", Unavailable;
    /// Nothing is decided about the number of workers.
    AutoscaleOff = "autoscale_off", Conflict;
    /// Too many queues have their workers decided about on their own.
    TooManyQueues = "too_many_queues", Exhausted;
    /// The coordinator has no cache.
    CacheOff = "cache_off", Conflict;
    /// The server is stopping.
    ShuttingDown = "shutting_down", Unavailable;
    /// The store did not answer or refused.
    StoreUnavailable = "store_unavailable", Unavailable;
    /// The run belongs to a shard that another coordinator has, or that is about to change hands.
    ShardElsewhere = "shard_elsewhere", Unavailable;
    /// Stored data is damaged.
    StoreCorrupt = "store_corrupt", Internal;
    /// The store was written by a newer version.
    StoreTooNew = "store_too_new", Caller;
    /// A tier of the result cache did not do what it was asked.
    CacheUnavailable = "cache_unavailable", Unavailable;
    /// Another process uses the data directory.
    DataDirLocked = "data_dir_locked", Conflict;
    /// A configuration value is wrong.
    ConfigInvalid = "config_invalid", Caller;
    /// An address could not be listened on.
    AddressUnavailable = "address_unavailable", Caller;
    /// The server could not be reached.
    ServerUnreachable = "server_unreachable", Unavailable;
    /// A bug.
    Internal = "internal", Internal;

    /// A handler returned an error.
    HandlerFailed = "handler_failed", Task;
    /// A handler panicked.
    HandlerPanicked = "handler_panicked", Task;
    /// The process of an isolated handler ended during the attempt.
    HandlerCrashed = "handler_crashed", Task;
    /// The process of an isolated handler was killed because it held more memory than it may.
    MemoryExceeded = "memory_exceeded", Task;
    /// The worker has no such handler or does not run such tasks.
    TaskUnsupported = "task_unsupported", Task;
    /// The rendered input does not fit the task type.
    TaskInputInvalid = "task_input_invalid", Task;
    /// An expression could not be evaluated.
    ExpressionFailed = "expression_failed", Task;
    /// The output is over its limit.
    OutputTooLarge = "output_too_large", Task;
    /// The chunks of an attempt are over their limit.
    StreamTooLarge = "stream_too_large", Task;
    /// Chunks of an attempt did not reach the coordinator.
    StreamBroken = "stream_broken", Task;
    /// A program exited with a status other than zero, or by a signal.
    ProcessFailed = "process_failed", Task;
    /// A program could not be started.
    ProcessNotStarted = "process_not_started", Task;
    /// A server answered with an unexpected status.
    HttpStatus = "http_status", Task;
    /// A server could not be reached, or the exchange broke off.
    HttpFailed = "http_failed", Task;
    /// A database refused a statement.
    SqlFailed = "sql_failed", Task;
    /// A database could not be reached, or the connection to it was lost.
    SqlUnavailable = "sql_unavailable", Task;
    /// A language model could not be asked, or its answer broke off or made no sense.
    ChatFailed = "chat_failed", Task;
    /// The address that a task calls is not one that this worker may call.
    EgressRefused = "egress_refused", Task;
    /// The worker has no secret of that name, or cannot read it.
    SecretUnavailable = "secret_unavailable", Task;
    /// An attempt took too long.
    RunTimeout = "run_timeout", Task;
    /// No worker took the task in time.
    QueueTimeout = "queue_timeout", Task;
    /// The task took too long, all attempts together; or the run did.
    TotalTimeout = "total_timeout", Task;
    /// A handler was silent for too long.
    HeartbeatTimeout = "heartbeat_timeout", Task;
    /// As many tasks with the same concurrency key as may run were waiting or running.
    ConcurrencyFull = "concurrency_full", Task;
    /// A newer task with the same concurrency key took its place.
    ConcurrencyDisplaced = "concurrency_displaced", Task;
    /// Tasks with too many different rate limit keys started lately.
    RateKeysExhausted = "rate_keys_exhausted", Task;
    /// The worker was lost during the attempt.
    WorkerLost = "worker_lost", Task;
    /// Attempts at the task were lost with the process that ran them, as often as is allowed.
    Quarantined = "quarantined", Task;
    /// The run was cancelled.
    Cancelled = "cancelled", Task;
    /// A task that this one needs did not succeed.
    UpstreamFailed = "upstream_failed", Task;
}

impl Code {
    /// Whether an attempt can fail with it, rather than a task, a run or a request.
    pub const fn is_of_attempt(self) -> bool {
        matches!(self.fault(), Fault::Task)
            && !matches!(
                self,
                Self::ExpressionFailed
                    | Self::QueueTimeout
                    | Self::Quarantined
                    | Self::TotalTimeout
                    | Self::Cancelled
                    | Self::UpstreamFailed
            )
    }

    /// Whether the failure is likely to be the input's: where an attempt with the same input ran, it would
    /// fail the same way.
    pub const fn is_of_input(self) -> bool {
        matches!(
            self,
            Self::HandlerFailed
                | Self::TaskInputInvalid
                | Self::OutputTooLarge
                | Self::ProcessFailed
                | Self::HttpStatus
                | Self::SqlFailed
                | Self::ChatFailed
        )
    }
}

impl Code {
    /// Whether the process that ran the attempt went down with it.
    pub const fn is_crash(self) -> bool {
        matches!(
            self,
            Self::WorkerLost | Self::HandlerCrashed | Self::MemoryExceeded
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for &code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
    }
}
