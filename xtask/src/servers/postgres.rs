//! PostgreSQL, with the durability that it has by default.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::process::{Output, ServerProcess};
use super::{Server, free_port, install};

/// The variable that holds the address of the server.
const VARIABLE: &str = "TEST_POSTGRES_URL";
/// The variables of tests that start and stop a server of their own: the folder of its programs, and the user and
/// group as which it has to run, if these are not those of the test.
const PROGRAMS_VARIABLE: &str = "TEST_POSTGRES_PROGRAMS";
const USER_VARIABLE: &str = "TEST_POSTGRES_USER";
/// Where distributions put the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Users as which it may run when this program runs as root, which it refuses to run as.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The programs of the server.
pub(super) struct Programs {
    folder: PathBuf,
    /// As whom they have to run; as whoever runs this if not given.
    user: Option<User>,
}

impl Programs {
    /// Installs them if there are none.
    pub(super) fn find() -> Result<Self> {
        let user = match geteuid().is_root() {
            true => Some(ordinary_user()?),
            false => None,
        };
        let folder = programs()?;
        Ok(Self { folder, user })
    }

    /// Tells a command how to start a server.
    pub(super) fn tell(&self, command: &mut Command) {
        command.env(PROGRAMS_VARIABLE, &self.folder);
        if let Some(user) = &self.user {
            command.env(USER_VARIABLE, format!("{}:{}", user.uid, user.gid));
        }
    }
}

/// Starts a server with a new cluster of databases.
pub(super) fn start(folder: &Path, programs: &Programs) -> Result<Server> {
    let Programs {
        folder: programs,
        user,
    } = programs;
    let home = folder.join("postgres");
    fs::create_dir(&home)?;
    if let Some(user) = user {
        // The way to the data has to be open, too.
        for path in [folder, home.as_path()] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
    }
    let program = |name: &str| {
        let mut command = Command::new(programs.join(name));
        command.current_dir(&home);
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    };
    let data = home.join("data");
    let made = program("initdb")
        .arg("--pgdata")
        .arg(&data)
        .args(["--username", "postgres", "--auth", "trust"])
        .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
        .output()
        .context("`initdb` cannot be started")?;
    ensure!(
        made.status.success(),
        "`initdb` failed: {}",
        String::from_utf8_lossy(&made.stderr).trim()
    );
    let port = free_port()?;
    let mut server = program("postgres");
    server.arg("-D").arg(&data);
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        format!("unix_socket_directories={}", home.display()),
        "max_connections=300".to_owned(),
    ] {
        server.arg("-c").arg(setting);
    }
    // Interrupted, it ends its sessions and then itself.
    let ready = "ready to accept connections";
    let process = ServerProcess::start(server, Output::Error, ready, Signal::SIGINT)?;
    Ok(Server {
        variable: VARIABLE,
        address: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
        process,
    })
}

/// The folder with the programs of the server; installs them if there is none.
fn programs() -> Result<PathBuf> {
    if let Some(folder) = installed() {
        return Ok(folder);
    }
    println!("PostgreSQL is not installed: trying apt-get");
    install("postgresql");
    installed().context(
        "tests need PostgreSQL, and it could not be installed with apt-get; install it with the package \
         manager of this system",
    )
}

/// The newest version that is installed, or the one in the search path.
fn installed() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    versions.sort();
    let versions = versions.into_iter().rev().map(|(_, folder)| folder);
    let search = std::env::var_os("PATH").unwrap_or_default();
    versions
        .chain(std::env::split_paths(&search).collect::<Vec<_>>())
        .find(|folder| {
            ["initdb", "postgres"]
                .iter()
                .all(|name| folder.join(name).is_file())
        })
}

/// The user as which a server runs that refuses to run as root.
pub(super) fn ordinary_user() -> Result<User> {
    let mut users = USERS.iter().filter_map(|name| User::from_name(name).ok()?);
    users
        .next()
        .context("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}
