//! The gRPC API of a server in another process.

mod control;
mod data_directory;
mod limits;
mod list;
mod plan;
mod services;
mod stop;
mod submit;
mod submit_stream;
mod task_limits;
mod watch;

use serde_json::{Value, json};

use crate::client::Client;
use crate::harness::{Home, Running};

/// A server with settings, and a client of it. The server ends with the test.
async fn serve(home: &Home, settings: &[(&str, &str)]) -> (Running, Client) {
    let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
    command.envs(settings.iter().copied());
    let (server, address) = Running::server(command).await;
    (server, Client::connect(&address).await)
}

/// A workflow that ends at once.
pub(crate) fn quick() -> Value {
    json!({
        "name": "quick",
        "inputs": { "number": { "type": "integer", "default": 1 } },
        "tasks": [
            { "id": "a", "type": "transform", "with": { "value": "${{ inputs.number }}" } },
            { "id": "b", "type": "transform", "with": { "value": "${{ tasks.a.output + 1 }}" } },
        ],
        "outputs": { "sum": "${{ tasks.b.output }}" },
    })
}

/// A workflow that stays open, because nobody has its handler.
pub(crate) fn open() -> Value {
    json!({
        "name": "open",
        "tasks": [
            { "id": "nobody", "type": "handler", "with": { "name": "missing" } },
            { "id": "after", "type": "transform", "needs": ["nobody"], "with": { "value": 1 } },
        ],
    })
}

/// A program that goes on until the file `gate` is there, and writes its process id to `started` first.
pub(crate) fn gated(home: &Home) -> Value {
    let script = "echo $$ >> started; while ! test -e gate; do sleep 0.02; done";
    let with = json!({ "command": ["sh", "-c", script], "cwd": home.path(""), "output": "lines" });
    json!({
        "name": "gated",
        "tasks": [{
            "id": "gated",
            "type": "process",
            "with": with,
            "retry": { "max_attempts": 1 },
        }],
    })
}
