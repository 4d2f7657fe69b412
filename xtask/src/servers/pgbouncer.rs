//! PgBouncer before the PostgreSQL server: each transaction gets whatever session is free.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::postgres::ordinary_user;
use super::process::{Output, ServerProcess};
use super::{Server, free_port, install};

/// The variable that holds the address of the pooler.
const VARIABLE: &str = "TEST_PGBOUNCER_URL";
const PROGRAM: &str = "pgbouncer";
/// Where distributions put it that keep it from ordinary users.
const SYSTEM: &str = "/usr/sbin";

/// Starts a pooler before the server of this address.
pub(super) fn start(folder: &Path, postgres: &str) -> Result<Server> {
    let program = program()?;
    let (_, server) = postgres.rsplit_once(':').context("the server has a port")?;
    let (server_port, database) = server
        .split_once('/')
        .context("the server has a database")?;
    let home = folder.join(PROGRAM);
    fs::create_dir(&home)?;
    let port = free_port()?;
    let settings = home.join("pgbouncer.ini");
    fs::write(
        &settings,
        format!(
            "[databases]\n\
             {database} = host=127.0.0.1 port={server_port} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = 16\n\
             max_client_conn = 300\n"
        ),
    )?;
    let mut command = Command::new(program);
    command.arg(&settings).current_dir(&home);
    if geteuid().is_root() {
        // It refuses to run as root, too.
        let user = ordinary_user()?;
        for path in [home.as_path(), settings.as_path()] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let ready = "process up: PgBouncer";
    let process = ServerProcess::start(command, Output::Error, ready, Signal::SIGTERM)?;
    Ok(Server {
        variable: VARIABLE,
        address: format!("postgres://postgres@127.0.0.1:{port}/{database}"),
        process,
    })
}

/// The program; installs it if there is none.
fn program() -> Result<PathBuf> {
    if let Some(program) = installed() {
        return Ok(program);
    }
    println!("PgBouncer is not installed: trying apt-get");
    install(PROGRAM);
    installed().context(
        "tests need PgBouncer, and it could not be installed with apt-get; install it with the package \
         manager of this system",
    )
}

fn installed() -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .chain([PathBuf::from(SYSTEM)])
        .map(|folder| folder.join(PROGRAM))
        .find(|program| program.is_file())
}
