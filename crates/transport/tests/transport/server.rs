//! A NATS server of a test's own, which it may stop.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where `cargo xtask` says that something is.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with `cargo xtask test`, or single ones with `cargo xtask servers -- cargo nextest run …`")
    })
}

/// A server.
pub(crate) struct NatsServer {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl NatsServer {
    /// Starts one with these settings.
    pub(crate) fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nats.conf"), settings).unwrap();
        let mut process = Process::start(&folder, -1);
        let port = process.ready();
        Self {
            process,
            port,
            folder,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it: what it has on the way is lost.
    pub(crate) fn kill(&mut self) {
        self.process.end();
    }

    /// Starts it again where it was.
    pub(crate) fn restart(&mut self) {
        self.process = Process::start(&self.folder, i32::from(self.port));
        self.process.ready();
    }
}

/// The process of a server, killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(folder: &TempDir, port: i32) -> Self {
        let child = Command::new(variable("TEST_NATS_SERVER"))
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .arg("--config")
            .arg(folder.path().join("nats.conf"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits until it is ready. Gives the port at which it listens.
    fn ready(&mut self) -> u16 {
        let lines = BufReader::new(self.0.stderr.take().unwrap()).lines();
        let (tell, told) = channel();
        // Reads on after the server is ready, so that the server can go on writing.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut port = None;
        let mut said = Vec::new();
        loop {
            let line = told
                .recv_timeout(READY_WITHIN)
                .unwrap_or_else(|_| panic!("the server did not start: {said:#?}"));
            if let Some((_, address)) = line.split_once("client connections on ") {
                let (_, number) = address.trim().rsplit_once(':').unwrap();
                port = number.parse().ok();
            }
            if line.contains("Server is ready") {
                return port.expect("it says first where it listens");
            }
            said.push(line);
        }
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
