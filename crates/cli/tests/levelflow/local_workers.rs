//! Worker processes that `levelflow dev` starts.

use std::collections::BTreeSet;
use std::time::Duration;

use levelflow_common::RunStatus;
use levelflow_common::event::RunEvent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, eventually};
use crate::harness::{Home, Running};

const TASKS: usize = 2_000;

/// A server whose every answer takes this long.
async fn slow_server(each: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    levelflow_runtime::task::spawn("slow server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            levelflow_runtime::task::spawn("connection", answer_slowly(stream, each));
        }
    });
    format!("http://{address}/")
}

async fn answer_slowly(stream: TcpStream, each: Duration) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // Until the other end closes the connection.
    while let Ok(1..) = stream.read_line(&mut line).await {
        if line == "\r\n" {
            tokio::time::sleep(each).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
            if stream.get_mut().write_all(answer).await.is_err() {
                return;
            }
        }
        line.clear();
    }
}

async fn dev(home: &Home, workers: &str) -> (Running, String) {
    let arguments = [
        "dev",
        "--workers",
        workers,
        "--listen",
        "127.0.0.1:0",
        "--json",
    ];
    let mut command = home.command(&arguments);
    command.env("LEVELFLOW_COORDINATOR__AUTOSCALE__SCALE_DOWN_IDLE", "2s");
    Running::server(command).await
}

/// The processes that a process has started and that have not ended.
fn children(of: i32) -> BTreeSet<i32> {
    let threads = std::fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let children = threads.map(|thread| thread.unwrap().path().join("children"));
    // A thread may have ended meanwhile.
    let children = children.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let children: Vec<_> = children.collect();
    let pids = children.iter().flat_map(|it| it.split_whitespace());
    pids.map(|pid| pid.parse().unwrap()).collect()
}

fn is_there(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that nobody waits for any more has ended all the same.
    state
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.starts_with(' ') && !rest.starts_with(" Z"))
}

/// The workers that take tasks, with the tasks that each holds.
async fn workers(home: &Home) -> Vec<(String, u64)> {
    let (code, answer) = home.json(&["workers"]).await;
    assert_eq!(code, Some(0), "{answer}");
    let workers = answer["workers"].as_array().unwrap().iter();
    let active = workers.filter(|it| it["status"] == "active");
    let read = |it: &Value| {
        (
            it["id"].as_str().unwrap().to_owned(),
            it["attempts"].as_u64().unwrap_or(0),
        )
    };
    active.map(read).collect()
}

async fn workers_are(home: &Home, count: usize) {
    let what = format!("{count} workers");
    eventually(&what, async || workers(home).await.len() == count).await;
}

#[tokio::test]
async fn a_burst_gets_more_workers_and_none_of_it_is_disturbed() {
    let home = Home::new();
    let (server, address) = dev(&home, "2..16").await;
    workers_are(&home, 2).await;
    let url = slow_server(Duration::from_millis(50)).await;
    let client = Client::connect(&address).await;
    let run = client
        .start(&json!({
            "name": "burst",
            "tasks": [{
                "id": "call",
                "type": "http",
                "for_each": { "items": format!("${{{{ range({TASKS}) | list }}}}") },
                "with": { "url": url },
            }],
        }))
        .await;
    let most = async || children(server.pid()).len() == 16;
    eventually("there are 16 worker processes", most).await;
    let ended = client.ended(&run).await;
    assert_eq!(ended.summary.status, RunStatus::Succeeded, "{ended:?}");

    let mut attempts = 0;
    for update in client.history(&run).await {
        for event in update.events {
            match event {
                // The list itself ends, too, and nobody runs it.
                RunEvent::TaskSucceeded { attempt: 0, .. } => {}
                RunEvent::TaskSucceeded { attempt, .. } => {
                    assert_eq!(attempt, 1);
                    attempts += 1;
                }
                RunEvent::AttemptFailed { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
    }
    assert_eq!(attempts, TASKS);

    workers_are(&home, 2).await;
    let fewest = async || children(server.pid()).len() == 2;
    eventually("there are 2 worker processes", fewest).await;
    let left = children(server.pid());
    server.signal(Signal::SIGTERM);
    assert!(server.ended().await.success());
    assert!(!left.into_iter().any(is_there));
}

#[tokio::test]
async fn a_worker_process_that_crashes_is_replaced_and_none_outlives_its_server() {
    let home = Home::new();
    let (server, _) = dev(&home, "2").await;
    workers_are(&home, 2).await;
    let before = workers(&home).await;
    let pids = children(server.pid());
    let victim = *pids.first().unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let replaced = async || {
        let now = workers(&home).await;
        now.len() == 2 && now != before
    };
    eventually("another one takes its place", replaced).await;
    let pids = children(server.pid());
    assert!(pids.len() == 2 && !pids.contains(&victim), "{pids:?}");

    server.kill().await;
    eventually("they end with their server", async || {
        !pids.iter().copied().any(is_there)
    })
    .await;
}

#[tokio::test]
async fn a_wrong_number_of_workers_is_refused() {
    let home = Home::new();
    let ended = home.levelflow(&["dev", "--workers", "5..4"]).await;
    assert_eq!(ended.code, Some(2));
    let problem = "write a number of workers from 1 to 1000, such as 4, or the least and the most, such as 2..16";
    assert!(ended.stderr.contains(problem), "{}", ended.stderr);
    let mut command = home.command(&["dev"]);
    command.env("LEVELFLOW_DEV__WORKERS", "0");
    let ended = crate::harness::finish(command).await;
    assert_eq!(ended.code, Some(2));
    for part in ["`dev.workers`", "LEVELFLOW_DEV__WORKERS", problem] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}
