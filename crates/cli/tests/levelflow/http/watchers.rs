use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::json;

use super::events::{Event, Events, recorded};
use super::{Server, answer};
use crate::api::{gated, open, quick};
use crate::harness::Home;

const WATCHERS: usize = 300;

#[tokio::test]
async fn every_watcher_gets_every_event_in_order() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let run_id = api.start(&gated(&home)).await;
    let opening = (0..WATCHERS).map(|_| Events::open(&api, &run_id, None));
    let mut watchers = join_all(opening).await;
    // None of them reads from here on.
    let stalled = watchers.split_off(WATCHERS - 50);
    home.file("gate", "");
    let streams = join_all(watchers.into_iter().map(Events::rest)).await;
    let expected = recorded(&streams[0]);
    assert_eq!(expected.last().unwrap().name, "finished");
    for stream in &streams {
        assert_eq!(recorded(stream), expected);
    }
    // Who was slow misses nothing either.
    let streams = join_all(stalled.into_iter().map(Events::rest)).await;
    for stream in &streams {
        assert_eq!(recorded(stream), expected);
    }
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let home = Home::new();
    let Server { running, api } = Server::start(&home).await;
    let run_id = api.start(&open()).await;
    let mut events = Events::open(&api, &run_id, None).await;
    assert_eq!(events.next().await.unwrap().name, "submitted");
    running.signal(Signal::SIGTERM);
    let rest = events.rest().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(
        (rest[0].id.as_deref(), rest[0].name.as_str()),
        (None, "problem")
    );
    assert!(
        rest[0].data.contains("\"code\":\"shutting_down\""),
        "{rest:?}"
    );
    assert_eq!(running.ended().await.code(), Some(0));
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
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
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
