//! Results of nearly equal texts, from the file of a workflow to the label in the outcome.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use levelflow_common::event::RunEvent;
use levelflow_common::view::{RunView, TaskView};
use levelflow_common::{CacheTier, RunStatus};
use levelflow_worker::{CancellationToken, Context, HandlerError, Worker};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::chat::question;
use crate::client::{Client, eventually, submission};
use crate::harness::{Home, Running};

/// What the endpoint was asked.
type Texts = Arc<Mutex<Vec<String>>>;

/// An endpoint whose vectors have the angle that a text gives after `@`, in degrees, and that answers nothing when
/// a text says `hang`.
async fn endpoint() -> (String, Texts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let texts = Texts::default();
    let asked = Arc::clone(&texts);
    levelflow_runtime::task::spawn("endpoint", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer(stream, Arc::clone(&asked));
            levelflow_runtime::task::spawn("connection of the endpoint", answer);
        }
    });
    (base_url, texts)
}

async fn answer(mut stream: TcpStream, asked: Texts) {
    let mut bytes = Vec::new();
    while let Some(question) = question(&mut stream, &mut bytes).await {
        assert_eq!(question["model"], "tiny");
        let texts = question["input"].as_array().unwrap().iter();
        let texts: Vec<_> = texts
            .map(|text| text.as_str().unwrap().to_owned())
            .collect();
        asked.lock().unwrap().extend(texts.iter().cloned());
        if texts.iter().any(|text| text.contains("hang")) {
            std::future::pending::<()>().await;
        }
        let embedding = |text: &String| {
            let degrees: f64 = text.rsplit('@').next().unwrap().parse().unwrap();
            let radians = degrees.to_radians();
            json!({ "embedding": [radians.cos(), radians.sin()] })
        };
        let answer = json!({ "data": texts.iter().map(embedding).collect::<Vec<_>>() }).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all((head + &answer).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A server that knows the model behind the endpoint.
async fn serve(home: &Home, command: &str, base_url: &str) -> (Running, Client, String) {
    let mut command = home.command(&[command, "--listen", "127.0.0.1:0", "--json"]);
    command.env("LEVELFLOW_EMBEDDINGS__MODELS__TINY__BASE_URL", base_url);
    command.env("LEVELFLOW_EMBEDDINGS__BUDGET", "400ms");
    let (server, address) = Running::server(command).await;
    let client = Client::connect(&address).await;
    (server, client, address)
}

/// A task that tells what it was asked and shown.
fn flow(policy: &Value) -> Value {
    json!({
        "name": "ask",
        "inputs": {
            "question": { "type": "string" },
            "language": { "type": "string", "default": "en" },
        },
        "tasks": [{
            "id": "ask",
            "type": "transform",
            "with": { "value": {
                "asked": "Answer: ${{ inputs.question }}",
                "language": "${{ inputs.language }}",
                "shown": "${{ near_hit.text }}",
            } },
            "cache": policy,
        }],
    })
}

fn semantic() -> Value {
    json!({ "semantic": { "text": "${{ inputs.question }}" } })
}

async fn ask(client: &Client, flow: &Value, tenant: &str, inputs: Value) -> RunView {
    let mut request = submission(flow);
    request.tenant = tenant.to_owned();
    request.inputs = inputs.to_string().into();
    let run_id = client.submit(request).await.unwrap().run_id;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
    run
}

fn output(task: &TaskView) -> Value {
    serde_json::from_slice(task.output.as_deref().unwrap()).unwrap()
}

/// The task computed its own result, and was shown none.
fn assert_is_fresh(run: &RunView) {
    let task = &run.tasks[0];
    assert_eq!((task.attempts, &task.cached), (1, &None), "{run:?}");
    assert_eq!(task.similar_to, None);
}

async fn known(home: &Home, texts: u64) {
    let are_known = async || home.json(&["cache"]).await.1["semantic"]["entries"] == texts;
    eventually("the texts are known", are_known).await;
}

#[tokio::test]
async fn the_result_of_a_nearly_equal_text_is_used_and_a_less_equal_one_shown() {
    let home = Home::new();
    let (base_url, asked) = endpoint().await;
    let (_server, client, _) = serve(&home, "dev", &base_url).await;
    let flow = flow(&semantic());
    let first = ask(&client, &flow, "", json!({ "question": "who @0" })).await;
    assert_is_fresh(&first);
    assert_eq!(output(&first.tasks[0])["shown"], Value::Null);
    known(&home, 1).await;

    let second = ask(&client, &flow, "", json!({ "question": "who then @10" })).await;
    let task = &second.tasks[0];
    assert_eq!(task.attempts, 0);
    assert_eq!(task.cached.unwrap().tier, CacheTier::Memory);
    assert_eq!(output(task), output(&first.tasks[0]));
    let similar = task.similar_to.clone().unwrap();
    assert_eq!(similar.similarity.to_string(), "0.984");
    let source = (first.summary.run_id, "ask");
    assert_eq!((similar.run_id, &*similar.task_id), source);
    let history = client.history(&second.summary.run_id.to_string()).await;
    let told = history.iter().flat_map(|update| &update.events).any(|event| {
        matches!(event, RunEvent::TaskSucceeded { similar_to, .. } if similar_to.as_ref() == Some(&similar))
    });
    assert!(told, "{history:?}");
    let (_, shown) = home
        .json(&["get", &second.summary.run_id.to_string()])
        .await;
    assert_eq!(shown["tasks"][0]["similar_to"]["task_id"], "ask", "{shown}");
    let second_id = second.summary.run_id.to_string();
    let text = home.levelflow(&["get", &second_id]).await.stdout;
    assert!(text.contains("similarity 0.984"), "{text}");

    let third = ask(&client, &flow, "", json!({ "question": "where @25" })).await;
    let task = &third.tasks[0];
    assert_eq!((task.attempts, &task.cached), (1, &None));
    let expected = json!({ "asked": "Answer: where @25", "language": "en", "shown": "who @0" });
    assert_eq!(output(task), expected);
    let similar = task.similar_to.clone().unwrap();
    assert_eq!(similar.similarity.to_string(), "0.906");
    assert_eq!((similar.run_id, &*similar.task_id), source);
    known(&home, 2).await;

    // What it made of what it was shown is found by its own text.
    let again = ask(&client, &flow, "", json!({ "question": "where @25" })).await;
    assert_eq!(output(&again.tasks[0]), expected);
    assert_eq!(again.tasks[0].similar_to, None);
    assert!(again.tasks[0].cached.is_some());
    // Nothing is near, or nothing of what must be equal is.
    assert_is_fresh(&ask(&client, &flow, "", json!({ "question": "when @80" })).await);
    assert_is_fresh(&ask(&client, &flow, "other", json!({ "question": "who @1" })).await);
    let german = json!({ "question": "who @2", "language": "de" });
    assert_is_fresh(&ask(&client, &flow, "", german).await);

    let (_, stats) = home.json(&["cache"]).await;
    let counts = ["lookups", "hits", "near_hits", "skipped", "timeouts"];
    let counts = counts.map(|name| stats["semantic"][name].as_u64().unwrap());
    assert_eq!(counts, [6, 1, 1, 0, 0], "{stats}");
    assert_eq!(asked.lock().unwrap().len(), 6);
    known(&home, 5).await;

    // What was removed is not used, however near its text is.
    let (code, _) = home.json(&["cache", "clear"]).await;
    assert_eq!(code, Some(0));
    assert_is_fresh(&ask(&client, &flow, "", json!({ "question": "who @3" })).await);
}

#[tokio::test]
async fn the_example_reuses_an_answer_and_adapts_a_near_one() {
    let home = Home::new();
    let (base_url, _asked) = endpoint().await;
    let (_server, _client, _) = serve(&home, "dev", &base_url).await;
    let example = format!(
        "{}/../../examples/similar-questions.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let ask = async |question: &str| {
        let question = format!("question={question}");
        let arguments = ["submit", &example, "--wait", "--input", &question];
        let (code, run) = home.json(&arguments).await;
        assert_eq!(code, Some(0), "{run}");
        run["outputs"]["answer"].as_str().unwrap().to_owned()
    };
    let first = ask("how @0").await;
    assert_eq!(first, "On \"how @0\": it depends.");
    known(&home, 1).await;
    assert_eq!(ask("how then @15").await, first);
    let expected = format!("On \"where @45\": as before, but for what differs. Before: {first}");
    assert_eq!(ask("where @45").await, expected);
}

#[tokio::test]
async fn without_being_asked_for_no_text_is_compared() {
    let home = Home::new();
    let (base_url, asked) = endpoint().await;
    let (_server, client, _) = serve(&home, "dev", &base_url).await;
    let mut flow = flow(&json!({}));
    flow["tasks"][0]["with"]["value"]["shown"] = Value::Null;
    for question in ["who @0", "who @1"] {
        assert_is_fresh(&ask(&client, &flow, "", json!({ "question": question })).await);
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_handler_is_shown_what_is_near() {
    let home = Home::new();
    let (base_url, _asked) = endpoint().await;
    let (_server, client, address) = serve(&home, "coordinator", &base_url).await;
    let worker = Worker::builder()
        .address(format!("http://{address}"))
        .handler("revise", async |ctx: Context, question: String| {
            let Some(near) = ctx.near_hit() else {
                return Ok(format!("{question}, anew"));
            };
            assert!((0.9..0.91).contains(&near.similarity));
            let before: String = near.output_as()?;
            Ok::<_, HandlerError>(format!("{question}, after {} ({before})", near.text))
        })
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = levelflow_runtime::task::spawn("worker", worker.run(stop.clone()));
    // What is computed while nobody has the handler is not kept: its version is not known then.
    let is_there = async || home.json(&["workers"]).await.1["workers"][0]["status"] == "active";
    eventually("the worker is there", is_there).await;
    let flow = json!({
        "name": "revise",
        "inputs": { "question": { "type": "string" } },
        "tasks": [{
            "id": "revise",
            "type": "handler",
            "with": { "name": "revise", "input": "${{ inputs.question }}" },
            "cache": semantic(),
        }],
    });
    let first = ask(&client, &flow, "", json!({ "question": "who @0" })).await;
    assert_eq!(output(&first.tasks[0]), "who @0, anew");
    known(&home, 1).await;
    let second = ask(&client, &flow, "", json!({ "question": "where @25" })).await;
    let expected = "where @25, after who @0 (who @0, anew)";
    assert_eq!(output(&second.tasks[0]), expected);
    stop.cancel();
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_its_budget_and_one_that_is_away_costs_nothing() {
    let home = Home::new();
    let (base_url, _asked) = endpoint().await;
    let (_server, client, _) = serve(&home, "dev", &base_url).await;
    let flow = flow(&semantic());
    let before = Instant::now();
    assert_is_fresh(&ask(&client, &flow, "", json!({ "question": "hang @0" })).await);
    let took = before.elapsed();
    let range = Duration::from_millis(400)..Duration::from_secs(5);
    assert!(range.contains(&took), "{took:?}");
    let (_, stats) = home.json(&["cache"]).await;
    assert_eq!(stats["semantic"]["timeouts"], 1, "{stats}");

    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (_server, client, _) = serve(&home, "dev", &base_url).await;
    assert_is_fresh(&ask(&client, &flow, "", json!({ "question": "who @0" })).await);
    let (_, stats) = home.json(&["cache"]).await;
    assert_eq!(stats["semantic"]["models"][0]["failures"], 1, "{stats}");
}
