//! A proxy that breaks connections at the worst moments.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::*;

/// How both the request for a commit and the answer to it end.
const COMMIT: &[u8] = b"COMMIT\0";

/// What is done with the next commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The answer to it is lost with the connection.
    LoseAnswer,
    /// It is lost with the connection, the transaction before it is not.
    LoseCommit,
    /// The connection breaks, but the whole transaction arrives at the server, when it is let go.
    Delay,
    /// The transaction arrives without its commit, and the connection stays open but is silent.
    Stall,
    /// The transaction arrives, and its commit when it is let go.
    Pause,
}

struct Shared {
    fault: Mutex<Option<Fault>>,
    happened: Notify,
    let_go: Notify,
    /// What the server says on a connection that has lost its client.
    late_answers: mpsc::UnboundedSender<Vec<u8>>,
}

/// A proxy before a server.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    late_answers: mpsc::UnboundedReceiver<Vec<u8>>,
    port: u16,
}

impl Proxy {
    /// Before the server of this address, which has a port.
    pub(super) async fn start(url: &str) -> Self {
        let (_, rest) = url.split_once('@').unwrap();
        let (server, _) = rest.split_once('/').unwrap();
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, late_answers) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            fault: Mutex::default(),
            happened: Notify::new(),
            let_go: Notify::new(),
            late_answers: sender,
        });
        let for_all = shared.clone();
        task::spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let connection = serve(client, server, for_all.clone());
                task::spawn("connection of the proxy", connection);
            }
        });
        Self {
            shared,
            late_answers,
            port,
        }
    }

    /// The address of the same database behind this.
    pub(super) fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{}/{database}", self.port)
    }

    /// Breaks the next commit.
    pub(super) fn arm(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = Some(fault);
    }

    /// Waits until it has broken.
    pub(super) async fn happened(&self) {
        self.shared.happened.notified().await;
    }

    /// Lets what was held back arrive.
    pub(super) fn resume(&self) {
        self.shared.let_go.notify_one();
    }

    /// Lets what was delayed arrive, and gives the answer of the server when it contains a text.
    pub(super) async fn let_go(&mut self, awaited: &str) -> String {
        self.resume();
        let mut answers = String::new();
        while !answers.contains(awaited) {
            let more = self.late_answers.recv().await.unwrap();
            answers.push_str(&String::from_utf8_lossy(&more));
        }
        answers
    }
}

impl Shared {
    fn is_armed(&self) -> bool {
        self.fault.lock().unwrap().is_some()
    }

    /// The fault, if it is armed; it strikes once.
    fn strike(&self) -> Option<Fault> {
        let fault = self.fault.lock().unwrap().take();
        if fault.is_some() {
            self.happened.notify_one();
        }
        fault
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

async fn read(from: &mut OwnedReadHalf, into: &mut Vec<u8>) -> bool {
    from.read_buf(into).await.is_ok_and(|count| count > 0)
}

async fn serve(client: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut up = Vec::new();
    let mut down = Vec::new();
    loop {
        let alive = tokio::select! {
            alive = read(&mut from_client, &mut up) => alive,
            alive = read(&mut from_server, &mut down) => alive,
        };
        if !alive {
            return;
        }
        if let Some(place) = position(&up, COMMIT)
            && let Some(fault) = shared.strike()
        {
            // The commit is a message of its own, with a byte for its type and four for its length.
            let before = place - 5;
            match fault {
                Fault::LoseAnswer => {
                    to_server.write_all(&up).await.unwrap();
                    while position(&down, COMMIT).is_none() {
                        read(&mut from_server, &mut down).await;
                    }
                    return;
                }
                Fault::LoseCommit => {
                    to_server.write_all(&up[..before]).await.unwrap();
                    return;
                }
                Fault::Delay => {
                    drop((from_client, to_client));
                    delay(to_server, from_server, &up, &shared).await;
                    return;
                }
                Fault::Stall => {
                    to_server.write_all(&up[..before]).await.unwrap();
                    shared.let_go.notified().await;
                    return;
                }
                Fault::Pause => {
                    to_server.write_all(&up[..before]).await.unwrap();
                    shared.let_go.notified().await;
                    up.drain(..before);
                }
            }
        }
        // What is to be broken may come in pieces; it is looked at as a whole.
        let is_whole = position(&up, COMMIT).is_some() || position(&up, b"BEGIN").is_none();
        if is_whole || !shared.is_armed() {
            to_server.write_all(&up).await.unwrap();
            up.clear();
        }
        if to_client.write_all(&down).await.is_err() {
            return;
        }
        down.clear();
    }
}

/// Sends to the server what its client sent long ago.
async fn delay(
    mut to_server: OwnedWriteHalf,
    mut from_server: OwnedReadHalf,
    sent: &[u8],
    shared: &Shared,
) {
    shared.let_go.notified().await;
    to_server.write_all(sent).await.unwrap();
    let mut answers = Vec::new();
    while read(&mut from_server, &mut answers).await {
        // The test may have seen enough.
        let _ = shared.late_answers.send(std::mem::take(&mut answers));
    }
}
