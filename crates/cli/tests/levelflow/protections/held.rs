//! A way to PostgreSQL on which some requests never arrive.

use std::sync::Arc;

use levelflow_runtime::task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::DEADLINE;

/// A proxy before a server.
pub(crate) struct HeldRequests {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What has this in it is held back, with all that comes after it on its connection.
    text: watch::Sender<Option<Vec<u8>>>,
    /// How many connections have something like this.
    held: watch::Sender<usize>,
}

impl HeldRequests {
    /// Before the server of this address, which has a port.
    pub(crate) async fn before(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (server, for_all) = (server.to_owned(), shared.clone());
        task::spawn("proxy", async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                task::spawn("proxy up", up(near_read, far_write, for_all.clone()));
                task::spawn("proxy down", down(far_read, near_write));
            }
        });
        Self {
            url: format!("{user}@{address}/{database}"),
            shared,
        }
    }

    /// The address of the same database behind this.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Holds back what has this text in it.
    pub(crate) fn hold(&self, text: &str) {
        self.shared.text.send_replace(Some(text.into()));
    }

    /// Waits until there is some.
    pub(crate) async fn held(&self) {
        let mut held = self.shared.held.subscribe();
        let held = timeout(DEADLINE, held.wait_for(|held| *held > 0));
        held.await.expect("the request comes").unwrap();
    }
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut recent = Vec::new();
    let mut is_held = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        recent.extend_from_slice(bytes);
        let is_it = |text: &Vec<u8>| recent.windows(text.len()).any(|window| window == text);
        if !is_held && shared.text.borrow().as_ref().is_some_and(is_it) {
            is_held = true;
            shared.held.send_modify(|held| *held += 1);
        }
        // A text may come in two pieces.
        recent.drain(..recent.len().saturating_sub(256));
        if !is_held && to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
