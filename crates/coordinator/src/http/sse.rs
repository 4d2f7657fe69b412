//! Streams of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use levelflow_common::Code;
use levelflow_proto::ApiError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::document::{Parameter, Place, schema};
use super::problem::{Problem, Refusal};
use super::request::{Query, invalid};
use crate::service::stopping;

/// When a client that found no place may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The header in which a client that comes back says what it knows.
const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The same in a query.
const AFTER: &str = "after";

/// The media type of streams of events.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// How a client says where to go on.
pub(super) const CURSOR: &[Parameter] = &[
    Parameter {
        name: AFTER,
        place: Place::Query,
        description: "Go on after the event with this id, for clients that cannot set `Last-Event-ID`.",
        schema: schema::<String>,
    },
    Parameter {
        name: LAST_EVENT_ID,
        place: Place::Header,
        description: "Go on after the event with this id.",
        schema: schema::<String>,
    },
];

/// The schema of a stream of events with data of this type.
pub(super) fn events_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": schema::<T>(generator),
    })
}

/// Where a client wants to go on, if it is no new one.
pub(super) fn cursor<T: FromStr<Err: Display>>(
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<T>, ApiError> {
    match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().unwrap_or_default().parse();
            id.map(Some).map_err(|error| invalid(LAST_EVENT_ID, error))
        }
        None => query.one(AFTER),
    }
}

/// An event with data.
pub(super) fn event<T: Serialize>(name: &str, id: Option<String>, data: &T) -> Event {
    // What is sent holds texts, numbers and JSON that was read: nothing that cannot be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    let event = Event::default().event(name).data(data);
    match id {
        Some(id) => event.id(id),
        None => event,
    }
}

/// The answer that sends what is told, from `first` on, until nothing more comes.
pub(super) fn respond<T, W>(
    api: &Api,
    told: mpsc::Receiver<Result<T, ApiError>>,
    first: Vec<Event>,
    write: W,
) -> Result<Response, Refusal>
where
    T: Send + 'static,
    W: FnMut(T, &mut VecDeque<Event>) + Send + 'static,
{
    let watcher = api.watchers.clone().try_acquire_owned().map_err(|_| {
        let mut error = ApiError::new(Code::TooManyWatchers, "too many clients watch");
        error.retry_after = Some(RETRY_AFTER);
        error
    })?;
    let events = Events {
        told,
        gathered: first.into(),
        is_over: false,
        write,
        stop: api.stop.clone(),
        _watcher: watcher,
    };
    let events = stream::unfold(events, async |mut events| {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    let keep_alive = KeepAlive::new().interval(api.config.keep_alive);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// The events for one client.
struct Events<T, W> {
    told: mpsc::Receiver<Result<T, ApiError>>,
    gathered: VecDeque<Event>,
    /// It broke off.
    is_over: bool,
    write: W,
    stop: CancellationToken,
    _watcher: OwnedSemaphorePermit,
}

impl<T, W: FnMut(T, &mut VecDeque<Event>)> Events<T, W> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.gathered.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let told = tokio::select! {
                told = self.told.recv() => told?,
                () = self.stop.cancelled() => Err(stopping()),
            };
            match told {
                Ok(told) => (self.write)(told, &mut self.gathered),
                Err(error) => {
                    self.is_over = true;
                    let problem = Problem::new(&error, None);
                    self.gathered.push_back(event("problem", None, &problem));
                }
            }
        }
    }
}
