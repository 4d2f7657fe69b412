use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::time::timeout;

use super::{Api, Server};
use crate::api::quick;
use crate::harness::{DEADLINE, Home};

/// An event as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) data: String,
}

/// A stream of events.
pub(super) struct Events {
    response: reqwest::Response,
    received: Vec<u8>,
}

impl Events {
    /// Opens the stream of a run after an event, if one is known.
    pub(super) async fn open(api: &Api, run_id: &str, after: Option<&str>) -> Self {
        Self::at(api, &format!("/api/v1/runs/{run_id}/events"), after).await
    }

    /// Opens a stream.
    pub(super) async fn at(api: &Api, path: &str, after: Option<&str>) -> Self {
        let mut request = api.request(reqwest::Method::GET, path);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = timeout(DEADLINE, request.send()).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(response.headers(), "content-type"),
            "text/event-stream"
        );
        Self {
            response,
            received: Vec::new(),
        }
    }

    /// The next event; none after the end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let end = self.received.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.received.drain(..end + 2).collect();
                match event(std::str::from_utf8(&block).unwrap()) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let chunk = timeout(DEADLINE, self.response.chunk())
                .await
                .expect("something comes before the deadline")
                .unwrap();
            let Some(chunk) = chunk else {
                assert!(self.received.is_empty(), "the last event is whole");
                return None;
            };
            self.received.extend_from_slice(&chunk);
        }
    }

    pub(super) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The event in a block of lines; none in a comment.
fn event(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.next().map(ToOwned::to_owned);
        assert_eq!(lines.next(), None, "{block}");
        value
    };
    Some(Event {
        id: field("id: "),
        name: field("event: ")?,
        data: field("data: ")?,
    })
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers[name].to_str().unwrap()
}

/// Events that are repeated to who comes later.
pub(super) fn recorded(events: &[Event]) -> Vec<Event> {
    let events = events.iter().filter(|event| event.id.is_some());
    events.cloned().collect()
}

#[tokio::test]
async fn a_stream_is_resumed_after_any_of_its_events_without_a_gap_or_a_repetition() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let run_id = api.start(&quick()).await;
    let whole = Events::open(&api, &run_id, None).await.rest().await;
    let whole = recorded(&whole);
    assert_eq!(whole[0].name, "submitted");
    assert_eq!(whole.last().unwrap().name, "finished");
    assert!(whole.len() >= 6, "{whole:?}");
    for known in 0..whole.len() - 1 {
        let after = whole[known].id.as_deref();
        let rest = Events::open(&api, &run_id, after).await.rest().await;
        assert_eq!(recorded(&rest), whole[known + 1..], "after {after:?}");
    }

    let last = whole.last().unwrap().id.as_deref().unwrap();
    let over = api
        .get(&format!("/api/v1/runs/{run_id}/events?after={last}"))
        .await;
    assert_eq!(over.status, 204, "a browser is told not to come back");

    let watched = home
        .levelflow(&["watch", &run_id, "--json", "--after", "0"])
        .await;
    let shown: Vec<Value> = watched
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sent: Vec<Value> = whole
        .iter()
        .map(|event| serde_json::from_str(&event.data).unwrap())
        .collect();
    assert_eq!(shown, sent, "the command line shows the same");
    for (event, sent) in whole.iter().zip(&sent) {
        assert_eq!(sent["event"], event.name);
    }
}

#[tokio::test]
async fn who_knows_another_journal_begins_anew() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let run_id = api.start(&quick()).await;
    let whole = Events::open(&api, &run_id, None).await.rest().await;
    let mut events = Events::open(&api, &run_id, Some("1000")).await.rest().await;
    assert_eq!(events.remove(0).name, "reset");
    assert_eq!(recorded(&events), recorded(&whole));
    let unknown = api
        .get("/api/v1/runs/01890a5d-ac96-774b-bcce-b302099a8057/events")
        .await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.body["code"], "run_not_found");
}
