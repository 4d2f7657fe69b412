//! Endpoints that break off half way: the attempt fails after its chunks, and the next one starts anew.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Chunks, Seen, program, replay, succeeded};
use crate::client::Client;
use crate::harness::{Home, Running};

/// Answers each request with the next answer, and closes the connection.
async fn endpoint(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    levelflow_runtime::task::spawn("endpoint", async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let is_whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).into_owned();
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().unwrap());
                (body.len() >= length).then_some(())
            };
            while is_whole(&request).is_none() {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    address
}

fn retried(task: Value) -> Value {
    let mut task = task;
    task["id"] = json!("task");
    task["retry"] = json!({ "max_attempts": 3, "initial": "50ms", "jitter": false });
    json!({ "name": "retried", "tasks": [task] })
}

/// Runs a task whose first attempt fails half way: what its watcher sees, attempt by attempt.
async fn watch(task: Value) -> (Vec<Vec<Value>>, Vec<Value>) {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&retried(task)).await;
    let mut watcher = Chunks::watch(&client, &run_id, "task", None).await.unwrap();
    let mut seen = Seen::default();
    let mut attempts: Vec<Vec<Value>> = Vec::new();
    let end = loop {
        match watcher.next().await.unwrap().unwrap() {
            levelflow_common::ChunkEvent::Ended(end) => break end,
            event => seen.take(event),
        }
        attempts.resize(seen.attempts.len(), Vec::new());
        if let Some(last) = attempts.last_mut() {
            *last = seen.values();
        }
    };
    assert!(succeeded(&end), "{end:?}");
    assert_eq!(end.attempt, 2);
    assert_eq!(seen.attempts, [1, 2]);
    assert_eq!(seen.missed, 0);
    client.ended(&run_id).await;
    let (again, _) = replay(&client, &run_id, "task").await;
    assert_eq!(again.attempts, [2]);
    (attempts, again.values())
}

#[tokio::test]
async fn half_a_body_is_followed_by_a_whole_one() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\none\ntwo\nthr";
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\none\ntwo\nthree";
    let url = endpoint(vec![half.to_owned(), whole.to_owned()]).await;
    let task = json!({ "type": "http", "with": { "url": url, "stream": "lines" } });
    let (attempts, recorded) = watch(task).await;
    assert_eq!(
        attempts,
        [vec![json!("one"), json!("two")], recorded.clone()]
    );
    assert_eq!(recorded, ["one", "two", "three"]);
}

#[tokio::test]
async fn half_an_answer_of_a_model_is_followed_by_a_whole_one() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let piece = |text: &str| {
        let delta = json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        format!("data: {delta}\n\n")
    };
    let half = format!("{head}{}", piece("Hel"));
    let whole = format!(
        "{head}{}{}data: [DONE]\n\n",
        piece("Good "),
        piece("morning")
    );
    let base_url = endpoint(vec![half, whole]).await;
    let with = json!({ "model": "m", "base_url": base_url, "prompt": "hello" });
    let (attempts, recorded) = watch(json!({ "type": "chat", "with": with })).await;
    assert_eq!(attempts[0], [json!({ "model": "m", "text": "Hel" })]);
    let text: String = recorded
        .iter()
        .map(|chunk| chunk["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Good morning");
    assert_eq!(attempts[1], recorded);
}

#[tokio::test]
async fn too_many_chunks_fail_the_task_for_good() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    // More lines than an attempt may give chunks, in fewer bytes than it may write.
    let run_id = client.start(&program(&home, "yes | head -n 70000")).await;
    let run = client.ended(&run_id).await;
    let failure = run.tasks[0].failure.as_ref().unwrap();
    assert_eq!(failure.code, levelflow_common::Code::StreamTooLarge);
    assert_eq!(run.tasks[0].attempts, 1);
    let (seen, end) = replay(&client, &run_id, "lines").await;
    assert_eq!((seen, end.chunks), (Seen::default(), 0));
}
