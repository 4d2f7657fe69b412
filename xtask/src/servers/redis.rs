//! A Redis server that keeps nothing on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::process::{Output, ServerProcess};
use super::{Server, free_port, install};

/// The variable that holds the address of the server.
const VARIABLE: &str = "TEST_REDIS_URL";
/// The names of the program, of Redis and of what goes on from it.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// Starts a server.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let program = program()?;
    let home = folder.join("redis");
    fs::create_dir(&home)?;
    let port = free_port()?;
    let mut server = Command::new(program);
    server
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .arg("--dir")
        .arg(&home)
        .current_dir(&home);
    let ready = "Ready to accept connections";
    let process = ServerProcess::start(server, Output::Standard, ready, Signal::SIGTERM)?;
    Ok(Server {
        variable: VARIABLE,
        address: format!("redis://127.0.0.1:{port}"),
        process,
    })
}

/// The program of the server; installs it if there is none.
fn program() -> Result<PathBuf> {
    if let Some(program) = installed() {
        return Ok(program);
    }
    println!("Redis is not installed: trying apt-get");
    install("redis-server");
    installed().context(
        "tests need Redis, and it could not be installed with apt-get; install it with the package manager \
         of this system",
    )
}

fn installed() -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .flat_map(|folder| PROGRAMS.map(|name| folder.join(name)))
        .find(|program| program.is_file())
}
