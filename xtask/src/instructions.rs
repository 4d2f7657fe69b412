//! Instruction counts of fixed workloads, which do not depend on how busy the machine is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cargo;
use crate::workspace::Workspace;

/// What is counted: the name of its count, the example that does it, and the example's argument.
const WORKLOADS: [(&str, &str, Option<&str>); 3] = [
    ("codec", "count_codec", None),
    ("plan", "count_engine", Some("plan")),
    ("runs", "count_engine", Some("runs")),
];

/// Where the accepted counts are, from the root of the workspace.
const ACCEPTED: &str = "benches/instructions.txt";

/// Counts may grow by this much before the check fails: another C library or processor moves them by a
/// few.
const TOLERANCE_PERCENT: u64 = 10;

/// These packages are built as in a release; those below them as for the tests, so that there is little
/// to build. Their generic code is compiled with these.
const OPTIMISED: [&str; 5] = [
    "bytes",
    "prost",
    "levelflow-common",
    "levelflow-engine",
    "levelflow-store",
];

/// One unit, so that what is inlined does not depend on how a crate was cut into units. Debug information
/// would only take time.
const SETTINGS: [&str; 5] = [
    "debug=false",
    "opt-level=3",
    "codegen-units=1",
    "debug-assertions=false",
    "overflow-checks=false",
];

type Counts = BTreeMap<String, u64>;

/// Whether this machine is of the kind whose counts are in the repository.
pub(crate) const COMPARABLE: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// Counts, and fails where a count grew too much.
pub(crate) fn check() -> Result<()> {
    let workspace = Workspace::read()?;
    let accepted = fs::read_to_string(workspace.root.join(ACCEPTED))
        .with_context(|| format!("cannot read {ACCEPTED}"))?;
    let accepted = parse(&accepted)?;
    let mut grown = Vec::new();
    for (name, count) in count_all(&workspace.root)? {
        let before = *accepted.get(&name).with_context(|| {
            format!(
                "{ACCEPTED} has no count of `{name}`; `cargo xtask instructions --accept` adds it"
            )
        })?;
        let change = (count as f64 / before as f64 - 1.0) * 100.0;
        println!("{name:<8} {count:>12} instructions, {before:>12} accepted, {change:+.1} %");
        if has_grown(before, count) {
            grown.push(format!("`{name}`"));
        }
    }
    ensure!(
        grown.is_empty(),
        "the instruction count of {} grew by more than {TOLERANCE_PERCENT} %; where it must, run `cargo \
         xtask instructions --accept` and say why in the commit",
        grown.join(" and ")
    );
    Ok(())
}

/// Counts, and writes the new counts.
pub(crate) fn accept() -> Result<()> {
    let workspace = Workspace::read()?;
    let text = written(&count_all(&workspace.root)?);
    fs::write(workspace.root.join(ACCEPTED), &text)
        .with_context(|| format!("cannot write {ACCEPTED}"))?;
    print!("{text}");
    Ok(())
}

fn count_all(root: &Path) -> Result<Counts> {
    ensure!(
        COMPARABLE,
        "the counts in {ACCEPTED} are of Linux on x86-64; those of this machine cannot be compared"
    );
    find_valgrind()?;
    let programs = build(root)?;
    WORKLOADS
        .iter()
        .map(|&(name, example, argument)| {
            let program = programs
                .get(example)
                .with_context(|| format!("cargo built no example `{example}`"))?;
            Ok((name.to_owned(), count(program, argument)?))
        })
        .collect()
}

fn find_valgrind() -> Result<()> {
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let found = || runs("valgrind", &["--version"]);
    if found() {
        return Ok(());
    }
    println!("valgrind is not installed: trying apt-get");
    let installed = runs("apt-get", &["update"])
        && runs(
            "apt-get",
            &["install", "--yes", "--no-install-recommends", "valgrind"],
        );
    ensure!(
        installed && found(),
        "valgrind is needed to count instructions and could not be installed with apt-get; install it with \
         the package manager of this system"
    );
    Ok(())
}

/// Builds the examples and says where cargo put them.
fn build(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = cargo::command(["build", "--workspace", "--locked"]);
    for (_, example, _) in WORKLOADS {
        command.args(["--example", example]);
    }
    for package in OPTIMISED {
        for setting in SETTINGS {
            command.arg("--config");
            command.arg(format!("profile.dev.package.{package}.{setting}"));
        }
    }
    let output = command
        .args(["--message-format", "json-render-diagnostics"])
        // What one sets for other builds would change the code that is counted.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the workloads do not build");
    String::from_utf8(output.stdout)
        .context("cargo prints something other than text")?
        .lines()
        .map(|line| serde_json::from_str(line).context("cannot read what cargo printed"))
        .filter_map(|message: Result<Message>| message.map(Message::program).transpose())
        .collect()
}

/// What cargo says while it builds.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

impl Message {
    /// The name and the place of a program that was built.
    fn program(self) -> Option<(String, PathBuf)> {
        Some((self.target?.name, self.executable?))
    }
}

fn count(program: &Path, argument: Option<&str>) -> Result<u64> {
    let profile = program.with_extension("callgrind");
    let mut file = OsString::from("--callgrind-out-file=");
    file.push(&profile);
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(file)
        .arg(program)
        .args(argument)
        // The C library searches the environment.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output()
        .context("cannot start valgrind")?;
    ensure!(
        output.status.success(),
        "valgrind ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = fs::read_to_string(&profile)
        .with_context(|| format!("cannot read {}", profile.display()))?;
    total(&text).with_context(|| format!("no total in {}", profile.display()))
}

/// The instructions in all, from what callgrind wrote.
fn total(profile: &str) -> Option<u64> {
    let totals = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals:"))?;
    totals.split_whitespace().next()?.parse().ok()
}

/// One line a workload.
fn written(counts: &Counts) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}\n"))
        .collect()
}

fn parse(text: &str) -> Result<Counts> {
    text.lines()
        .map(|line| {
            let (name, count) = line
                .split_once(' ')
                .with_context(|| format!("`{line}` of {ACCEPTED} is not a name and a count"))?;
            let count = count
                .parse()
                .with_context(|| format!("`{line}` of {ACCEPTED} has no count"))?;
            Ok((name.to_owned(), count))
        })
        .collect()
}

/// Whether a count is beyond what is tolerated.
fn has_grown(before: u64, count: u64) -> bool {
    u128::from(count) * 100 > u128::from(before) * u128::from(100 + TOLERANCE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile() {
        let profile =
            "version: 1\npart: 1\nevents: Ir\nsummary: 12\n\nfn=(1) main\n4 7\n\ntotals: 1234567\n";
        assert_eq!(total(profile), Some(1_234_567));
        assert_eq!(total("version: 1\n"), None);
        assert_eq!(total("totals: many\n"), None);
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let counts = Counts::from([("plan".to_owned(), 7), ("runs".to_owned(), 12)]);
        assert_eq!(written(&counts), "plan 7\nruns 12\n");
        assert_eq!(parse(&written(&counts)).unwrap(), counts);
        assert!(parse("plan\n").is_err());
        assert!(parse("plan many\n").is_err());
    }

    #[test]
    fn a_count_may_grow_by_a_tenth() {
        assert!(!has_grown(1_000, 900));
        assert!(!has_grown(1_000, 1_100));
        assert!(has_grown(1_000, 1_101));
    }
}
