//! Starts the program in a directory of its own, and waits for it with a deadline.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// The longest that a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A directory in which the program finds nothing of the user's.
pub(crate) struct Home(TempDir);

/// What the program left behind.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program with arguments, started in this directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_levelflow"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("LEVELFLOW_") || name.starts_with("XDG_") {
                command.env_remove(name.as_ref());
            }
        }
        command
            .args(arguments)
            .env("HOME", self.0.path())
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    pub(crate) async fn levelflow(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments)).await
    }

    /// Runs the program to its end and reads its answer.
    pub(crate) async fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let mut all = arguments.to_vec();
        all.push("--json");
        let ended = self.levelflow(&all).await;
        let value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.stderr));
        (ended.code, value)
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command) -> Ended {
    let output = timeout(DEADLINE, command.output())
        .await
        .expect("the program ends before the deadline")
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The program while it runs.
pub(crate) struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self {
            child,
            stdout: lines(stdout),
        }
    }

    /// Starts a server on a free port, and gives its address.
    pub(crate) async fn serve(home: &Home, arguments: &[&str]) -> (Self, String) {
        let mut all = arguments.to_vec();
        all.extend(["--listen", "127.0.0.1:0", "--json"]);
        Self::server(home.command(&all)).await
    }

    /// Starts a server that answers in JSON, and gives its address.
    pub(crate) async fn server(command: Command) -> (Self, String) {
        let mut running = Self::start(command);
        let ready = running.json_line().await;
        let address = ready["address"].as_str().unwrap().to_owned();
        (running, address)
    }

    /// The next line of its standard output.
    pub(crate) async fn line(&mut self) -> String {
        timeout(DEADLINE, self.stdout.next_line())
            .await
            .expect("the program writes a line before the deadline")
            .unwrap()
            .expect("the program has not ended")
    }

    /// The next line of its standard output, which is JSON.
    pub(crate) async fn json_line(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id().unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.pid();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Kills it as a crash would.
    pub(crate) async fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    pub(crate) async fn ended(mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait())
            .await
            .expect("the program ends before the deadline")
            .unwrap()
    }
}

/// The lines of a stream.
pub(crate) fn lines<R: AsyncRead + Unpin>(stream: R) -> Lines<BufReader<R>> {
    BufReader::new(stream).lines()
}

/// The path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
