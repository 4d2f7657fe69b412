//! A dead upstream under many tasks, as users see it.

use std::time::Duration;

use levelflow_common::event::RunEvent;
use levelflow_common::{RunStatus, TaskStatus};
use serde_json::{Value, json};

use crate::client::{Client, eventually};
use crate::examples::example;
use crate::harness::{Home, Running};
use crate::upstream::Upstream;

/// A run of that many tasks that call the upstream.
fn flow(upstream: &Upstream, tasks: usize) -> Value {
    json!({
        "name": "calls",
        "tasks": [{
            "id": "call",
            "type": "http",
            "for_each": { "items": format!("${{{{ range({tasks}) | list }}}}") },
            "with": { "url": format!("{}${{{{ item }}}}", upstream.url) },
            "retry": { "initial": "10ms", "max_attempts": 20 },
        }],
    })
}

async fn serve(home: &Home, open_for: &str) -> (Running, Client) {
    let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
    command.env("LEVELFLOW_COORDINATOR__BREAKER__OPEN_FOR", open_for);
    let (server, address) = Running::server(command).await;
    (server, Client::connect(&address).await)
}

async fn breaker(home: &Home, upstream: &Upstream) -> Value {
    let (code, answer) = home.json(&["breakers"]).await;
    assert_eq!(code, Some(0), "{answer}");
    let breakers = answer["breakers"].as_array().unwrap();
    let mut found = breakers
        .iter()
        .filter(|it| it["upstream"] == upstream.name.as_str());
    found.next().unwrap_or(&Value::Null).clone()
}

/// Waits until so many tasks wait for the breaker.
async fn parked(home: &Home, upstream: &Upstream, tasks: usize) {
    let all_wait = async || breaker(home, upstream).await["waiting"] == tasks;
    eventually("all tasks are parked", all_wait).await;
}

/// Waits for the success of the run, and holds the attempts of its tasks against what reached the server.
async fn check_end(client: &Client, run_id: &str, upstream: &Upstream, tasks: usize) {
    client.ended(run_id).await;
    let run = client.get(run_id).await.unwrap();
    assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
    let items: Vec<_> = run.tasks.iter().filter(|it| it.item.is_some()).collect();
    assert_eq!(items.len(), tasks);
    assert!(items.iter().all(|it| it.status == TaskStatus::Succeeded));
    let attempts: usize = items.iter().map(|it| it.attempts as usize).sum();
    let (failed, served) = upstream.calls();
    assert_eq!(served, tasks);
    assert_eq!(
        attempts,
        served + failed,
        "an attempt was used up without a call"
    );
}

#[tokio::test]
async fn five_hundred_tasks_wait_for_a_dead_upstream_until_it_is_back() {
    const TASKS: usize = 500;
    const OPEN_FOR: Duration = Duration::from_secs(2);
    let home = Home::new();
    let mut upstream = Upstream::start().await;
    let (_server, client) = serve(&home, "2s").await;
    let run_id = client.start(&flow(&upstream, TASKS)).await;
    upstream.failed(5).await;
    let is_open = async || breaker(&home, &upstream).await["status"] == "open";
    eventually("the breaker is open", is_open).await;
    assert_eq!(upstream.calls(), (5, 0), "more calls than open the breaker");
    parked(&home, &upstream, TASKS).await;
    let (_, why) = home.json(&["why", &run_id, "call", "--item", "499"]).await;
    let reason = &why["tasks"][0]["reasons"][0];
    assert_eq!(reason["code"], "breaker_open", "{why}");
    assert!(reason["text"].as_str().unwrap().contains(&upstream.name));

    // Each time that it is open for it lets at most three probes through after that.
    upstream.failed(9).await;
    let failed_at = upstream.failed_at();
    for (probe, at) in failed_at[5..].iter().enumerate() {
        let rounds = probe as u32 / 3 + 1;
        let earliest = failed_at[0] + OPEN_FOR * rounds;
        assert!(
            *at >= earliest,
            "probe {probe} came too early: {failed_at:?}"
        );
    }
    upstream.heal();
    check_end(&client, &run_id, &upstream, TASKS).await;
    assert_eq!(breaker(&home, &upstream).await["status"], "closed");
}

#[tokio::test]
async fn parked_tasks_outlive_a_crash_and_go_on_after_a_reset() {
    const TASKS: usize = 50;
    let home = Home::new();
    let mut upstream = Upstream::start().await;
    let (server, client) = serve(&home, "1h").await;
    let run_id = client.start(&flow(&upstream, TASKS)).await;
    upstream.failed(5).await;
    parked(&home, &upstream, TASKS).await;
    // A view is shown when it is durable. A failure that is not would be forgotten with the server, and
    // its attempt given again under the same number.
    client.get(&run_id).await.unwrap();
    drop(client);
    server.kill().await;

    // What breakers know is not recorded: the upstream is found to be dead again.
    let (_server, client) = serve(&home, "1h").await;
    upstream.failed(10).await;
    parked(&home, &upstream, TASKS).await;
    assert_eq!(upstream.calls(), (10, 0));
    assert_eq!(breaker(&home, &upstream).await["status"], "open");

    upstream.heal();
    let unknown = home
        .levelflow(&["breakers", "reset", "http:unknown:80"])
        .await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("breaker_not_found"),
        "{}",
        unknown.stderr
    );
    let reset = home.levelflow(&["breakers", "reset", &upstream.name]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.stderr);
    assert!(reset.stdout.contains("closed"), "{}", reset.stdout);
    check_end(&client, &run_id, &upstream, TASKS).await;
}

#[tokio::test]
async fn the_wait_that_a_server_asks_for_outlives_a_crash() {
    const WAIT: Duration = Duration::from_secs(3);
    let home = Home::new();
    let upstream = Upstream::turning_down("429 Too Many Requests\r\nretry-after: 3").await;
    let (server, client) = serve(&home, "1h").await;
    let run_id = client.start(&flow(&upstream, 1)).await;
    let failed = |event: &RunEvent| matches!(event, RunEvent::AttemptFailed { .. });
    client.until(&run_id, failed).await;
    drop(client);
    server.kill().await;
    upstream.heal();

    let (_server, client) = serve(&home, "1h").await;
    check_end(&client, &run_id, &upstream, 1).await;
    assert_eq!(upstream.calls(), (1, 1));
    let waited = upstream.served_at()[0] - upstream.failed_at()[0];
    assert!(waited >= WAIT, "{waited:?}");
}

#[tokio::test]
async fn tasks_are_parked_on_a_host_that_only_their_worker_finds() {
    const TASKS: usize = 60;
    let home = Home::new();
    let mut target = Upstream::start().await;
    let location = format!("302 Found\r\nlocation: {}", target.url);
    let first = Upstream::turning_down(&location).await;
    let (_server, client) = serve(&home, "1h").await;
    let run_id = client.start(&flow(&first, TASKS)).await;
    target.failed(5).await;
    parked(&home, &target, TASKS).await;
    let (failed, _) = target.calls();
    assert!(
        failed <= 5 + 16,
        "{failed} calls, of which a worker makes 16 at once"
    );
    assert_eq!(breaker(&home, &first).await["status"], "closed");

    target.heal();
    let reset = home.levelflow(&["breakers", "reset", &target.name]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.stderr);
    check_end(&client, &run_id, &target, TASKS).await;
}

#[tokio::test]
async fn the_example_outlives_its_server() {
    let home = Home::new();
    let mut upstream = Upstream::start().await;
    let (_server, client) = serve(&home, "1h").await;
    let base = format!("base={}", upstream.url.trim_end_matches('/'));
    let (code, submitted) = home
        .json(&[
            "submit",
            &example("upstream-down.yaml"),
            "-i",
            &base,
            "-i",
            "calls=20",
        ])
        .await;
    assert_eq!(code, Some(0), "{submitted}");
    let run_id = submitted["run_id"].as_str().unwrap();
    upstream.failed(5).await;
    parked(&home, &upstream, 20).await;
    upstream.heal();
    let reset = home.levelflow(&["breakers", "reset", &upstream.name]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.stderr);
    check_end(&client, run_id, &upstream, 20).await;
    let run = client.get(run_id).await.unwrap();
    assert_eq!(run.outputs.as_deref(), Some(&br#"{"answered":20}"#[..]));
}

#[tokio::test]
async fn no_worker_calls_what_is_dead_for_another() {
    const TASKS: usize = 100;
    let home = Home::new();
    let mut upstream = Upstream::start().await;
    let mut command = home.command(&["coordinator", "--listen", "127.0.0.1:0", "--json"]);
    command.env("LEVELFLOW_COORDINATOR__BREAKER__OPEN_FOR", "1h");
    let (_coordinator, address) = Running::server(command).await;
    let mut workers = Vec::new();
    for id in ["w0", "w1"] {
        let arguments = ["worker", "--address", &address, "--id", id, "--json"];
        let mut command = home.command(&arguments);
        command.args(["--allow-http", "127.0.0.1", "--label", &format!("id={id}")]);
        let mut worker = Running::start(command);
        worker.line().await;
        workers.push(worker);
    }
    let client = Client::connect(&address).await;
    let mut workflow = flow(&upstream, TASKS / 2);
    let mut other = workflow["tasks"][0].clone();
    other["id"] = json!("other");
    workflow["tasks"][0]["worker"] = json!({ "labels": { "id": "w0" } });
    other["worker"] = json!({ "labels": { "id": "w1" } });
    workflow["tasks"].as_array_mut().unwrap().push(other);
    let run_id = client.start(&workflow).await;
    upstream.failed(5).await;
    parked(&home, &upstream, TASKS).await;
    assert_eq!(upstream.calls(), (5, 0));

    upstream.heal();
    let reset = home.levelflow(&["breakers", "reset", &upstream.name]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.stderr);
    check_end(&client, &run_id, &upstream, TASKS).await;
}
