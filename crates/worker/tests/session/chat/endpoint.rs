//! An OpenAI-compatible endpoint that does what a test says, for each model by its name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a model answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// A document, with its status and further headers.
    Document(&'static str, &'static str, String),
    /// A stream of these pieces, which comes to its end.
    Stream(Vec<Vec<u8>>),
    /// A stream of these pieces, after which the connection is closed.
    Cut(Vec<Vec<u8>>),
    /// Nothing, until the client goes away.
    Silence,
}

impl Answer {
    /// A whole answer with a text.
    pub(super) fn text(text: &str) -> Self {
        let document = json!({
            "id": "1",
            "object": "chat.completion",
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 },
        });
        Self::Document("200 OK", "", document.to_string())
    }

    /// An error as endpoints tell of it.
    pub(super) fn error(status: &'static str, headers: &'static str, message: &str) -> Self {
        let document = json!({ "error": { "message": message, "type": "t", "code": null } });
        Self::Document(status, headers, document.to_string())
    }
}

/// An event with this data.
pub(super) fn event(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// An event with a piece of the text.
pub(super) fn piece(text: &str) -> Vec<u8> {
    event(
        &json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] }),
    )
}

/// A question as it came.
pub(super) struct Asked {
    pub(super) head: String,
    pub(super) body: Value,
}

/// The endpoint.
pub(super) struct Endpoint {
    pub(super) base_url: String,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: mpsc::UnboundedReceiver<Asked>,
    gone: mpsc::UnboundedReceiver<String>,
}

impl Endpoint {
    pub(super) async fn start<const N: usize>(answers: [(&str, Answer); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let answers = answers.map(|(model, answer)| (model.to_owned(), answer));
        let answers = Arc::new(Mutex::new(BTreeMap::from(answers)));
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let (gone_sender, gone) = mpsc::unbounded_channel();
        let shared = Arc::clone(&answers);
        levelflow_runtime::task::spawn("endpoint", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    stream,
                    answers: Arc::clone(&shared),
                    asked: asked_sender.clone(),
                    gone: gone_sender.clone(),
                };
                levelflow_runtime::task::spawn("connection of the endpoint", connection.serve());
            }
        });
        Self {
            base_url,
            answers,
            asked,
            gone,
        }
    }

    /// From now on a model answers this.
    pub(super) fn set(&self, model: &str, answer: Answer) {
        let mut answers = self.answers.lock().unwrap();
        answers.insert(model.to_owned(), answer);
    }

    /// The next question.
    pub(super) async fn asked(&mut self) -> Asked {
        crate::coordinator::soon(self.asked.recv()).await.unwrap()
    }

    /// The models that were asked since the last call, in order.
    pub(super) fn models(&mut self) -> Vec<String> {
        let mut models = Vec::new();
        while let Ok(asked) = self.asked.try_recv() {
            models.push(asked.body["model"].as_str().unwrap().to_owned());
        }
        models
    }

    /// The next model of whose silence a client had enough.
    pub(super) async fn gone(&mut self) -> String {
        crate::coordinator::soon(self.gone.recv()).await.unwrap()
    }
}

struct Connection {
    stream: TcpStream,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: mpsc::UnboundedSender<Asked>,
    gone: mpsc::UnboundedSender<String>,
}

impl Connection {
    async fn serve(mut self) {
        let mut bytes = Vec::new();
        while let Some((head, body)) = self.request(&mut bytes).await {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let model = body["model"].as_str().unwrap().to_owned();
            let answer = self.answers.lock().unwrap()[&model].clone();
            // The test may have ended.
            let _ = self.asked.send(Asked { head, body });
            match answer {
                Answer::Document(status, headers, body) => {
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
                    );
                    self.write(head.as_bytes()).await;
                    self.write(body.as_bytes()).await;
                }
                Answer::Stream(pieces) => {
                    self.pieces(pieces).await;
                    self.write(b"0\r\n\r\n").await;
                }
                Answer::Cut(pieces) => {
                    self.pieces(pieces).await;
                    return;
                }
                Answer::Silence => {
                    while self
                        .stream
                        .read(&mut [0; 64])
                        .await
                        .is_ok_and(|read| read > 0)
                    {}
                    let _ = self.gone.send(model);
                    return;
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The client may have gone.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    async fn pieces(&mut self, pieces: Vec<Vec<u8>>) {
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
        for piece in pieces {
            let length = format!("{:x}\r\n", piece.len());
            self.write(&[length.as_bytes(), &piece, b"\r\n"].concat())
                .await;
        }
    }

    /// The next request of the connection.
    async fn request(&mut self, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if bytes.len() >= end + 4 + length {
                    let rest = bytes.split_off(end + 4 + length);
                    let body = bytes.split_off(end + 4);
                    *bytes = rest;
                    return Some((head, body));
                }
            }
            if self.stream.read_buf(bytes).await.ok()? == 0 {
                return None;
            }
        }
    }
}
