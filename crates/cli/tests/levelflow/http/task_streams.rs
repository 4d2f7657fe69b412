//! The streamed output of a task over HTTP: live, cut and resumed, from the cache.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::{Event, Events};
use super::{Api, Server, answer};
use crate::api::quick;
use crate::harness::Home;

/// A program whose lines are the chunks, two before the file `gate` is there and two after. Its lines are of all kinds
/// that bytes could suffer from on their way.
fn gated_stream(home: &Home) -> Value {
    let script = r#"printf 'plain\n"quoted\\"\tüñí 🦀\n'; while ! test -e gate; do sleep 0.02; done; printf '\ndata: x\r\n'"#;
    json!({
        "name": "stream",
        "tasks": [{
            "id": "lines",
            "type": "process",
            "with": { "command": ["sh", "-c", script], "cwd": home.path(""), "stream": "lines" },
            "cache": {},
        }],
    })
}

#[derive(Deserialize)]
struct Chunks<'a> {
    first: usize,
    #[serde(borrow)]
    chunks: Vec<&'a RawValue>,
}

/// The data of the chunks, put together as it came.
fn data(events: &[Event]) -> String {
    let mut count = 0;
    let mut data = String::new();
    for event in events.iter().filter(|event| event.name == "chunks") {
        let chunks: Chunks<'_> = serde_json::from_str(&event.data).unwrap();
        assert_eq!(chunks.first, count, "without a gap");
        count += chunks.chunks.len();
        data.extend(chunks.chunks.iter().map(|chunk| chunk.get()));
    }
    data
}

fn path(run_id: &str) -> String {
    format!("/api/v1/runs/{run_id}/tasks/lines/stream")
}

/// The next events, until so many chunks have come.
async fn until_chunks(stream: &mut Events, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let chunks = |events: &[Event]| events.iter().filter(|event| event.name == "chunks").count();
    while chunks(&events) < count {
        events.push(stream.next().await.expect("more comes"));
    }
    events
}

async fn ended(api: &Api, run_id: &str) -> Value {
    Events::open(api, run_id, None).await.rest().await;
    let answer = api.get(&format!("/api/v1/runs/{run_id}")).await;
    assert_eq!(answer.body["status"], "succeeded", "{answer:?}");
    answer.body
}

#[tokio::test]
async fn a_resumed_stream_and_one_from_the_cache_equal_the_original_to_the_byte() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let workflow = gated_stream(&home);
    let run_id = api.start(&workflow).await;
    let path = path(&run_id);
    let mut whole = Events::at(&api, &path, None).await;
    let mut original = until_chunks(&mut whole, 2).await;
    // This one is cut twice: while the program waits, and when it has gone on.
    let mut cut = until_chunks(&mut Events::at(&api, &path, None).await, 2).await;
    let known = cut.last().unwrap().id.clone();
    let mut back = Events::at(&api, &path, known.as_deref()).await;
    home.file("gate", "");
    original.extend(whole.rest().await);
    cut.extend(until_chunks(&mut back, 1).await);
    drop(back);
    let known = cut.last().unwrap().id.clone();
    cut.extend(Events::at(&api, &path, known.as_deref()).await.rest().await);
    assert_eq!(cut, original, "with its ids and all");
    assert_eq!(
        data(&original),
        r#""plain""\"quoted\\\"\tüñí 🦀""""data: x""#
    );

    ended(&api, &run_id).await;
    let replayed = Events::at(&api, &path, None).await.rest().await;
    assert_eq!(replayed, original);
    for known in 0..original.len() - 1 {
        let after = original[known].id.as_deref();
        let rest = Events::at(&api, &path, after).await.rest().await;
        assert_eq!(rest, original[known + 1..], "after {after:?}");
    }

    // Another run finds it in the cache: the same chunks, under a name of their own.
    let again = api.start(&workflow).await;
    let run = ended(&api, &again).await;
    let cached = &run["tasks"][0]["cached"]["tier"];
    assert!(cached == "memory" || cached == "flight", "{run}");
    let path = self::path(&again);
    let replayed = Events::at(&api, &path, None).await.rest().await;
    assert_eq!(data(&replayed), data(&original));
    let known = replayed[2].id.as_deref();
    let rest = Events::at(&api, &path, known).await.rest().await;
    assert_eq!(rest, replayed[3..]);
    let output = |events: &[Event]| {
        let end: BTreeMap<String, Value> =
            serde_json::from_str(&events.last().unwrap().data).unwrap();
        (
            end["state"].clone(),
            end["output"].clone(),
            end["chunks"].clone(),
        )
    };
    assert_eq!(output(&replayed), output(&original));
}

#[tokio::test]
async fn the_stream_of_a_task_ends_with_its_output() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let run_id = api.start(&quick()).await;
    let path = format!("/api/v1/runs/{run_id}/tasks/b/stream");
    let whole = Events::at(&api, &path, None).await.rest().await;
    let Some(Event { id, name, data }) = whole.last() else {
        panic!("there is an end");
    };
    assert_eq!((id.as_deref(), name.as_str()), (Some("end"), "ended"));
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        (&data["state"], &data["output"]),
        (&json!("succeeded"), &json!(2))
    );
    let over = api.get(&format!("{path}?after=end")).await;
    assert_eq!(over.status, StatusCode::NO_CONTENT);
    let again = Events::at(&api, &path, None).await.rest().await;
    assert_eq!(again.last(), whole.last());

    let none = api
        .get(&format!("/api/v1/runs/{run_id}/tasks/c/stream"))
        .await;
    assert_eq!(none.status, 404, "{none:?}");
    assert_eq!(none.body["code"], "task_not_found");
    let wrong = api.request(reqwest::Method::GET, &path);
    let wrong = answer(wrong.header("last-event-id", "x")).await;
    assert_eq!(wrong.body["code"], "request_invalid", "{wrong:?}");
}
