//! A proxy before a server, which breaks connections or lets nothing through.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::DEADLINE;

/// What a read takes at most, so that a stall holds back within a message.
const BUFFER: usize = 4096;

/// A proxy with an address that stays, before a server that may move.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where the server is; none while there is none.
    server: Mutex<Option<String>>,
    flow: watch::Sender<Flow>,
    /// Messages that are held back.
    held_back: watch::Sender<usize>,
}

/// How it treats connections.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flow {
    /// Nothing gets through, and nothing is said of it.
    is_stalled: bool,
    /// Connections of earlier generations are broken.
    generation: u64,
}

impl Proxy {
    pub(crate) async fn start(server: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let flow = Flow {
            is_stalled: false,
            generation: 0,
        };
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            flow: watch::Sender::new(flow),
            held_back: watch::Sender::new(0),
        });
        let accepting = shared.clone();
        levelflow_runtime::task::spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = connect(client, accepting.clone());
                levelflow_runtime::task::spawn("connection of the proxy", connection);
            }
        });
        Self { address, shared }
    }

    /// From now on connections lead there.
    pub(crate) fn lead_to(&self, server: &str) {
        *self.shared.server.lock().unwrap() = Some(server.to_owned());
    }

    /// Breaks all connections, in the middle of what they carry.
    pub(crate) fn reset(&self) {
        self.shared.flow.send_modify(|flow| flow.generation += 1);
    }

    /// Lets nothing through until [`Proxy::resume`].
    pub(crate) fn stall(&self) {
        self.shared.flow.send_modify(|flow| flow.is_stalled = true);
    }

    /// Waits until there is something that does not get through.
    pub(crate) async fn holds_something_back(&self) {
        let mut held_back = self.shared.held_back.subscribe();
        let reached = timeout(DEADLINE, held_back.wait_for(|count| *count > 0)).await;
        reached.expect("somebody has something to say").unwrap();
    }

    pub(crate) fn resume(&self) {
        self.shared.held_back.send_replace(0);
        self.shared.flow.send_modify(|flow| flow.is_stalled = false);
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>) {
    let mut flow = shared.flow.subscribe();
    let generation = flow.borrow().generation;
    let is_broken = async |flow: &mut watch::Receiver<Flow>| {
        let broken = flow.wait_for(|it| it.generation != generation);
        let _ = broken.await;
    };
    let carry = async {
        let server = shared.server.lock().unwrap().clone();
        let Ok(server) = TcpStream::connect(server?).await else {
            return None;
        };
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        // Whoever is cut off is to notice by a reset and not by an end.
        client.set_zero_linger().ok()?;
        server.set_zero_linger().ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            _ = pump(from_client, to_server, &shared) => {}
            _ = pump(from_server, to_client, &shared) => {}
        }
        Some(())
    };
    tokio::select! {
        _ = carry => {}
        () = is_broken(&mut flow) => {}
    }
}

/// Carries what comes from one side to the other, while it may.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> Option<()> {
    let mut flow = shared.flow.subscribe();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        if flow.borrow().is_stalled {
            shared.held_back.send_modify(|count| *count += 1);
            flow.wait_for(|it| !it.is_stalled).await.ok()?;
        }
        to.write_all(&buffer[..read]).await.ok()?;
    }
}
