//! Seeds of the chaos suite, one after the other.

use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cargo;
use crate::servers::Servers;
use crate::workspace::Workspace;

/// The package of the suite, and the folder in which its tests run.
const PACKAGE: (&str, &str) = ("levelflow", "crates/cli");
/// The variable by which the suite is told which seed to run.
const VARIABLE: &str = "TEST_CHAOS_SEED";
/// The test that runs it.
const TEST: &str = "cluster::chaos::seeds::what_is_promised_holds_with_the_seed_that_is_asked_for";

/// Builds the suite and runs these seeds, until one of them shows a violation. The suite says what each does and
/// what comes of it.
pub(crate) fn run(seeds: Range<u64>) -> Result<()> {
    let workspace = Workspace::read()?;
    let suite = build(&workspace)?;
    let servers = Servers::start()?;
    for seed in seeds.clone() {
        let mut command = Command::new(&suite);
        command
            .args(["--quiet", "--nocapture", "--ignored", "--exact", TEST])
            .env(VARIABLE, seed.to_string())
            .current_dir(workspace.root.join(PACKAGE.1));
        servers.tell(&mut command);
        let status = command.status().context("the suite cannot be started")?;
        ensure!(
            status.success(),
            "seed {seed} failed; `cargo xtask chaos --first {seed} --seeds 1` runs it again"
        );
    }
    println!("the guarantees held under the faults of seeds {seeds:?}");
    Ok(())
}

/// Builds the suite, and gives its program.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let (package, _) = PACKAGE;
    let built = cargo::command(["test", "--package", package, "--test", package, "--locked"])
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .current_dir(&workspace.root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(built.status.success(), "the suite was not built");
    let messages = String::from_utf8(built.stdout).context("cargo writes UTF-8")?;
    let of_suite = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let is_suite = target["name"] == package && target["kind"][0] == "test";
        let program = message["executable"].as_str().filter(|_| is_suite)?;
        Some(PathBuf::from(program))
    };
    let program = messages.lines().find_map(of_suite);
    program.context("cargo does not tell of the program of the suite")
}
