//! Development tasks: `cargo xtask <command>`, from any directory of the workspace.

mod cargo;
mod chaos;
mod embedding_model;
mod instructions;
mod layers;
mod servers;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Development tasks of the Levelflow workspace"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and every test, in the order in which they are quick to fail.
    Test,
    /// Run a command beside the servers that tests need: `cargo xtask servers -- cargo nextest run -p
    /// levelflow-worker`.
    Servers {
        /// The command.
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Run seeds of the chaos suite: a cluster of real processes under faults that the seed decides.
    Chaos {
        /// How many seeds.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// Check which crate uses which against the table of layers.
    CheckLayers,
    /// Compare the instructions that fixed workloads take with the counts in benches/instructions.txt.
    Instructions {
        /// Write the new counts instead.
        #[arg(long)]
        accept: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test => test::run(),
        Command::Servers { command } => servers::run(&command),
        Command::Chaos { seeds, first } => chaos::run(first..first + seeds),
        Command::CheckLayers => layers::check(),
        Command::Instructions { accept: false } => instructions::check(),
        Command::Instructions { accept: true } => instructions::accept(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
