//! The result cache, as users see it.

use levelflow_common::cache::CacheUse;
use levelflow_common::view::RunView;
use levelflow_common::{CacheTier, Code, RunStatus, TaskStatus};
use levelflow_proto::Enumeration as _;
use levelflow_worker::{CancellationToken, Context, Worker, WorkerEnd, WorkerError};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Client, eventually, submission};
use crate::harness::{Home, Running, finish, text};

/// A task that leaves a line behind each time it runs, and one that uses its output.
fn flow(home: &Home, policy: &Value) -> Value {
    let ledger = home.path("ledger");
    let script = format!("echo ran >> {}; printf 42", text(&ledger));
    json!({
        "name": "answer",
        "inputs": { "question": { "type": "integer", "default": 6 } },
        "tasks": [
            {
                "id": "compute",
                "type": "process",
                "with": { "command": ["sh", "-c", script, "sh", "q-${{ inputs.question }}"] },
                "cache": policy,
            },
            {
                "id": "use",
                "type": "transform",
                "with": { "value": "${{ tasks.compute.output.stdout }}" },
            },
        ],
        "outputs": { "answer": "${{ tasks.use.output }}" },
    })
}

fn times_run(home: &Home) -> usize {
    let ledger = std::fs::read_to_string(home.path("ledger"));
    ledger.unwrap_or_default().lines().count()
}

fn tier(run: &RunView) -> Option<CacheTier> {
    assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
    assert_eq!(run.outputs.as_deref(), Some(&br#"{"answer":"42"}"#[..]));
    run.tasks[0].cached.map(|from| from.tier)
}

async fn ended(client: &Client, flow: &Value, cache: CacheUse) -> RunView {
    let mut request = submission(flow);
    request.cache = cache.number();
    let run_id = client.submit(request).await.unwrap().run_id;
    client.ended(&run_id).await
}

/// Waits until the cache has taken so many results in; until then they are used from where they are.
async fn kept(home: &Home, results: u64) {
    let are_kept = async || home.json(&["cache"]).await.1["kept"] == results;
    eventually("the results are kept", are_kept).await;
}

#[tokio::test]
async fn a_result_is_used_again_until_it_is_made_invalid() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let flow = flow(&home, &json!({ "ttl": "1h", "tags": ["answers"] }));
    assert_eq!(tier(&ended(&client, &flow, CacheUse::Use).await), None);
    kept(&home, 1).await;
    let second = ended(&client, &flow, CacheUse::Use).await;
    assert_eq!(tier(&second), Some(CacheTier::Memory));
    assert_eq!(
        (second.tasks[0].attempts, &second.tasks[0].worker),
        (0, &None)
    );
    assert_eq!(times_run(&home), 1);

    // Runs may leave it alone, or compute anew.
    assert_eq!(tier(&ended(&client, &flow, CacheUse::Off).await), None);
    assert_eq!(tier(&ended(&client, &flow, CacheUse::Refresh).await), None);
    kept(&home, 2).await;
    assert_eq!(
        tier(&ended(&client, &flow, CacheUse::Use).await),
        Some(CacheTier::Memory)
    );
    assert_eq!(times_run(&home), 3);

    let (code, stats) = home.json(&["cache"]).await;
    assert_eq!(
        (code, &stats["hits"], &stats["kept"]),
        (Some(0), &json!(2), &json!(2))
    );
    assert_eq!(stats["tiers"][0]["tier"], "memory");
    assert_eq!(stats["tiers"][0]["entries"], 1);
    let (code, removed) = home
        .json(&["cache", "invalidate", "--tag", "answers"])
        .await;
    assert_eq!((code, removed), (Some(0), json!({ "removed": 1 })));
    assert_eq!(tier(&ended(&client, &flow, CacheUse::Use).await), None);
    kept(&home, 3).await;
    let (code, removed) = home.json(&["cache", "clear"]).await;
    assert_eq!((code, removed), (Some(0), json!({ "removed": 1 })));
    let (code, _) = home
        .json(&["cache", "invalidate", "--workflow", "answer"])
        .await;
    assert_eq!(code, Some(0));
    let ended = home
        .levelflow(&["cache", "invalidate", "--key", "abc"])
        .await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("`abc` is not a cache key"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_result_that_another_task_keeps_for_longer_can_be_too_old() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let (patient, strict) = (
        flow(&home, &json!({ "ttl": "1h" })),
        flow(&home, &json!({ "ttl": "1ms" })),
    );
    assert_eq!(tier(&ended(&client, &patient, CacheUse::Use).await), None);
    kept(&home, 1).await;
    let again = ended(&client, &patient, CacheUse::Use).await;
    assert_eq!(tier(&again), Some(CacheTier::Memory));
    assert_eq!(tier(&ended(&client, &strict, CacheUse::Use).await), None);
    assert_eq!(times_run(&home), 2);
}

#[tokio::test]
async fn a_hundred_identical_tasks_of_ten_clients_are_computed_once() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let flow = flow(&home, &json!({}));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = Client::connect(&address).await;
        let flow = flow.clone();
        clients.spawn(async move {
            let mut runs = Vec::new();
            for _ in 0..10 {
                runs.push(client.start(&flow).await);
            }
            let mut computed = 0;
            for run_id in runs {
                computed += usize::from(tier(&client.ended(&run_id).await).is_none());
            }
            computed
        });
    }
    let computed: usize = clients.join_all().await.into_iter().sum();
    assert_eq!((computed, times_run(&home)), (1, 1));
}

#[tokio::test]
async fn results_that_are_known_are_put_in_from_a_file() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let lines = home.file(
        "known.jsonl",
        "{\"type\":\"process\",\"with\":{\"command\":[\"nobody-has-it\"]},\"output\":7}\n\
         {\"type\":\"process\"}\n",
    );
    let (code, answer) = home.json(&["cache", "warm", text(&lines)]).await;
    assert_eq!(code, Some(2), "one line makes no sense");
    assert_eq!(
        (&answer["kept"], &answer["passed_over"]),
        (&json!(1), &json!(1))
    );
    assert!(
        answer["problems"][0]
            .as_str()
            .unwrap()
            .starts_with("line 2: "),
        "{answer}"
    );
    let flow = json!({
        "name": "known",
        "tasks": [{
            "id": "h",
            "type": "process",
            "with": { "command": ["nobody-has-it"] },
            "cache": {},
        }],
    });
    let run = ended(&client, &flow, CacheUse::Use).await;
    assert_eq!(run.tasks[0].output.as_deref(), Some(&b"7"[..]));
    assert_eq!(run.tasks[0].cached.unwrap().tier, CacheTier::Memory);
}

#[tokio::test]
async fn failures_are_remembered_where_the_task_asks_for_it() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    // A number is no argument of a program, whenever it is tried.
    let flow = json!({
        "name": "fails",
        "inputs": { "n": { "type": "integer", "default": 6 } },
        "tasks": [{
            "id": "a",
            "type": "process",
            "with": { "command": ["echo", "${{ inputs.n }}"] },
            "cache": { "on_error": "1h" },
        }],
    });
    for attempts in [1, 0] {
        let run = ended(&client, &flow, CacheUse::Use).await;
        let task = &run.tasks[0];
        assert_eq!((task.status, task.attempts), (TaskStatus::Failed, attempts));
        assert_eq!(task.failure.as_ref().unwrap().code, Code::TaskInputInvalid);
    }
}

#[tokio::test]
async fn a_coordinator_without_a_cache_says_so() {
    let home = Home::new();
    let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
    command.env("LEVELFLOW_COORDINATOR__CACHE", "false");
    let (_server, address) = Running::server(command).await;
    let client = Client::connect(&address).await;
    let flow = flow(&home, &json!({}));
    for _ in 0..2 {
        assert_eq!(tier(&ended(&client, &flow, CacheUse::Use).await), None);
    }
    assert_eq!(times_run(&home), 2);
    let ended = home.levelflow(&["cache"]).await;
    assert!(
        ended.stderr.contains("its cache is off"),
        "{}",
        ended.stderr
    );
    assert_ne!(ended.code, Some(0));
}

#[tokio::test]
async fn likely_results_are_computed_ahead_when_nothing_else_is_to_do() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let mut flow = flow(&home, &json!({}));
    flow["prefetch"] = json!([
        { "question": "${{ inputs.question + 1 }}" },
        { "question": "not a number" },
        { "question": "${{ tasks.use.output | int }}" },
    ]);
    assert_eq!(tier(&ended(&client, &flow, CacheUse::Use).await), None);
    // Those that compute ahead have none of their own.
    let computed = async || times_run(&home) == 3;
    eventually("the next two were computed", computed).await;
    let ahead = async || {
        let (_, listed) = home.json(&["list", "--status", "succeeded"]).await;
        let runs = listed["runs"].as_array().unwrap();
        runs.len() == 3
            && runs[..2].iter().all(|run| {
                run["priority"] == "low" && run["labels"]["levelflow.prefetch-after"].is_string()
            })
    };
    eventually("they are listed as what they are", ahead).await;
    kept(&home, 3).await;
    for question in [7, 42] {
        let mut request = submission(&flow);
        request.inputs = json!({ "question": question }).to_string().into();
        let run_id = client.submit(request).await.unwrap().run_id;
        let run = client.ended(&run_id).await;
        assert_eq!(tier(&run), Some(CacheTier::Memory));
    }
}

#[tokio::test]
async fn a_wrong_setting_is_named_as_it_is_written() {
    let home = Home::new();
    let mut command = home.command(&["dev"]);
    command.env("LEVELFLOW_CACHE__MEMORY__MAX_ENTRIES", "0");
    let ended = finish(command).await;
    assert_eq!(ended.code, Some(2));
    let named = "setting `cache.memory.max_entries` from the environment";
    assert!(ended.stderr.contains(named), "{}", ended.stderr);
}

#[tokio::test]
async fn handlers_keep_values_for_each_tenant() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["coordinator"]).await;
    let worker = Worker::builder()
        .address(format!("http://{address}"))
        .handler("count", async |ctx: Context, (): ()| {
            let before: Option<u32> = ctx.cache().get("count").await?;
            let count = before.unwrap_or_default() + 1;
            ctx.cache().put("count", &count)?;
            Ok(count)
        })
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = levelflow_runtime::task::spawn("worker", worker.run(stop.clone()));
    let client = Client::connect(&address).await;
    let flow = json!({
        "name": "count",
        "tasks": [{ "id": "count", "type": "handler", "with": { "name": "count" } }],
    });
    for (tenant, count) in [("x", "1"), ("x", "2"), ("y", "1"), ("x", "3")] {
        let mut request = submission(&flow);
        request.tenant = tenant.to_owned();
        let run_id = client.submit(request).await.unwrap().run_id;
        let run = client.ended(&run_id).await;
        assert_eq!(run.tasks[0].output.as_deref(), Some(count.as_bytes()));
    }
    stop.cancel();
    assert!(running.await.unwrap().is_ok());
}

/// Runs a worker whose handler `answer` gives its own version, until it is told to stop.
fn worker_of_version(
    address: &str,
    version: &'static str,
) -> (
    CancellationToken,
    JoinHandle<Result<WorkerEnd, WorkerError>>,
) {
    let worker = Worker::builder()
        .id(format!("v{version}"))
        .address(format!("http://{address}"))
        .handler(
            "answer",
            move |_ctx: Context, (): ()| async move { Ok(version) },
        )
        .version(version)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = levelflow_runtime::task::spawn("worker", worker.run(stop.clone()));
    (stop, running)
}

#[tokio::test]
async fn results_of_a_handler_belong_to_its_version() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["coordinator"]).await;
    let client = Client::connect(&address).await;
    let flow = json!({
        "name": "answer",
        "tasks": [{ "id": "ask", "type": "handler", "with": { "name": "answer" }, "cache": {} }],
    });
    let answer = async || {
        let run = ended(&client, &flow, CacheUse::Use).await;
        let task = &run.tasks[0];
        let output = task.output.as_deref().map(String::from_utf8_lossy);
        (output.unwrap().into_owned(), task.cached.map(|it| it.tier))
    };
    let workers = async || {
        let (_, listed) = home.json(&["workers"]).await;
        let workers = listed["workers"].as_array().unwrap().iter();
        let versions = workers.map(|worker| worker["handler_versions"].clone());
        versions.collect::<Vec<_>>()
    };
    let (one, two) = (json!({ "answer": "1" }), json!({ "answer": "2" }));

    let (stop_first, first) = worker_of_version(&address, "1");
    eventually("the first worker is there", async || {
        workers().await == [one.clone()]
    })
    .await;
    assert_eq!(answer().await, ("\"1\"".to_owned(), None));
    kept(&home, 1).await;
    let memory = Some(CacheTier::Memory);
    assert_eq!(answer().await, ("\"1\"".to_owned(), memory));

    // While workers are replaced, either version may answer, and nothing is looked up or kept.
    let (stop_second, second) = worker_of_version(&address, "2");
    eventually("both workers are there", async || {
        workers().await == [one.clone(), two.clone()]
    })
    .await;
    for _ in 0..4 {
        assert_eq!(answer().await.1, None);
    }
    stop_first.cancel();
    assert!(first.await.unwrap().is_ok());
    eventually("the first worker has gone", async || {
        workers().await == [two.clone()]
    })
    .await;
    assert_eq!(answer().await, ("\"2\"".to_owned(), None));
    kept(&home, 2).await;
    assert_eq!(answer().await, ("\"2\"".to_owned(), memory));
    stop_second.cancel();
    assert!(second.await.unwrap().is_ok());
}
