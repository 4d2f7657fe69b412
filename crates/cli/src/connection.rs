//! Finding the coordinator of a command: one that is named, the one that uses the data directory, or one
//! in this process.

use std::path::{Path, PathBuf};

use levelflow_coordinator::Storage;

use crate::client::Client;
use crate::embedded::Embedded;
use crate::error::CliError;
use crate::settings::Settings;

/// A coordinator to talk to.
pub(crate) struct Connection {
    /// The client of it.
    pub(crate) client: Client,
    embedded: Option<Embedded>,
}

/// Whether a coordinator in this process gets a worker, so that its runs go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Its runs go on.
    Do,
    /// They are only looked at.
    LeaveAlone,
}

impl Connection {
    /// Finds the coordinator, or starts one in this process over the data directory.
    pub(crate) async fn open(settings: &Settings, work: Work) -> Result<Self, CliError> {
        if let Some(address) = &settings.address {
            return Self::remote(address).await;
        }
        let data_dir = data_dir(settings)?;
        match levelflow_store::owner(&data_dir) {
            Some(owner) => match &owner.address {
                Some(address) => Self::remote(address).await,
                None => Err(CliError::DataDirInUse { data_dir, owner }),
            },
            None => Self::embedded(settings, &data_dir, work).await,
        }
    }

    /// Finds a coordinator in another process.
    pub(crate) async fn open_remote(settings: &Settings) -> Result<Self, CliError> {
        let address = match &settings.address {
            Some(address) => address.clone(),
            None => data_dir(settings)
                .ok()
                .and_then(|data_dir| levelflow_store::owner(&data_dir))
                .and_then(|owner| owner.address)
                .unwrap_or_else(|| Settings::default().listen.to_string()),
        };
        Self::remote(&address).await
    }

    /// Starts a coordinator in this process.
    pub(crate) async fn embedded(
        settings: &Settings,
        data_dir: &Path,
        work: Work,
    ) -> Result<Self, CliError> {
        let storage = Storage::DataDir(data_dir.to_owned());
        let mut embedded = Embedded::start(settings, storage, None).await?;
        if work == Work::Do {
            embedded.start_worker(settings, data_dir)?;
        }
        Ok(Self {
            client: embedded.client(),
            embedded: Some(embedded),
        })
    }

    async fn remote(address: &str) -> Result<Self, CliError> {
        Ok(Self {
            client: Client::connect(address).await?,
            embedded: None,
        })
    }

    /// Whether the coordinator is in this process, so that its runs stand still when this ends.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Stops what was started.
    pub(crate) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// An address as a URL: `host:port` is one of `http`, and `unix:` stands before the path of a socket.
pub(crate) fn url(address: &str) -> String {
    if address.contains("://") || address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    }
}

/// Where runs are kept.
pub(crate) fn data_dir(settings: &Settings) -> Result<PathBuf, CliError> {
    match &settings.data_dir {
        Some(data_dir) => Ok(data_dir.clone()),
        None => user_directory("XDG_DATA_HOME", ".local/share").ok_or(CliError::NoDataDir),
    }
}

/// The program's own directory under one of the user's base directories (XDG Base Directory
/// Specification 0.8): relative paths in the variables do not count.
pub(crate) fn user_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))?;
    Some(base.join("levelflow"))
}
