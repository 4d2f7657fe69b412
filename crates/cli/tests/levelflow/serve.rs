//! Servers, and clients in other processes.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Home, Running, lines};

const FLOW: &str = "
name: flow
labels: { kind: test }
tasks:
  - { id: a, type: transform, with: { value: 1 } }
  - { id: b, type: transform, with: { value: \"${{ tasks.a.output + 1 }}\" } }
outputs: { sum: \"${{ tasks.b.output }}\" }
";

/// Nobody has the handler, so the run stays open.
const OPEN: &str = "
name: open
tasks:
  - { id: nobody, type: handler, with: { name: missing } }
  - { id: after, type: transform, needs: [nobody], with: { value: 1 } }
";

#[tokio::test]
async fn clients_use_a_server() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let (server, address) = Running::serve(&home, &["dev"]).await;

    // By address, and by the data directory that the server holds.
    let by_address = ["submit", "flow.yaml", "--wait", "--address", &address];
    let (code, run) = home.json(&by_address).await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["outputs"]["sum"], 2);
    assert_eq!(run["labels"]["kind"], "test");
    let run_id = run["run_id"].as_str().unwrap();
    let (code, found) = home.json(&["get", run_id]).await;
    assert_eq!(code, Some(0));
    assert_eq!(found["tasks"][1]["output"], 2);

    // The same key is the same run.
    let keyed = ["submit", "flow.yaml", "--idempotency-key", "k1"];
    let (_, first) = home.json(&keyed).await;
    let (_, second) = home.json(&keyed).await;
    assert_eq!(first["existing"], false);
    assert_eq!(second["existing"], true);
    assert_eq!(first["run_id"], second["run_id"]);

    // Events from the first on, and from the middle on.
    let watched = home.levelflow(&["watch", run_id, "--json"]).await;
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    let events: Vec<Value> = watched
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0]["event"], "submitted");
    assert_eq!(events.last().unwrap()["event"], "finished");
    let sequences: Vec<u64> = events
        .iter()
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let middle = sequences[sequences.len() / 2];
    let rest = home
        .levelflow(&["watch", run_id, "--json", "--after", &middle.to_string()])
        .await;
    let expected = events
        .iter()
        .filter(|event| event["sequence"].as_u64().unwrap() > middle)
        .count();
    assert_eq!(rest.stdout.lines().count(), expected);

    let (_, page) = home.json(&["list", "--limit", "1"]).await;
    let token = page["next_page_token"].as_str().unwrap();
    let (_, page) = home
        .json(&["list", "--page-token", token, "--status", "succeeded"])
        .await;
    assert_eq!(page["runs"][0]["run_id"], run_id);

    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
    let (_, after) = home.json(&["list"]).await;
    assert_eq!(after["runs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_open_run_is_explained_and_cancelled() {
    let home = Home::new();
    home.file("open.yaml", OPEN);
    let (server, _) = Running::serve(&home, &["dev"]).await;
    let submitted = home.levelflow(&["submit", "open.yaml"]).await;
    assert_eq!(submitted.code, Some(0), "{}", submitted.stderr);
    let run_id = submitted.stdout.trim();

    let (code, why) = home.json(&["why", run_id]).await;
    assert_eq!(code, Some(0));
    assert_eq!(why["tasks"][0]["task"], "nobody");
    assert_eq!(why["tasks"][0]["state"], "ready");
    assert_eq!(why["tasks"][0]["reasons"][0]["code"], "no_worker");
    assert_eq!(why["tasks"][1]["reasons"][0]["code"], "needs");

    let cancelled = home
        .levelflow(&["cancel", run_id, "--reason", "enough"])
        .await;
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.stderr);
    let watched = home.levelflow(&["watch", run_id]).await;
    assert_eq!(watched.code, Some(1));
    assert!(
        watched.stdout.contains(&format!("run {run_id} cancelled")),
        "{}",
        watched.stdout
    );
    let again = home.levelflow(&["cancel", run_id]).await;
    assert_eq!(again.code, Some(2));
    assert!(
        again.stderr.starts_with("error[run_ended]: "),
        "{}",
        again.stderr
    );

    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_in_another_process_does_the_work() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let (coordinator, address) = Running::serve(&home, &["coordinator"]).await;
    let arguments = ["worker", "--address", &address, "--id", "w1", "--json"];
    let mut worker = Running::start(home.command(&arguments));
    let ready: Value = serde_json::from_str(&worker.line().await).unwrap();
    assert_eq!(ready["worker_id"], "w1");
    let (code, run) = home.json(&["submit", "flow.yaml", "--wait"]).await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(run["tasks"][0]["worker"], "w1");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    coordinator.signal(Signal::SIGTERM);
    assert_eq!(coordinator.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_calls_its_own_machine_only_when_it_is_told_to() {
    let home = Home::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    home.file(
        "flow.yaml",
        format!("name: call\ntasks:\n  - {{ id: a, type: http, with: {{ url: 'http://{upstream}' }} }}\n"),
    );
    let (coordinator, address) = Running::serve(&home, &["coordinator"]).await;
    let start = async |more: &[&str]| {
        let arguments = [&["worker", "--address", &address, "--json"], more].concat();
        let mut worker = Running::start(home.command(&arguments));
        worker.line().await;
        worker
    };
    let careful = start(&[]).await;
    let (code, run) = home.json(&["submit", "flow.yaml", "--wait"]).await;
    assert_eq!(code, Some(1), "{run}");
    assert_eq!(run["tasks"][0]["failure"]["code"], "egress_refused");
    assert_eq!(run["tasks"][0]["attempts"], 1);
    careful.signal(Signal::SIGTERM);
    assert_eq!(careful.ended().await.code(), Some(0));

    let target = upstream.to_string();
    let told = start(&["--allow-http", &target]).await;
    let served = levelflow_runtime::task::spawn("upstream", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nhi")
            .await
            .unwrap();
    });
    let (code, run) = home.json(&["submit", "flow.yaml", "--wait"]).await;
    assert_eq!(code, Some(0), "{run}");
    served.await.unwrap();
    told.kill().await;
    coordinator.kill().await;
}

#[tokio::test]
async fn who_waits_in_vain_is_told_why() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let (coordinator, _) = Running::serve(&home, &["coordinator"]).await;
    let mut submit = home.command(&["submit", "flow.yaml", "--wait"]);
    submit.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut submit = submit.spawn().unwrap();
    let mut told = lines(submit.stderr.take().unwrap());
    let expected = "waits: no connected worker serves queue `default` that runs";
    loop {
        let line = timeout(DEADLINE, told.next_line()).await.unwrap().unwrap();
        if line.expect("it says why before it ends").contains(expected) {
            break;
        }
    }
    submit.kill().await.unwrap();
    coordinator.kill().await;
}

#[tokio::test]
async fn a_server_can_be_a_socket() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let address = format!("unix:{}", home.path("socket").display());
    let command = home.command(&["coordinator", "--listen", &address, "--json"]);
    let (coordinator, served) = Running::server(command).await;
    assert_eq!(served, address);
    let mut worker = Running::start(home.command(&["worker", "--address", &address, "--json"]));
    worker.line().await;
    let submit = ["submit", "flow.yaml", "--wait", "--address", &address];
    let (code, run) = home.json(&submit).await;
    assert_eq!(code, Some(0), "{run}");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    coordinator.signal(Signal::SIGTERM);
    assert_eq!(coordinator.ended().await.code(), Some(0));
    assert!(!home.path("socket").exists());
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = home.levelflow(&["dev", "--listen", &address]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains(&format!(
            "error[address_unavailable]: cannot listen on {address}\n  \
             = caused by: Address already in use (os error 98)\n  \
             = help: use another address with --listen and --http; port 0 takes a free one\n"
        )),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let ended = home
        .levelflow(&["submit", "flow.yaml", "--address", &address])
        .await;
    assert_eq!(ended.code, Some(3));
    assert_eq!(
        ended.stderr,
        format!(
            "error[server_unreachable]: no server answers at {address}: \
             Connection refused (os error 111)\n  \
             = help: start a coordinator with `levelflow dev`, or name another one with --address\n"
        )
    );
    let ended = home
        .levelflow(&["list", "--address", "http://not an address"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .contains("is not an address; write for example 127.0.0.1:7400"),
        "{}",
        ended.stderr
    );
}
