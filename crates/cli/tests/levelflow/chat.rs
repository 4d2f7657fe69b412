//! Language models, from the file of a workflow to an endpoint and back.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Home;

/// An endpoint that knows what the example asks, and its address.
async fn endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    levelflow_runtime::task::spawn("endpoint", async move {
        while let Ok((stream, _)) = listener.accept().await {
            levelflow_runtime::task::spawn("connection of the endpoint", answer(stream));
        }
    });
    base_url
}

async fn answer(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    while let Some(question) = question(&mut stream, &mut bytes).await {
        let messages = question["messages"].to_string();
        let text = if question["response_format"].is_object() {
            "{\"mood\": \"mixed\"}"
        } else if messages.contains("yes or no") {
            "yes"
        } else {
            "Tea and biscuits."
        };
        let mut events = String::new();
        for piece in text.split_inclusive(' ') {
            let delta = json!({ "choices": [{ "index": 0, "delta": { "content": piece } }] });
            events += &format!("data: {delta}\n\n");
        }
        let end = json!({
            "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24 },
        });
        events += &format!("data: {end}\n\ndata: [DONE]\n\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n",
            events.len()
        );
        if stream.write_all((head + &events).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next question of a connection.
pub(crate) async fn question(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Value> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map(|length| length.parse().unwrap())
                .unwrap();
            if bytes.len() >= end + 4 + length {
                let rest = bytes.split_off(end + 4 + length);
                let body = std::mem::replace(bytes, rest).split_off(end + 4);
                return Some(serde_json::from_slice(&body).unwrap());
            }
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn the_example_asks_an_endpoint() {
    let home = Home::new();
    let endpoint = format!("endpoint={}", endpoint().await);
    let example = format!(
        "{}/../../examples/chat-review.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let arguments = ["run", &example, "-i", &endpoint, "-i", "model=any"];
    let (code, run) = home.json(&arguments).await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(
        run["outputs"],
        json!({
            "moods": ["mixed", "mixed", "mixed"],
            "comes_back": "yes",
            "summary": "Tea and biscuits.",
            "tokens": 24,
        })
    );
}

#[tokio::test]
async fn models_come_from_the_configuration() {
    let home = Home::new();
    let endpoint = endpoint().await;
    home.file(
        "config.toml",
        format!(
            "[worker.models.small]\nbase_url = \"{endpoint}\"\napi_key_file = \"key\"\n\
             input_price = 1.0\noutput_price = 2.0\n"
        ),
    );
    home.file("key", "hunter2\n");
    home.file(
        "flow.yaml",
        "name: flow\ntasks: [{ id: ask, type: chat, with: { model: small, prompt: hello } }]\n\
         outputs: { text: \"${{ tasks.ask.output.text }}\", cost: \"${{ tasks.ask.output.cost }}\" }\n",
    );
    let (code, run) = home
        .json(&["run", "flow.yaml", "--config", "config.toml"])
        .await;
    assert_eq!(code, Some(0), "{run}");
    assert_eq!(
        run["outputs"],
        json!({ "text": "Tea and biscuits.", "cost": 2.8e-5 })
    );
    assert!(!run.to_string().contains("hunter2"), "{run}");

    let ended = home.levelflow(&["run", "flow.yaml"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .contains("task `ask` of type `chat` asks `small`, which is not configured"),
        "{}",
        ended.stderr
    );
}
