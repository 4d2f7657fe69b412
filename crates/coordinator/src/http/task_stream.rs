//! The streamed output of a task, as server-sent events.
//!
//! The id of an event is the place in the stream after it. The end has the id `end`, so that a browser that
//! comes back after it is told not to.

use std::fmt;
use std::str::FromStr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use levelflow_common::chunk::InvalidChunkCursor;
use levelflow_common::{ChunkCursor, ChunkEvent};
use levelflow_proto::json::Chunk;

use super::Api;
use super::document::Operation;
use super::problem::Refusal;
use super::request::{Query, TaskPath};
use super::route::Routes;
use super::sse::{CURSOR, MEDIA_TYPE, cursor, event, events_of, respond};
use super::tasks::ITEM;

/// The id of the last event.
const END: &str = "end";

/// What a client knows of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It up to a place.
    Until(ChunkCursor),
    /// All of it.
    All,
}

impl FromStr for Known {
    type Err = InvalidChunkCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            END => Ok(Self::All),
            text => text.parse().map(Self::Until),
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(place) => place.fmt(f),
            Self::All => f.write_str(END),
        }
    }
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/runs/{run}/tasks/{task}/stream",
            "watchTask",
            "What a task streams: what there is of it, then live, until the task ends",
        )
        .takes(ITEM)
        .takes(CURSOR)
        .answers_in(
            MEDIA_TYPE,
            "The events. `problem` comes last when the stream breaks off.",
            events_of::<Chunk<'static>>,
        )
        .answers_empty(204, "The task has ended, and the client knows it.")
        .takes_its_time(),
        watch,
    );
}

async fn watch(
    State(api): State<Api>,
    TaskPath { run_id, task_id }: TaskPath,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Refusal> {
    let backend = api.backend()?;
    let query = query.only(&[ITEM, CURSOR])?;
    let item: Option<u32> = query.one("item")?;
    let after = match cursor(&headers, &query)? {
        Some(Known::All) => return Ok(StatusCode::NO_CONTENT.into_response()),
        Some(Known::Until(place)) => Some(place),
        None => None,
    };
    // That there is no such task is said by the status, not by an event.
    backend.explain(run_id, task_id.clone(), item).await?;
    let chunks = backend.follow_task(run_id, task_id, item, after);
    respond(&api, chunks, Vec::new(), |told, events| {
        events.extend(one_by_one(told).iter().map(|told| {
            let known = told.cursor().map_or(Known::All, Known::Until);
            let body = Chunk::from(told);
            event(body.name(), Some(known.to_string()), &body)
        }));
    })
}

/// The same with an event for each chunk: how many come together is chance, and a stream that is resumed
/// should be the same to the byte.
fn one_by_one(told: ChunkEvent) -> Vec<ChunkEvent> {
    match told {
        ChunkEvent::Chunks {
            stream,
            attempt,
            first,
            chunks,
        } => (first..)
            .zip(chunks)
            .map(|(first, chunk)| ChunkEvent::Chunks {
                stream,
                attempt,
                first,
                chunks: vec![chunk],
            })
            .collect(),
        other => vec![other],
    }
}
