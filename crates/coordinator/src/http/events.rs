//! What happens in a run, as server-sent events.
//!
//! The id of an event is where to go on after it: the sequence number of its record after the last event of
//! that record, `N.K` after the K-th event that followed record N. Live events have none: they are not
//! repeated.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::{Code, RunId};
use levelflow_proto::ApiError;
use levelflow_proto::json::Event;
use schemars::json_schema;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::document::{Operation, Parameter, Place, schema};
use super::problem::{Problem, Refusal};
use super::request::{Query, RunPath, invalid};
use super::route::Routes;
use crate::service::{run_not_found, store_error};

/// When a client that found no place may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The header in which a client that comes back says what it knows.
const LAST_EVENT_ID: &str = "last-event-id";

const PARAMETERS: &[Parameter] = &[Parameter {
    name: "after",
    place: Place::Query,
    description: "Go on after the event with this id, for clients that cannot set `Last-Event-ID`.",
    schema: schema::<String>,
}];

const HEADERS: &[Parameter] = &[Parameter {
    name: "Last-Event-ID",
    place: Place::Header,
    description: "Go on after the event with this id.",
    schema: schema::<String>,
}];

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/runs/{run}/events",
            "watchRun",
            "What happens in a run: from its journal, then live, until it ends",
        )
        .takes(PARAMETERS)
        .takes(HEADERS)
        .answers_in(
            "text/event-stream",
            "The events. `reset` comes first when the journal does not have the event that was named: \
             what follows begins anew. `problem` comes last when the stream breaks off.",
            |generator| {
                json_schema!({
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": schema::<Event<'static>>(generator),
                })
            },
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
    let query = query.only(PARAMETERS)?;
    let mut after: Cursor = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().unwrap_or_default();
            id.parse()
                .map_err(|error| invalid("Last-Event-ID", error))?
        }
        None => query.one("after")?.unwrap_or_default(),
    };
    let mut gathered = VecDeque::new();
    match known(&api, run_id, after).await? {
        Known::All => {}
        // A browser would come back after the end of the stream; this tells it not to.
        Known::End => return Ok(StatusCode::NO_CONTENT.into_response()),
        Known::Other => {
            gathered.push_back(Message::default().event("reset").data("{}"));
            after = Cursor::default();
        }
    }
    let watcher = api.watchers.clone().try_acquire_owned().map_err(|_| {
        let mut error = ApiError::new(Code::TooManyWatchers, "too many clients watch runs");
        error.retry_after = Some(RETRY_AFTER);
        error
    })?;
    let events = Events {
        updates: api.backend()?.follow(run_id, after.record),
        after,
        gathered,
        stop: api.stop.clone(),
        _watcher: watcher,
    };
    let keep_alive = KeepAlive::new().interval(api.config.keep_alive);
    Ok(Sse::new(events.into_stream())
        .keep_alive(keep_alive)
        .into_response())
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

/// The events of a run for one client.
struct Events {
    updates: mpsc::Receiver<Result<RunUpdate, ApiError>>,
    after: Cursor,
    gathered: VecDeque<Message>,
    stop: CancellationToken,
    _watcher: OwnedSemaphorePermit,
}

impl Events {
    fn into_stream(self) -> impl Stream<Item = Result<Message, Infallible>> {
        stream::unfold(self, async |mut events| {
            let message = events.next().await?;
            Some((Ok(message), events))
        })
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.gathered.pop_front() {
                return Some(message);
            }
            let update = tokio::select! {
                update = self.updates.recv() => update?,
                () = self.stop.cancelled() => return None,
            };
            match update {
                Ok(update) => self.gather(&update),
                Err(error) => self.gathered.extend(problem(&error)),
            }
        }
    }

    fn gather(&mut self, update: &RunUpdate) {
        let count = update.events.len();
        let is_live = update.events.iter().any(RunEvent::is_live);
        let before = update.sequence.saturating_sub(1);
        let known = if !is_live && before == self.after.record {
            self.after.events
        } else {
            0
        };
        let messages = Event::all(update).enumerate().skip(known);
        self.gathered.extend(messages.filter_map(|(index, event)| {
            // It only holds texts and numbers, and JSON that was read.
            let data = serde_json::to_string(&event).ok()?;
            let message = Message::default().event(event.name()).data(data);
            if is_live {
                return Some(message);
            }
            let id = if index + 1 == count {
                Cursor {
                    record: update.sequence,
                    events: 0,
                }
            } else {
                Cursor {
                    record: before,
                    events: index + 1,
                }
            };
            Some(message.id(id.to_string()))
        }));
    }
}

fn problem(error: &ApiError) -> Option<Message> {
    let data = serde_json::to_string(&Problem::new(error, None)).ok()?;
    Some(Message::default().event("problem").data(data))
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
