//! Tasks of type `chat`: questions to language models behind OpenAI-compatible endpoints.
//!
//! The output is `{"text": …, "model": …, "finish_reason": …, "usage": …, "failed": […]}`, with `json` where
//! the task asked for JSON, `tool_calls` where the model wants functions called, and `cost` where the prices
//! are known. `failed` names the models that were asked in vain. Where several answers were put together,
//! `answers` holds each of them, and `usage` and `cost` are those of all.
//!
//! The text is given on while it is written, as chunks `{"model": …, "text": …}`, unless `stream` is false. When
//! another model takes over, what the one before wrote stays among the chunks.

mod ask;
mod candidate;
mod config;
mod fuse;
mod latency;
mod reply;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use levelflow_common::task_input::{ChatFuse, ChatInput, ChatStrategy};
use levelflow_common::{AttemptResult, Code, Failure};

use super::http::HttpExecutor;
use super::output::{read_input, write_output};
use crate::attempt::cancelled;
use crate::context::Context;
use crate::error::WorkerError;
use ask::{Asker, Problem};
use candidate::{Candidate, KnownModels};
use fuse::{Answer, Output};
use latency::Latencies;
use request::Question;

pub use config::ChatModel;

/// How long one model may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Models that one task may ask.
const MAX_MODELS: usize = 16;

/// Runs `chat` tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ChatExecutor(Arc<Shared>);

struct Shared {
    http: HttpExecutor,
    models: KnownModels,
    latencies: Latencies,
}

/// A model that was asked in vain.
type Failed = (Candidate, Problem);

/// Whether a text is the address of an endpoint.
fn is_endpoint(base_url: &str) -> bool {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| base_url.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', ' ', '@']))
}

impl ChatExecutor {
    pub(crate) fn new(
        models: &BTreeMap<String, ChatModel>,
        http: HttpExecutor,
    ) -> Result<Self, WorkerError> {
        Ok(Self(Arc::new(Shared {
            http,
            models: KnownModels::new(models)?,
            latencies: Latencies::default(),
        })))
    }

    /// The names of the models.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.0.models.names()
    }

    /// Runs an attempt; breaks the exchanges off when it is told to stop.
    pub(crate) async fn run(self, context: Context, input: Bytes) -> AttemptResult {
        tokio::select! {
            biased;
            () = context.cancelled() => Err(cancelled()),
            result = self.answer(&context, &input) => result,
        }
    }

    async fn answer(&self, context: &Context, input: &[u8]) -> AttemptResult {
        let Shared {
            http,
            models,
            latencies,
        } = &*self.0;
        let input: ChatInput = read_input(input)?;
        let candidates = models.candidates(&input, latencies)?;
        if candidates.len() > MAX_MODELS {
            return Err(Failure::permanent(
                Code::TaskInputInvalid,
                format!(
                    "{} models are more than the {MAX_MODELS} that a task may ask",
                    candidates.len()
                ),
            ));
        }
        let asker = Asker {
            client: http.client(),
            context,
            question: &Question::of(&input)?,
            latencies,
            limit: input.timeout.map_or(TIMEOUT, |timeout| timeout.0),
        };
        let (answers, failed) = match (input.strategy, input.fuse) {
            (ChatStrategy::Serial, ChatFuse::First) => first_in_turn(&asker, candidates).await,
            (ChatStrategy::Parallel, ChatFuse::First) => first_of_all(&asker, candidates).await,
            (ChatStrategy::Serial, _) => all_in_turn(&asker, candidates).await,
            (ChatStrategy::Parallel, _) => all_at_once(&asker, candidates).await,
        };
        match Output::of(answers, &failed, input.fuse, asker.question.wants_json) {
            Some(output) => write_output(&output),
            None => Err(in_vain(&failed)),
        }
    }
}

async fn first_in_turn(
    asker: &Asker<'_>,
    candidates: Vec<Candidate>,
) -> (Vec<Answer>, Vec<Failed>) {
    let mut failed = Vec::new();
    for candidate in candidates {
        match asker.ask(&candidate).await {
            Ok(reply) => return (vec![Answer { candidate, reply }], failed),
            Err(problem) => failed.push((candidate, problem)),
        }
    }
    (Vec::new(), failed)
}

/// Those that are still being asked when the first answers are broken off.
async fn first_of_all(asker: &Asker<'_>, candidates: Vec<Candidate>) -> (Vec<Answer>, Vec<Failed>) {
    let ask = async |candidate: Candidate| (asker.ask(&candidate).await, candidate);
    let mut asked: FuturesUnordered<_> = candidates.into_iter().map(ask).collect();
    let mut failed = Vec::new();
    while let Some((result, candidate)) = asked.next().await {
        match result {
            Ok(reply) => return (vec![Answer { candidate, reply }], failed),
            Err(problem) => failed.push((candidate, problem)),
        }
    }
    (Vec::new(), failed)
}

async fn all_in_turn(asker: &Asker<'_>, candidates: Vec<Candidate>) -> (Vec<Answer>, Vec<Failed>) {
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match asker.ask(&candidate).await {
            Ok(reply) => answers.push(Answer { candidate, reply }),
            Err(problem) => failed.push((candidate, problem)),
        }
    }
    (answers, failed)
}

async fn all_at_once(asker: &Asker<'_>, candidates: Vec<Candidate>) -> (Vec<Answer>, Vec<Failed>) {
    let ask = async |candidate: Candidate| (asker.ask(&candidate).await, candidate);
    let mut asked: FuturesOrdered<_> = candidates.into_iter().map(ask).collect();
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    while let Some((result, candidate)) = asked.next().await {
        match result {
            Ok(reply) => answers.push(Answer { candidate, reply }),
            Err(problem) => failed.push((candidate, problem)),
        }
    }
    (answers, failed)
}

/// The failure of a task that no model answered. Another attempt may help if it may help with one of
/// them, and then not before the first of those wants to be asked again.
fn in_vain(failed: &[Failed]) -> Failure {
    let mut failures: Vec<Failure> = failed
        .iter()
        .map(|(candidate, problem)| problem.failure(&candidate.name))
        .collect();
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let texts: Vec<_> = failures.iter().map(|one| one.message.as_str()).collect();
    let passing: Vec<_> = failures.iter().filter(|one| one.retryable).collect();
    let failure = Failure::new(
        Code::ChatFailed,
        format!("no model answered: {}", texts.join("; ")),
        !passing.is_empty(),
    );
    let waits: Option<Vec<_>> = passing.iter().map(|one| one.retry_after).collect();
    match waits.and_then(|waits| waits.into_iter().map(|wait| wait.0).min()) {
        Some(wait) => failure.with_retry_after(wait),
        None => failure,
    }
}
