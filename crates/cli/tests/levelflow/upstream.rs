//! An HTTP server that cannot serve and comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::DEADLINE;

/// An HTTP server that turns calls down until it is healed.
pub(crate) struct Upstream {
    /// Its breaker's name.
    pub(crate) name: String,
    pub(crate) url: String,
    state: Arc<State>,
    failed: watch::Receiver<Vec<Instant>>,
}

struct State {
    /// How it turns calls down: status and headers.
    turned_down: String,
    healed: AtomicBool,
    served_at: Mutex<Vec<Instant>>,
}

impl Upstream {
    /// A server that answers 503.
    pub(crate) async fn start() -> Self {
        Self::turning_down("503 Service Unavailable").await
    }

    /// A server that answers with this status and these headers.
    pub(crate) async fn turning_down(turned_down: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            turned_down: turned_down.to_owned(),
            healed: AtomicBool::new(false),
            served_at: Mutex::default(),
        });
        let (failing, failed) = watch::channel(Vec::new());
        let serving = state.clone();
        levelflow_runtime::task::spawn("upstream", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answering = answer(stream, serving.clone(), failing.clone());
                levelflow_runtime::task::spawn("connection", answering);
            }
        });
        Self {
            name: format!("http:{address}"),
            url: format!("http://{address}/"),
            state,
            failed,
        }
    }

    /// From now on it answers.
    pub(crate) fn heal(&self) {
        self.state.healed.store(true, Ordering::SeqCst);
    }

    /// Waits until it has turned so many calls down.
    pub(crate) async fn failed(&mut self, calls: usize) {
        let reached = self.failed.wait_for(|failed| failed.len() >= calls);
        timeout(DEADLINE, reached)
            .await
            .expect("calls come before the deadline")
            .unwrap();
    }

    /// Calls that it turned down, and calls that it served.
    pub(crate) fn calls(&self) -> (usize, usize) {
        (self.failed.borrow().len(), self.served_at().len())
    }

    /// When it served calls.
    pub(crate) fn served_at(&self) -> Vec<Instant> {
        self.state.served_at.lock().unwrap().clone()
    }

    /// When it turned calls down.
    pub(crate) fn failed_at(&self) -> Vec<Instant> {
        self.failed.borrow().clone()
    }
}

/// Serves one connection; the requests have no bodies.
async fn answer(mut stream: TcpStream, state: Arc<State>, failing: watch::Sender<Vec<Instant>>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
        while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.drain(..end + 4);
            let head = if state.healed.load(Ordering::SeqCst) {
                state.served_at.lock().unwrap().push(Instant::now());
                "200 OK"
            } else {
                failing.send_modify(|failed| failed.push(Instant::now()));
                &state.turned_down
            };
            let response = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\nok");
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
