//! A child process, as the worker sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{AttemptResult, Code, Failure, HumanDuration};
use levelflow_proto::protocol::PROTOCOL_VERSION;
use levelflow_proto::v1;
use tokio::process::{self, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::frames::Frames;
use super::{IsolationOptions, MIB, Role};
use crate::context::Context;
use crate::executor::process_group::{ProcessGroup, ending};
use crate::executor::program::this_program;
use crate::memory::resident_bytes_of;

/// How long a child may take until it is ready.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long a child may take to end when it is no longer needed, or has closed its socket.
const END_WITHIN: Duration = Duration::from_secs(1);
/// The time between looks at the memory of a child.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// A child process. Killed when dropped, with what it started.
pub(super) struct Child {
    group: ProcessGroup,
    process: process::Child,
    pid: u32,
    frames: Frames,
    attempts: u32,
    is_whole: bool,
}

impl Child {
    /// Starts a child, and waits until it is ready.
    pub(super) async fn start(handler: &str, options: &IsolationOptions) -> Result<Self, Failure> {
        let not_started = |problem: String| {
            let message =
                format!("no process for the handler `{handler}` could be started: {problem}");
            Failure::retryable(Code::ProcessNotStarted, message)
        };
        let mut child =
            Self::spawn(handler, options).map_err(|error| not_started(error.to_string()))?;
        match timeout(START_WITHIN, child.frames.receive::<v1::WorkerFrame>()).await {
            Ok(Ok(Some(v1::WorkerFrame {
                hello: Some(hello), ..
            }))) if hello.protocol == PROTOCOL_VERSION => Ok(child),
            Ok(Ok(Some(_))) => Err(not_started(
                "it is another version of the program".to_owned(),
            )),
            Ok(_) => Err(not_started(format!("it {}", child.ending().await))),
            Err(_) => Err(not_started(format!(
                "after {} it has not run a worker with that handler",
                HumanDuration(START_WITHIN)
            ))),
        }
    }

    fn spawn(handler: &str, options: &IsolationOptions) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(this_program()?);
        command
            .arg0(Role::name_for(handler))
            .stdin(OwnedFd::from(theirs))
            // The standard output of the worker may be one that others read.
            .stdout(Stdio::from(io::stderr()))
            .process_group(0)
            .kill_on_drop(true);
        match &options.arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(std::env::args_os().skip(1)),
        };
        let process = command.spawn()?;
        let pid = process
            .id()
            .ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok(Self {
            group: ProcessGroup::of(&process),
            process,
            pid,
            frames: Frames::over(ours)?,
            attempts: 0,
            is_whole: true,
        })
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Whether it is good for another attempt.
    pub(super) fn may_go_on(&self, options: &IsolationOptions) -> bool {
        let is_large = || {
            let half = options.max_resident().map(|limit| limit / 2);
            half.zip(resident_bytes_of(self.pid))
                .is_some_and(|(half, resident)| resident > half)
        };
        self.is_whole && self.attempts < options.attempts_per_child && !is_large()
    }

    /// Ends a child that waits for work.
    pub(super) fn retire(mut self) {
        levelflow_runtime::task::spawn("child ends", async move {
            drop(self.frames);
            if timeout(END_WITHIN, self.process.wait()).await.is_err() {
                tracing::debug!(pid = self.pid, "a child process does not end by itself");
            }
            self.group.kill();
        });
    }

    /// Runs an attempt. The child is of no more use when this is dropped before it ends.
    pub(super) async fn run(
        &mut self,
        context: &Context,
        input: Bytes,
        max_resident: Option<u64>,
    ) -> AttemptResult {
        self.attempts += 1;
        self.is_whole = false;
        let result = self.converse(context, input, max_resident).await;
        match result {
            Ok(outcome) => {
                self.is_whole = true;
                context.relay_calls(outcome.calls, outcome.parked_on);
                match outcome.failure {
                    Some(failure) => Err(failure.into()),
                    None => Ok(outcome.output),
                }
            }
            Err(End::Gone) => {
                let message = format!("the process of the handler {}", self.ending().await);
                Err(Failure::retryable(Code::HandlerCrashed, message))
            }
            Err(End::Refused(failure)) => Err(failure),
            Err(End::TooLarge { resident, limit }) => {
                self.group.kill();
                let message = format!(
                    "the process of the handler held {} MiB, its limit is {} MiB",
                    resident / MIB,
                    limit / MIB
                );
                Err(Failure::retryable(Code::MemoryExceeded, message))
            }
        }
    }

    async fn converse(
        &mut self,
        context: &Context,
        input: Bytes,
        max_resident: Option<u64>,
    ) -> Result<v1::Outcome, End> {
        let attempt = context.to_message(input);
        let order = v1::CoordinatorFrame {
            welcome: Some(v1::Welcome {
                open_breakers: context.open_breakers(),
                ..v1::Welcome::default()
            }),
            attempts: vec![attempt],
            ..v1::CoordinatorFrame::default()
        };
        self.frames.send(&order).await.map_err(|_| End::Gone)?;
        let mut samples = interval(SAMPLE_EVERY);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_to_stop = false;
        loop {
            tokio::select! {
                frame = self.frames.receive::<v1::WorkerFrame>() => {
                    let Ok(Some(frame)) = frame else {
                        return Err(End::Gone);
                    };
                    if let Some(heartbeat) = frame.heartbeat {
                        if !heartbeat.progressed.is_empty() {
                            context.heartbeat();
                        }
                        let calls = heartbeat.calls.into_iter().filter_map(|call| call.call);
                        context.relay_calls(calls, String::new());
                    }
                    for chunk in frame.chunks {
                        match context.emit_json(chunk.data).await {
                            Err(failure) if failure.code != Code::Cancelled => {
                                return Err(End::Refused(failure));
                            }
                            // An attempt that is to stop is told so below.
                            _ => {}
                        }
                    }
                    if let Some(outcome) = frame.outcomes.into_iter().next() {
                        return Ok(outcome);
                    }
                }
                () = context.cancelled(), if !told_to_stop => {
                    told_to_stop = true;
                    let stop = v1::CoordinatorFrame {
                        cancelled: vec![context.token()],
                        ..v1::CoordinatorFrame::default()
                    };
                    self.frames.send(&stop).await.map_err(|_| End::Gone)?;
                }
                _ = samples.tick(), if max_resident.is_some() => {
                    if let Some((limit, resident)) = max_resident.zip(resident_bytes_of(self.pid))
                        && resident > limit
                    {
                        return Err(End::TooLarge { resident, limit });
                    }
                }
            }
        }
    }

    /// Waits for the end of a child that closed its socket.
    async fn ending(&mut self) -> String {
        let status = timeout(END_WITHIN, self.process.wait()).await;
        self.group.kill();
        match status {
            Ok(Ok(status)) => ending(status),
            Ok(Err(error)) => format!("was lost: {error}"),
            Err(_) => "closed its socket".to_owned(),
        }
    }
}

/// Why an attempt has no outcome.
enum End {
    /// The child has ended.
    Gone,
    /// Its chunks are not taken.
    Refused(Failure),
    /// It holds too much memory, in bytes.
    TooLarge { resident: u64, limit: u64 },
}
