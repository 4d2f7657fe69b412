//! Tasks of type `process`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use levelflow_proto::v1;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::coordinator::{Running, Session, attempt, failure_of, outcome_of, session, soon};

async fn start() -> (Session, Running) {
    session(|builder| builder.allow_process(true)).await
}

fn process(input: &Value) -> v1::Attempt {
    v1::Attempt {
        kind: v1::TaskKind::Process.into(),
        ..attempt(1, "", &input.to_string())
    }
}

pub(crate) fn shell(script: &str) -> v1::Attempt {
    process(&json!({"command": ["sh", "-c", script]}))
}

async fn output(session: &mut Session, input: Value) -> Value {
    let outcome = outcome_of(session, process(&input)).await;
    assert_eq!(outcome.failure, None);
    serde_json::from_slice(&outcome.output).unwrap()
}

#[tokio::test]
async fn the_output_has_the_form_that_was_asked_for() {
    let (mut session, _worker) = start().await;
    let script = "printf 'one\\ntwo\\n'; echo careful >&2";
    let command = json!(["sh", "-c", script]);
    assert_eq!(
        output(&mut session, json!({"command": command})).await,
        json!({"exit_code": 0, "stdout": "one\ntwo\n", "stderr": "careful\n"})
    );
    assert_eq!(
        output(&mut session, json!({"command": command, "output": "lines"})).await,
        json!(["one", "two"])
    );
    let echo = json!({"command": ["cat"], "stdin": {"a": [1, 2]}, "output": "json"});
    assert_eq!(output(&mut session, echo).await, json!({"a": [1, 2]}));
}

#[tokio::test]
async fn a_program_gets_arguments_stdin_environment_and_directory_as_they_are() {
    let (mut session, _worker) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let cwd = directory.path().canonicalize().unwrap();
    let script =
        r#"cat; printf '%s|' "$1" "$NAME" "$LEVELFLOW_TASK_ID" "$LEVELFLOW_ATTEMPT" "$PWD""#;
    let input = json!({
        "command": ["sh", "-c", script, "sh", "$(id) `id` ; id"],
        "stdin": "plain text|",
        "env": {"NAME": "a b"},
        "cwd": cwd,
    });
    assert_eq!(
        output(&mut session, input).await["stdout"],
        json!(format!(
            "plain text|$(id) `id` ; id|a b|task|1|{}|",
            cwd.display()
        ))
    );
}

#[tokio::test]
async fn a_large_stdin_that_nobody_reads_does_no_harm() {
    let (mut session, _worker) = start().await;
    let input = json!({"command": ["true"], "stdin": "x".repeat(500_000)});
    assert_eq!(output(&mut session, input).await["exit_code"], json!(0));
}

#[tokio::test]
async fn programs_fail_in_every_way() {
    let (mut session, _worker) = start().await;
    let not_json = process(&json!({"command": ["echo", "{"], "output": "json"}));
    let nowhere = process(&json!({"command": ["true"], "cwd": "/no/such"}));
    let missing = process(&json!({"command": ["no-such-program"]}));
    let empty = process(&json!({"command": []}));
    let bounded = process(&json!({"command": ["yes"], "max_output_bytes": 1000}));
    for (attempt, code, message, retryable) in [
        (
            shell("echo broken >&2; exit 3"),
            "process_failed",
            "the program `sh` exited with status 3: broken",
            true,
        ),
        (
            shell("kill -9 $$"),
            "process_failed",
            "the program `sh` was ended by SIGKILL",
            true,
        ),
        (
            not_json,
            "process_failed",
            "the program did not write JSON: EOF while parsing an object at line 2 column 0",
            false,
        ),
        (
            missing,
            "process_not_started",
            "the program `no-such-program` could not be started: No such file or directory (os error 2)",
            false,
        ),
        (
            nowhere,
            "process_not_started",
            "the working directory `/no/such` does not exist",
            false,
        ),
        (empty, "task_input_invalid", "`command` is empty", false),
        (
            bounded,
            "output_too_large",
            "the program wrote more than 1000 bytes",
            false,
        ),
        (
            shell("yes"),
            "output_too_large",
            "the program wrote more than 1048576 bytes",
            false,
        ),
    ] {
        assert_eq!(
            failure_of(&mut session, attempt).await,
            (code.to_owned(), message.to_owned(), retryable),
        );
    }
}

#[tokio::test]
async fn the_end_of_the_standard_error_is_kept() {
    let (mut session, _worker) = start().await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo 'a line that nobody needs to see' >&2; i=$((i+1)); done; echo last >&2";
    let all = output(&mut session, json!({"command": ["sh", "-c", script]})).await;
    let stderr = all["stderr"].as_str().unwrap();
    assert!(
        stderr.len() <= 64 * 1024 && stderr.ends_with("see\nlast\n"),
        "{}",
        stderr.len()
    );
    let failed = failure_of(&mut session, shell(&format!("{script}; exit 1"))).await;
    assert!(failed.1.len() < 5_000 && failed.1.ends_with("see\nlast"));
}

#[tokio::test]
async fn what_a_program_leaves_behind_does_not_hold_up_its_end() {
    let (mut session, _worker) = start().await;
    let attempt = shell("echo done; sleep 300 & exit 0");
    let outcome = outcome_of(&mut session, attempt).await;
    let output: Value = serde_json::from_slice(&outcome.output).unwrap();
    assert_eq!(output["stdout"], json!("done\n"));
}

/// A new pipe with a name.
pub(crate) fn pipe(path: PathBuf) -> PathBuf {
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path
}

/// Waits in a thread for a process to open the pipe, and then for all processes that have it open to
/// end.
pub(crate) fn watch(pipe: &Path) -> (oneshot::Receiver<()>, JoinHandle<()>) {
    let pipe = self::pipe(pipe.to_owned());
    let (opened, is_open) = oneshot::channel();
    let all_ended = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::new(File::open(pipe).unwrap());
        reader.read_line(&mut String::new()).unwrap();
        opened.send(()).unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap();
    });
    (is_open, all_ended)
}

#[tokio::test]
async fn a_cancel_ends_the_grandchildren_too() {
    let (mut session, _worker) = start().await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let (is_open, all_ended) = watch(&pipe);
    let script = format!(
        "(trap '' TERM; echo ready; exec sleep 300) > {} & wait",
        pipe.display()
    );
    session.dispatch(vec![shell(&script)]).await;
    soon(is_open).await.unwrap();
    session.cancel(1).await;
    assert_eq!(session.outcome().await.failure.unwrap().code, "cancelled");
    soon(all_ended).await.unwrap();
}

#[tokio::test]
async fn a_timeout_ends_programs_that_do_not_want_to() {
    let configure = |builder: levelflow_worker::WorkerBuilder| {
        builder
            .allow_process(true)
            .cancel_grace(Duration::from_millis(20))
    };
    let (mut session, _worker) = session(configure).await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let (is_open, all_ended) = watch(&pipe);
    let script = format!(
        "trap '' TERM; exec 3> {}; echo ready >&3; while true; do sleep 1; done",
        pipe.display()
    );
    session
        .dispatch(vec![v1::Attempt {
            timeout_us: 500_000,
            ..shell(&script)
        }])
        .await;
    soon(is_open).await.unwrap();
    assert_eq!(session.outcome().await.failure.unwrap().code, "run_timeout");
    soon(all_ended).await.unwrap();
}

#[tokio::test]
async fn programs_run_only_where_they_are_allowed() {
    let (mut session, _worker) = session(|builder| builder).await;
    assert_eq!(
        failure_of(&mut session, shell("true")).await,
        (
            "task_unsupported".to_owned(),
            "this worker does not run programs; start it so that it allows them".to_owned(),
            false
        )
    );
}
