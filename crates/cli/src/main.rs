//! The `levelflow` program.

mod arguments;
mod chunks;
mod client;
mod command;
mod connection;
mod context;
mod embedded;
mod error;
mod exit;
mod follow;
mod local_workers;
mod progress;
mod render;
#[cfg(test)]
mod sample;
mod screen;
mod settings;
mod source;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;
use levelflow_runtime::config::Layers;
use levelflow_runtime::{shutdown, telemetry, threads};

use crate::arguments::{CommandLine, CommonArguments};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::diagnostic;
use crate::settings::{Flags, Settings};
use crate::terminal::Terminal;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if levelflow_worker::serve_as_guard() {
        return ExitCode::SUCCESS;
    }
    let CommandLine { common, command } = CommandLine::parse();
    let terminal = Terminal::detect();
    let exit = start(&common, command, terminal)
        .unwrap_or_else(|error| report(&error, common.json, terminal));
    ExitCode::from(exit.code())
}

fn start(
    common: &CommonArguments,
    command: arguments::Command,
    terminal: Terminal,
) -> Result<Exit, CliError> {
    let settings = load_settings(common, &command)?;
    let filter = settings
        .log
        .as_deref()
        .unwrap_or(command.default_log_filter());
    telemetry::init(filter, settings.log_format)?;
    #[cfg(feature = "weakened")]
    common.weaken();
    let runtime = threads::runtime(settings.threads).map_err(CliError::Threads)?;
    runtime.block_on(async {
        let context = Context {
            settings,
            config_file: common.config.clone(),
            json: common.json,
            terminal,
            interrupt: shutdown::on_signal().map_err(CliError::Signals)?,
        };
        Box::pin(command.execute(&context)).await
    })
}

fn load_settings(
    common: &CommonArguments,
    command: &arguments::Command,
) -> Result<Settings, CliError> {
    let mut flags = Flags::default();
    common.flags(&mut flags);
    command.flags(&mut flags);
    let default_file = || {
        let path = connection::user_directory("XDG_CONFIG_HOME", ".config")?.join("config.toml");
        path.exists().then_some(path)
    };
    let layers = Layers {
        file: common.config.clone().or_else(default_file),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: flags.0,
    };
    Ok(layers.load()?)
}

/// Shows an error: as JSON on standard output where a program reads, else on standard error.
fn report(error: &CliError, json: bool, terminal: Terminal) -> Exit {
    let shown = error.diagnostic();
    match diagnostic::json(&shown) {
        Ok(text) if json => println!("{text}"),
        _ => eprint!("{}", diagnostic::text(&shown, terminal.err)),
    }
    error.exit()
}
