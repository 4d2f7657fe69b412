use futures_util::future::join_all;
use nix::sys::signal::Signal;

use super::Server;
use super::events::{Events, recorded};
use crate::api::{gated, open};
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
