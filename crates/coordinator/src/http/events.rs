//! What happens in a run, as server-sent events.
//!
//! The id of an event is where to go on after it: the sequence number of its record after the last event of
//! that record, `N.K` after the K-th event that followed record N. Live events have none: they are not
//! repeated.

use std::fmt;
use std::str::FromStr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse;
use axum::response::{IntoResponse, Response};
use levelflow_common::RunId;
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_proto::ApiError;
use levelflow_proto::json::Event;
use serde_json::json;

use super::Api;
use super::document::Operation;
use super::problem::Refusal;
use super::request::{Query, RunPath};
use super::route::Routes;
use super::sse::{CURSOR, MEDIA_TYPE, cursor, event, events_of, respond};
use crate::service::{run_not_found, store_error};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/runs/{run}/events",
            "watchRun",
            "What happens in a run: from its journal, then live, until it ends",
        )
        .takes(CURSOR)
        .answers_in(
            MEDIA_TYPE,
            "The events. `reset` comes first when the journal does not have the event that was named: \
             what follows begins anew. `problem` comes last when the stream breaks off.",
            events_of::<Event<'static>>,
        )
        .answers_empty(204, "The run has ended with the event that was named.")
        .takes_its_time(),
        watch,
    );
}

/// Where a client is in the events of a run: after this record, and so many events of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    record: u64,
    events: usize,
}

/// The text is not the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no id of an event; ids look like 7 or 7.2")]
struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (record, events) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            record: record.parse().map_err(|_| InvalidCursor)?,
            events: events.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.events {
            0 => write!(f, "{}", self.record),
            events => write!(f, "{}.{events}", self.record),
        }
    }
}

/// What the journal has of what a client knows.
enum Known {
    /// All of it, and there is or may be more.
    All,
    /// All of it, and it was the end.
    End,
    /// Not all: the client knows another journal.
    Other,
}

async fn watch(
    State(api): State<Api>,
    RunPath(run_id): RunPath,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Refusal> {
    let query = query.only(&[CURSOR])?;
    let mut after: Cursor = cursor(&headers, &query)?.unwrap_or_default();
    let mut first = Vec::new();
    match known(&api, run_id, after).await? {
        Known::All => {}
        // A browser would come back after the end of the stream; this tells it not to.
        Known::End => return Ok(StatusCode::NO_CONTENT.into_response()),
        Known::Other => {
            first.push(event("reset", None, &json!({})));
            after = Cursor::default();
        }
    }
    let updates = api.backend()?.follow(run_id, after.record);
    respond(&api, updates, first, move |update, events| {
        events.extend(after.new_events(&update));
    })
}

async fn known(api: &Api, run_id: RunId, after: Cursor) -> Result<Known, ApiError> {
    let store = &api.backend().map_err(|refusal| refusal.0)?.store;
    let not_found = || run_not_found(run_id);
    // The record of the last event that the client knows, and whatever comes then.
    let last = after.record + u64::from(after.events > 0);
    let records = store
        .journal(run_id, last.saturating_sub(1), 2)
        .await
        .map_err(store_error)?
        .ok_or_else(not_found)?;
    if last == 0 {
        return Ok(Known::All);
    }
    if records.first().is_none_or(|record| record.sequence != last) {
        return Ok(Known::Other);
    }
    if records.len() > 1 || after.events > 0 {
        return Ok(Known::All);
    }
    let summary = store.summary(run_id).await.map_err(store_error)?;
    let has_ended = summary.ok_or_else(not_found)?.status.is_terminal();
    Ok(if has_ended { Known::End } else { Known::All })
}

impl Cursor {
    /// The events of an update that a client with this cursor does not know.
    fn new_events(self, update: &RunUpdate) -> impl Iterator<Item = sse::Event> {
        let count = update.events.len();
        let is_live = update.events.iter().any(RunEvent::is_live);
        let before = update.sequence.saturating_sub(1);
        let known = if !is_live && before == self.record {
            self.events
        } else {
            0
        };
        let id = move |index: usize| {
            let is_last = index + 1 == count;
            Cursor {
                record: if is_last { update.sequence } else { before },
                events: if is_last { 0 } else { index + 1 },
            }
        };
        let new = Event::all(update).enumerate().skip(known);
        new.map(move |(index, body)| {
            let id = (!is_live).then(|| id(index).to_string());
            event(body.name(), id, &body)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_events_read_back() {
        for (text, record, events) in [("7", 7, 0), ("0", 0, 0), ("7.2", 7, 2)] {
            let cursor: Cursor = text.parse().unwrap();
            assert_eq!(cursor, Cursor { record, events });
            assert_eq!(cursor.to_string(), text);
        }
        for text in ["", "x", "7.", "-1", "7.2.3"] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
