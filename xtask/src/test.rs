//! Every check and every test, one after the other.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::embedding_model;
use crate::instructions;
use crate::layers;
use crate::servers::Servers;
use crate::workspace::Workspace;

/// One step.
struct Step {
    name: &'static str,
    action: Action,
    /// What to do when it fails.
    advice: &'static str,
}

enum Action {
    Run(Command),
    RunWithServers(Command),
    CheckLayers,
    CountInstructions,
}

/// Runs the steps until one fails.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::read()?;
    let steps = steps();
    let count = steps.len();
    let mut times = Vec::with_capacity(count);
    for (number, mut step) in (1..).zip(steps) {
        println!("\n=== {number}/{count} {}", step.name);
        let started = Instant::now();
        step.action
            .perform(&workspace)
            .with_context(|| format!("step `{}` failed; {}", step.name, step.advice))?;
        let took = started.elapsed();
        println!("=== {} passed in {}", step.name, seconds(took));
        times.push((step.name, took));
    }
    println!("\n=== all {count} steps passed");
    for (name, took) in &times {
        println!("{name:>12}  {:>8}", seconds(*took));
    }
    let total = times.iter().map(|(_, took)| *took).sum();
    println!("{:>12}  {:>8}", "total", seconds(total));
    Ok(())
}

/// Embedding models that run in the process are tested with the rest: a build of its own for them would compile
/// most of what all crates use once more.
const FEATURES: &str = "--features=levelflow/local-embeddings";

/// The features of a build in which single protections can be switched off. With those of the tests, because it
/// then shares what they compile of other crates.
const WEAKENED: &str =
    "--features=levelflow/local-embeddings,levelflow/weakened,levelflow-engine/weakened";

/// The quick ones first. Clippy and the documentation share the metadata that they compile, tests and
/// documentation tests share their code: all of them use the dev profile, and both the same features. The first
/// two look at all code there is, and so at that of weakened builds.
fn steps() -> Vec<Step> {
    let mut docs = cargo::command(["doc", "--workspace", WEAKENED, "--no-deps", "--locked"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    let mut steps = vec![
        Step {
            name: "format",
            action: Action::Run(cargo::command(["fmt", "--all", "--check"])),
            advice: "`cargo fmt --all` mends it",
        },
        Step {
            name: "layers",
            action: Action::CheckLayers,
            advice: "ARCHITECTURE.md says which crate may use which",
        },
        Step {
            name: "clippy",
            action: Action::Run(cargo::command([
                "clippy",
                "--workspace",
                WEAKENED,
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])),
            advice: "mend what clippy names above",
        },
        Step {
            name: "docs",
            action: Action::Run(docs),
            advice: "mend what rustdoc names above",
        },
        Step {
            name: "tests",
            action: Action::RunWithServers(tests()),
            advice: "the runner names the failed tests above",
        },
        Step {
            name: "weakened",
            action: Action::RunWithServers(weakened_tests()),
            advice: "a check has not noticed that the protection is off that it names",
        },
        Step {
            name: "doctests",
            action: Action::Run(cargo::command([
                "test",
                "--workspace",
                FEATURES,
                "--doc",
                "--locked",
            ])),
            advice: "the runner names the failed examples above",
        },
    ];
    if instructions::COMPARABLE {
        steps.push(Step {
            name: "instructions",
            action: Action::CountInstructions,
            advice: "`cargo bench -p levelflow-engine` times the steps of the engine one by one",
        });
    } else {
        println!("instructions are not counted: the accepted counts are of Linux on x86-64");
    }
    steps
}

/// Unit, property and end-to-end tests, with the quicker runner where it is installed.
fn tests() -> Command {
    if cargo::has("nextest") {
        return cargo::command([
            "nextest",
            "run",
            "--workspace",
            FEATURES,
            "--profile",
            "ci",
            "--locked",
        ]);
    }
    println!("cargo-nextest is not installed: tests run one crate after the other");
    cargo::command([
        "test",
        "--workspace",
        FEATURES,
        "--lib",
        "--bins",
        "--tests",
        "--examples",
        "--no-fail-fast",
        "--locked",
    ])
}

/// The tests that switch protections off, to see that the checks of the guarantees notice.
fn weakened_tests() -> Command {
    let build = [
        "--workspace",
        WEAKENED,
        "--locked",
        "--test",
        "engine",
        "--test",
        "levelflow",
    ];
    if cargo::has("nextest") {
        let filter = "test(/^weakened::/) + test(/^protections::/)";
        let run = ["nextest", "run", "--profile", "ci", "-E", filter];
        return cargo::command(run.into_iter().chain(build));
    }
    let filter = ["--", "weakened::", "protections::"];
    cargo::command(["test"].into_iter().chain(build).chain(filter))
}

impl Action {
    fn perform(&mut self, workspace: &Workspace) -> Result<()> {
        let root = &workspace.root;
        match self {
            Self::CheckLayers => layers::check(),
            Self::CountInstructions => instructions::check(),
            Self::Run(command) => run_command(command, root),
            Self::RunWithServers(command) => {
                let servers = Servers::start()?;
                servers.tell(command);
                let model = embedding_model::directory(&workspace.target)
                    .context("there is no embedding model")?;
                command.env(embedding_model::VARIABLE, model);
                run_command(command, root)
            }
        }
    }
}

fn run_command(command: &mut Command, root: &Path) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    let status = command
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let mut line = "cargo".to_owned();
    for word in words {
        line.push(' ');
        line.push_str(&word);
    }
    line
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named_with_how_it_ended() {
        let mut action = Action::Run(cargo::command(["no-such-subcommand"]));
        let workspace = Workspace::read().unwrap();
        let error = action.perform(&workspace).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cargo no-such-subcommand` ended with exit status: 101"
        );
    }
}
