//! Seeds of the chaos suite, one after the other.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;
use crate::servers::Servers;
use crate::workspace::Workspace;

/// The variable by which the suite is told which seed to run.
const VARIABLE: &str = "TEST_CHAOS_SEED";
/// The test that runs it.
const TEST: &str = "cluster::chaos::seeds::what_is_promised_holds_with_the_seed_that_is_asked_for";
const TESTS: [&str; 6] = [
    "test",
    "--package",
    "levelflow",
    "--test",
    "levelflow",
    "--locked",
];

/// Builds the suite and runs these seeds, until one of them shows a violation. The suite says what each does and
/// what comes of it.
pub(crate) fn run(seeds: Range<u64>) -> Result<()> {
    let workspace = Workspace::read()?;
    let built = cargo::command(TESTS)
        .arg("--no-run")
        .current_dir(&workspace.root)
        .status()
        .context("cargo cannot be started")?;
    ensure!(built.success(), "the suite was not built: {built}");
    let servers = Servers::start()?;
    for seed in seeds.clone() {
        let mut suite = cargo::command(TESTS);
        suite
            .args([
                "--quiet",
                "--",
                "--quiet",
                "--nocapture",
                "--ignored",
                "--exact",
                TEST,
            ])
            .env(VARIABLE, seed.to_string())
            .current_dir(&workspace.root);
        servers.tell(&mut suite);
        let status = suite.status().context("cargo cannot be started")?;
        ensure!(
            status.success(),
            "seed {seed} failed; `cargo xtask chaos --first {seed} --seeds 1` runs it again"
        );
    }
    println!("the guarantees held under the faults of seeds {seeds:?}");
    Ok(())
}
