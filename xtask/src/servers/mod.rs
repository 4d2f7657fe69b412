//! Servers that tests need, each private to this call: on a free port of 127.0.0.1, in a temporary
//! directory, stopped at the end. Tests find them by variables of the environment.
//!
//! A server is a file here with a function that starts it, named in [`Servers::start`].

mod nats;
mod pgbouncer;
mod postgres;
mod process;
mod redis;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use process::ServerProcess;

/// A server that runs.
struct Server {
    /// The variable by which tests find it.
    variable: &'static str,
    address: String,
    process: ServerProcess,
}

/// The servers that tests need. They are stopped when this is dropped.
pub(crate) struct Servers {
    running: Vec<Server>,
    /// The programs of servers that tests start for themselves, to stop them or to have other settings.
    nats: PathBuf,
    postgres: postgres::Programs,
    /// Removed after the servers have ended.
    _folder: TempDir,
}

impl Servers {
    /// Starts all of them, and installs those that are missing.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("levelflow-servers-")
            .tempdir()
            .context("no temporary directory for servers")?;
        let postgres_programs = postgres::Programs::find().context("PostgreSQL is missing")?;
        let postgres = postgres::start(folder.path(), &postgres_programs)
            .context("PostgreSQL does not start")?;
        let pgbouncer = pgbouncer::start(folder.path(), &postgres.address)
            .context("PgBouncer does not start")?;
        let nats = nats::program().context("NATS is missing")?;
        // Stopped in this order.
        let running = vec![
            pgbouncer,
            postgres,
            redis::start(folder.path()).context("Redis does not start")?,
            nats::start(&nats).context("NATS does not start")?,
        ];
        for server in &running {
            println!("{}={}", server.variable, server.address);
        }
        Ok(Self {
            running,
            nats,
            postgres: postgres_programs,
            _folder: folder,
        })
    }

    /// Tells a command where the servers are.
    pub(crate) fn tell(&self, command: &mut Command) {
        for server in &self.running {
            command.env(server.variable, &server.address);
        }
        command.env(nats::PROGRAM_VARIABLE, &self.nats);
        self.postgres.tell(command);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            if let Err(error) = server.process.stop() {
                eprintln!("{} was not stopped: {error:#}", server.variable);
            }
        }
    }
}

/// Runs a command beside the servers.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let servers = Servers::start()?;
    let (program, arguments) = words.split_first().context("no command was given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    servers.tell(&mut command);
    let status: ExitStatus = command
        .status()
        .with_context(|| format!("cannot start `{program}`"))?;
    ensure!(status.success(), "`{program}` ended with {status}");
    Ok(())
}

/// Installs a package, if this system has apt-get and this user may.
fn install(package: &str) {
    for arguments in [
        &["update"][..],
        &["install", "--yes", "--no-install-recommends", package],
    ] {
        let status = Command::new("apt-get").args(arguments).status();
        if !status.is_ok_and(|status| status.success()) {
            break;
        }
    }
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
