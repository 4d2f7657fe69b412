//! An HTTP server that is down and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::DEADLINE;

/// An HTTP server that answers 503 until it is healed.
pub(crate) struct Upstream {
    /// Its breaker's name.
    pub(crate) name: String,
    pub(crate) url: String,
    state: Arc<State>,
    failed: watch::Receiver<Vec<Instant>>,
}

#[derive(Default)]
struct State {
    healed: AtomicBool,
    succeeded: AtomicUsize,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
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
        let served = self.state.succeeded.load(Ordering::SeqCst);
        (self.failed.borrow().len(), served)
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
                state.succeeded.fetch_add(1, Ordering::SeqCst);
                "200 OK"
            } else {
                failing.send_modify(|failed| failed.push(Instant::now()));
                "503 Service Unavailable"
            };
            let response = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\nok");
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
