//! The side of the child.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{AttemptResult, Code, Failure};
use levelflow_proto::protocol::PROTOCOL_VERSION;
use levelflow_proto::v1;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, dup2_stdin, getpgrp};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::frames::Frames;
use crate::attempt::{cancelled, panicked};
use crate::chunk_log::{Announce, ChunkLog};
use crate::context::{AttemptState, Context};
use crate::slots::outcome_of;
use crate::upstream::OpenBreakers;

/// Begins the `argv[0]` of a child.
const PREFIX: &str = "levelflow-isolated:";
/// Bytes of chunks in one frame.
const FRAME_BYTES: usize = 64 * 1024;
/// The time between looks for progress to tell.
const TELL_EVERY: Duration = Duration::from_millis(20);

/// A handler with its types erased.
pub(crate) type Function = Arc<dyn Fn(Context, &[u8]) -> AttemptResult + Send + Sync>;

/// What a child is there for.
pub(crate) struct Role {
    handler: OsString,
    function: Option<Function>,
}

impl Role {
    /// The role of this process, if it is a child.
    pub(crate) fn of_this_process() -> Option<Self> {
        let name = std::env::args_os().next()?;
        let handler = name.as_bytes().strip_prefix(PREFIX.as_bytes())?;
        Some(Self {
            handler: std::ffi::OsStr::from_bytes(handler).to_owned(),
            function: None,
        })
    }

    /// The `argv[0]` of a child that is there for a handler.
    pub(super) fn name_for(handler: &str) -> String {
        format!("{PREFIX}{handler}")
    }

    /// Takes the function, if it is that of the handler.
    pub(crate) fn offer(&mut self, handler: &str, function: &Function) {
        if self.handler == handler {
            self.function = Some(Arc::clone(function));
        }
    }

    /// Serves the parent until it is gone, which ends the process.
    pub(crate) async fn serve(self) -> io::Result<Infallible> {
        let Some(function) = self.function else {
            // Another worker of this process has the handler. If none does, the parent ends the child.
            return std::future::pending().await;
        };
        let (announce, announced) = unbounded_channel();
        let mut serving = Serving {
            frames: Frames::over(take_stdin()?)?,
            function,
            open_breakers: Arc::default(),
            announce,
            announced,
            running: None,
        };
        serving.serve().await
    }
}

/// The socket to the parent, in place of which the handler finds an empty standard input.
fn take_stdin() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(UnixStream::from(socket))
}

struct Serving {
    frames: Frames,
    function: Function,
    open_breakers: Arc<OpenBreakers>,
    announce: Announce,
    /// Logs with chunks to send.
    announced: UnboundedReceiver<Arc<ChunkLog>>,
    running: Option<Running>,
}

struct Running {
    state: Arc<AttemptState>,
    work: JoinHandle<AttemptResult>,
}

impl Serving {
    async fn serve(&mut self) -> io::Result<Infallible> {
        let hello = v1::WorkerFrame {
            hello: Some(v1::Hello {
                protocol: PROTOCOL_VERSION,
                ..v1::Hello::default()
            }),
            ..v1::WorkerFrame::default()
        };
        self.frames.send(&hello).await?;
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_busy = self.running.is_some();
            tokio::select! {
                frame = self.frames.receive() => match frame {
                    Ok(Some(frame)) => self.receive(frame),
                    Ok(None) | Err(_) => self.leave(),
                },
                Some(log) = self.announced.recv() => self.send_chunks(&log).await?,
                result = result_of(&mut self.running) => self.report(result).await?,
                _ = ticks.tick(), if is_busy => self.tell().await?,
            }
        }
    }

    fn receive(&mut self, frame: v1::CoordinatorFrame) {
        if let Some(welcome) = frame.welcome {
            self.open_breakers.begin_session(&welcome.open_breakers);
        }
        for mut attempt in frame.attempts {
            let input = std::mem::take(&mut attempt.input);
            let Some(state) =
                AttemptState::starting(&mut attempt, &self.open_breakers, &self.announce)
            else {
                // The parent has read it before.
                self.leave();
            };
            let context = Context::new(Arc::clone(&state));
            let function = Arc::clone(&self.function);
            let work = spawn_blocking(move || call(&function, context, &input));
            self.running = Some(Running { state, work });
        }
        if let Some(Running { state, .. }) = &self.running
            && frame.cancelled.contains(&state.token)
        {
            state.cancelled.cancel();
        }
    }

    /// Tells how the attempt ended.
    async fn report(&mut self, result: AttemptResult) -> io::Result<()> {
        let Some(Running { state, .. }) = self.running.take() else {
            return Ok(());
        };
        let outcome = outcome_of(&state, result, state.started_at.elapsed());
        while let Ok(log) = self.announced.try_recv() {
            self.send_chunks(&log).await?;
        }
        let frame = v1::WorkerFrame {
            outcomes: vec![outcome],
            ..v1::WorkerFrame::default()
        };
        self.frames.send(&frame).await
    }

    /// Sends the chunks that a log has to send.
    async fn send_chunks(&mut self, log: &ChunkLog) -> io::Result<()> {
        loop {
            let mut chunks = Vec::new();
            log.take(FRAME_BYTES, &mut chunks);
            if chunks.is_empty() {
                return Ok(());
            }
            let frame = v1::WorkerFrame {
                chunks,
                ..v1::WorkerFrame::default()
            };
            self.frames.send(&frame).await?;
        }
    }

    /// Tells of what the attempt did since this was last called.
    async fn tell(&mut self) -> io::Result<()> {
        let Some(Running { state, .. }) = &self.running else {
            return Ok(());
        };
        let token = state.token;
        let calls = state.calls.take_ended().into_iter().map(Some);
        let heartbeat = v1::Heartbeat {
            progressed: state
                .take_progressed()
                .then_some(token)
                .into_iter()
                .collect(),
            calls: calls.map(|call| v1::AttemptCall { token, call }).collect(),
            ..v1::Heartbeat::default()
        };
        if heartbeat.progressed.is_empty() && heartbeat.calls.is_empty() {
            return Ok(());
        }
        let frame = v1::WorkerFrame {
            heartbeat: Some(heartbeat),
            ..v1::WorkerFrame::default()
        };
        self.frames.send(&frame).await
    }

    /// Ends the process: the parent needs it no more, or is gone.
    fn leave(&self) -> ! {
        // A handler that still works, and what it started, would go on for nobody.
        if self.running.is_some() && getpgrp() == Pid::this() {
            let _ = killpg(getpgrp(), Signal::SIGKILL);
        }
        exit(0)
    }
}

/// What comes of the attempt under way. Never ends without one.
async fn result_of(running: &mut Option<Running>) -> AttemptResult {
    match running {
        Some(Running { work, .. }) => work.await.unwrap_or_else(|_| {
            Err(Failure::retryable(
                Code::WorkerLost,
                "the worker stopped before the handler could run",
            ))
        }),
        None => std::future::pending().await,
    }
}

fn call(function: &Function, context: Context, input: &Bytes) -> AttemptResult {
    if context.is_cancelled() {
        return Err(cancelled());
    }
    catch_unwind(AssertUnwindSafe(|| function(context, input)))
        .unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}
