//! Secrets reach what they are for, and nothing else.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::examples::example;
use crate::harness::{Home, finish};

const SECRET: &str = "s3cr3t/\"quoted\" & long";

const FLOW: &str = r#"
name: secrets
inputs:
  base: { type: string, required: true }
  forged: { type: any }
tasks:
  - id: call
    type: http
    with:
      method: POST
      url: "${{ inputs.base }}/ok?key=${{ secrets.API_TOKEN }}"
      headers: { authorization: "Bearer ${{ secrets.API_TOKEN }}" }
      json: { forged: "${{ inputs.forged }}", text: "${{ inputs.forged }} stays" }
  - id: refused
    type: http
    continue_on_error: true
    with:
      url: "${{ inputs.base }}/broken/${{ secrets.API_TOKEN }}"
      headers: { x-api-key: "${{ secrets.API_TOKEN }}" }
  - id: program
    type: process
    with:
      command: [sh, -c, "echo out $TOKEN; echo err $TOKEN >&2; env"]
      env: { TOKEN: "${{ secrets.API_TOKEN }}" }
  - id: failing
    type: process
    continue_on_error: true
    retry: { max_attempts: 1 }
    with:
      command: [sh, -c, "cat >&2; exit 3"]
      stdin: { password: "${{ secrets.API_TOKEN }}" }
  - id: after
    type: transform
    with: { value: "${{ tasks.call.output.body }}" }
outputs:
  body: "${{ tasks.after.output }}"
  program: "${{ tasks.program.output }}"
"#;

/// Sends each request back as the body of the response: with status 404 what is under `/broken`.
async fn echo(listener: TcpListener, requests: mpsc::UnboundedSender<String>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        let is_whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).into_owned();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            (body.len() >= length).then_some(text.clone())
        };
        let request = loop {
            let count = stream.read(&mut chunk).await.unwrap();
            request.extend_from_slice(&chunk[..count]);
            if let Some(request) = is_whole(&request) {
                break request;
            }
        };
        let status = if request.contains(" /broken") {
            "404 Not Found"
        } else {
            "200 OK"
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{request}",
            request.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        requests.send(request).unwrap();
    }
}

/// Files under a directory that hold the bytes.
fn files_with(directory: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes
                .windows(needle.len())
                .any(|at| at == needle.as_bytes())
            {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn values_are_sent_and_never_kept() {
    let home = Home::new();
    home.file("flow.yaml", FLOW);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("base=http://{}", listener.local_addr().unwrap());
    let (sender, mut requests) = mpsc::unbounded_channel();
    let server = levelflow_runtime::task::spawn("echo", echo(listener, sender));
    let forged = r#"forged=["${{ secrets.API_TOKEN }}", null]"#;
    let arguments = ["run", "flow.yaml", "--json", "-i", &base, "-i", forged];
    let mut command = home.command(&arguments);
    command
        .env("LEVELFLOW_SECRET_API_TOKEN", SECRET)
        .env("LEVELFLOW_LOG", "trace");
    let ended = finish(command).await;
    server.abort();
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);

    let mut seen = 0;
    while let Ok(request) = requests.try_recv() {
        seen += 1;
        assert!(request.contains(SECRET), "{request}");
        if request.starts_with("POST") {
            // The text that looks like a reference is a text.
            assert!(
                request.contains(r#""forged":["${{ secrets.API_TOKEN }}",null]"#),
                "{request}"
            );
        }
    }
    assert_eq!(seen, 2);

    let run: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let body = run["outputs"]["body"].as_str().unwrap();
    assert!(body.contains("authorization: Bearer ***"), "{body}");
    assert!(body.contains("/ok?key=*** HTTP"), "{body}");
    let program = &run["outputs"]["program"];
    let stdout = program["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("out ***\n"), "{stdout}");
    assert!(
        stdout.contains("\nTOKEN=***\n") && !stdout.contains("LEVELFLOW_SECRET"),
        "{stdout}"
    );
    assert_eq!(program["stderr"], "err ***\n");
    let failure = |id: &str| {
        let tasks = run["tasks"].as_array().unwrap();
        let task = tasks.iter().find(|task| task["id"] == id).unwrap();
        task["failure"]["message"].as_str().unwrap().to_owned()
    };
    let refused = failure("refused");
    assert!(refused.contains("/broken/*** answered 404"), "{refused}");
    assert!(refused.contains("x-api-key: ***"), "{refused}");
    let failing = failure("failing");
    assert!(
        failing.ends_with(r#"exited with status 3: {"password":"***"}"#),
        "{failing}"
    );

    for form in ["s3cr3t", "czNjcjN0"] {
        assert!(!ended.stdout.contains(form) && !ended.stderr.contains(form));
        assert_eq!(files_with(&home.path(""), form), [] as [String; 0]);
    }
}

#[tokio::test]
async fn the_example_sends_its_token() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url=http://{}/me", listener.local_addr().unwrap());
    let (sender, mut requests) = mpsc::unbounded_channel();
    let server = levelflow_runtime::task::spawn("echo", echo(listener, sender));
    let file = example("secret-token.yaml");
    let mut command = home.command(&["run", &file, "-i", &url, "--output", "answer"]);
    command.env("LEVELFLOW_SECRET_API_TOKEN", "hunter2");
    let ended = finish(command).await;
    server.abort();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let request = requests.recv().await.unwrap();
    assert!(
        request.contains("authorization: Bearer hunter2\r\n"),
        "{request}"
    );
    assert!(
        ended.stdout.contains("authorization: Bearer ***"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_secret_that_the_worker_lacks_fails_its_task_at_once() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: missing\ntasks:\n  - id: a\n    type: process\n    \
         with: { command: [cat], stdin: '${{ secrets.NO_SUCH }}' }\n",
    );
    let (code, run) = home.json(&["run", "flow.yaml"]).await;
    assert_eq!(code, Some(1), "{run}");
    let task = &run["tasks"][0];
    assert_eq!(task["attempts"], 1);
    assert_eq!(task["failure"]["code"], "secret_unavailable");
    assert_eq!(
        task["failure"]["message"],
        "this worker has no secret `NO_SUCH`; set LEVELFLOW_SECRET_NO_SUCH in its environment"
    );
}

#[tokio::test]
async fn secrets_come_from_files_too() {
    let home = Home::new();
    home.file(
        "flow.yaml",
        "name: files\ntasks:\n  - id: a\n    type: process\n    \
         with: { command: [wc, -c], stdin: '${{ secrets.FROM_FILE }}${{ secrets.FROM_DIRECTORY }}' }\n\
         outputs: { length: '${{ tasks.a.output.stdout | trim | int }}' }\n",
    );
    let file = home.file("secrets.env", "FROM_FILE='12345'\n");
    let directory = home.path("secrets");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("FROM_DIRECTORY"), "67890\n").unwrap();
    let mut command = home.command(&["run", "flow.yaml", "--output", "length"]);
    command
        .env("LEVELFLOW_WORKER__SECRETS__FILE", file)
        .env("LEVELFLOW_WORKER__SECRETS__DIRECTORY", directory);
    let ended = finish(command).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.trim(), "10");
}
