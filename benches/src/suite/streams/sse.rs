//! Watchers over HTTP, by server-sent events.

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, ClientBuilder, Response};
use serde::Deserialize;

use super::{CONNECTIONS, Latencies, NARROW, Watcher};

/// Connections that are opened at once.
const OPENING: usize = 50;

/// Watchers of these runs, each over a connection of its own.
pub(super) async fn watch(address: &str, runs: &[&str], chunks: u32) -> Result<Vec<Watcher>> {
    let client = client().http1_only().build()?;
    let mut watchers = Vec::new();
    for runs in runs.chunks(OPENING) {
        let opening = runs.iter().map(|run_id| open(&client, address, run_id));
        for response in try_join_all(opening).await? {
            let read = read(Events::of(response), chunks);
            watchers.push(levelflow_runtime::task::spawn("watcher", read));
        }
    }
    Ok(watchers)
}

/// Watchers of these runs that do not read. They share connections, since only HTTP/2 has a bound on what is under
/// way that is lower than what sockets hold.
pub(super) async fn stall(address: &str, runs: &[&str]) -> Result<Vec<Response>> {
    let (stream, connection) = NARROW;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = client()
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(stream)
            .http2_initial_connection_window_size(connection);
        clients.push(client.build()?);
    }
    let mut opened = Vec::new();
    for (client, run_id) in clients.iter().cycle().zip(runs) {
        opened.push(open(client, address, run_id).await?);
    }
    Ok(opened)
}

pub(super) fn client() -> ClientBuilder {
    Client::builder().no_proxy().tcp_nodelay(true)
}

/// Opens the stream of the task `stream` of a run.
pub(super) async fn open(client: &Client, address: &str, run_id: &str) -> Result<Response> {
    let url = format!("{address}/api/v1/runs/{run_id}/tasks/stream/stream");
    let response = client.get(url).send().await?.error_for_status()?;
    Ok(response)
}

async fn read(mut events: Events, expected: u32) -> Result<Vec<u64>> {
    #[derive(Deserialize)]
    struct Chunks<'a> {
        first: u32,
        #[serde(borrow)]
        chunks: Vec<&'a str>,
    }
    #[derive(Deserialize)]
    struct Ended {
        chunks: u32,
    }
    let mut latencies = Latencies::new(expected);
    while let Some(event) = events.next().await? {
        match event.name.as_str() {
            "chunks" => {
                let Chunks { first, chunks } = serde_json::from_str(&event.data)?;
                latencies.take(first, chunks.into_iter())?;
            }
            "ended" => {
                let ended: Ended = serde_json::from_str(&event.data)?;
                ensure!(
                    ended.chunks == expected,
                    "the task ended with {} chunks",
                    ended.chunks
                );
                return latencies.all();
            }
            "started" => {}
            other => bail!("a watcher was told `{other}`: {}", event.data),
        }
    }
    bail!("the stream broke off")
}

/// An event of a stream. Those of Levelflow have one line of data.
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// The events of a response.
pub(super) struct Events {
    response: Response,
    received: Vec<u8>,
    /// Bytes of them that were looked at.
    seen: usize,
}

impl Events {
    pub(super) fn of(response: Response) -> Self {
        Self {
            response,
            received: Vec::new(),
            seen: 0,
        }
    }

    /// The next event; none after the end.
    pub(super) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let new = &self.received[self.seen..];
            if let Some(end) = new.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.received.drain(..self.seen + end + 2).collect();
                self.seen = 0;
                let block = std::str::from_utf8(&block).context("an event is text")?;
                if let Some(event) = event(block) {
                    return Ok(Some(event));
                }
                continue;
            }
            // The end of what is there may be the beginning of an end.
            self.seen = self.received.len().saturating_sub(1);
            match self.response.chunk().await? {
                Some(bytes) => self.received.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// The event in a block of lines; none in a comment.
fn event(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let data = field("data:")?.trim_start().to_owned();
    let name = field("event:").unwrap_or_default().trim_start().to_owned();
    Some(Event { name, data })
}
