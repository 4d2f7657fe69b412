//! Calls of the cargo that runs this program.

use std::process::Command;

/// A cargo command; the same cargo that started this program, if one did.
pub(crate) fn command<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Whether cargo has this subcommand.
pub(crate) fn has(subcommand: &str) -> bool {
    command([subcommand, "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}
