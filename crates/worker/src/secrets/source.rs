//! Finding the values of secrets. They are read when they are used, so that a changed file counts at
//! once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::config::SecretsConfig;

/// Bytes of the value of a secret.
const MAX_VALUE_BYTES: u64 = 64 * 1024;
/// Bytes of a file of secrets.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("this worker has no secret `{name}`{hint}")]
    Missing { name: String, hint: String },
    #[error("the secret `{name}` cannot be read: {source}")]
    Unreadable { name: String, source: io::Error },
}

impl SecretsConfig {
    /// The value of a secret.
    pub(super) async fn find(&self, name: &str) -> Result<String, SourceError> {
        let found = self.search(name).await;
        let found = found.map_err(|source| SourceError::Unreadable {
            name: name.to_owned(),
            source,
        })?;
        found.ok_or_else(|| SourceError::Missing {
            name: name.to_owned(),
            hint: self.hint(name),
        })
    }

    async fn search(&self, name: &str) -> io::Result<Option<String>> {
        if let Some(variable) = self.variable(name) {
            match std::env::var(variable) {
                Ok(value) => return checked(value).map(Some),
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => return Err(not_text()),
            }
        }
        if let Some(directory) = &self.directory
            && let Some(mut value) = read(&directory.join(name), MAX_VALUE_BYTES).await?
        {
            // Editors end a file with a new line, which no secret means to have.
            if value.ends_with('\n') {
                value.pop();
                if value.ends_with('\r') {
                    value.pop();
                }
            }
            return checked(value).map(Some);
        }
        if let Some(file) = &self.file
            && let Some(text) = read(file, MAX_FILE_BYTES).await?
        {
            let is_toml = file
                .extension()
                .is_some_and(|extension| extension == "toml");
            let value = if is_toml {
                in_toml(&text, name)?
            } else {
                in_lines(&text, name)
            };
            return value.map(checked).transpose();
        }
        Ok(None)
    }

    fn variable(&self, name: &str) -> Option<String> {
        let prefix = &self.environment_prefix;
        (!prefix.is_empty()).then(|| format!("{prefix}{name}"))
    }

    /// Where the secret could be.
    fn hint(&self, name: &str) -> String {
        let mut places = Vec::new();
        if let Some(variable) = self.variable(name) {
            places.push(format!("set {variable} in its environment"));
        }
        if let Some(directory) = &self.directory {
            places.push(format!("write {}", directory.join(name).display()));
        }
        if let Some(file) = &self.file {
            places.push(format!("add it to {}", file.display()));
        }
        if places.is_empty() {
            return String::new();
        }
        format!("; {}", places.join(", or "))
    }

    /// The environment variables of this process that hold secrets, which programs do not inherit.
    pub(crate) fn variables(&self) -> Vec<OsString> {
        let prefix = self.environment_prefix.as_str();
        let is_secret = |name: &OsString| {
            !prefix.is_empty() && name.as_encoded_bytes().starts_with(prefix.as_bytes())
        };
        let names = std::env::vars_os().map(|(name, _)| name);
        names.filter(is_secret).collect()
    }
}

fn not_text() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "it is too large")
}

fn checked(value: String) -> io::Result<String> {
    if value.len() as u64 > MAX_VALUE_BYTES {
        return Err(too_large());
    }
    Ok(value)
}

/// The text of a file; none if there is no such file.
async fn read(path: &Path, most: u64) -> io::Result<Option<String>> {
    let size = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > most {
        return Err(too_large());
    }
    let bytes = tokio::fs::read(path).await?;
    String::from_utf8(bytes).map(Some).map_err(|_| not_text())
}

/// The value in the last line `NAME=VALUE`; quotes around it are left out.
fn in_lines(text: &str, name: &str) -> Option<String> {
    let value = text.lines().rev().find_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (key, value) = line.split_once('=')?;
        (!key.starts_with('#') && key.trim() == name).then(|| value.trim())
    })?;
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some(unquoted.unwrap_or(value).to_owned())
}

fn in_toml(text: &str, name: &str) -> io::Result<Option<String>> {
    // The error of the parser would quote the file.
    let mut values: BTreeMap<String, String> = levelflow_runtime::config::toml(text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is not TOML texts"))?;
    Ok(values.remove(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: Option<&Path>, file: Option<&Path>) -> SecretsConfig {
        SecretsConfig {
            environment_prefix: "CARGO_PKG_".to_owned(),
            directory: directory.map(Path::to_owned),
            file: file.map(Path::to_owned),
        }
    }

    #[tokio::test]
    async fn the_first_place_that_has_a_secret_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        write("A", "from the directory\r\n");
        write("NAME", "hidden by the environment");
        write(
            "env",
            "# A=x\nA=y\nB = 'from the file' \nexport C=1=2\nB2=\nC=3\n",
        );
        let file = home.path().join("env");
        let config = config(Some(home.path()), Some(&file));
        for (name, value) in [
            ("NAME", env!("CARGO_PKG_NAME")),
            ("A", "from the directory"),
            ("B", "from the file"),
            ("B2", ""),
            ("C", "3"),
        ] {
            assert_eq!(config.find(name).await.unwrap(), value, "{name}");
        }
        assert_eq!(
            config.find("D").await.unwrap_err().to_string(),
            format!(
                "this worker has no secret `D`; set CARGO_PKG_D in its environment, or write {}, \
                 or add it to {}",
                home.path().join("D").display(),
                file.display()
            )
        );
        assert!(config.variables().contains(&"CARGO_PKG_NAME".into()));
    }

    #[tokio::test]
    async fn a_file_can_be_toml() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("secrets.toml");
        let config = config(None, Some(&file));
        std::fs::write(&file, "A = \"x\\ny\"\n").unwrap();
        assert_eq!(config.find("A").await.unwrap(), "x\ny");
        std::fs::write(&file, "A = hunter2\n").unwrap();
        let message = config.find("A").await.unwrap_err().to_string();
        assert_eq!(
            message,
            "the secret `A` cannot be read: the file is not TOML texts"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_missing() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("BINARY"), [0xff]).unwrap();
        std::fs::write(home.path().join("LARGE"), vec![b'x'; 65 * 1024]).unwrap();
        let config = config(Some(home.path()), None);
        for (name, problem) in [
            ("BINARY", "it is not UTF-8 text"),
            ("LARGE", "it is too large"),
        ] {
            assert_eq!(
                config.find(name).await.unwrap_err().to_string(),
                format!("the secret `{name}` cannot be read: {problem}")
            );
        }
    }
}
