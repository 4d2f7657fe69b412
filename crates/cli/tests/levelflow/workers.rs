//! Workers and what they do, as users see it.

use levelflow_common::RunStatus;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::{Client, eventually};
use crate::harness::{Home, Running, text};
use crate::pseudo_terminal::PseudoTerminal;

async fn coordinator(home: &Home) -> (Running, String) {
    // Long enough to see that a worker is lost.
    let mut command = home.command(&["coordinator", "--listen", "127.0.0.1:0", "--json"]);
    command.env("LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL", "200ms");
    command.env("LEVELFLOW_COORDINATOR__LEASE", "6s");
    Running::server(command).await
}

async fn worker(home: &Home, address: &str, id: &str, slots: &str) -> Running {
    let arguments = ["worker", "--address", address, "--id", id, "--slots", slots];
    let mut command = home.command(&arguments);
    command.args(["--allow-process", "--label", "zone=eu", "--json"]);
    let mut worker = Running::start(command);
    worker.line().await;
    worker
}

/// A run of tasks that end when the file is there, or after a minute.
fn flow(tasks: usize, file: &str) -> Value {
    let wait = "for i in $(seq 1200); do [ -e \"$1\" ] && exit; sleep 0.05; done";
    json!({
        "name": "wait",
        "tasks": [{
            "id": "wait",
            "type": "process",
            "for_each": { "items": format!("${{{{ range({tasks}) | list }}}}") },
            "with": { "command": ["sh", "-c", wait, "sh", file] },
        }],
    })
}

async fn workers(home: &Home) -> Vec<Value> {
    let (code, answer) = home.json(&["workers"]).await;
    assert_eq!(code, Some(0), "{answer}");
    answer["workers"].as_array().unwrap().clone()
}

async fn top(home: &Home) -> Value {
    let (code, answer) = home.json(&["top"]).await;
    assert_eq!(code, Some(0), "{answer}");
    answer
}

/// Waits until the workers stand like this: id, status, slots that are taken.
async fn workers_are(home: &Home, expected: &[(&str, &str, u32)]) {
    let expected: Vec<Value> = expected.iter().map(|it| json!(it)).collect();
    let what = format!("{expected:?}");
    let stand = async || {
        let told = workers(home).await;
        let told: Vec<Value> = told
            .iter()
            .map(|it| json!([it["id"], it["status"], it["busy"]]))
            .collect();
        told == expected
    };
    eventually(&what, stand).await;
}

#[tokio::test]
async fn workers_are_listed_with_what_they_do() {
    let home = Home::new();
    let gate = home.path("gate");
    let (_coordinator, address) = coordinator(&home).await;
    assert_eq!(workers(&home).await, [] as [Value; 0]);
    let none = home.levelflow(&["workers"]).await;
    assert_eq!(none.stderr, "no worker is connected\n");

    let one = worker(&home, &address, "w-1", "2").await;
    workers_are(&home, &[("w-1", "active", 0)]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&flow(10, text(&gate))).await;
    workers_are(&home, &[("w-1", "active", 2)]).await;
    let all_wait = async || {
        let told = top(&home).await;
        let held = told["attempts"].as_u64().unwrap();
        let ready = told["queues"][0]["ready"].as_u64().unwrap_or(0);
        held + ready == 10
    };
    eventually("ten tasks are with the worker or wait", all_wait).await;

    let told = workers(&home).await.remove(0);
    assert_eq!(told["slots"], 2);
    assert!(told["attempts"].as_u64().unwrap() >= 2, "{told}");
    assert_eq!(told["queues"], json!(["default"]));
    assert_eq!(told["labels"], json!({ "zone": "eu" }));
    assert!(
        told["kinds"]
            .as_array()
            .unwrap()
            .contains(&json!("process"))
    );
    let session = &told["session"];
    assert_eq!(session["version"], env!("CARGO_PKG_VERSION"));
    let heartbeat = &session["heartbeat"];
    assert!(heartbeat["resident_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(heartbeat["at"].as_str() >= session["connected_at"].as_str());

    // It finishes what it runs, and what waits goes to the other.
    let two = worker(&home, &address, "w-2", "3").await;
    one.signal(Signal::SIGTERM);
    workers_are(&home, &[("w-1", "draining", 2), ("w-2", "active", 3)]).await;
    let shown = home.levelflow(&["workers"]).await.stdout;
    let line = shown.lines().find(|line| line.starts_with("w-1")).unwrap();
    assert!(line.contains("draining") && line.contains("2/2"), "{shown}");

    std::fs::write(&gate, "").unwrap();
    one.ended().await;
    workers_are(&home, &[("w-2", "active", 0)]).await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    let told = top(&home).await;
    assert_eq!(told["ended_tasks"], json!({ "succeeded": 11, "failed": 0 }));
    assert_eq!(
        (&told["open_runs"], &told["attempts"]),
        (&json!(0), &json!(0))
    );

    two.signal(Signal::SIGTERM);
    two.ended().await;
    workers_are(&home, &[]).await;
}

#[tokio::test]
async fn a_killed_worker_is_lost_until_its_leases_end() {
    let home = Home::new();
    let gate = home.path("gate");
    let (_coordinator, address) = coordinator(&home).await;
    let killed = worker(&home, &address, "w-1", "2").await;
    let client = Client::connect(&address).await;
    client.start(&flow(1, text(&gate))).await;
    workers_are(&home, &[("w-1", "active", 1)]).await;
    killed.kill().await;
    workers_are(&home, &[("w-1", "lost", 1)]).await;
    assert_eq!(workers(&home).await[0]["session"], Value::Null);
    workers_are(&home, &[]).await;
    let told = top(&home).await;
    let alert = &told["alerts"][0];
    assert_eq!(
        (&alert["kind"], &alert["subject"]["worker"]),
        (&json!("worker_lost"), &json!("w-1")),
        "{told}"
    );
}

#[tokio::test]
async fn a_worker_that_stands_still_gets_nothing_until_it_goes_on() {
    let home = Home::new();
    let gate = home.path("gate");
    let (_coordinator, address) = coordinator(&home).await;
    let still = worker(&home, &address, "w-1", "9").await;
    workers_are(&home, &[("w-1", "active", 0)]).await;
    still.signal(Signal::SIGSTOP);
    workers_are(&home, &[("w-1", "silent", 0)]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&flow(2, text(&gate))).await;
    let task = json!({ "id": "t", "type": "transform", "with": { "value": 1 } });
    let waits = client
        .start(&json!({ "name": "one", "tasks": [task] }))
        .await;
    let is_said = async || client.explain(&waits, "t").await.1[0].code == "silent";
    eventually("the worker is said to be silent", is_said).await;

    let _other = worker(&home, &address, "w-2", "1").await;
    workers_are(&home, &[("w-1", "silent", 0), ("w-2", "active", 1)]).await;
    still.signal(Signal::SIGCONT);
    workers_are(&home, &[("w-1", "active", 1), ("w-2", "active", 1)]).await;
    std::fs::write(&gate, "").unwrap();
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn top_shows_it_once_where_nobody_looks() {
    let home = Home::new();
    let gate = home.path("gate");
    let (_coordinator, address) = coordinator(&home).await;
    let _worker = worker(&home, &address, "w-1", "2").await;
    let client = Client::connect(&address).await;
    client.start(&flow(2, text(&gate))).await;
    workers_are(&home, &[("w-1", "active", 2)]).await;
    let shown = home.levelflow(&["top"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for part in [
        "coordinator ",
        "1 run open, 2 attempts on workers",
        "0 tasks ready",
        "2/2",
    ] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains('\x1b'), "{:?}", shown.stdout);
    std::fs::write(&gate, "").unwrap();

    let nobody = home.levelflow(&["top", "--address", "127.0.0.1:1"]).await;
    assert_eq!(nobody.code, Some(3));
    assert!(
        nobody.stderr.contains("server_unreachable"),
        "{}",
        nobody.stderr
    );
}

#[tokio::test]
async fn top_is_live_on_a_terminal_and_gives_it_back() {
    let home = Home::new();
    let gate = home.path("gate");
    let (server, address) = coordinator(&home).await;
    let mut terminal = PseudoTerminal::open(100, 30);
    let mode = terminal.mode();
    let mut command = home.command(&["top", "--interval", "100ms"]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let shown = terminal.start(command);
    terminal.shows("no worker is connected").await;
    assert_ne!(terminal.mode(), mode, "keys are read as they are pressed");

    let _worker = worker(&home, &address, "w-1", "2").await;
    terminal.shows("0/2").await;
    let client = Client::connect(&address).await;
    client.start(&flow(2, text(&gate))).await;
    terminal.shows("2/2").await;
    std::fs::write(&gate, "").unwrap();
    terminal.shows("0 runs open").await;

    terminal.resize(40, 5).await;
    terminal.shows("lines more").await;
    server.kill().await;
    terminal.shows("no answer for").await;
    terminal.press(b"xq");
    let status = terminal.ended(shown).await;
    assert!(status.success(), "{status}");
    assert_eq!(terminal.mode(), mode);
    assert!(terminal.text().ends_with("\x1b[?25h\x1b[?1049l"));
}

#[tokio::test]
async fn top_ends_when_it_is_interrupted() {
    let home = Home::new();
    let (_server, _) = coordinator(&home).await;
    let mut terminal = PseudoTerminal::open(100, 30);
    let mode = terminal.mode();
    let mut command = home.command(&["top"]);
    command.env("TERM", "xterm");
    let shown = terminal.start(command);
    terminal.shows("no worker is connected").await;
    shown.signal(Signal::SIGINT);
    let status = terminal.ended(shown).await;
    assert_eq!(status.code(), Some(130));
    assert_eq!(terminal.mode(), mode);

    // Lines cannot be drawn again here.
    let mut terminal = PseudoTerminal::open(100, 30);
    let mut command = home.command(&["top"]);
    command.env("TERM", "dumb");
    let shown = terminal.start(command);
    let status = terminal.ended(shown).await;
    assert!(status.success(), "{status}");
    assert!(terminal.text().contains("no worker is connected"));
    assert!(!terminal.text().contains('\x1b'), "{:?}", terminal.text());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_programs_of_a_killed_worker_end() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home).await;
    let killed = worker(&home, &address, "w-1", "4").await;
    let client = Client::connect(&address).await;
    let script = "sleep 300 & echo $$ $! > \"$1.new\" && mv \"$1.new\" \"$1\"; wait";
    let pids = home.path("pids");
    let command = json!(["sh", "-c", script, "sh", text(&pids)]);
    client
        .start(&json!({
            "name": "left-behind",
            "tasks": [
                { "id": "ends", "type": "process", "with": { "command": ["true"] } },
                {
                    "id": "stays", "type": "process", "needs": ["ends"],
                    "with": { "command": command },
                },
            ],
        }))
        .await;
    eventually("the programs run", async || pids.exists()).await;
    let pids = std::fs::read_to_string(&pids).unwrap();
    // What is only waited for by nobody has ended, too.
    let runs = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(pids.split_whitespace().all(runs), "{pids}");
    killed.kill().await;
    let ended = async || !pids.split_whitespace().any(runs);
    eventually("the program and what it started have ended", ended).await;
}
