//! What every command has at hand.

use std::io::Write as _;
use std::path::PathBuf;

use levelflow_common::RunId;
use levelflow_common::view::RunView;
use levelflow_proto::json::{self, TaskOutputs};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::{Followed, Observer, OnInterrupt, follow};
use crate::render::live::{Lines, Live, Silent};
use crate::render::run;
use crate::render::time::now;
use crate::settings::Settings;
use crate::terminal::Terminal;

/// What every command has at hand.
pub(crate) struct Context {
    /// The settings of the process.
    pub(crate) settings: Settings,
    /// The configuration file that was named.
    pub(crate) config_file: Option<PathBuf>,
    /// Whether to answer in JSON.
    pub(crate) json: bool,
    /// What the standard streams are.
    pub(crate) terminal: Terminal,
    /// Fires when the user interrupts.
    pub(crate) interrupt: CancellationToken,
}

/// How a run is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Following {
    /// Without progress.
    pub(crate) quiet: bool,
    /// With what happened before this.
    pub(crate) from_start: bool,
    /// What to do with the run when the user interrupts.
    pub(crate) on_interrupt: OnInterrupt,
}

impl Context {
    /// Writes an answer to standard output. Nobody who stopped reading is told about it.
    pub(crate) fn print(&self, text: &str) -> Result<(), CliError> {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        self.write(&format!("{text}{newline}"))
    }

    /// Writes a part of an answer to standard output.
    pub(crate) fn write(&self, text: &str) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CliError::Output(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a remark to standard error, unless the answer is for a program.
    pub(crate) fn remark(&self, text: &str) {
        if !self.json {
            // A remark that cannot be written is not missed.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Follows a run with progress on standard error, the way that fits the stream.
    pub(crate) async fn follow(
        &self,
        client: &Client,
        run_id: RunId,
        following: Following,
    ) -> Result<Followed, CliError> {
        let mut after = None;
        let mut observer: Box<dyn Observer> =
            if following.quiet || (self.json && !self.terminal.err_is_live) {
                Box::new(Silent)
            } else if self.terminal.err_is_live {
                Box::new(Live::new(std::io::stderr(), self.terminal.err))
            } else {
                // Lines tell what happened: of a run that was just submitted, from the start.
                after = following.from_start.then_some(0);
                Box::new(Lines::new(std::io::stderr()))
            };
        let followed = follow(
            client,
            run_id,
            after,
            observer.as_mut(),
            &self.interrupt,
            following.on_interrupt,
        );
        Ok(followed.await?)
    }

    /// Shows what following a run came to.
    pub(crate) fn conclude(
        &self,
        run_id: RunId,
        followed: &Followed,
        output: Option<&str>,
    ) -> Result<Exit, CliError> {
        let (run, interrupted) = match followed {
            Followed::Ended { run, interrupted } => (run, *interrupted),
            Followed::Detached => {
                self.remark(&format!(
                    "run {run_id} goes on; `levelflow watch {run_id}` follows it again"
                ));
                return Ok(Exit::Interrupted);
            }
        };
        match output {
            Some(name) if run.outputs.is_some() => self.print(&output_text(run, name)?)?,
            // Without outputs there is a failure to be shown, where programs do not read it.
            Some(_) => self.remark(&run::summary(run, now(), self.terminal.err)),
            None if self.json => {
                let run = json::Run::new(run, TaskOutputs::LeftOut);
                self.print(&serde_json::to_string_pretty(&run)?)?;
            }
            None => self.print(&run::summary(run, now(), self.terminal.out))?,
        }
        Ok(Exit::of_run(run.summary.status, interrupted))
    }
}

/// An output of a run: a text as it is, everything else as JSON.
pub(crate) fn output_text(run: &RunView, name: &str) -> Result<String, CliError> {
    let mut outputs: serde_json::Map<String, serde_json::Value> = match &run.outputs {
        Some(outputs) => serde_json::from_slice(outputs)?,
        None => serde_json::Map::new(),
    };
    match outputs.remove(name) {
        Some(serde_json::Value::String(text)) => Ok(text),
        Some(value) => Ok(value.to_string()),
        None => Err(CliError::NoOutput {
            run_id: run.summary.run_id,
            name: name.to_owned(),
            known: outputs.keys().cloned().collect(),
        }),
    }
}
