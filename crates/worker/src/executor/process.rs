//! Tasks of type `process`.
//!
//! The program is started directly, without a shell, as the leader of its own process group; the whole
//! group is stopped when the attempt is cancelled or takes too long, and what the program leaves behind
//! when it ends. It gets the worker's environment without its secrets, the variables of the task, and `LEVELFLOW_RUN_ID`,
//! `LEVELFLOW_TASK_ID`, `LEVELFLOW_ATTEMPT` and `LEVELFLOW_IDEMPOTENCY_KEY`.
//!
//! The output depends on `output`:
//!
//! - `text` (the default): `{"exit_code": 0, "stdout": "…", "stderr": "…"}`;
//! - `json`: the JSON document that the program wrote to its standard output;
//! - `lines`: a list of the lines that it wrote there.
//!
//! With `stream: lines`, each line that it writes to its standard output is also a chunk, at once.
//!
//! Too much on the standard output fails the attempt; of the standard error the end is kept.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_common::task_input::{ProcessInput, ProcessOutput, ProcessStream};
use levelflow_common::{AttemptResult, Code, Failure};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::guard::Guard;
use super::output::{read_input, write_output};
use super::process_group::{ProcessGroup, ending};
use super::text_stream::LineStream;
use crate::context::Context;
use crate::secrets::SecretsConfig;
use crate::usage::Usage;

/// Bytes of standard error that are kept.
const STDERR_BYTES: usize = 64 * 1024;
/// Bytes of standard error that a failure quotes.
const QUOTED_BYTES: usize = 4 * 1024;
/// How long what a program left behind may keep its output open.
const LINGER: Duration = Duration::from_secs(1);

/// The programs of a worker.
pub(super) struct Programs {
    pub(super) usage: Arc<Usage>,
    is_guarded: bool,
    /// Started with the first program; none if it could not be.
    guard: OnceLock<Option<Arc<Guard>>>,
}

impl Programs {
    pub(super) fn new(most: usize, is_guarded: bool) -> Self {
        Self {
            usage: Usage::new("process", most),
            is_guarded,
            guard: OnceLock::new(),
        }
    }

    fn guard(&self) -> Option<Arc<Guard>> {
        let start = || match Guard::start() {
            Ok(guard) => Some(Arc::new(guard)),
            Err(error) => {
                tracing::warn!(%error, "programs have no guard");
                None
            }
        };
        self.is_guarded
            .then(|| self.guard.get_or_init(start).clone())?
    }
}

/// Runs an attempt.
pub(super) async fn run(
    context: Context,
    input: Bytes,
    secrets: Arc<SecretsConfig>,
    programs: Arc<Programs>,
) -> AttemptResult {
    let input: ProcessInput = read_input(&input)?;
    let Some((program, arguments)) = input.command.split_first() else {
        return Err(Failure::permanent(
            Code::TaskInputInvalid,
            "`command` is empty",
        ));
    };
    if let Some(cwd) = &input.cwd
        && !Path::new(cwd).is_dir()
    {
        let message = format!("the working directory `{cwd}` does not exist");
        return Err(Failure::permanent(Code::ProcessNotStarted, message));
    }
    let stdin = input.stdin.map(|value| match value {
        Value::String(text) => text.into_bytes(),
        value => value.to_string().into_bytes(),
    });
    let mut command = Command::new(program);
    for variable in secrets.variables() {
        command.env_remove(variable);
    }
    command
        .args(arguments)
        .env("LEVELFLOW_RUN_ID", context.run_id().to_string())
        .env("LEVELFLOW_TASK_ID", context.task_id())
        .env("LEVELFLOW_ATTEMPT", context.attempt().to_string())
        .env("LEVELFLOW_IDEMPOTENCY_KEY", context.idempotency_key())
        .envs(&input.env)
        .stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(cwd) = &input.cwd {
        command.current_dir(cwd);
    }
    let guard = programs.guard();
    let child = command
        .spawn()
        .map_err(|error| not_started(program, &error))?;
    programs.usage.open();
    let _running = programs.usage.wait().begin();
    let group = ProcessGroup::guarded(&child, guard);
    let limit = input
        .max_output_bytes
        .unwrap_or(MAX_OUTPUT_BYTES)
        .min(MAX_OUTPUT_BYTES);
    let lines = input
        .stream
        .map(|ProcessStream::Lines| LineStream::new(&context));
    let finished = finish(child, group, stdin, limit, lines, &context).await?;
    finished.check(program, &context)?;
    finished.output(input.output, &context)
}

fn not_started(program: &str, error: &io::Error) -> Failure {
    let retryable = !matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::ArgumentListTooLong
    );
    let message = format!("the program `{program}` could not be started: {error}");
    Failure::new(Code::ProcessNotStarted, message, retryable)
}

/// A program that ended.
struct Finished {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Waits for the program, and for its output, which others may hold open.
async fn finish(
    mut child: Child,
    mut group: ProcessGroup,
    stdin: Option<Vec<u8>>,
    limit: usize,
    lines: Option<LineStream<'_>>,
    context: &Context,
) -> Result<Finished, Failure> {
    let lost = |error: io::Error| {
        let message = format!("the program was lost: {error}");
        Failure::retryable(Code::ProcessFailed, message)
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = {
        let feed = feed(child.stdin.take(), stdin);
        let read_stdout = read_all(child.stdout.take(), &mut stdout, limit, lines);
        let read_stderr = read_tail(child.stderr.take(), &mut stderr);
        let streams = async { tokio::try_join!(feed, read_stdout, read_stderr).map(drop) };
        let mut streams = pin!(streams);
        let mut streams_ended = false;
        let mut told_to_stop = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(lost)?,
                result = &mut streams, if !streams_ended => {
                    result?;
                    streams_ended = true;
                }
                () = context.cancelled(), if !told_to_stop => {
                    group.terminate();
                    told_to_stop = true;
                }
            }
        };
        if !streams_ended && !told_to_stop {
            streams_ended = wait_for(streams.as_mut()).await?;
        }
        group.kill();
        if !streams_ended {
            wait_for(streams.as_mut()).await?;
        }
        status
    };
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// Waits for the streams a little longer; whether they ended.
async fn wait_for(streams: impl Future<Output = Result<(), Failure>>) -> Result<bool, Failure> {
    match timeout(LINGER, streams).await {
        Ok(result) => result.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Writes the standard input. A program need not read it.
async fn feed(stdin: Option<ChildStdin>, bytes: Option<Vec<u8>>) -> Result<(), Failure> {
    if let (Some(mut stdin), Some(bytes)) = (stdin, bytes) {
        let _ = stdin.write_all(&bytes).await;
    }
    Ok(())
}

async fn read_all(
    stream: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    limit: usize,
    mut lines: Option<LineStream<'_>>,
) -> Result<(), Failure> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    loop {
        let known = into.len();
        let read = stream.read_buf(into).await;
        if read.map_err(|error| unreadable(&error))? == 0 {
            break;
        }
        if into.len() > limit {
            let message = format!("the program wrote more than {limit} bytes");
            return Err(Failure::permanent(Code::OutputTooLarge, message));
        }
        if let Some(lines) = &mut lines {
            unless_stopped(lines.push(&into[known..]).await)?;
        }
    }
    match lines {
        Some(lines) => unless_stopped(lines.end().await),
        None => Ok(()),
    }
}

/// A program that is to stop may still write, which nobody needs to be told.
fn unless_stopped(told: Result<(), Failure>) -> Result<(), Failure> {
    match told {
        Err(failure) if failure.code == Code::Cancelled => Ok(()),
        told => told,
    }
}

async fn read_tail(
    stream: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), Failure> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    while stream
        .read_buf(into)
        .await
        .map_err(|error| unreadable(&error))?
        > 0
    {
        if into.len() > 2 * STDERR_BYTES {
            into.drain(..into.len() - STDERR_BYTES);
        }
    }
    into.drain(..into.len().saturating_sub(STDERR_BYTES));
    Ok(())
}

fn unreadable(error: &io::Error) -> Failure {
    let message = format!("the output of the program could not be read: {error}");
    Failure::retryable(Code::ProcessFailed, message)
}

#[derive(Serialize)]
struct Text<'a> {
    exit_code: i32,
    stdout: &'a str,
    stderr: &'a str,
}

impl Finished {
    fn check(&self, program: &str, context: &Context) -> Result<(), Failure> {
        if self.status.success() {
            return Ok(());
        }
        let end = ending(self.status);
        let quoted = self.stderr.len().saturating_sub(QUOTED_BYTES);
        let quoted = String::from_utf8_lossy(&self.stderr[quoted..]);
        let quoted = context.redact_cut(&quoted);
        let message = match quoted.trim() {
            "" => format!("the program `{program}` {end}"),
            text => format!("the program `{program}` {end}: {text}"),
        };
        Err(Failure::retryable(Code::ProcessFailed, message))
    }

    fn output(&self, output: ProcessOutput, context: &Context) -> AttemptResult {
        let stdout = String::from_utf8_lossy(&self.stdout);
        match output {
            ProcessOutput::Text => {
                let stderr = String::from_utf8_lossy(&self.stderr);
                let was_cut = self.stderr.len() >= STDERR_BYTES;
                write_output(&Text {
                    exit_code: self.status.code().unwrap_or_default(),
                    stdout: &stdout,
                    stderr: &if was_cut {
                        context.redact_cut(&stderr)
                    } else {
                        stderr
                    },
                })
            }
            ProcessOutput::Lines => write_output(&stdout.lines().collect::<Vec<_>>()),
            ProcessOutput::Json => {
                let value: Value = serde_json::from_str(&stdout).map_err(|error| {
                    let message = format!("the program did not write JSON: {error}");
                    Failure::permanent(Code::ProcessFailed, message)
                })?;
                write_output(&value)
            }
        }
    }
}
