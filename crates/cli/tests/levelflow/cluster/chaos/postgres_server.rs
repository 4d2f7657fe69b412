//! A PostgreSQL server of a test's own, which it may stop.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::DEADLINE;
use crate::nats_server::variable;

/// A server.
pub(crate) struct PostgresServer {
    process: Process,
    port: u16,
    programs: PathBuf,
    /// As whom it runs, where the test runs as one who may not run it.
    user: Option<(u32, u32)>,
    folder: TempDir,
}

impl PostgresServer {
    pub(crate) fn start() -> Self {
        let programs = PathBuf::from(variable("TEST_POSTGRES_PROGRAMS"));
        let user = std::env::var("TEST_POSTGRES_USER").ok().map(|user| {
            let (uid, gid) = user.split_once(':').expect("it is a user and a group");
            (uid.parse().unwrap(), gid.parse().unwrap())
        });
        let folder = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let made = command(&programs, "initdb", user, &folder)
            .args([
                "--pgdata",
                "data",
                "--username",
                "postgres",
                "--auth",
                "trust",
            ])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = run(&programs, user, &folder, port);
        Self {
            process,
            port,
            programs,
            user,
            folder,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops it without letting anything end.
    pub(crate) fn stop_immediately(&mut self) {
        self.process.end();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        self.process = run(&self.programs, self.user, &self.folder, self.port);
    }
}

/// The process of a server, stopped when it is dropped.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(self.0.id().cast_signed());
            kill(pid, Signal::SIGQUIT).unwrap();
            self.0.wait().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn command(
    programs: &std::path::Path,
    name: &str,
    user: Option<(u32, u32)>,
    folder: &TempDir,
) -> Command {
    let mut command = Command::new(programs.join(name));
    command.current_dir(folder.path()).stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Runs the server until it takes connections.
fn run(
    programs: &std::path::Path,
    user: Option<(u32, u32)>,
    folder: &TempDir,
    port: u16,
) -> Process {
    let mut server = command(programs, "postgres", user, folder);
    server.args(["-D", "data"]);
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        format!("unix_socket_directories={}", folder.path().display()),
    ] {
        server.args(["-c", &setting]);
    }
    server.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process(server.spawn().unwrap());
    let lines = BufReader::new(process.0.stderr.take().unwrap()).lines();
    let (tell, told) = channel();
    // Reads on after the server is ready, so that the server can go on writing.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let mut said = Vec::new();
    loop {
        let line = told
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("the server did not start: {said:#?}"));
        if line.contains("ready to accept connections") {
            return process;
        }
        said.push(line);
    }
}
