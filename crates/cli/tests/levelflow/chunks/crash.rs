//! Chunks while servers crash.

use super::{Chunks, GATED, GATED_LINES, Seen, program, replay, succeeded};
use crate::client::Client;
use crate::harness::{Home, Running};

#[tokio::test]
async fn a_recorded_stream_survives_a_crash_of_the_server() {
    let home = Home::new();
    let (server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    home.file("gate", "");
    let run_id = client.start(&program(&home, GATED)).await;
    let watcher = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    let (seen, end) = watcher.rest(Seen::default()).await;
    assert!(succeeded(&end), "{end:?}");
    assert_eq!(seen.values(), GATED_LINES);
    // The end was told, so it is durable, and the chunks with it.
    server.kill().await;

    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    client.ended(&run_id).await;
    assert_eq!(
        replay(&client, &run_id, "lines").await,
        (seen.clone(), end.clone())
    );
    let mut half = seen.clone();
    half.chunks.truncate(2);
    let rest = Chunks::watch(&client, &run_id, "lines", Some(half.cursor()))
        .await
        .unwrap();
    assert_eq!(rest.rest(half).await, (seen, end));
}

#[tokio::test]
async fn an_attempt_that_starts_again_after_a_crash_is_another_stream() {
    let home = Home::new();
    let (server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    // Each attempt gives other lines, as a model would.
    let script = format!("echo $$; {GATED}");
    let run_id = client.start(&program(&home, &script)).await;
    let mut watcher = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    let mut seen = Seen::default();
    watcher.take(&mut seen, 3).await;
    server.kill().await;

    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let before = seen.clone();
    let watcher = Chunks::watch(&client, &run_id, "lines", Some(seen.cursor()))
        .await
        .unwrap();
    home.file("gate", "");
    let (seen, end) = watcher.rest(seen).await;
    assert!(succeeded(&end), "{end:?}");
    assert_eq!(
        seen.attempts,
        [1, 1],
        "nobody failed, so nothing is counted"
    );
    assert_ne!(seen.stream, before.stream);
    assert_ne!(seen.chunks[0], before.chunks[0]);
    assert_eq!(seen.values()[1..], GATED_LINES);
    client.ended(&run_id).await;
    let (again, _) = replay(&client, &run_id, "lines").await;
    assert_eq!((again.stream, again.chunks), (seen.stream, seen.chunks));
}

#[tokio::test]
async fn a_worker_that_is_lost_leaves_its_chunks_to_the_next_attempt() {
    let home = Home::new();
    let mut command = home.command(&["coordinator", "--listen", "127.0.0.1:0", "--json"]);
    command
        .env("LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL", "200ms")
        .env("LEVELFLOW_COORDINATOR__LEASE", "1s");
    let (_server, address) = Running::server(command).await;
    let client = Client::connect(&address).await;
    let start_worker = async |id: &str| {
        let arguments = [
            "worker",
            "--address",
            &address,
            "--id",
            id,
            "--json",
            "--allow-process",
        ];
        let mut worker = Running::start(home.command(&arguments));
        worker.line().await;
        worker
    };
    let first = start_worker("w1").await;
    let run_id = client.start(&program(&home, GATED)).await;
    let mut watcher = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    let mut seen = Seen::default();
    watcher.take(&mut seen, 2).await;
    first.kill().await;
    home.file("gate", "");
    let _second = start_worker("w2").await;
    let (seen, end) = watcher.rest(seen).await;
    assert!(succeeded(&end), "{end:?}");
    assert_eq!((seen.attempts.as_slice(), end.attempt), (&[1, 2][..], 2));
    assert_eq!(seen.values(), GATED_LINES);
}
